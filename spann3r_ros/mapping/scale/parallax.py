# SPDX-License-Identifier: Apache-2.0
"""The length of a network's unit in metres, by what known camera motion makes of its depths."""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import invert
from spann3r_ros.mapping.tracking.corner_tracks import (
    MIN_TRACKS,
    at_pixels,
    find_corners,
    follow,
    rays,
    to_gray,
)
from spann3r_ros.mapping.tracking.focal_length import weighted_median

from .map_scale import Scale

SOURCE = 'poses'
# Views that a new one may be compared with, how many of them it is, and comparisons that the scale
# is taken from: few, so that it follows a network whose scale drifts.
VIEWS = 12
ATTEMPTS = 4
COMPARISONS = 12
# Errors of the poses are common to a comparison's tracks: only several comparisons show them.
MIN_COMPARISONS = 3
# Median motion in the image, apart from the camera's turn, that two views need.
MIN_PARALLAX_PIXELS = 1.5
# A track that leaves the line where the motion must take it is none.
MAX_MISS_PIXELS = 1.0
# A network errs by patches: so many tracks count as one measurement.
TRACKS_PER_MEASUREMENT = 10
# A relative deviation beyond this is no scale to build on.
MAX_DEVIATION = 0.08


class View:
    """A posed image: uint8 [h, w, 3], `depth` [h, w] in the network's unit, NaN where unknown."""

    def __init__(self, image: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics,
                 world_from_camera: np.ndarray) -> None:
        self.depth = depth
        self.intrinsics = intrinsics
        self.world_from_camera = world_from_camera
        self.gray = to_gray(image)

    @cached_property
    def corners(self) -> np.ndarray:
        """Return pixels worth tracking, float32 [n, 1, 2]."""
        return find_corners(self.gray)


@dataclass(frozen=True)
class _Comparison:
    """Units per metre by each track [n], and how much each has to say [n]."""

    units_per_metre: np.ndarray
    weights: np.ndarray

    @property
    def middle(self) -> float:
        return weighted_median(self.units_per_metre, self.weights)


class ScaleFromParallax:
    """Compares depths with those that corners, tracked between posed views, have by parallax."""

    def __init__(self) -> None:
        self._views: list[View] = []
        self._comparisons: deque[_Comparison] = deque(maxlen=COMPARISONS)
        self._since = 0
        self.scale = Scale()

    def add(self, view: View) -> None:
        """Take a view; `scale` becomes metric, and follows, while its deviation is below 8 %."""
        self._since += 1
        # The longest way first: errors of the poses count least there.
        for index in sorted({index * len(self._views) // ATTEMPTS for index in range(ATTEMPTS)}):
            comparison = _compare(self._views[index], view) if self._views else None
            if comparison is not None:
                self._comparisons.append(comparison)
                self._since = 0
                self._estimate()
                break
        self._views.append(view)
        if len(self._views) > VIEWS:
            # Of a camera that moves too slowly, views from longer ago are kept.
            self._views = self._views[::2] if self._since >= VIEWS else self._views[1:]

    def _estimate(self) -> None:
        if len(self._comparisons) < MIN_COMPARISONS:
            return
        values = np.concatenate([one.units_per_metre for one in self._comparisons])
        weights = np.concatenate([one.weights for one in self._comparisons])
        middle = weighted_median(values, weights)
        if middle <= 0.0:
            return
        # For normal noise: 1.48 from median to deviation, 1.25 from mean to median.
        spread = 1.48 * 1.25 * weighted_median(np.abs(values - middle), weights)
        by_tracks = spread / math.sqrt(len(values) / TRACKS_PER_MEASUREMENT)
        middles = np.array([one.middle for one in self._comparisons])
        by_comparisons = 1.25 * middles.std(ddof=1) / math.sqrt(len(middles))
        relative = max(by_tracks, by_comparisons) / middle
        if relative < MAX_DEVIATION:
            self.scale = Scale(1.0 / middle, True, (relative / middle)**2, SOURCE)


def _compare(first: View, second: View) -> _Comparison | None:
    """Return what the motion between two views tells of the first one's depths, if it does."""
    tracks = follow(first.gray, second.gray, first.corners)
    if len(tracks) < MIN_TRACKS:
        return None
    depth = at_pixels(first.depth, tracks.starts)
    second_from_first = invert(second.world_from_camera) @ first.world_from_camera
    turned = rays(tracks.starts, first.intrinsics) @ second_from_first[:3, :3].T
    shift = second_from_first[:3, 3]
    seen = rays(tracks.ends, second.intrinsics)
    focal = second.intrinsics.fx
    with np.errstate(divide='ignore', invalid='ignore'):
        parallax = focal * (seen - turned / turned[:, 2:])[:, :2]
    # A point at depth z is seen where z * turned + shift points: linear in the inverse depth.
    across_turned, across_shift = np.cross(seen, turned), np.cross(seen, shift)
    lever = (across_shift**2).sum(axis=1)
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse_depth = -(across_turned * across_shift).sum(axis=1) / lever
    miss = focal * np.linalg.norm(
        across_turned + inverse_depth[:, None] * across_shift, axis=1)
    good = (depth > 0.0) & (turned[:, 2] > 0.0) & (lever > 0.0) & (miss < MAX_MISS_PIXELS)
    if good.sum() < MIN_TRACKS:
        return None
    if np.median(np.linalg.norm(parallax[good], axis=1)) < MIN_PARALLAX_PIXELS:
        return None
    # A pixel's error counts the less the longer the lever. The depth must not weigh: a wrong one
    # would vote for itself.
    return _Comparison((depth * inverse_depth)[good], np.sqrt(lever[good]))
