# SPDX-License-Identifier: Apache-2.0
"""How well a colour chart keeps its colours in every encoding and file format of an image.

Run by `make bench-colours`. The table, in Markdown, has the mean absolute error of each channel
and the largest error, in levels of 255, within the patches of the chart. Formats with equal
errors share a row. The errors of JPEG, WebP and AVIF include those of the compression.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import PIL

sys.path.insert(0, str(Path(__file__).parents[1] / 'test'))

import colour_chart

from spann3r_ros.core.encodings import to_rgb
from spann3r_ros.core.types import UnsupportedImageError


@dataclass(frozen=True)
class Row:
    """Errors of one encoding or file; `mean` of red, green, blue, None where it is not read."""

    name: str
    mean: tuple[float, float, float] | None
    largest: int = 0

    @property
    def errors(self) -> str:
        """Return the cells of a table."""
        if self.mean is None:
            return 'not read here | |'
        return ' '.join(f'{value:.2f}' for value in self.mean) + f' | {self.largest} |'


def measure() -> Iterator[Row]:
    """Yield the rows of all encodings and file formats."""
    rgb = colour_chart.chart()
    for name in colour_chart.RAW:
        yield _row(name, colour_chart.raw(rgb, name))
    for name, write in colour_chart.files(rgb).items():
        yield _row(name, write())
    yield _row('AVIF', colour_chart.recorded('avif'))
    yield _row('JPEG XL, lossless', colour_chart.recorded('jxl'))


def _row(name: str, message: colour_chart.Raw | colour_chart.File) -> Row:
    try:
        found = to_rgb(message)
    except UnsupportedImageError:
        return Row(name, None)
    errors = colour_chart.errors(found, colour_chart.expected(colour_chart.chart(), name))
    return Row(name, tuple(errors.mean(axis=0)), int(errors.max()))


def main() -> None:
    """Print the table."""
    print(f'OpenCV {cv2.__version__}, Pillow {PIL.__version__}\n')
    print('| encoding or file | mean error R G B | largest |\n|---|---|---|')
    for errors, rows in groupby(measure(), key=lambda row: row.errors):
        print(f'| {"; ".join(row.name for row in rows)} | {errors}')


if __name__ == '__main__':
    main()
