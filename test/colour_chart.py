# SPDX-License-Identifier: Apache-2.0
"""A colour chart in every encoding and file format, written without the code under test."""
from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

DATA = Path(__file__).parent / 'unit' / 'data'
# Four rows of six: primary colours, mixtures, muted colours of rooms, greys.
COLOURS = np.array([
    [[230, 20, 20], [20, 230, 20], [20, 20, 230], [230, 230, 20], [20, 230, 230], [230, 20, 230]],
    [[240, 120, 0], [120, 240, 0], [0, 240, 120], [0, 120, 240], [120, 0, 240], [240, 0, 120]],
    [[112, 78, 64], [196, 148, 128], [92, 120, 156], [88, 106, 62], [130, 126, 174],
     [98, 188, 168]],
    [[245, 245, 245], [200, 200, 200], [160, 160, 160], [120, 120, 120], [84, 84, 84],
     [50, 50, 50]]], np.uint8)
PATCH = 16
# Chroma and Bayer patterns mix the colours of neighbours this far from the edge of a patch.
MARGIN = 4
GREY = np.array([0.299, 0.587, 0.114])
PATTERNS = ('rggb', 'bggr', 'gbrg', 'grbg')
PLAIN = tuple(f'{name}{bits}' for bits in (8, 16)
              for name in ('rgb', 'bgr', 'rgba', 'bgra', 'mono'))
GENERIC = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8',
           '16UC1': 'mono16', '16UC3': 'bgr16', '16UC4': 'bgra16'}
BAYER = tuple(f'bayer_{pattern}{bits}' for bits in (8, 16) for pattern in PATTERNS)
PACKED = ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv')
SEMI_PLANAR = ('nv12', 'nv21', 'nv24')
RAW = (*PLAIN, *GENERIC, *BAYER, *PACKED, *SEMI_PLANAR)


@dataclass(frozen=True)
class Raw:
    """The fields of sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: bytes


@dataclass(frozen=True)
class File:
    """The fields of sensor_msgs/CompressedImage."""

    format: str
    data: bytes


def chart() -> np.ndarray:
    """Return the chart, uint8 RGB [64, 96, 3]."""
    return COLOURS.repeat(PATCH, axis=0).repeat(PATCH, axis=1)


def errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the absolute errors [pixel, channel] within the patches of a chart."""
    inner = (np.arange(PATCH) >= MARGIN) & (np.arange(PATCH) < PATCH - MARGIN)
    rows, columns = (np.tile(inner, number) for number in COLOURS.shape[:2])
    return np.abs(found.astype(int) - expected)[rows][:, columns].reshape(-1, 3)


def as_grey(rgb: np.ndarray) -> np.ndarray:
    """Return the luma of an image, uint8 [height, width]."""
    return np.rint(rgb @ GREY).astype(np.uint8)


def expected(rgb: np.ndarray, name: str) -> np.ndarray:
    """Return what an image of an encoding or file shows: without colours its luma."""
    is_grey = 'grey' in name or GENERIC.get(name, name).startswith('mono')
    return as_grey(rgb)[..., None].repeat(3, axis=-1) if is_grey else rgb


def raw(rgb: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> Raw:
    """Return an image whose rows end with `padding` bytes that do not belong to it."""
    height, width = rgb.shape[:2]
    if encoding in SEMI_PLANAR:
        luma, chroma = _planes(rgb, encoding)
        step = width + padding
        stored = _padded(luma, step) + _padded(chroma, step * (2 if encoding == 'nv24' else 1))
        return Raw(height, width, encoding, 0, step, stored)
    numbers = _packed(rgb) if encoding in PACKED else _channels(rgb, GENERIC.get(
        encoding, encoding))
    if encoding in ('yuv422', 'uyvy'):
        numbers = numbers[..., ::-1]
    numbers = numbers.astype(numbers.dtype.newbyteorder('>' if big else '<'))
    rows = np.ascontiguousarray(numbers).reshape(height, -1).view(np.uint8)
    step = rows.shape[1] + padding
    return Raw(height, width, encoding, int(big), step, _padded(rows, step))


def _padded(rows: np.ndarray, step: int) -> bytes:
    noise = np.full((len(rows), step - rows.shape[1]), 0xAB, np.uint8)
    return np.hstack([rows, noise]).tobytes()


def _channels(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Return the numbers of colours, grey or a Bayer pattern, channel by channel."""
    planes = dict(zip('rgb', np.moveaxis(rgb, -1, 0), strict=True))
    planes['a'] = np.full_like(planes['r'], 77)
    name, bits = encoding.rstrip('0123456789'), 16 if encoding.endswith('16') else 8
    if name == 'mono':
        numbers = as_grey(rgb)
    elif name.startswith('bayer_'):
        numbers = np.empty_like(planes['r'])
        for place, letter in enumerate(name.removeprefix('bayer_')):
            row, column = divmod(place, 2)
            numbers[row::2, column::2] = planes[letter][row::2, column::2]
    else:
        numbers = np.stack([planes[letter] for letter in name], axis=-1)
    # The lower byte differs from the upper one, so that a wrong byte order is seen.
    return numbers.astype(np.uint16) * 256 + 255 - numbers if bits == 16 else numbers


def _yuv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return luma and chroma by BT.601 with limited range, float."""
    red, green, blue = np.moveaxis(rgb.astype(float), -1, 0)
    return (16 + 0.257 * red + 0.504 * green + 0.098 * blue,
            128 - 0.148 * red - 0.291 * green + 0.439 * blue,
            128 + 0.439 * red - 0.368 * green - 0.071 * blue)


def _packed(rgb: np.ndarray) -> np.ndarray:
    """Return YUYV [height, width, 2]; two pixels share their chroma."""
    luma, u, v = _yuv(rgb)
    pixels = np.empty((*luma.shape, 2))
    pixels[..., 0] = luma
    pixels[:, ::2, 1], pixels[:, 1::2, 1] = u[:, ::2], v[:, ::2]
    return pixels.round().astype(np.uint8)


def _planes(rgb: np.ndarray, encoding: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of luma and of chroma."""
    luma, u, v = _yuv(rgb)
    if encoding != 'nv24':
        u, v = u[::2, ::2], v[::2, ::2]
    pair = (v, u) if encoding == 'nv21' else (u, v)
    chroma = np.stack(pair, axis=-1).reshape(len(u), -1)
    return luma.round().astype(np.uint8), chroma.round().astype(np.uint8)


def _by_opencv(rgb: np.ndarray, suffix: str) -> bytes:
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
    pixels = rgb if rgb.ndim == 2 else rgb[..., order[rgb.shape[2]]]
    return cv2.imencode(suffix, np.ascontiguousarray(pixels))[1].tobytes()


def _by_pillow(picture: Image.Image, kind: str, **options: object) -> bytes:
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()


def inks(rgb: np.ndarray, kind: str) -> bytes:
    """Return a JPEG with four channels; kind: adobe (inverted), ycck (likewise), plain."""
    numbers = 255 - np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])  # amounts of ink
    if kind == 'ycck':
        inverted = cv2.cvtColor(255 - rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
        numbers[..., :3] = 255 - inverted
    elif kind == 'plain':
        numbers = 255 - numbers  # Pillow inverts what it writes
    size = rgb.shape[1], rgb.shape[0]
    data = _by_pillow(Image.frombytes('CMYK', size, numbers.tobytes()), 'JPEG', quality=95)
    at = data.index(b'\xff\xee')
    end = at + 2 + struct.unpack('>H', data[at + 2:at + 4])[0]
    if kind == 'plain':
        return data[:at] + data[end:]
    return data[:end - 1] + bytes([2 if kind == 'ycck' else 0]) + data[end:]


def rotated(picture: Image.Image, kind: str) -> bytes:
    """Return a file whose EXIF data ask for a rotation by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _by_pillow(picture, kind, exif=exif, quality=95)


def files(rgb: np.ndarray) -> dict[str, Callable[[], File]]:
    """Return the writers of an image in every file format that OpenCV and Pillow 10.2 write."""
    picture, grey = Image.fromarray(rgb), as_grey(rgb)
    wide = rgb.astype(np.uint16) * 256 + 255 - rgb
    alpha = np.full_like(rgb[..., :1], 77)
    mosaic = _channels(rgb, 'bayer_rggb8')
    table = {
        'JPEG': ('rgb8; jpeg compressed bgr8', lambda: _by_opencv(rgb, '.jpg')),
        'JPEG, grey': ('jpeg', lambda: _by_opencv(grey, '.jpg')),
        'JPEG, progressive': ('jpeg', lambda: _by_pillow(
            picture, 'JPEG', progressive=True, quality=95)),
        'JPEG, CMYK of Adobe': ('jpeg', lambda: inks(rgb, 'adobe')),
        'JPEG, YCCK of Adobe': ('jpeg', lambda: inks(rgb, 'ycck')),
        'JPEG, CMYK': ('jpeg', lambda: inks(rgb, 'plain')),
        'JPEG, EXIF rotation': ('jpeg', lambda: rotated(picture, 'JPEG')),
        'PNG': ('png', lambda: _by_opencv(rgb, '.png')),
        'PNG, alpha': ('png', lambda: _by_opencv(np.dstack([rgb, alpha]), '.png')),
        'PNG, palette': ('png', lambda: _by_pillow(picture.quantize(24), 'PNG')),
        'PNG, grey': ('png', lambda: _by_opencv(grey, '.png')),
        'PNG, 16 bits': ('rgb16; png compressed bgr16', lambda: _by_opencv(wide, '.png')),
        'PNG, 16 bits, alpha': ('png', lambda: _by_opencv(
            np.dstack([wide, 257 * alpha.astype(np.uint16)]), '.png')),
        'PNG, 16 bits, grey': ('mono16; png compressed ', lambda: _by_opencv(
            grey.astype(np.uint16) * 256 + 99, '.png')),
        'PNG of a Bayer camera': ('bayer_rggb8; png compressed ', lambda: _by_opencv(
            mosaic, '.png')),
        'WebP': ('webp', lambda: _by_pillow(picture, 'WEBP', quality=90)),
        'WebP, lossless': ('webp', lambda: _by_pillow(picture, 'WEBP', lossless=True)),
        'WebP, EXIF rotation': ('webp', lambda: rotated(picture, 'WEBP')),
    }
    return {name: (lambda form=form, write=write: File(form, write()))
            for name, (form, write) in table.items()}


def recorded(name: str) -> File:
    """Return the chart in a format that few versions of the libraries write: avif or jxl."""
    return File(name, (DATA / f'chart.{name}').read_bytes())
