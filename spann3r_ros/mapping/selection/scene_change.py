# SPDX-License-Identifier: Apache-2.0
"""Which part of the view has changed before a camera that stands still.

Small gray copies a and b of two images are compared in a window around each pixel:

    r(a, b)   largest correlation of a and b in the window, over shifts of b by up to a pixel
    differs   r < `SAME`, where the window of a or b has contrast

The correlation leaves out gain and offset in each window: exposure, white balance and bands of
flicker change nothing. Every `SAMPLE_NS` the image is compared with the reference, which is the
last keyframe or the image at which the camera stopped, and with the sample before:

    moving    differs from the sample before
    settled   differs from the reference, not from the sample before

Noise makes an image differ from both alike. A place that is moving most of the time, such as a fan
or a screen, is neither. Small motions of the camera are taken out by an affine map that fits the
tracked corners; a larger one makes the image the new reference.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spann3r_ros.mapping.storage.saved_tree import SavedNode
from spann3r_ros.mapping.storage.saved_values import Tree
from spann3r_ros.mapping.tracking.corner_tracks import MIN_TRACKS, Tracks

from .view_change import HUBER_SHARE, fit_affine

# The time between two samples, by the stamps of the images.
SAMPLE_NS = 3 * 10**8
# Width of the small copies and of the windows in them, in pixels.
WIDTH, WINDOW = 112, 9
# Windows that correlate by less than this show different things.
SAME = 0.6
# Windows of less contrast, a standard deviation in gray levels, show nothing.
LEAST_CONTRAST = 6.0
# Pixels up to the first value or from the second one on may be clipped; a window with more of them
# in one image than in the other, as a share, may have lost its contrast by the exposure.
DARKEST, BRIGHTEST, MOST_CLIPPED = 3, 252, 0.4
SHIFTS = tuple((top, left) for top in range(3) for left in range(3))
# The camera has not moved if the windows with contrast are a larger share of the image than the
# first value, and more than the second share of them correlate best without a shift.
LEAST_TEXTURE, STANDING = 0.1, 0.5
# The camera does not stand still if less than this share of the corners has moved by less than
# so many image widths. Near things show a slow camera to move, and a few corners are on things
# that move by themselves.
STANDING_CORNERS, MOST_MOTION = 0.9, 0.01
# The weight of the newest sample in the share of time that a place is moving; and the share from
# which on it is left out.
NEWEST, RESTLESS = 0.1, 0.5
# A smaller share of the view is no change.
LEAST_SHARE = 0.005


@dataclass(frozen=True)
class PartChange:
    """Whether a part of the view has changed and now stands still, and whether one is moving."""

    settled: bool = False
    moving: bool = False


class SceneChange:
    """Compares the images before a standing camera with a reference; all in turn are to come."""

    def __init__(self) -> None:
        self._stamp_ns = 0  # of the last sample
        self._size = 0, 0  # width and height of the images
        self._keyframe: Picture | None = None
        self._reference: Picture | None = None
        self._sample: Picture | None = None  # the last one, seen from where the reference was
        # The keyframe's corners that the reference shows, and where. None: it is the keyframe.
        self._corners: np.ndarray | None = None
        self._places = np.zeros((0, 2))
        self._activity = np.zeros((0, 0), np.float32)
        self._change = PartChange()
        self._unsure = False

    @property
    def unsure(self) -> bool:
        """Return whether the newest image has to be seen again before it is judged."""
        return self._unsure

    def begin(self, stamp_ns: int, gray: np.ndarray) -> None:
        """Take a keyframe, a gray image [h, w], as the reference."""
        if gray.shape[::-1] != self._size:
            self._size = gray.shape[::-1]
            self._activity = np.zeros(_shrink(gray).shape, np.float32)
        self._keyframe = Picture.of(_shrink(gray))
        self._refer(stamp_ns, self._keyframe)
        self._corners = None

    def stands(self, gray: np.ndarray) -> bool:
        """Return whether an image shows the keyframe's view, whatever corners seem to do."""
        if self._keyframe is None:
            return False
        best, middle, contrast = Picture.of(_shrink(gray)).correlate(self._keyframe)
        agrees = (middle >= SAME) & (middle >= best)
        return bool(contrast.mean() > LEAST_TEXTURE
                    and agrees[contrast].mean() > STANDING)

    def observe(self, stamp_ns: int, gray: np.ndarray, tracks: Tracks) -> PartChange:
        """Return what has changed at the last sample; `tracks` are those from the keyframe."""
        if self._reference is None or 0 <= stamp_ns - self._stamp_ns < SAMPLE_NS:
            self._unsure = self._reference is not None
            return self._change
        picture, differs = self._compare(gray, tracks)
        if differs is None:
            self._refer(stamp_ns, picture)
            self._corners, self._places = tracks.corners, tracks.ends.astype(float)
            self._activity[:] = 0.0
            return self._change
        moving = picture.differs(self._sample)
        self._activity += NEWEST * (moving - self._activity)
        calm = self._activity < RESTLESS
        differs &= calm
        self._change = PartChange(_is_part(differs & ~moving), _is_part(moving & calm))
        self._unsure = self._change.moving or _is_part(differs)
        self._stamp_ns, self._sample = stamp_ns, picture
        return self._change

    def has_changed(self, gray: np.ndarray, tracks: Tracks) -> bool:
        """Return whether a part of an image differs from the reference, settled or not."""
        _, differs = self._compare(gray, tracks)
        return differs is not None and _is_part(differs & (self._activity < RESTLESS))

    def tree(self) -> Tree:
        """Return the state for a saved map."""
        if self._reference is None:
            return {}
        return {'stamp_ns': self._stamp_ns, 'width': self._size[0], 'height': self._size[1],
                'keyframe': self._keyframe.image, 'reference': self._reference.image,
                'sample': self._sample.image, 'corners': self._corners,
                'places': None if self._corners is None else self._places,
                'activity': self._activity.copy(), 'settled': self._change.settled,
                'moving': self._change.moving, 'unsure': self._unsure}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        if not node.has('reference'):
            return
        self._size = node.integer('width', 1), node.integer('height', 1)
        shape = _shrink(np.zeros(self._size[::-1], np.uint8)).shape
        self._stamp_ns = node.integer('stamp_ns')
        self._keyframe, self._reference, self._sample = (
            Picture.of(node.array(name, np.float32, shape))
            for name in ('keyframe', 'reference', 'sample'))
        self._activity = node.array('activity', np.float32, shape)
        self._corners = None
        if node.has('corners'):
            self._corners = node.array('corners', np.int64, (None,))
            self._places = node.array('places', np.float64, (len(self._corners), 2))
        self._change = PartChange(node.flag('settled'), node.flag('moving'))
        self._unsure = node.flag('unsure')

    def _refer(self, stamp_ns: int, picture: Picture) -> None:
        self._stamp_ns, self._reference, self._sample = stamp_ns, picture, picture
        self._change, self._unsure = PartChange(), False

    def _compare(self, gray: np.ndarray, tracks: Tracks) -> tuple[Picture, np.ndarray | None]:
        """Return an image as seen from where the reference was, and where it differs, bool [h, w].

        None: the camera has moved.
        """
        picture = Picture.of(_shrink(gray))
        differs = picture.differs(self._reference)
        if not _is_part(differs):
            return picture, differs
        moved = self._motion(tracks)
        if moved is None:
            return picture, None
        # A change of the exposure misleads corners: the better one of both counts.
        other = Picture.of(self._moved_back(picture.image, moved))
        differs_moved = other.differs(self._reference)
        if differs_moved.sum() < differs.sum():
            return other, differs_moved
        return picture, differs

    def _motion(self, tracks: Tracks) -> Tracks | None:
        """Return the tracks from the reference to an image; None if the camera has moved."""
        if self._corners is not None:
            corners, first, second = np.intersect1d(self._corners, tracks.corners, True, True)
            tracks = Tracks(self._places[first], tracks.ends[second], corners)
        if len(tracks) < MIN_TRACKS:
            return None
        flow = np.quantile(np.linalg.norm(tracks.ends - tracks.starts, axis=1),
                           STANDING_CORNERS)
        return tracks if flow <= MOST_MOTION * self._size[0] else None

    def _moved_back(self, small: np.ndarray, tracks: Tracks) -> np.ndarray:
        """Return a small copy as it would be seen from where the reference was."""
        fit = np.eye(3)
        fit[:2] = fit_affine(tracks, HUBER_SHARE * self._size[0]).T
        scale = np.diag([*(np.array(small.shape[::-1]) / self._size), 1.0])
        scale[:2, 2] = 0.5 * scale.diagonal()[:2] - 0.5  # the middle of the first pixel
        matrix = scale @ fit @ np.linalg.inv(scale)
        # What is not in view has not changed.
        return cv2.warpAffine(small, matrix[:2], small.shape[::-1], self._reference.image.copy(),
                              cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_TRANSPARENT)


@dataclass(frozen=True)
class Picture:
    """A small gray copy float32 [h, w], with mean, variance and share clipped in each window."""

    image: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    clipped: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray) -> Picture:
        """Return the picture of a small copy."""
        mean = _window_mean(image)
        clipped = (image <= DARKEST) | (image >= BRIGHTEST)
        return cls(image, mean, np.maximum(_window_mean(image * image) - mean * mean, 0.0),
                   _window_mean(clipped.astype(np.float32)))

    def correlate(self, other: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return correlations with another picture around each pixel, all [h, w].

        They are the largest one over all shifts and that without a shift. The third array is
        where they mean something, bool.
        """
        shifted = [cv2.copyMakeBorder(array, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
                   for array in (other.image, other.mean, other.variance)]
        height, width = self.image.shape
        found = []
        for top, left in SHIFTS:
            image, mean, variance = (array[top:top + height, left:left + width]
                                     for array in shifted)
            product = _window_mean(self.image * image) - self.mean * mean
            found.append(product / np.sqrt(self.variance * variance + 1.0))
        contrast = np.maximum(self.variance, other.variance) > LEAST_CONTRAST**2
        contrast &= np.abs(self.clipped - other.clipped) < MOST_CLIPPED
        return np.max(found, axis=0), found[SHIFTS.index((1, 1))], contrast

    def differs(self, other: Picture) -> np.ndarray:
        """Return around which pixels it shows something else than another one, bool [h, w]."""
        best, _, contrast = self.correlate(other)
        return (best < SAME) & contrast


def _shrink(gray: np.ndarray) -> np.ndarray:
    height = max(1, round(WIDTH * gray.shape[0] / gray.shape[1]))
    return cv2.resize(gray, (WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def _window_mean(image: np.ndarray) -> np.ndarray:
    return cv2.blur(image, (WINDOW, WINDOW))


def _is_part(which: np.ndarray) -> bool:
    return bool(which.mean() > LEAST_SHARE)
