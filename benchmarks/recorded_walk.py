# SPDX-License-Identifier: Apache-2.0
"""The walk of `node_cost.py`: images for the node, pointmaps for the network."""
from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / 'test'))

from synthetic import SyntheticScene, orbit_trajectory, square_camera

from spann3r_ros.core.camera import Intrinsics

# Round and round a room, at the speed of a hand-held camera.
POSES = orbit_trajectory(240)
SCENE = SyntheticScene()
# The network finds the pose of an image by its colours, at so many pixels a side.
SKETCH_PIXELS = 12
# A network errs by regions of its image: so many a side, with this standard deviation of a point
# along each axis, as a share of its depth.
ERROR_REGIONS, POINT_ERROR = 6, 0.02


def render(index: int, camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Return rgb uint8 [h, w, 3] and the points [h, w, 3] in the camera's frame."""
    return SCENE.render(POSES[index], camera)


def with_errors(points: np.ndarray, index: int) -> np.ndarray:
    """Return points [h, w, 3] in the camera's frame with the errors of a network."""
    regions = np.random.default_rng(index).normal(0.0, POINT_ERROR, (*2 * (ERROR_REGIONS,), 3))
    errors = cv2.resize(regions, points.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return points + points[..., 2:] * errors


def wide_camera(width: int, height: int) -> Intrinsics:
    """Return a camera whose central square shows what `square_camera` does."""
    square = square_camera(height)
    return Intrinsics(square.fx, square.fy, 0.5 * (width - 1), square.cy, width, height)


def sketch(rgb: np.ndarray) -> np.ndarray:
    """Return a small copy of an image, float32 [n], by which its pose is found again."""
    small = cv2.resize(rgb, (SKETCH_PIXELS, SKETCH_PIXELS), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).reshape(-1)
