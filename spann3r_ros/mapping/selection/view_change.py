# SPDX-License-Identifier: Apache-2.0
"""How much the view has changed since the last keyframe, measured by tracked corners alone.

With the bearing vectors a_i and b_i of a corner in the first and in the newest image, the rotation
R of the camera minimises sum w_i |b_i - R a_i|^2 (Kabsch), with the weights w of Huber's norm.

    flow      median of |pixel_i - pixel_first,i|,  in image widths
    parallax  median of |pixel_i - projection of R a_i|,  in image widths
    overlap   s min(1, q / 0.5)

s is the share of the corners that are still in view: where a corner was not found, the affine map
that fits the tracks says where it is. q is the share of those that are found; a half is usual, and
fewer mean that the scene is hidden or another one, unless small copies of both images correlate:
then these were corners of noise. Each cell of a grid has the same weight.

A translation whose flow looks like that of a rotation is taken for one: it lowers the overlap.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.storage.saved_tree import SavedNode
from spann3r_ros.mapping.storage.saved_values import Tree
from spann3r_ros.mapping.tracking.corner_tracks import (
    MIN_TRACKS,
    CornerPath,
    Tracks,
    find_corners,
    rays,
    to_gray,
)

# Columns and rows of the grid over the image, and most corners in one of its cells, strongest
# first, of so many.
GRID = (8, 6)
CELL_CORNERS = 4
CANDIDATES = 600
# A larger share of the corners in view is found as long as the view shows the same things.
USUALLY_FOUND = 0.5
# Residuals of the fits beyond this share of the image width have less weight.
HUBER_SHARE = 0.02
ROUNDS = 3
# An image whose small copy varies less, in gray levels, shows nothing. Its corners are noise.
LEAST_DEVIATION = 4.0
# Width and height of the small copy, and the least correlation of two pictures of the same view.
SMALL = (32, 24)
SAME_VIEW = 0.9


@dataclass(frozen=True)
class ViewChange:
    """The change of the view: `flow` and `parallax` in image widths, `overlap` in [0, 1].

    Flow and parallax are zero if too few corners are found.
    """

    flow: float = 0.0
    parallax: float = 0.0
    overlap: float = 0.0


class View:
    """The image of a keyframe, with which later images are compared."""

    def __init__(self, gray: np.ndarray, pixels: np.ndarray) -> None:
        """Begin at a gray image [h, w] and its corners [n, 2]."""
        self._gray, self._pixels = gray, pixels
        cells = _cells(gray, pixels)
        # The corners of each cell weigh as much as those of any other.
        self._weights = 1.0 / np.maximum(np.bincount(cells), 1)[cells] if len(cells) else cells
        self._small = _small(gray)
        self._path = CornerPath(gray, pixels)
        self.tracks = Tracks(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))  # the newest

    @classmethod
    def of(cls, network_input: Preprocessed) -> View:
        """Return the view of a network's input."""
        gray = to_gray(network_input.image)
        pixels = find_corners(gray, network_input.usable, CANDIDATES).reshape(-1, 2)
        cells = _cells(gray, pixels)
        # The rank of each corner in its cell; corners come strongest first.
        order = np.argsort(cells, kind='stable')
        ranks = np.empty(len(cells), int)
        ranks[order] = np.arange(len(cells)) - np.searchsorted(cells[order], cells[order])
        return cls(gray, pixels[ranks < CELL_CORNERS])

    @property
    def waypoints(self) -> tuple[np.ndarray, ...]:
        """Return gray images [h, w] on the way from this one to the last one compared."""
        return self._path.waypoints

    def change(self, image: np.ndarray, intrinsics: Intrinsics | None) -> ViewChange:
        """Return the change to an image, uint8 RGB [h, w, 3].

        The corners are followed from one image to the next one, so that every image that comes
        has to be compared. Without intrinsics a focal length of one image width is assumed.
        """
        gray = to_gray(image)
        small = _small(gray)
        self.tracks = self._path.follow(gray)
        return self._measure(self.tracks, intrinsics, self._looks_like(small))

    def tree(self) -> Tree:
        """Return the state for a saved map."""
        return {'gray': self._gray, 'pixels': self._pixels, 'path': self._path.tree()}

    @classmethod
    def read(cls, node: SavedNode) -> View:
        """Return a saved view; raise ValueError if it is wrong."""
        gray = node.array('gray', np.uint8, (None, None))
        view = cls(gray, node.array('pixels', np.float32, (None, 2)))
        view._path.restore(node.node('path'))
        return view

    def _measure(self, tracks: Tracks, intrinsics: Intrinsics | None,
                 looks_alike: bool) -> ViewChange:
        if len(tracks) < MIN_TRACKS:
            return ViewChange(overlap=float(looks_alike))
        height, width = self._gray.shape
        flow = np.linalg.norm(tracks.ends - tracks.starts, axis=1)
        places = _homogeneous(self._pixels) @ fit_affine(tracks, HUBER_SHARE * width)
        in_view = ((places >= 0.0) & (places <= (width - 1, height - 1))).all(axis=1)
        in_view[tracks.corners] = True
        seen, found = (self._weights[which].sum() for which in (in_view, tracks.corners))
        overlap = float(seen / self._weights.sum())
        if not looks_alike:
            overlap *= min(1.0, float(found / seen) / USUALLY_FOUND)
        camera = intrinsics or Intrinsics(width, width, 0.5 * (width - 1), 0.5 * (height - 1),
                                          width, height)
        return ViewChange(float(np.median(flow)) / width, _parallax(tracks, camera), overlap)

    def _looks_like(self, small: np.ndarray) -> bool:
        """Return whether the small copy of an image shows the same view."""
        first, second = self._small - self._small.mean(), small - small.mean()
        return float((first * second).sum()) > SAME_VIEW * float(
            np.linalg.norm(first) * np.linalg.norm(second))


def is_blank(image: np.ndarray) -> bool:
    """Return whether an image, uint8 RGB [h, w, 3], shows nothing that could be tracked."""
    return bool(_small(to_gray(image)).std() < LEAST_DEVIATION)


def _parallax(tracks: Tracks, camera: Intrinsics) -> float:
    """Return the median flow that no rotation explains, in image widths."""
    first, second = rays(tracks.starts, camera), rays(tracks.ends, camera)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    weights = np.ones(len(first))
    for _ in range(ROUNDS):
        left, _, right = np.linalg.svd((second * weights[:, None]).T @ first)
        left[:, 2] *= np.linalg.det(left @ right)
        turned = first @ (left @ right).T
        # Behind the camera after a wrong rotation: as far away as can be.
        pixels = turned[:, :2] / np.maximum(turned[:, 2:], 1e-3) * (camera.fx, camera.fy) + (
            camera.cx, camera.cy)
        residuals = np.linalg.norm(pixels - tracks.ends, axis=1) / camera.width
        weights = HUBER_SHARE / np.maximum(residuals, HUBER_SHARE)
    return float(np.median(residuals))


def fit_affine(tracks: Tracks, limit: float) -> np.ndarray:
    """Return the affine map [3, 2] from starts to ends that fits the tracks.

    Errors beyond `limit` pixels have less weight.
    """
    places = _homogeneous(tracks.starts)
    weights = np.ones((len(tracks), 1))
    for _ in range(ROUNDS):
        fit = np.linalg.lstsq(weights * places, weights * tracks.ends, rcond=None)[0]
        errors = np.linalg.norm(places @ fit - tracks.ends, axis=1, keepdims=True)
        weights = np.sqrt(limit / np.maximum(errors, limit))
    return fit


def _homogeneous(pixels: np.ndarray) -> np.ndarray:
    return np.column_stack([pixels, np.ones(len(pixels))])


def _cells(gray: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the numbers [n] of the cells that pixels [n, 2] of an image [h, w] are in."""
    height, width = gray.shape
    return (pixels * GRID / (width, height)).astype(int) @ (1, GRID[0])


def _small(gray: np.ndarray) -> np.ndarray:
    return cv2.resize(gray, SMALL, interpolation=cv2.INTER_AREA).astype(np.float32)
