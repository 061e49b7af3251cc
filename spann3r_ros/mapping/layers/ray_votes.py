# SPDX-License-Identifier: Apache-2.0
"""What the depth image of one keyframe says of voxels: passed, seen, or nothing."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics

# By this angle the rays beside a voxel have to pass it too: poses err.
SLACK_RAD = 0.01
# Points of one voxel differ by as much, as a share of its edge.
SPREAD = 0.4


@dataclass(frozen=True)
class View:
    """The rays of one keyframe; depth is in units of its fragment.

    `seen` float32 [h * w] is the depth of the points that entered the map, NaN elsewhere.
    `nearest` float32 [h * w] is the least depth in a window around each pixel, 0 if it has a pixel
    of unknown depth. `farthest` is the largest depth. `margin` is a share of the depth.
    """

    intrinsics: Intrinsics
    seen: np.ndarray
    nearest: np.ndarray
    farthest: float
    margin: float

    @classmethod
    def of(cls, intrinsics: Intrinsics, depth: np.ndarray, known: np.ndarray,
           usable: np.ndarray, margin: float) -> View:
        """Return the view of a depth image [h, w], where `known`, with the `usable` points."""
        size = 2 * max(1, round(SLACK_RAD * intrinsics.fx)) + 1
        # Beyond the border nothing is known: OpenCV ignores these pixels.
        nearest = cv2.erode(np.where(known, depth, np.float32(0.0)),
                            np.ones((size, size), np.uint8))
        return cls(intrinsics, np.where(usable, depth, np.float32(np.nan)).ravel(),
                   nearest.ravel(), float(depth[known].max(initial=0.0)), margin)

    def sees(self, camera_from_points: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Return which boxes [..., 2, 3] may be in view, bool [...].

        `camera_from_points` [..., 4, 4] are similarities.
        """
        camera = self.intrinsics
        left, top = -(camera.cx + 0.5) / camera.fx, -(camera.cy + 0.5) / camera.fy
        right, bottom = left + camera.width / camera.fx, top + camera.height / camera.fy
        planes = np.array([[0, 0, 1, 0], [0, 0, -1, self.farthest], [1, 0, -left, 0],
                           [-1, 0, right, 0], [0, 1, -top, 0], [0, -1, bottom, 0]], float)
        planes = planes @ camera_from_points  # [..., 6, 4]
        low, high = bounds[..., 0, :].astype(float), bounds[..., 1, :].astype(float)
        middle, half = 0.5 * (low + high)[..., None], 0.5 * (high - low)[..., None]
        reach = planes[..., :3] @ middle + np.abs(planes[..., :3]) @ half  # [..., 6, 1]
        return (reach[..., 0] + planes[..., 3] >= 0.0).all(axis=-1)

    def votes(self, camera_from_points: np.ndarray, points: np.ndarray,
              edge: float) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the points [k, 3, BLOCK] the rays pass and which they see, flat indices.

        `camera_from_points` [4, 4] is a similarity, `edge` that of a voxel in units of the depth.

        A point is passed if the depth of all rays around it exceeds its own by the margin. It is
        seen if the depth of its pixel and its own differ by no more than the margin.
        """
        camera = self.intrinsics
        pixels = np.array([[camera.fx, 0.0, camera.cx + 0.5], [0.0, camera.fy, camera.cy + 0.5],
                           [0.0, 0.0, 1.0]]) @ camera_from_points[:3]
        x, y, z = ((row[:3].astype(np.float32) @ points).ravel() + np.float32(row[3])
                   for row in pixels)
        inside = (z > edge) & (z < self.farthest + edge) & (x >= 0.0) & (y >= 0.0)
        inside &= (x < camera.width * z) & (y < camera.height * z)
        chosen = np.flatnonzero(inside)
        x, y, z = (row.take(chosen) for row in (x, y, z))
        column = np.minimum((x / z).astype(np.int32), camera.width - 1)
        pixel = np.minimum((y / z).astype(np.int32), camera.height - 1) * camera.width + column
        margin = np.float32(self.margin) * z + np.float32(SPREAD * edge)
        sees = np.abs(self.seen.take(pixel) - z) <= margin
        passes = self.nearest.take(pixel) > z + margin
        return chosen[passes], chosen[sees]
