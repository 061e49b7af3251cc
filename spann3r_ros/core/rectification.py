# SPDX-License-Identifier: Apache-2.0
"""Taking a lens' distortion out of an image."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from .camera import Intrinsics
from .types import FrameError

# CameraInfo's models and how many coefficients OpenCV takes for each.
MODELS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}


@dataclass(frozen=True)
class Rectified:
    """A pinhole image [h, w, 3], its intrinsics, and which pixels [h, w] the lens has seen."""

    rgb: np.ndarray
    intrinsics: Intrinsics
    seen: np.ndarray
    follow: Callable[[np.ndarray], np.ndarray]


def rectify(rgb: np.ndarray, intrinsics: Intrinsics) -> Rectified:
    """Return the image a pinhole camera of the same matrix would have taken.

    `follow` takes bool images [h, w] of the distorted pixels the same way. Raises FrameError for
    a model or a number of coefficients that is not known.
    """
    maps = _maps(intrinsics)
    image = cv2.remap(rgb, maps[0], maps[1], cv2.INTER_LINEAR)

    def follow(mask: np.ndarray) -> np.ndarray:
        moved = cv2.remap(mask.astype(np.uint8) * 255, maps[0], maps[1], cv2.INTER_LINEAR)
        return moved == 255  # a pixel that is partly masked is masked

    return Rectified(image, replace(intrinsics, distortion=None),
                     follow(np.ones(rgb.shape[:2], bool)), follow)


@lru_cache(maxsize=4)
def _maps(intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Return OpenCV's maps; they cost many times as much as their use."""
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
