# SPDX-License-Identifier: Apache-2.0
"""What the EXIF data of a photograph say of the camera: its rotation and its focal length."""
from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

ORIENTATION, EXIF_BLOCK, FOCAL_35MM = 0x0112, 0x8769, 0xA405
# The diagonal of a 35 mm film in millimetres.
DIAGONAL_35MM = float(np.hypot(36.0, 24.0))
# Credible focal lengths in millimetres: a fisheye and a telephoto lens.
SHORTEST_MM, LONGEST_MM = 5.0, 2000.0
# Of each value of the tag: whether the image is transposed, and then which of its axes (rows,
# columns) are reversed.
TURNS = {1: (False, ()), 2: (False, (1,)), 3: (False, (0, 1)), 4: (False, (0,)),
         5: (True, ()), 6: (True, (1,)), 7: (True, (0, 1)), 8: (True, (0,))}


@dataclass(frozen=True)
class PhotoTags:
    """`orientation` 1 to 8, as EXIF counts; `focal_mm` on a 35 mm film, None if unknown."""

    orientation: int = 1
    focal_mm: float | None = None


def read_tags(data: bytes) -> PhotoTags:
    """Return the tags of an image file; those that are missing or damaged have their defaults."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Pillow's, about damaged blocks
            with Image.open(BytesIO(data)) as image:
                tags = image.getexif()
                orientation = tags.get(ORIENTATION)
                focal = tags.get_ifd(EXIF_BLOCK).get(FOCAL_35MM)
    # Pillow raises any of these for a damaged block; the pixels may be good.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error,
            Image.DecompressionBombError):
        return PhotoTags()
    return PhotoTags(orientation if orientation in TURNS else 1, _credible(focal))


def upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image [h, w, 3] as it is to be looked at."""
    transposed, reversed_axes = TURNS[orientation]
    turned = rgb.swapaxes(0, 1) if transposed else rgb
    return np.ascontiguousarray(np.flip(turned, reversed_axes) if reversed_axes else turned)


def focal_pixels(focal_mm: float, height: int, width: int) -> float:
    """Return the focal length in pixels; both cameras have the same diagonal field of view."""
    return focal_mm / DIAGONAL_35MM * float(np.hypot(height, width))


def _credible(focal: object) -> float | None:
    try:
        value = float(focal)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return value if SHORTEST_MM <= value <= LONGEST_MM else None
