# SPDX-License-Identifier: Apache-2.0
"""A colour chart has its colours in every encoding; the error of a bad image names its fault."""
from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import colour_chart
import numpy as np
import pytest
from colour_chart import GENERIC, RAW, SEMI_PLANAR, Raw

from spann3r_ros.core.encodings import ENCODINGS, ImageDecoder, to_mask, to_rgb
from spann3r_ros.core.types import FrameError, UnsupportedImageError

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import image_colours

CHART = colour_chart.chart()
HEIGHT, WIDTH = CHART.shape[:2]
LARGEST_MEAN = 2.0
RGB = colour_chart.raw(CHART, 'rgb8')
NV12 = colour_chart.raw(CHART, 'nv12')


def largest_error(rgb: np.ndarray, encoding: str) -> int:
    assert rgb.dtype == np.uint8 and rgb.shape == CHART.shape
    return int(colour_chart.errors(rgb, colour_chart.expected(CHART, encoding)).max())


def test_chart_has_every_encoding() -> None:
    assert set(RAW) == set(ENCODINGS)


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', RAW)
def test_chart_keeps_its_colours(encoding: str, padding: int) -> None:
    is_yuv = encoding.startswith(('yuv', 'uyvy', 'yuyv', 'nv'))
    for big in (False, True):
        found = to_rgb(colour_chart.raw(CHART, encoding, padding, big))
        assert largest_error(found, encoding) <= (2 if is_yuv else 0), f'big endian: {big}'


@pytest.mark.parametrize('encoding', RAW)
def test_a_step_of_zero_means_rows_without_padding(encoding: str) -> None:
    image = colour_chart.raw(CHART, encoding)
    assert np.array_equal(to_rgb(replace(image, step=0)), to_rgb(image))


@pytest.mark.parametrize(('encoding', 'factor'), [('nv12', 1.5), ('nv21', 1.5), ('nv24', 3)])
def test_step_of_a_semi_planar_image_may_include_the_chroma(encoding: str, factor: float) -> None:
    image = colour_chart.raw(CHART, encoding)
    whole = replace(image, step=int(factor * WIDTH))
    assert whole.step * HEIGHT == len(whole.data)
    assert np.array_equal(to_rgb(whole), to_rgb(image))


def test_nv24_may_have_odd_sides() -> None:
    rgb = CHART[:63, :95]
    found = to_rgb(colour_chart.raw(rgb, 'nv24', padding=3))
    assert np.abs(found.astype(int) - rgb).max() <= 2


def test_smooth_colours_survive_bayer_patterns_and_chroma() -> None:
    y, x = np.mgrid[:24, :32]
    rgb = np.stack([40 + 5 * x, 60 + 4 * y, 200 - 3 * x], axis=-1).astype(np.uint8)
    for encoding in (*colour_chart.BAYER, *colour_chart.PACKED, *SEMI_PLANAR):
        found = to_rgb(colour_chart.raw(rgb, encoding))
        assert np.abs(found.astype(int) - rgb)[2:-2, 2:-2].max() <= 8, encoding


def test_each_assumption_is_warned_of_once() -> None:
    warnings: list[str] = []
    decode = ImageDecoder(warnings.append)
    for encoding in (*GENERIC, *GENERIC, *GENERIC.values()):
        decode(colour_chart.raw(CHART, encoding))
    assert [text.partition('. ')[0] for text in warnings] == [
        f'encoding: {name} names no colours; the images are read as {meant}'
        for name, meant in GENERIC.items()]
    for encoding in ('rgb8', 'nv12'):
        decode(replace(colour_chart.raw(CHART, encoding), step=0))
    assert warnings[len(GENERIC):] == [
        'step: expected the bytes of a row, got 0; the images are read as rows without padding']


def test_an_assumption_about_a_refused_image_is_not_warned_of() -> None:
    warnings: list[str] = []
    with pytest.raises(FrameError):
        ImageDecoder(warnings.append)(replace(RGB, encoding='8UC4'))
    assert warnings == []


@pytest.mark.parametrize(('image', 'reason'), [
    (Raw(0, 0, 'rgb8', 0, 0, b''), 'size'),
    (replace(RGB, width=0), 'size'),
    (replace(RGB, height=2**31), 'size'),
    (replace(RGB, step=3 * WIDTH - 1), f'step: expected at least {3 * WIDTH}'),
    (replace(RGB, step=0, data=RGB.data + b'x'), f'step: expected at least {3 * WIDTH}'),
    (replace(RGB, step=3 * WIDTH + 1), f'data: expected {HEIGHT} rows of {3 * WIDTH + 1}'),
    (replace(RGB, data=b''), 'data'),
    (replace(NV12, data=NV12.data[:WIDTH * HEIGHT]), f'data: expected {3 * HEIGHT // 2} rows'),
    (replace(NV12, encoding='nv24'), f'data: expected {3 * HEIGHT} rows'),
    (replace(NV12, step=2 * WIDTH, data=NV12.data + bytes(WIDTH * HEIGHT // 2)),
     f'data: expected {3 * HEIGHT // 2} rows of {2 * WIDTH}'),
    (replace(NV12, width=WIDTH - 1), 'width: expected an even number for nv12, got 95'),
    (replace(NV12, height=HEIGHT - 1), 'height: expected an even number for nv12, got 63'),
    (Raw(4, 5, 'yuv422', 0, 10, bytes(40)), 'width: expected an even number for yuv422, got 5'),
])
def test_malformed_raw_image_is_refused(image: Raw, reason: str) -> None:
    with pytest.raises(FrameError, match=reason) as caught:
        to_rgb(image)
    assert not isinstance(caught.value, UnsupportedImageError)


@pytest.mark.parametrize('encoding', ['', 'purple8', 'RGB8', 'rgb8 ', '32FC1', '16SC1', '8UC2',
                                      'x' * 65_536])
def test_unknown_encoding_is_refused_in_one_line_with_the_known_ones(encoding: str) -> None:
    with pytest.raises(UnsupportedImageError, match='^encoding: expected one of .*') as caught:
        to_rgb(replace(RGB, encoding=encoding))
    text = str(caught.value)
    assert all(f' {name},' in text for name in sorted(ENCODINGS)[1:-1])
    assert caught.value.name in text and len(text) < 600 and '\n' not in text
    assert len(encoding) > 60 or text.endswith(f'got {encoding!r}')


def test_mask_without_a_step_is_read() -> None:
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4) // 5
    for step, padding in ((0, 0), (4, 0), (7, 3)):
        data = np.hstack([numbers, np.ones((3, padding), np.uint8)]).tobytes()
        mask = to_mask(Raw(3, 4, 'mono8', 0, step, data))
        assert np.array_equal(mask, numbers > 0)
    with pytest.raises(FrameError, match='mask encoding: expected one of mono8, 8UC1'):
        to_mask(RGB)


def test_table_of_the_documentation_has_every_encoding_and_file() -> None:
    text = (Path(__file__).parents[2] / 'docs' / 'images.md').read_text()
    rows = list(image_colours.measure())
    assert {row.name for row in rows} >= {*RAW, *colour_chart.files(CHART), 'AVIF'}
    for row in rows:
        assert re.search(fr'[|;] {re.escape(row.name)}( \||;)', text), row.name
        assert row.mean is None or max(row.mean) <= LARGEST_MEAN
