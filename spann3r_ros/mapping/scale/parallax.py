# SPDX-License-Identifier: Apache-2.0
"""The length of a network's unit in metres, from the parallax between images of known pose.

A corner is tracked from a first to a second image. With the motion (R, t) between the cameras, in
metres, and its ray a in the first image, its depth Z in metres satisfies

    b x (Z R a + t) = 0,

where b is its ray in the second image. 1 / Z is the least-squares solution, and depth / Z is the
number of units per metre, `depth` being the network's. The scale is the weighted median over all
tracks of the newest comparisons.
"""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import invert
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of
from spann3r_ros.mapping.storage.saved_values import (
    intrinsics_tree,
    read_intrinsics,
    read_rigid,
    read_scale,
    scale_tree,
)
from spann3r_ros.mapping.tracking.corner_tracks import (
    MIN_TRACKS,
    at_pixels,
    find_corners,
    follow,
    rays,
)
from spann3r_ros.mapping.tracking.focal_length import weighted_median

from .map_scale import Scale

SOURCE = 'poses'
# Most views that are kept for comparison with a new one.
VIEWS = 12
# Most views that a new one is compared with.
ATTEMPTS = 4
# Newest comparisons that give the scale: few, so that it follows a network whose scale drifts.
COMPARISONS = 12
# All tracks of one comparison have the pose errors in common. Several comparisons average them.
MIN_COMPARISONS = 3
# Least median motion of the tracks in the image, without the part that the rotation causes.
MIN_PARALLAX_PIXELS = 1.5
# A track is rejected if its end is farther than this from its epipolar line.
MAX_EPIPOLAR_ERROR_PX = 1.0
# The network's errors are nearly equal within a patch: so many tracks count as one measurement.
TRACKS_PER_MEASUREMENT = 10
# A scale with a larger relative standard deviation is not used.
MAX_DEVIATION = 0.08


@dataclass(frozen=True)
class View:
    """A posed image `gray` uint8 [h, w]; `depth` [h, w] is in the network's unit, or NaN."""

    gray: np.ndarray
    depth: np.ndarray
    intrinsics: Intrinsics
    world_from_camera: np.ndarray

    @cached_property
    def corners(self) -> np.ndarray:
        """Return corners to track, float32 [n, 1, 2]."""
        return find_corners(self.gray)


@dataclass(frozen=True)
class _Comparison:
    """Units per metre by each track [n], and the weights of the tracks [n]."""

    units_per_metre: np.ndarray
    weights: np.ndarray

    @property
    def median(self) -> float:
        return weighted_median(self.units_per_metre, self.weights)


class ScaleFromParallax:
    """Estimates the scale from two depths of the same corners: the network's and by parallax."""

    def __init__(self) -> None:
        self._views: list[View] = []
        self._comparisons: deque[_Comparison] = deque(maxlen=COMPARISONS)
        self._since = 0
        self.scale = Scale()

    def add(self, view: View) -> None:
        """Compare a view with earlier ones and estimate the scale anew.

        `scale` changes only if its relative standard deviation is below `MAX_DEVIATION`.
        """
        self._since += 1
        # The oldest view first: a long motion makes the relative error of the poses small.
        for index in sorted({index * len(self._views) // ATTEMPTS for index in range(ATTEMPTS)}):
            comparison = _compare(self._views[index], view) if self._views else None
            if comparison is not None:
                self._comparisons.append(comparison)
                self._since = 0
                self._estimate()
                break
        self._views.append(view)
        if len(self._views) > VIEWS:
            # If the camera moves too slowly for a comparison, older views are kept: every second
            # one is removed instead of the oldest.
            self._views = self._views[::2] if self._since >= VIEWS else self._views[1:]

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'since': self._since, 'scale': scale_tree(self.scale),
                'views': [{**vars_of(view), 'intrinsics': intrinsics_tree(view.intrinsics)}
                          for view in self._views],
                'comparisons': [vars_of(one) for one in self._comparisons]}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self._since, self.scale = node.integer('since'), read_scale(node.node('scale'))
        self._views = [_read_view(one) for one in node.nodes('views')]
        for one in node.nodes('comparisons'):
            values = one.array('units_per_metre', np.float64, (None,))
            weights = one.array('weights', np.float64, values.shape)
            if not (len(weights) and weights.min() > 0.0):
                raise one.fault('weights', 'one or more weights above zero', weights.tolist())
            self._comparisons.append(_Comparison(values, weights))

    def _estimate(self) -> None:
        if len(self._comparisons) < MIN_COMPARISONS:
            return
        values = np.concatenate([one.units_per_metre for one in self._comparisons])
        weights = np.concatenate([one.weights for one in self._comparisons])
        median = weighted_median(values, weights)
        if median <= 0.0:
            return
        # For normal noise, 1.48 times the median absolute deviation is the standard deviation, and
        # the standard error of a median is 1.25 times that of a mean.
        deviation = 1.48 * 1.25 * weighted_median(np.abs(values - median), weights)
        by_tracks = deviation / math.sqrt(len(values) / TRACKS_PER_MEASUREMENT)
        medians = np.array([one.median for one in self._comparisons])
        by_comparisons = 1.25 * medians.std(ddof=1) / math.sqrt(len(medians))
        relative = max(by_tracks, by_comparisons) / median
        if relative < MAX_DEVIATION:
            self.scale = Scale(1.0 / median, True, (relative / median)**2, SOURCE)


def _read_view(node: SavedNode) -> View:
    intrinsics = read_intrinsics(node.node('intrinsics'))
    size = intrinsics.height, intrinsics.width
    return View(node.array('gray', np.uint8, size),
                node.array('depth', np.float32, size, finite=False), intrinsics,
                read_rigid(node, 'world_from_camera'))


def _compare(first: View, second: View) -> _Comparison | None:
    """Return the comparison of the first view's depths with those by parallax to the second.

    None when there are too few tracks or too little parallax.
    """
    tracks = follow(first.gray, second.gray, first.corners)
    if len(tracks) < MIN_TRACKS:
        return None
    depth = at_pixels(first.depth, tracks.starts)
    second_from_first = invert(second.world_from_camera) @ first.world_from_camera
    rotated = rays(tracks.starts, first.intrinsics) @ second_from_first[:3, :3].T  # R a
    shift = second_from_first[:3, 3]
    observed = rays(tracks.ends, second.intrinsics)
    focal = second.intrinsics.fx
    with np.errstate(divide='ignore', invalid='ignore'):
        parallax = focal * (observed - rotated / rotated[:, 2:])[:, :2]
    # b x R a + (b x t) / Z = 0: linear in the inverse depth.
    cross_rotated, cross_shift = np.cross(observed, rotated), np.cross(observed, shift)
    squared_baseline = (cross_shift**2).sum(axis=1)  # only the part across the ray counts
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse_depth = -(cross_rotated * cross_shift).sum(axis=1) / squared_baseline
    epipolar_error = focal * np.linalg.norm(
        cross_rotated + inverse_depth[:, None] * cross_shift, axis=1)
    good = ((depth > 0.0) & (rotated[:, 2] > 0.0) & (squared_baseline > 0.0)
            & (epipolar_error < MAX_EPIPOLAR_ERROR_PX))
    if good.sum() < MIN_TRACKS:
        return None
    if np.median(np.linalg.norm(parallax[good], axis=1)) < MIN_PARALLAX_PIXELS:
        return None
    # The longer the baseline, the smaller the effect of a pixel's error. The weight must not
    # depend on the network's depth: a depth that is too large would increase its own weight.
    return _Comparison((depth * inverse_depth)[good], np.sqrt(squared_baseline[good]))
