# SPDX-License-Identifier: Apache-2.0
"""Points of a cloud as a page of a browser takes them: few bytes, thinned to a bound."""
from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from spann3r_ros.mapping.layers.voxel_map import VoxelCloud

SPACING_POINTS, SPACING_SHARE = 2000, 0.9
LEVELS = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class PointBuffer:
    """Points rounded to 65,536 steps along each axis, and how many there were before thinning.

    `places` uint16 [n, 3] are steps from `low` [3] of length `step` [3]. `colors` uint8 [n, 3].
    `confidence` uint8 [n] is in 255ths.
    """

    places: np.ndarray
    colors: np.ndarray
    confidence: np.ndarray
    low: np.ndarray
    step: np.ndarray
    total: int

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.places)

    @property
    def rounding(self) -> float:
        """Return the largest error of a coordinate by rounding, in map units."""
        return float(self.step.max() / 2)

    def points(self) -> np.ndarray:
        """Return the rounded points [n, 3] in the map."""
        return self.low + self.places * self.step

    def entry(self) -> dict[str, Any]:
        """Return the buffer for JSON; arrays are little-endian in base64."""
        return {'count': len(self), 'total': self.total, 'low': self.low.tolist(),
                'step': self.step.tolist(), 'places': _encoded(self.places.astype('<u2')),
                'colors': _encoded(self.colors), 'confidence': _encoded(self.confidence)}


def buffer_points(cloud: VoxelCloud, most: int) -> PointBuffer:
    """Return the points of a cloud, `most` of them at random if there are more.

    The same cloud gives the same points. Points that are not finite are left out.
    """
    finite = np.flatnonzero(np.isfinite(cloud.points).all(axis=1))
    total = len(finite)
    if total > most:
        chosen = np.random.default_rng(0).choice(total, most, replace=False, shuffle=False)
        finite = finite[np.sort(chosen)]
    points = cloud.points[finite].astype(np.float64)
    low = points.min(axis=0) if total else np.zeros(3)
    extent = points.max(axis=0) - low if total else np.zeros(3)
    step = np.where(extent > 0.0, extent / LEVELS, 1.0)
    return PointBuffer(
        np.rint((points - low) / step).astype(np.uint16), cloud.colors[finite],
        np.rint(255 * np.clip(cloud.confidence[finite], 0.0, 1.0)).astype(np.uint8), low, step,
        total)


def spacing(points: np.ndarray) -> float:
    """Return a distance that most points of a cloud [n, 3] have to their nearest neighbour."""
    if len(points) < 2:
        return 1.0
    sample = points[::math.ceil(len(points) / SPACING_POINTS)]
    # Built three times as fast, for a few queries.
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    distances, _ = tree.query(sample, k=2)
    return float(np.quantile(distances[:, 1], SPACING_SHARE))


def _encoded(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
