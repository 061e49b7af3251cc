# SPDX-License-Identifier: Apache-2.0
"""Taking a lens' distortion out of an image."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .camera import Intrinsics
from .types import FrameError

# CameraInfo's models and how many coefficients OpenCV takes for each.
MODELS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}


class Rectifier:
    """Takes images of one calibration to those of a pinhole camera of the same matrix.

    `seen` [h, w] are the pixels that the lens has seen. FrameError for a model or a number of
    coefficients that is not known.
    """

    def __init__(self, intrinsics: Intrinsics) -> None:
        self._maps = _maps(intrinsics)
        self.intrinsics = replace(intrinsics, distortion=None)
        self.seen = self.move(np.ones((intrinsics.height, intrinsics.width), bool))

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Return an image [h, w, 3] without distortion."""
        return cv2.remap(rgb, *self._maps, cv2.INTER_LINEAR)

    def move(self, mask: np.ndarray) -> np.ndarray:
        """Return which pixels [h, w] of the result a mask of distorted ones admits in full."""
        moved = cv2.remap(mask.astype(np.uint8) * 255, *self._maps, cv2.INTER_LINEAR)
        return moved == 255  # a pixel that is partly masked is masked


def _maps(intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Return OpenCV's maps."""
    distortion, size = intrinsics.distortion, (intrinsics.width, intrinsics.height)
    counts = MODELS.get(distortion.model)
    if counts is None:
        raise FrameError(f'distortion model: expected one of {tuple(MODELS)}, '
                         f'got {distortion.model!r}')
    if len(distortion.coefficients) not in counts:
        raise FrameError(f'distortion: expected {" or ".join(map(str, counts))} coefficients for '
                         f'{distortion.model}, got {len(distortion.coefficients)}')
    coefficients = np.array(distortion.coefficients, float)
    if not np.isfinite(coefficients).all():
        raise FrameError(f'distortion: expected finite coefficients, got {coefficients}')
    initialise = (cv2.fisheye.initUndistortRectifyMap if distortion.model == 'equidistant'
                  else cv2.initUndistortRectifyMap)
    return initialise(intrinsics.matrix, coefficients, np.eye(3), intrinsics.matrix, size,
                      cv2.CV_32FC1)
