# SPDX-License-Identifier: Apache-2.0
"""A pinhole camera and its lens, in pixels."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Calibrations that differ by less are those of one camera: some drivers change the focal length
# a little with the focus.
MAX_CHANGE = 0.005


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


def same_calibration(one: Intrinsics, other: Intrinsics) -> bool:
    """Return whether two calibrations of equal size differ by `MAX_CHANGE` at most.

    That is relative to the focal lengths, for the centre relative to the image's sides, and
    relative for coefficients of the distortion. Missing coefficients are zeros.
    """
    lenses = [() if item.distortion is None else item.distortion.coefficients
              for item in (one, other)]
    length = max(map(len, lenses))
    padded = [np.array((*lens, *[0.0] * (length - len(lens)))) for lens in lenses]
    models = {item.distortion.model for item in (one, other) if item.distortion is not None}
    sides = one.width, one.height
    return bool(
        sides == (other.width, other.height) and len(models) <= 1
        and np.allclose((one.fx, one.fy), (other.fx, other.fy), rtol=MAX_CHANGE, atol=0.0)
        and (np.abs([one.cx - other.cx, one.cy - other.cy]) <= MAX_CHANGE * np.array(sides)).all()
        and np.allclose(*padded, rtol=MAX_CHANGE, atol=MAX_CHANGE))


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
