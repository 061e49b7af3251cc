# SPDX-License-Identifier: Apache-2.0
"""Conversion of raw and compressed image messages to RGB arrays.

A message is any object with the fields of sensor_msgs/Image or sensor_msgs/CompressedImage.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from .image_files.file_decoding import decode_file, decode_stored
from .image_files.file_headers import check_size, shown
from .types import FrameError, UnsupportedImageError

MASK_ENCODINGS = ('mono8', '8UC1')
# Encodings that name no colours, and what OpenCV's order of channels makes of them.
ASSUMED = {f'{bits}UC{channels}': f'{name}{bits}' for bits in (8, 16)
           for channels, name in ((1, 'mono'), (3, 'bgr'), (4, 'bgra'))}


class RawImage(Protocol):
    """The fields of sensor_msgs/Image; `data` is any buffer of bytes."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: bytes


class CompressedImage(Protocol):
    """The fields of sensor_msgs/CompressedImage; `data` is any buffer of bytes."""

    format: str
    data: bytes


@dataclass(frozen=True)
class Encoding:
    """Layout of a raw image: channels of 8 or 16 bits, and OpenCV's conversion to RGB.

    `to_rgb` is None for an image that is RGB already. `block` is the height and width of the
    pixels that share their chroma. A semi-planar image has the rows of its luma and then those of
    its chroma; `stored_rows` is the number of all rows for two rows of the image.
    """

    channels: int
    bits: int
    to_rgb: int | None
    block: tuple[int, int] = (1, 1)
    stored_rows: int = 2

    def rows(self, height: int) -> int:
        """Return how many rows of `step` bytes an image has."""
        return height * self.stored_rows // 2

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a row without padding."""
        return width * self.channels * self.bits // 8


def _encodings() -> dict[str, Encoding]:
    uyvy = Encoding(2, 8, cv2.COLOR_YUV2RGB_UYVY, (1, 2))
    yuyv = Encoding(2, 8, cv2.COLOR_YUV2RGB_YUY2, (1, 2))
    table = {
        'rgb8': Encoding(3, 8, None), 'rgb16': Encoding(3, 16, None),
        'yuv422': uyvy, 'uyvy': uyvy, 'yuv422_yuy2': yuyv, 'yuyv': yuyv,
        'nv12': Encoding(1, 8, cv2.COLOR_YUV2RGB_NV12, (2, 2), 3),
        'nv21': Encoding(1, 8, cv2.COLOR_YUV2RGB_NV21, (2, 2), 3),
        # OpenCV has no conversion of NV24: its pixels are written as pairs of equal ones.
        'nv24': Encoding(1, 8, cv2.COLOR_YUV2RGB_YUY2, (1, 1), 6),
    }
    for bits in (8, 16):
        table[f'mono{bits}'] = Encoding(1, bits, cv2.COLOR_GRAY2RGB)
        table[f'bgr{bits}'] = Encoding(3, bits, cv2.COLOR_BGR2RGB)
        table[f'rgba{bits}'] = Encoding(4, bits, cv2.COLOR_RGBA2RGB)
        table[f'bgra{bits}'] = Encoding(4, bits, cv2.COLOR_BGRA2RGB)
        # OpenCV names a Bayer pattern by the second and third pixel of the second row.
        table[f'bayer_rggb{bits}'] = Encoding(1, bits, cv2.COLOR_BayerBG2RGB)
        table[f'bayer_bggr{bits}'] = Encoding(1, bits, cv2.COLOR_BayerRG2RGB)
        table[f'bayer_gbrg{bits}'] = Encoding(1, bits, cv2.COLOR_BayerGR2RGB)
        table[f'bayer_grbg{bits}'] = Encoding(1, bits, cv2.COLOR_BayerGB2RGB)
    return table | {name: table[meant] for name, meant in ASSUMED.items()}


ENCODINGS = _encodings()


class ImageDecoder:
    """Decodes the images of one run, and warns once of each assumption about them.

    `convert` returns the RGB array of a message, as `to_rgb` does, which is the default.
    """

    def __init__(self, warn: Callable[[str], object],
                 convert: Callable[[RawImage | CompressedImage], np.ndarray] | None = None
                 ) -> None:
        self._warn = warn
        self._convert = convert or to_rgb
        self._warned: set[str] = set()

    def __call__(self, message: RawImage | CompressedImage) -> np.ndarray:
        """Return uint8 RGB [height, width, 3]; raise as `to_rgb`."""
        rgb = self._convert(message)
        for text in _assumptions(message):
            if text not in self._warned:
                self._warned.add(text)
                self._warn(text)
        return rgb


def to_rgb(message: RawImage | CompressedImage) -> np.ndarray:
    """Return uint8 [height, width, 3]; it may share the message's memory.

    Raises UnsupportedImageError for an encoding or file format that is not read, FrameError for
    an image that is malformed.
    """
    try:
        if hasattr(message, 'format'):
            return _decode(message)
        return _convert(message)
    except cv2.error as error:
        raise FrameError(f'data: expected a decodable image, got from OpenCV: {error.err}'
                         ) from error


def to_mask(message: RawImage) -> np.ndarray:
    """Return bool [height, width], true where a mono8 mask is not zero.

    Raises FrameError for a mask of another encoding or a malformed one.
    """
    if message.encoding not in MASK_ENCODINGS:
        raise FrameError(f'mask encoding: expected one of {", ".join(MASK_ENCODINGS)}, '
                         f'got {shown(message.encoding)}')
    encoding, step = check_raw(message)
    return _pixels(message, encoding, step) > 0


def check_raw(message: RawImage) -> tuple[Encoding, int]:
    """Return encoding and bytes a row of a raw image; raise as `to_rgb` if it has no such ones.

    A step of zero, which some drivers send, means rows without padding. So does the step of a
    semi-planar image that includes the chroma, which makes step x height the size of the data.
    """
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise UnsupportedImageError(
            shown(message.encoding), f'encoding: expected one of {", ".join(sorted(ENCODINGS))}, '
                                     f'got {shown(message.encoding)}')
    height, width, step = message.height, message.width, message.step
    check_size(width, height)
    for name, length, multiple in zip(('height', 'width'), (height, width), encoding.block,
                                      strict=True):
        if length % multiple:
            raise FrameError(f'{name}: expected an even number for {message.encoding}, '
                             f'got {length}')
    row, rows = encoding.row_bytes(width), encoding.rows(height)
    if len(message.data) == row * rows and step in (0, row * rows // height):
        return encoding, row
    if step < row:
        raise FrameError(f'step: expected at least {row} for {width} pixels of '
                         f'{message.encoding}, got {step}')
    if len(message.data) != rows * step:
        raise FrameError(f'data: expected {rows} rows of {step} bytes = {rows * step}, '
                         f'got {len(message.data)}')
    return encoding, step


def _assumptions(message: RawImage | CompressedImage) -> list[str]:
    """Return what is assumed about a message that was decoded."""
    texts = []
    meant = ASSUMED.get(getattr(message, 'encoding', ''))
    if meant is not None:
        texts.append(f'encoding: {message.encoding} names no colours; the images are read as '
                     f'{meant}. Set the encoding to {meant} in their publisher, or choose '
                     'another topic if they show no scene (depth, labels)')
    if getattr(message, 'step', 1) == 0:
        texts.append('step: expected the bytes of a row, got 0; the images are read as rows '
                     'without padding')
    return texts


def _convert(message: RawImage) -> np.ndarray:
    encoding, step = check_raw(message)
    if encoding.stored_rows == 2:
        return _colours(_pixels(message, encoding, step), encoding)
    rows = np.ndarray((encoding.rows(message.height), message.width), np.uint8, message.data, 0,
                      (step, 1))
    if encoding.block == (2, 2):
        return cv2.cvtColor(np.ascontiguousarray(rows), encoding.to_rgb)
    return _from_full_chroma(rows[:message.height], np.ndarray(
        (message.height, message.width, 2), np.uint8, message.data, step * message.height,
        (2 * step, 2, 1)), encoding)


def _from_full_chroma(luma: np.ndarray, chroma: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Return RGB of luma [height, width] and chroma [height, width, 2] of the same size."""
    height, width = luma.shape
    luma, (u, v) = np.ascontiguousarray(luma), cv2.split(np.ascontiguousarray(chroma))
    pairs = cv2.merge((luma, u, luma, v))
    doubled = cv2.cvtColor(pairs.reshape(height, 2 * width, 2), encoding.to_rgb)
    # Takes the first of each pair, much faster than a slice.
    return cv2.resize(doubled, (width, height), interpolation=cv2.INTER_NEAREST)


def _colours(image: np.ndarray, encoding: Encoding) -> np.ndarray:
    if image.dtype.itemsize == 2:
        image = (image >> 8).astype(np.uint8)
    if encoding.to_rgb is not None:
        return cv2.cvtColor(image, encoding.to_rgb)
    return image


def _pixels(message: RawImage, encoding: Encoding, step: int) -> np.ndarray:
    height, width = message.height, message.width
    item = encoding.bits // 8
    order = '>' if message.is_bigendian else '<'
    shape, strides = (height, width), (step, encoding.channels * item)
    if encoding.channels > 1:
        shape, strides = (*shape, encoding.channels), (*strides, item)
    return np.ndarray(shape, np.dtype(f'{order}u{item}'), message.data, 0, strides)


def _decode(message: CompressedImage) -> np.ndarray:
    data = bytes(message.data)
    if 'compressedDepth' in message.format:
        raise FrameError(f'format: expected a colour image, got {shown(message.format)}')
    # image_transport writes `ENCODING; png compressed TARGET`. Without a target the file has the
    # pixels of the encoding as they are: those of a Bayer camera are one channel.
    source, _, rest = message.format.partition(';')
    if source.startswith('bayer_') and source in ENCODINGS and rest.rstrip().endswith(
            'compressed'):
        stored = decode_stored(data, message.format)
        if stored.ndim == 2:
            return _colours(stored, ENCODINGS[source])
    return decode_file(data, message.format)
