# SPDX-License-Identifier: Apache-2.0
"""Image files to RGB arrays, by OpenCV or, for what it does not read, by Pillow.

The pixels are those that are stored: a rotation in EXIF data is ignored, because the calibration
belongs to the stored pixels. Alpha is left out; of 16 bits the upper 8 are kept.
"""
from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from io import BytesIO

import cv2
import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from spann3r_ros.core.types import FrameError, UnsupportedImageError

from .file_headers import FileHeader, check_size, read_header

# Formats that OpenCV may lack, and the package that lets Pillow read them, if there is one.
BY_PILLOW = {'WebP': '', 'AVIF': 'pillow-avif-plugin', 'JPEG XL': 'pillow-jxl-plugin'}
SUFFIXES = {'WebP': '.webp', 'AVIF': '.avif', 'JPEG XL': '.jxl'}
CORRUPT = 'data: expected a decodable image of {0.width} x {0.height}, got corrupt contents'
PLUGINS = {'AVIF': 'pillow_avif', 'JPEG XL': 'pillow_jxl'}


def decode_file(data: bytes, named: str) -> np.ndarray:
    """Return uint8 RGB [height, width, 3]; `named` is the format that the file's message claims.

    Raises FrameError for a file that is truncated or damaged, UnsupportedImageError for a format
    that is not read.
    """
    header = read_header(data, named)
    if header.plain_inks:
        return _checked(_by_pillow(data, header), header)
    image = _by_opencv(data, cv2.IMREAD_COLOR)
    if image is None and header.kind in BY_PILLOW:
        return _checked(_by_pillow(data, header), header)
    return cv2.cvtColor(_checked(image, header), cv2.COLOR_BGR2RGB)


def decode_stored(data: bytes, named: str) -> np.ndarray:
    """Return the stored numbers [height, width] or [height, width, channels]; raise likewise."""
    header = read_header(data, named)
    return _checked(_by_opencv(data, cv2.IMREAD_UNCHANGED), header)


def _by_opencv(data: bytes, flag: int) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)


def _by_pillow(data: bytes, header: FileHeader) -> np.ndarray:
    _load_plugin(header.kind)
    try:
        with Image.open(BytesIO(data)) as image:
            if image.mode in ('F', 'I'):
                raise ValueError(f'expected integers of 8 or 16 bits, got mode {image.mode}')
            if image.mode == 'I;16':
                return cv2.cvtColor((np.asarray(image) >> 8).astype(np.uint8),
                                    cv2.COLOR_GRAY2RGB)
            if header.plain_inks:
                return np.array(image.point(lambda ink: 255 - ink).convert('RGB'))
            return np.array(image.convert('RGB'))
    except UnidentifiedImageError as error:
        if cv2.haveImageWriter(SUFFIXES[header.kind]):
            raise FrameError(CORRUPT.format(header)) from error
        raise UnsupportedImageError(header.kind, _unread(header.kind)) from error
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:
        reason = ' '.join(str(error).split())
        raise FrameError(f'data: expected a decodable {header.kind} file, got from Pillow: '
                         f'{reason}') from error


@cache
def _load_plugin(kind: str) -> None:
    """Let Pillow know the reader of a format, if it is installed."""
    if kind in PLUGINS:
        with suppress(ImportError):
            import_module(PLUGINS[kind])


def _unread(kind: str) -> str:
    package = BY_PILLOW[kind]
    remedy = f'run: pip install {package}, or set' if package else 'set'
    return (f'data: expected an image file that OpenCV {cv2.__version__} or Pillow '
            f'{PIL.__version__} reads, got {kind}; {remedy} the format of its publisher to jpeg '
            'or png')


def _checked(image: np.ndarray | None, header: FileHeader) -> np.ndarray:
    """Return an image; raise FrameError unless it is there and has the size of its header."""
    if image is not None and header.kind in ('JPEG', 'PNG', 'WebP'):
        is_whole = image.shape[:2] == (header.height, header.width)
    else:
        is_whole = image is not None  # others may be cropped or turned, as part of their format
    if not is_whole:
        raise FrameError(CORRUPT.format(header))
    check_size(image.shape[1], image.shape[0])
    return image
