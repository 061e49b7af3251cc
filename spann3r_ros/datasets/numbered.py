# SPDX-License-Identifier: Apache-2.0
"""Images whose names bear their number, and what tells that one of them is missing."""
from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from .rgbd import DatasetError, image_number, require


def numbered_images(folder: Path, patterns: Sequence[str],
                    companions: Sequence[str]) -> list[Path]:
    """Return the images that patterns find below a folder, in the order of their numbers.

    DatasetError names one that is missing: a companion, say a depth image, bears its number, or
    the others are numbered in even steps that leave it out. Also for two of one number, and for
    none at all.
    """
    images = _by_number(folder, patterns)
    if not images:
        raise DatasetError(f'{folder}: expected {" or ".join(patterns)}, found none')
    numbers = [image_number(path) for path in images]
    for (number, path), (next_number, other) in pairwise(zip(numbers, images, strict=True)):
        if number == next_number:
            raise DatasetError(f'{other}: expected one image {number}, there is also {path.name}')
    # Recordings thinned out evenly are whole; the smallest step is theirs.
    step = min((b - a for a, b in pairwise(numbers)), default=1)
    due = set(range(numbers[0], numbers[-1], step))
    due |= {image_number(path) for path in _by_number(folder, companions)}
    for number in sorted(due.difference(numbers)):
        require(renumbered(images[0], number))
    return images


def renumbered(path: Path, number: int) -> Path:
    """Return what an image of another number is called."""
    head, digits, tail = re.fullmatch(r'(.*?)(\d+)(\D*)', path.name).groups()
    width = len(digits) if digits.startswith('0') else 0
    return path.with_name(f'{head}{number:0{width}d}{tail}')


def _by_number(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = [path for pattern in patterns for path in folder.glob(pattern)
             if re.search(r'\d', path.name)]
    return sorted(found, key=lambda path: (image_number(path), path.name))
