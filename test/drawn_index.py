# SPDX-License-Identifier: Apache-2.0
"""A frame's index, drawn into its image and read from it."""
from __future__ import annotations

import numpy as np

from spann3r_ros.core.types import FrameError

INDEX_BITS = 16
INDEX_CELLS_PER_SIDE = 24


def encode_index(rgb: np.ndarray, index: int) -> np.ndarray:
    """Return a copy of a square image with `index` drawn as black and white cells at the top left.

    The cells survive JPEG and resizing; a second row holds the complement as a check.
    """
    cell = _cell_pixels(rgb)
    bits = (index >> np.arange(INDEX_BITS)) & 1
    pattern = 255 * np.stack([bits, 1 - bits]).astype(np.uint8)  # [2, bits]
    marked = rgb.copy()
    marked[: 2 * cell, : INDEX_BITS * cell] = pattern.repeat(cell, 0).repeat(cell, 1)[..., None]
    return marked


def decode_index(rgb: np.ndarray) -> int:
    """Return the index drawn by `encode_index`; FrameError if the image carries none."""
    cell = rgb.shape[0] / INDEX_CELLS_PER_SIDE
    columns = ((np.arange(INDEX_BITS) + 0.5) * cell).astype(int)
    rows = (np.array([0.5, 1.5]) * cell).astype(int)
    bits = rgb[rows[:, None], columns].mean(axis=-1) > 127  # [2, bits]
    if (bits[0] == bits[1]).any():
        raise FrameError('image: expected a frame index in its top left corner, found none')
    return int((bits[0] << np.arange(INDEX_BITS)).sum())


def _cell_pixels(rgb: np.ndarray) -> int:
    cell = rgb.shape[0] // INDEX_CELLS_PER_SIDE
    if rgb.shape[0] != rgb.shape[1] or cell < 2:
        raise ValueError(f'rgb: expected a square image of 48 pixels or more, got {rgb.shape}')
    return cell
