# SPDX-License-Identifier: Apache-2.0
"""From a camera image to the network's input size, and the intrinsics that follow it."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .types import FrameError, Intrinsics

# The principal point must keep this share of the side on its narrow side.
MIN_CENTRE_SHARE = 0.2


@dataclass(frozen=True)
class Preprocessed:
    """A network input: `image` uint8 [h, w, 3] and its intrinsics where the camera's are known."""

    image: np.ndarray
    intrinsics: Intrinsics | None


def preprocess(
    rgb: np.ndarray, intrinsics: Intrinsics | None, size: tuple[int, int]
) -> Preprocessed:
    """Centre, resize and crop an image to `size` (height, width), as the network was trained.

    The window is symmetric about the principal point, or about the middle without intrinsics.
    Raises FrameError for an image or intrinsics that cannot be used.
    """
    _check_image(rgb)
    if intrinsics is not None:
        _check_intrinsics(intrinsics, rgb)
    height, width = rgb.shape[:2]
    centre = (height // 2, width // 2)
    if intrinsics is not None:
        centre = (round(intrinsics.cy), round(intrinsics.cx))
    top, bottom = _window('height', height, centre[0])
    left, right = _window('width', width, centre[1])
    window = rgb[top:bottom, left:right]

    # The term 1e-8 keeps the side that decides the scale from losing a pixel to the floor.
    scale = max(size[0] / window.shape[0], size[1] / window.shape[1]) + 1e-8
    resized = (math.floor(window.shape[0] * scale), math.floor(window.shape[1] * scale))
    image = Image.fromarray(np.ascontiguousarray(window))
    image = image.resize((resized[1], resized[0]), Image.Resampling.LANCZOS)
    # Python rounds half to even, and so does the rule.
    y, x = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    cropped = np.asarray(image)[y:y + size[0], x:x + size[1]]
    if intrinsics is not None:
        shifted = replace(intrinsics, cx=intrinsics.cx - left, cy=intrinsics.cy - top)
        factors = (resized[0] / window.shape[0], resized[1] / window.shape[1])
        intrinsics = _follow(shifted, factors, (y, x), size)
    return Preprocessed(np.ascontiguousarray(cropped), intrinsics)


def _follow(
    intrinsics: Intrinsics, factors: tuple[float, float], corner: tuple[int, int],
    size: tuple[int, int],
) -> Intrinsics:
    """Return the intrinsics after a resize by `factors` and a crop at `corner`, both (y, x)."""
    # Resizing keeps pixel areas: the outer edge of pixel 0, at -0.5, stays where it is.
    return Intrinsics(
        fx=intrinsics.fx * factors[1],
        fy=intrinsics.fy * factors[0],
        cx=(intrinsics.cx + 0.5) * factors[1] - 0.5 - corner[1],
        cy=(intrinsics.cy + 0.5) * factors[0] - 0.5 - corner[0],
        width=size[1],
        height=size[0],
    )


def _window(side: str, length: int, centre: int) -> tuple[int, int]:
    """Return [first, last) of the widest window of a side that is symmetric about `centre`."""
    reach = min(centre, length - centre)
    if reach <= length * MIN_CENTRE_SHARE:
        raise FrameError(f'image {side}: expected the principal point in the middle 60 % of '
                         f'{length} pixels, got {centre}')
    return centre - reach, centre + reach


def _check_image(rgb: np.ndarray) -> None:
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 \
            or rgb.shape[2] != 3 or min(rgb.shape[:2]) < 2:
        got = f'{rgb.dtype} {rgb.shape}' if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise FrameError(f'rgb: expected uint8 [height, width, 3], sides of 2 or more, got {got}')


def _check_intrinsics(intrinsics: Intrinsics, rgb: np.ndarray) -> None:
    height, width = rgb.shape[:2]
    if (intrinsics.height, intrinsics.width) != (height, width):
        raise FrameError(f'intrinsics: expected those of a {width}x{height} image, '
                         f'got {intrinsics.width}x{intrinsics.height}')
    numbers = (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy)
    if not np.isfinite(numbers).all() or min(intrinsics.fx, intrinsics.fy) <= 0.0:
        raise FrameError(f'intrinsics: expected finite values and positive focal lengths, '
                         f'got {intrinsics}')
