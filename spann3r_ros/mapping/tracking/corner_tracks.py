# SPDX-License-Identifier: Apache-2.0
"""Corners followed from one image to another."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.mapping.storage.saved_tree import SavedNode

CORNERS = 150
CORNER_QUALITY = 0.01
WINDOW_PIXELS = 11
# Fewer tracks are not used for an estimate.
MIN_TRACKS = 12
# A track is rejected if tracking back from its end misses its start by more than this.
MAX_RETURN_ERROR_PX = 1.0
# A path gets another waypoint when its corners have moved by this share of the image width, or
# when fewer than this share of those at the last waypoint are found.
WAYPOINT_FLOW, WAYPOINT_FOUND = 0.04, 0.5
# Beyond, every second image between the first one and the last waypoint is forgotten.
MAX_WAYPOINTS = 16


@dataclass(frozen=True)
class Tracks:
    """Pixels [n, 2] of the same places in a first and in a second image.

    `corners` [n] are their indices in the corners that were tracked.
    """

    starts: np.ndarray
    ends: np.ndarray
    corners: np.ndarray

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self.starts)

    def select(self, which: np.ndarray) -> Tracks:
        """Return the tracks chosen by a bool [n] or by indices."""
        return Tracks(self.starts[which], self.ends[which], self.corners[which])


def to_gray(image: np.ndarray) -> np.ndarray:
    """Return RGB uint8 [h, w, 3] as uint8 [h, w]."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def find_corners(gray: np.ndarray, usable: np.ndarray | None = None,
                 most: int = CORNERS) -> np.ndarray:
    """Return corners to track, float32 [n, 1, 2], strongest first, at most so many.

    The pixels around them are `usable` [h, w].
    """
    mask = None
    if usable is not None and not usable.all():
        # The border of the mask would give corners that belong to no object.
        window = np.ones((WINDOW_PIXELS, WINDOW_PIXELS), np.uint8)
        mask = cv2.erode(usable.astype(np.uint8), window)
    found = cv2.goodFeaturesToTrack(gray, most, CORNER_QUALITY, WINDOW_PIXELS // 3, mask=mask)
    return np.zeros((0, 1, 2), np.float32) if found is None else found


def follow(first: np.ndarray, second: np.ndarray, corners: np.ndarray) -> Tracks:
    """Return the tracks of corners [n, 1, 2] from a gray image [h, w] to a second one.

    Each corner is tracked to the second image and back; a track that misses its start is rejected.
    """
    if not len(corners):
        return Tracks(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))
    window = (WINDOW_PIXELS, WINDOW_PIXELS)
    ends, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None, winSize=window)
    returned, found_back, _ = cv2.calcOpticalFlowPyrLK(second, first, ends, None, winSize=window)
    good = (found & found_back).ravel() == 1
    good &= np.linalg.norm(returned - corners, axis=-1).ravel() < MAX_RETURN_ERROR_PX
    return Tracks(corners[good].reshape(-1, 2).astype(float),
                  ends[good].reshape(-1, 2).astype(float), np.flatnonzero(good))


def rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return the points [n, 3] at depth one on the rays of pixels [n, 2]."""
    centre, focal = (intrinsics.cx, intrinsics.cy), (intrinsics.fx, intrinsics.fy)
    return np.column_stack([(pixels - centre) / focal, np.ones(len(pixels))])


def at_pixels(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the values [n, ...] of an image [h, w, ...] at the nearest pixels to [n, 2]."""
    columns, rows = np.rint(pixels).astype(int).T
    return values[rows, columns]


class CornerPath:
    """Corners of one image, followed through the images after it.

    Each image is compared with the last waypoint: the first image, or a later one once the corners
    have moved. A camera that stands still is therefore compared with the first image for ever,
    and the number of waypoints depends on the motion, not on the rate of the images.
    """

    def __init__(self, gray: np.ndarray, pixels: np.ndarray) -> None:
        """Begin at corners `pixels` [n, 2] of a gray image [h, w]."""
        self._first = pixels
        self._gray, self._pixels = gray, pixels
        self._corners = np.arange(len(pixels))
        self._passed: list[np.ndarray] = []

    @property
    def waypoints(self) -> tuple[np.ndarray, ...]:
        """Return the gray images [h, w] of the waypoints after the first image."""
        return tuple(self._passed)

    def __len__(self) -> int:
        """Return the number of corners in the first image."""
        return len(self._first)

    def through(self, waypoints: Iterable[np.ndarray]) -> None:
        """Follow the corners through images that another path has passed."""
        for gray in waypoints:
            tracks = self._track(gray)
            if len(tracks) >= MIN_TRACKS:
                self._move_to(gray, tracks)

    def follow(self, gray: np.ndarray) -> Tracks:
        """Return the tracks from the first image to the next one, gray [h, w]."""
        tracks = self._track(gray)
        if len(tracks) >= MIN_TRACKS:
            flow = np.linalg.norm(tracks.ends - self._pixels[np.searchsorted(
                self._corners, tracks.corners)], axis=1)
            if (np.median(flow) > WAYPOINT_FLOW * gray.shape[1]
                    or len(tracks) < WAYPOINT_FOUND * len(self._corners)):
                self._move_to(gray, tracks)
        return tracks

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map, without the first image's corners."""
        return {'gray': self._gray, 'pixels': self._pixels, 'corners': self._corners,
                'passed': np.array(self._passed, np.uint8).reshape(-1, *self._gray.shape)}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state of a path with the same first corners; ValueError if wrong."""
        shape = self._gray.shape
        self._gray = node.array('gray', np.uint8, shape)
        self._corners = node.array('corners', np.int64, (None,))
        self._pixels = node.array('pixels', node.dtype('pixels', (np.float32, np.float64)),
                                  (len(self._corners), 2))
        if len(self._corners) and not (
                self._corners[0] >= 0 and self._corners[-1] < len(self._first)
                and (np.diff(self._corners) > 0).all()):
            raise node.fault('corners', f'rising indices below {len(self._first)}', 'others')
        self._passed = list(node.array('passed', np.uint8, (None, *shape)))

    def _track(self, gray: np.ndarray) -> Tracks:
        tracks = follow(self._gray, gray, self._pixels.astype(np.float32)[:, None])
        corners = self._corners[tracks.corners]
        return Tracks(self._first[corners].astype(float), tracks.ends, corners)

    def _move_to(self, gray: np.ndarray, tracks: Tracks) -> None:
        # A track may end a little outside of the image; it is not followed any further.
        tracks = tracks.select(((tracks.ends >= 0.0) & (
            tracks.ends <= (gray.shape[1] - 1, gray.shape[0] - 1))).all(axis=1))
        self._gray, self._pixels, self._corners = gray, tracks.ends, tracks.corners
        self._passed.append(gray)
        if len(self._passed) > MAX_WAYPOINTS:
            self._passed = self._passed[::2]
