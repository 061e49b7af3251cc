# SPDX-License-Identifier: Apache-2.0
"""What the names of encodings mean, and the way from one to another by OpenCV."""
from __future__ import annotations

import re

import cv2
import numpy as np

# OpenCV's depths, as encodings such as 32FC1 name them.
DEPTHS = {'8U': 'uint8', '8S': 'int8', '16U': 'uint16', '16S': 'int16', '32S': 'int32',
          '32F': 'float32', '64F': 'float64'}
GENERIC = re.compile(r'([0-9]+)([USF])(?:C([0-9]+))?')
COLOUR_CHANNELS = {'RGB': 3, 'BGR': 3, 'RGBA': 4, 'BGRA': 4, 'GRAY': 1}
# OpenCV names a pattern by the second row's second and third pixel.
BAYER = {'rggb': 'BayerBG', 'bggr': 'BayerRG', 'gbrg': 'BayerGR', 'grbg': 'BayerGB'}
YUV = {'yuv422': 'UYVY', 'yuv422_yuy2': 'YUY2'}
MAX_CHANNELS = 512


def _colours() -> dict[str, tuple[str, int, int]]:
    """Return OpenCV's name, the channels and the bits of every encoding of colours."""
    table = {f'mono{bits}': ('GRAY', 1, bits) for bits in (8, 16)}
    for bits in (8, 16):
        table |= {f'{name.lower()}{bits}': (name, channels, bits)
                  for name, channels in COLOUR_CHANNELS.items() if name != 'GRAY'}
        table |= {f'bayer_{pattern}{bits}': (name, 1, bits) for pattern, name in BAYER.items()}
    return table | {name: (f'YUV_{order}', 2, 8) for name, order in YUV.items()}


COLOURS = _colours()


def pixel_type(encoding: str) -> tuple[str, int]:
    """Return numpy's name of an encoding's numbers and its channels; ValueError if not known."""
    if encoding in COLOURS:
        _, channels, bits = COLOURS[encoding]
        return f'uint{bits}', channels
    match = GENERIC.fullmatch(encoding)
    depth = DEPTHS.get(match[1] + match[2]) if match else None
    if depth is None:
        raise ValueError(f'encoding: not known: {encoding!r}')
    return depth, (int(match[3] or 1) - 1) % MAX_CHANNELS + 1


def convert(image: np.ndarray | None, source: str, target: str) -> np.ndarray | None:
    """Return an image of one encoding in another; a copy where they are the same.

    Between encodings without colours only the numbers' type changes, and only where the channels
    are as many. Integers of 8 and 16 bits are scaled. Raises ValueError for two encodings that do
    not fit, cv2.error for an image that does not fit its encoding.
    """
    if target in ('', source):
        return None if image is None else image.copy()
    if source not in COLOURS or target not in COLOURS:
        if target in COLOURS or _channels(source) != _channels(target):
            raise ValueError(f'encoding: expected colours in {source} and {target}, '
                             'or as many channels and none in the latter')
        return _change_depth(image, source, target)
    (name, _, bits), (wanted, _, wanted_bits) = COLOURS[source], COLOURS[target]
    if name == wanted and name in COLOUR_CHANNELS:
        return _change_depth(image, source, target)
    image = cv2.cvtColor(image, _code(name, wanted))
    return image if bits == wanted_bits else _change_depth(image, source, target)


def _code(name: str, wanted: str) -> int:
    kind, _, order = name.partition('_')
    from_bayer = kind in BAYER.values()
    if wanted not in COLOUR_CHANNELS or (from_bayer and wanted.endswith('A')):
        raise ValueError(f'encoding: no conversion from {name} to {wanted}')
    return getattr(cv2, f'COLOR_{kind}2{wanted}' + (f'_{order}' if order else ''))


def _channels(encoding: str) -> int:
    if encoding in COLOURS:
        return COLOURS[encoding][1]
    match = GENERIC.fullmatch(encoding)
    # A generic name without channels has a type, but no known number of channels.
    if not match or match[3] is None or match[1] not in ('8', '16', '32', '64'):
        raise ValueError(f'encoding: not known: {encoding!r}')
    return int(match[3])


def _bits(encoding: str) -> int:
    return COLOURS[encoding][2] if encoding in COLOURS else int(GENERIC.fullmatch(encoding)[1])


def _change_depth(image: np.ndarray | None, source: str, target: str) -> np.ndarray | None:
    if image is None:
        return None
    dtype = np.dtype(pixel_type(target)[0])
    scale = {(8, 16): 257.0, (16, 8): 1.0 / 257.0}.get((_bits(source), _bits(target)), 1.0)
    if image.dtype == np.uint16 and dtype == np.uint8:
        return cv2.convertScaleAbs(image, alpha=scale)  # as below, but much quicker
    values = image.astype(float) * scale
    if dtype.kind == 'f':
        return values.astype(dtype)
    # OpenCV rounds to the nearest, halves to the even one, by way of 32 bits, which hold
    # their least number for whatever they cannot; then it saturates.
    whole = np.rint(values)
    lowest = np.iinfo(np.int32).min
    whole[~(np.abs(whole) <= np.iinfo(np.int32).max)] = lowest
    limits = np.iinfo(dtype)
    return whole.clip(limits.min, limits.max).astype(dtype)
