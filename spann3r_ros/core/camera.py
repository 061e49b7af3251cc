# SPDX-License-Identifier: Apache-2.0
"""A pinhole camera and its lens, in pixels."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Distortion:
    """Lens distortion as CameraInfo names it: plumb_bob, rational_polynomial or equidistant."""

    model: str
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics in pixels; pixel centres lie at integer coordinates.

    With `distortion` they are those of the rectified image, which keeps focal length and centre.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: Distortion | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Return the 3x3 camera matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


def centred_intrinsics(focal: float, height: int, width: int) -> Intrinsics:
    """Return intrinsics with square pixels and the principal point in the image's middle."""
    return Intrinsics(focal, focal, 0.5 * (width - 1), 0.5 * (height - 1), width, height)


@lru_cache(maxsize=4)
def pixel_grid(height: int, width: int) -> np.ndarray:
    """Return the (x, y) of every pixel, row by row, float64 [height * width, 2], read-only."""
    y, x = np.mgrid[:height, :width]
    grid = np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)
    grid.setflags(write=False)
    return grid
