# SPDX-License-Identifier: Apache-2.0
"""Removal of lens distortion from an image."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .camera import Intrinsics
from .types import FrameError

# The distortion models of CameraInfo and the numbers of coefficients that OpenCV accepts for each.
MODELS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}


class Rectifier:
    """Turns images of one calibration into those of a pinhole camera with the same matrix.

    `seen` [h, w] is true for the pixels of the result that lie inside the distorted image. Raises
    FrameError for an unknown model or a wrong number of coefficients.
    """

    def __init__(self, intrinsics: Intrinsics) -> None:
        self._maps = _maps(intrinsics)
        self.intrinsics = replace(intrinsics, distortion=None)
        self.seen = self.move(np.ones((intrinsics.height, intrinsics.width), bool))

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Return an image [h, w, 3] without distortion."""
        return cv2.remap(rgb, *self._maps, cv2.INTER_LINEAR)

    def move(self, mask: np.ndarray) -> np.ndarray:
        """Return bool [h, w]: the pixels of the result that a mask of distorted pixels covers."""
        moved = cv2.remap(mask.astype(np.uint8) * 255, *self._maps, cv2.INTER_LINEAR)
        return moved == 255  # false for a pixel that is covered only in part

    def move_values(self, values: np.ndarray) -> np.ndarray:
        """Return values [h, w] that must not be mixed, such as depth; 0 outside the image."""
        return cv2.remap(values, *self._maps, cv2.INTER_NEAREST)


def _maps(intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of x and y for `cv2.remap`."""
    distortion, size = intrinsics.distortion, (intrinsics.width, intrinsics.height)
    counts = MODELS.get(distortion.model)
    if counts is None:
        raise FrameError(f'distortion model: expected one of {", ".join(MODELS)}, '
                         f'got {distortion.model!r}; rectify the images, and set image_rectified')
    coefficients = np.array(distortion.coefficients, float)
    # Some drivers fill D up with zeros.
    fitting = [count for count in counts if not coefficients[count:].any()]
    if len(coefficients) not in counts and fitting and len(coefficients) > fitting[0]:
        coefficients = coefficients[:fitting[0]]
    if len(coefficients) not in counts:
        raise FrameError(f'distortion: expected {" or ".join(map(str, counts))} coefficients for '
                         f'{distortion.model}, got {len(coefficients)}')
    if not np.isfinite(coefficients).all():
        raise FrameError(f'distortion: expected finite coefficients, got {coefficients}')
    initialise = (cv2.fisheye.initUndistortRectifyMap if distortion.model == 'equidistant'
                  else cv2.initUndistortRectifyMap)
    return initialise(intrinsics.matrix, coefficients, np.eye(3), intrinsics.matrix, size,
                      cv2.CV_32FC1)
