# SPDX-License-Identifier: Apache-2.0
"""Draws coloured points as small squares with a depth buffer, in numpy."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Images are drawn at this multiple of their size and averaged, for smooth edges.
OVERSAMPLING = 2
SHADING = 12.0
LARGEST_REACH = 8
# Points that are drawn at once.
CHUNK = 20_000


@dataclass(frozen=True)
class View:
    """A camera that looks at points: `pixels_from_world` [4, 4], and whether it is a pinhole.

    Rows give the column, the row, and the depth of a world point, the first two to be divided by
    the depth for a pinhole.
    """

    pixels_from_world: np.ndarray
    width: int
    height: int
    pinhole: bool

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return column, row and depth [n, 3] of world points [n, 3]; NaN behind the camera."""
        moved = points @ self.pixels_from_world[:3, :3].T + self.pixels_from_world[:3, 3]
        if not self.pinhole:
            return moved
        depth = np.where(moved[:, 2:] > 1e-6, moved[:, 2:], np.nan)
        return np.concatenate([moved[:, :2] / depth, depth], axis=1)

    def pixels_per_unit(self, point: np.ndarray) -> float:
        """Return how many pixels a unit of length spans at a world point [3], roughly."""
        shifts = np.vstack([np.zeros(3), np.eye(3)]) * 1e-3
        seen = self.project(point + shifts)[:, :2]
        return float(np.linalg.norm(seen[1:] - seen[0], axis=1).max() * 1e3)


def top_view(low: np.ndarray, high: np.ndarray, width: int, height: int) -> View:
    """Return the view straight down on the rectangle low..high [2], x to the right, y up."""
    scale = min(width / (high[0] - low[0]), height / (high[1] - low[1]))
    middle = 0.5 * (low + high)
    matrix = np.diag([scale, -scale, -1.0, 1.0])
    matrix[0, 3] = width / 2 - scale * middle[0]
    matrix[1, 3] = height / 2 + scale * middle[1]
    return View(matrix, width, height, pinhole=False)


def orbit_view(target: np.ndarray, radius: float, azimuth_deg: float, elevation_deg: float,
               width: int, height: int, field_of_view_deg: float = 40.0) -> View:
    """Return the pinhole view from above onto a ball of `radius` about `target`; z is up."""
    azimuth, elevation = np.radians([azimuth_deg, elevation_deg])
    backward = np.array([np.cos(elevation) * np.cos(azimuth),
                         np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    focal = 0.5 * min(width, height) / np.tan(np.radians(field_of_view_deg / 2))
    distance = radius / np.sin(np.radians(field_of_view_deg / 2))
    rotation = np.stack([right, np.cross(right, backward), -backward])
    camera = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    matrix = np.eye(4)
    matrix[:3, :3] = camera @ rotation
    matrix[:3, 3] = -matrix[:3, :3] @ (target + distance * backward)
    return View(matrix, width, height, pinhole=True)


def splat(view: View, points: np.ndarray, colors: np.ndarray, size: float,
          background: tuple[int, int, int], shaded: bool) -> np.ndarray:
    """Return uint8 [height, width, 3]: world points [n, 3], colours uint8 [n, 3].

    `size` is the side of a point's square in pixels; `shaded` darkens points behind a depth edge.
    """
    height, width = view.height * OVERSAMPLING, view.width * OVERSAMPLING
    projected = view.project(points)
    shown = np.isfinite(projected).all(axis=1)
    # From far to near: of several points in a cell the last one written is the nearest.
    order = np.flatnonzero(shown)[np.argsort(-projected[shown, 2], kind='stable')]
    projected, colors = projected[order], colors[order]
    column, row = (np.floor(projected[:, i] * OVERSAMPLING).astype(int) for i in (0, 1))
    reach = min(max(1, round(size * OVERSAMPLING / 2)), LARGEST_REACH)
    across, down = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 2).T
    image = np.full((height * width, 3), background, np.uint8)
    depth = np.full(height * width, np.inf)
    for start in range(0, len(projected), CHUNK):
        part = slice(start, start + CHUNK)
        x, y = column[part, None] + across, row[part, None] + down  # [points, cells of a square]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        cell = (y * width + x)[inside]
        source = start + np.nonzero(inside)[0]
        image[cell] = colors[source]
        depth[cell] = projected[source, 2]
    image = image.reshape(height, width, 3)
    if shaded:
        image = shade_edges(image, depth.reshape(height, width))
    return cv2.resize(image, (view.width, view.height), interpolation=cv2.INTER_AREA)


def shade_edges(image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the image, darkened where neighbours are nearer to the camera."""
    drawn = np.isfinite(depth)
    log_depth = np.log(np.where(drawn, np.maximum(depth, 1e-6), 1e6))
    behind = np.zeros_like(depth)
    step = 2 * OVERSAMPLING
    for shift in ((0, step), (0, -step), (step, 0), (-step, 0)):
        behind += np.maximum(0.0, log_depth - np.roll(log_depth, shift, axis=(0, 1)))
    light = np.where(drawn, np.exp(-SHADING * np.minimum(behind, 0.25)), 1.0)
    return (image * light[..., None]).astype(np.uint8)
