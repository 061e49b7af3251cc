# SPDX-License-Identifier: Apache-2.0
"""Images that two sequences have seen, and their pixels as columns."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import ray_planes
from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import finite_points

# Cells per side of the image whose errors count as independent.
CELLS = 4


@dataclass(frozen=True)
class SharedView:
    """One image in two sequences.

    `depth` [h, w] is that of the first sequence, whose camera is at `first_from_camera` [4, 4].
    `points` [h, w, 3] are those of the second one, `second_from_camera` [4, 4] is the camera that
    they imply. `weights` [h, w] are confidences; pixels of weight 0 are not used.
    """

    intrinsics: Intrinsics
    depth: np.ndarray
    first_from_camera: np.ndarray
    points: np.ndarray
    second_from_camera: np.ndarray
    weights: np.ndarray


def usable(view: SharedView) -> np.ndarray:
    """Return the pixels, bool [h, w], that have a weight, a depth and a point."""
    with np.errstate(invalid='ignore'):
        return ((view.weights > 0.0) & (view.depth > 0.0) & np.isfinite(view.depth)
                & finite_points(view.points))


class SharedPixels:
    """The pixels of all views as columns: points [3, n], rays [2, n] and so on."""

    def __init__(self, views: Sequence[SharedView], chosen: Sequence[np.ndarray]) -> None:
        def gather(arrays: Sequence[np.ndarray]) -> np.ndarray:
            return np.concatenate([array.reshape(-1)[one] for array, one in
                                   zip(arrays, chosen, strict=True)]).astype(float)

        self.points = np.stack([gather([view.points[..., axis] for view in views])
                                for axis in range(3)])
        planes = [ray_planes(view.intrinsics) for view in views]
        self.rays = np.stack([gather([one[axis] for one in planes]) for axis in range(2)])
        self.log_depth = np.log(gather([view.depth for view in views]))
        self.weights = gather([view.weights for view in views])
        self.bounds = np.cumsum([0, *map(len, chosen)])
        self.cameras = [invert(view.first_from_camera) for view in views]
        cells = []
        for view, one in zip(views, chosen, strict=True):
            height, width = view.depth.shape
            cells.append(one // width * CELLS // height * CELLS + one % width * CELLS // width)
        self.cells = np.concatenate(cells)
