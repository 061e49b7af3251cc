# SPDX-License-Identifier: Apache-2.0
"""Numbered images, and the detection of missing ones."""
from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from .rgbd import DatasetError, image_number, require


def numbered_images(folder: Path, patterns: Sequence[str], companions: Sequence[str],
                    even: bool = True) -> list[Path]:
    """Return the images below a folder that match the patterns, in the order of their numbers.

    DatasetError for a missing image: a companion, such as a depth image, has its number, or, if
    the numbering is `even`, there is a gap in it. Also for two images of one number, and for none.
    """
    images = _by_number(folder, patterns)
    if not images:
        raise DatasetError(f'{folder}: expected {" or ".join(patterns)}, found none')
    numbers = [image_number(path) for path in images]
    for (number, path), (next_number, other) in pairwise(zip(numbers, images, strict=True)):
        if number == next_number:
            raise DatasetError(f'{other}: expected one image {number}, got also {path.name}')
    # A recording may contain every n-th image only; n is the smallest step.
    step = min((b - a for a, b in pairwise(numbers)), default=1)
    expected = set(range(numbers[0], numbers[-1], step)) if even else set()
    expected |= {image_number(path) for path in _by_number(folder, companions)}
    for number in sorted(expected.difference(numbers)):
        require(renumbered(images[0], number))
    return images


def renumbered(path: Path, number: int) -> Path:
    """Return the path of the image with another number."""
    head, digits, tail = re.fullmatch(r'(.*?)(\d+)(\D*)', path.name).groups()
    width = len(digits) if digits.startswith('0') else 0
    return path.with_name(f'{head}{number:0{width}d}{tail}')


def _by_number(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = [path for pattern in patterns for path in folder.glob(pattern)
             if re.search(r'\d', path.name)]
    return sorted(found, key=lambda path: (image_number(path), path.name))
