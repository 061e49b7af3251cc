# SPDX-License-Identifier: Apache-2.0
"""Conversion of raw and compressed image messages to RGB arrays.

A message is any object with the fields of sensor_msgs/Image or sensor_msgs/CompressedImage.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from .types import FrameError

MAX_PIXELS = 2**26
MASK_ENCODINGS = ('mono8', '8UC1')
JPEG, PNG = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
# Start-of-frame markers: C0 to CF without DHT, JPG and DAC.
JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD8)))
JPEG_START_OF_SCAN = 0xDA


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

    `to_rgb` is None for an image that is RGB already.
    """

    channels: int
    bits: int
    to_rgb: int | None


def _encodings() -> dict[str, Encoding]:
    table = {
        'rgb8': Encoding(3, 8, None), 'rgb16': Encoding(3, 16, None),
        'mono8': Encoding(1, 8, cv2.COLOR_GRAY2RGB), 'mono16': Encoding(1, 16, cv2.COLOR_GRAY2RGB),
        'yuv422': Encoding(2, 8, cv2.COLOR_YUV2RGB_UYVY),
        'uyvy': Encoding(2, 8, cv2.COLOR_YUV2RGB_UYVY),
        'yuv422_yuy2': Encoding(2, 8, cv2.COLOR_YUV2RGB_YUY2),
        'yuyv': Encoding(2, 8, cv2.COLOR_YUV2RGB_YUY2),
    }
    for bits in (8, 16):
        table[f'bgr{bits}'] = Encoding(3, bits, cv2.COLOR_BGR2RGB)
        table[f'rgba{bits}'] = Encoding(4, bits, cv2.COLOR_RGBA2RGB)
        table[f'bgra{bits}'] = Encoding(4, bits, cv2.COLOR_BGRA2RGB)
        # OpenCV names a Bayer pattern by the second and third pixel of the second row.
        table[f'bayer_rggb{bits}'] = Encoding(1, bits, cv2.COLOR_BayerBG2RGB)
        table[f'bayer_bggr{bits}'] = Encoding(1, bits, cv2.COLOR_BayerRG2RGB)
        table[f'bayer_gbrg{bits}'] = Encoding(1, bits, cv2.COLOR_BayerGR2RGB)
        table[f'bayer_grbg{bits}'] = Encoding(1, bits, cv2.COLOR_BayerGB2RGB)
    return table


ENCODINGS = _encodings()


def to_rgb(message: RawImage | CompressedImage) -> np.ndarray:
    """Return uint8 [height, width, 3]; it may share the message's memory.

    Raises FrameError for an image that is malformed or whose encoding is unknown.
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
                         f'got {message.encoding!r}')
    _check_layout(message, ENCODINGS['mono8'])
    return _pixels(message, ENCODINGS['mono8']) > 0


def check_raw(message: RawImage) -> Encoding:
    """Return the encoding of a raw image; raise FrameError if it is malformed or unknown."""
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise FrameError(f'encoding: expected one of {", ".join(sorted(ENCODINGS))}, '
                         f'got {message.encoding!r}')
    _check_layout(message, encoding)
    return encoding


def _convert(message: RawImage) -> np.ndarray:
    encoding = check_raw(message)
    image = _pixels(message, encoding)
    if encoding.bits == 16:
        image = (image >> 8).astype(np.uint8)
    if encoding.to_rgb is not None:
        return cv2.cvtColor(image, encoding.to_rgb)
    return image


def _check_layout(message: RawImage, encoding: Encoding) -> None:
    height, width, step = message.height, message.width, message.step
    _check_size(width, height)
    if encoding.channels == 2 and width % 2:
        raise FrameError(f'width: expected an even number for {message.encoding}, got {width}')
    item = encoding.bits // 8
    row = width * encoding.channels * item
    if step < row:
        raise FrameError(f'step: expected at least {row} for {width} pixels of '
                         f'{message.encoding}, got {step}')
    if len(message.data) != height * step:
        raise FrameError(f'data: expected {height} rows of {step} bytes = {height * step}, '
                         f'got {len(message.data)}')


def _pixels(message: RawImage, encoding: Encoding) -> np.ndarray:
    height, width, step = message.height, message.width, message.step
    item = encoding.bits // 8
    order = '>' if message.is_bigendian else '<'
    shape, strides = (height, width), (step, encoding.channels * item)
    if encoding.channels > 1:
        shape, strides = (*shape, encoding.channels), (*strides, item)
    return np.ndarray(shape, np.dtype(f'{order}u{item}'), message.data, 0, strides)


def _decode(message: CompressedImage) -> np.ndarray:
    data = bytes(message.data)
    if 'compressedDepth' in message.format:
        raise FrameError(f'format: expected a colour image, got {message.format!r}')
    if data.startswith(JPEG):
        width, height = _jpeg_size(data)
    elif data.startswith(PNG):
        width, height = _png_size(data)
    else:
        raise FrameError(f'data: expected JPEG or PNG, got {len(data)} bytes that begin with '
                         f'{data[:8].hex(" ") or "nothing"} (format {message.format!r})')
    _check_size(width, height)
    # The calibration belongs to the pixels as stored. So a rotation in the EXIF data is ignored.
    image = cv2.imdecode(np.frombuffer(data, np.uint8),
                         cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or image.shape[:2] != (height, width):
        raise FrameError(f'data: expected a decodable image of {width} x {height}, '
                         'got corrupt contents')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise FrameError(f'size: expected 1 to {MAX_PIXELS} pixels, got {width} x {height}')


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return (width, height); raise FrameError for a file without its end marker (truncated)."""
    size, at = (0, 0), 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in JPEG_BARE_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2:at + 4], 'big')
        if marker in JPEG_SIZE_MARKERS and at + 9 <= len(data):
            size = (int.from_bytes(data[at + 7:at + 9], 'big'),
                    int.from_bytes(data[at + 5:at + 7], 'big'))
        # Within a scan 0xFF is always escaped: the first FF D9 after its start ends the image.
        if marker == JPEG_START_OF_SCAN and data.find(b'\xff\xd9', at + 2 + length) >= 0:
            return size
        if marker == JPEG_START_OF_SCAN:
            break
        at += 2 + length
    raise FrameError(f'data: expected a complete JPEG, got {len(data)} bytes without its end')


def _png_size(data: bytes) -> tuple[int, int]:
    """Return (width, height); raise FrameError for a file without its last chunk (truncated)."""
    at = len(PNG)
    while at + 12 <= len(data):
        if data[at + 4:at + 8] == b'IEND':
            return int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big')
        at += 12 + int.from_bytes(data[at:at + 4], 'big')
    raise FrameError(f'data: expected a complete PNG, got {len(data)} bytes without its end')
