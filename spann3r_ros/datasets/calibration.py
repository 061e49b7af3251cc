# SPDX-License-Identifier: Apache-2.0
"""The intrinsics of a recording: from its calibration.txt, else those of its data set."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from .rgbd import DatasetError, read_numbers

Calibration = tuple[float, float, float, float]

FILE = 'calibration.txt'
# The image size of 7-Scenes and TUM, for which their published focal lengths hold.
KNOWN_SIZE = (640, 480)


def find_calibration(folders: list[Path], depth: Path, shape: tuple[int, int],
                     known: Calibration) -> Calibration:
    """Return fx, fy, cx and cy, in pixels, of the first folder's calibration.txt, or `known`.

    DatasetError for a file with other content, and without a file if the depth image (`depth`, of
    `shape` (height, width)) is not 640x480.
    """
    for folder in folders:
        if (folder / FILE).exists():
            return _read_calibration(folder / FILE)
    if shape[::-1] != KNOWN_SIZE:
        raise DatasetError(f'{folders[0] / FILE}: expected, with fx fy cx cy, for images that '
                           f'are not {KNOWN_SIZE[0]}x{KNOWN_SIZE[1]}: '
                           f'{depth} is {shape[1]}x{shape[0]}')
    return known


def _read_calibration(path: Path) -> Calibration:
    expected = f'{path}: expected one line, fx fy cx cy, in pixels'
    try:
        rows = read_numbers(path, 4)
    except DatasetError as error:
        raise DatasetError(f'{expected}, got {path.read_bytes()[:80]!r}') from error
    if len(rows) != 1 or not np.isfinite(rows).all() or not (rows[0, :2] > 0.0).all():
        raise DatasetError(f'{expected}, got {rows.tolist()}')
    return tuple(rows[0].tolist())
