# SPDX-License-Identifier: Apache-2.0
"""Headers of image files: format, size, and whether the file is complete.

They are read before the pixels are decoded: a decoder may accept a truncated file, and a small
file may claim a size that exhausts the memory.
"""
from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spann3r_ros.core.types import FrameError, UnsupportedImageError

MAX_PIXELS = 2**26
JPEG, PNG, JXL = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'\xff\n'
JXL_BOX = b'\0\0\0\x0cJXL \r\n\x87\n'
# Start-of-frame markers: C0 to CF without DHT, JPG and DAC.
JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD8)))
JPEG_START_OF_SCAN, JPEG_APP14 = 0xDA, 0xEE
INK_CHANNELS = 4
# JPEG XL: bits of a number by its selector, and width / height by the ratio.
JXL_NUMBER_BITS = (9, 13, 18, 30)
JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
HEIF_BRANDS = {b'heic', b'heix', b'hevc', b'mif1', b'msf1'}
READ = 'JPEG, PNG, WebP, AVIF, JPEG XL'
AS_JPEG = 'set the format of its publisher to jpeg or png'
AS_IMAGES = 'republish the video as images'
# What files that are not read begin with, their format, and what to do.
UNREAD = (
    (b'II*\0', 'TIFF', AS_JPEG), (b'MM\0*', 'TIFF', AS_JPEG), (b'GIF8', 'GIF', AS_JPEG),
    (b'BM', 'BMP', AS_JPEG), (b'\0\0\0\x0cjP  ', 'JPEG 2000', AS_JPEG),
    (b'\xffO\xffQ', 'JPEG 2000', AS_JPEG), (b'\0\0\0\x01', 'H.264 or H.265 video', AS_IMAGES),
    (b'\0\0\x01', 'H.264 or H.265 video', AS_IMAGES))


@dataclass(frozen=True)
class FileHeader:
    """Format and size in pixels of a complete file.

    `plain_inks`: a CMYK JPEG whose numbers are the amounts of ink. Those of Adobe are 255 minus
    that, which decoders assume.
    """

    kind: str
    width: int
    height: int
    plain_inks: bool = False


def read_header(data: bytes, named: str) -> FileHeader:
    """Return the header of a file; `named` is the format that its message claims, for errors.

    Raises UnsupportedImageError for another format than those of `READ`, FrameError for contents
    that are not known, that end too early or that have too many pixels.
    """
    header = _reader(data, named)(data)
    check_size(header.width, header.height)
    return header


def check_size(width: int, height: int) -> None:
    """Raise FrameError unless an image has between one and `MAX_PIXELS` pixels."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise FrameError(f'size: expected 1 to {MAX_PIXELS} pixels, got {width} x {height}')


def shown(text: str) -> str:
    """Return a text of a message in quotes, shortened."""
    short = reprlib.Repr()
    short.maxstring = 60
    return short.repr(text)


def _reader(data: bytes, named: str) -> Callable[[bytes], FileHeader]:
    for magic, reader in ((JPEG, _jpeg), (PNG, _png), (JXL, _jxl), (JXL_BOX, _boxed_jxl)):
        if data.startswith(magic):
            return reader
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return _webp
    brands = _brands(data)
    if {b'avif', b'avis'} & brands:
        return _avif
    unread = [(kind, remedy) for magic, kind, remedy in UNREAD if data.startswith(magic)]
    if HEIF_BRANDS & brands:
        unread.insert(0, ('HEIF', AS_JPEG))
    if unread:
        kind, remedy = unread[0]
        raise UnsupportedImageError(kind, f'data: expected one of {READ}, got {kind} (format '
                                          f'{shown(named)}); {remedy}')
    raise FrameError(f'data: expected one of {READ}, got {len(data)} bytes that begin with '
                     f'{data[:8].hex(" ") or "nothing"} (format {shown(named)})')


def _truncated(kind: str, data: bytes) -> FrameError:
    return FrameError(f'data: expected a complete {kind} file, got {len(data)} bytes without '
                      'its end')


def _jpeg(data: bytes) -> FileHeader:
    size, channels, is_adobe, at = (0, 0), 0, False, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in JPEG_BARE_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2:at + 4], 'big')
        if marker in JPEG_SIZE_MARKERS and at + 10 <= len(data):
            size = (int.from_bytes(data[at + 7:at + 9], 'big'),
                    int.from_bytes(data[at + 5:at + 7], 'big'))
            channels = data[at + 9]
        is_adobe |= marker == JPEG_APP14 and data[at + 4:at + 9] == b'Adobe'
        # Within a scan 0xFF is always escaped: the first FF D9 after its start ends the image.
        if marker == JPEG_START_OF_SCAN and data.find(b'\xff\xd9', at + 2 + length) >= 0:
            return FileHeader('JPEG', *size, plain_inks=channels == INK_CHANNELS and not is_adobe)
        if marker == JPEG_START_OF_SCAN:
            break
        at += 2 + length
    raise _truncated('JPEG', data)


def _png(data: bytes) -> FileHeader:
    at = len(PNG)
    while at + 12 <= len(data):
        if data[at + 4:at + 8] == b'IEND':
            return FileHeader('PNG', int.from_bytes(data[16:20], 'big'),
                              int.from_bytes(data[20:24], 'big'))
        at += 12 + int.from_bytes(data[at:at + 4], 'big')
    raise _truncated('PNG', data)


def _webp(data: bytes) -> FileHeader:
    if len(data) < max(8 + int.from_bytes(data[4:8], 'little'), 30):
        raise _truncated('WebP', data)
    chunk = data[12:16]
    if chunk == b'VP8X':
        width, height = (1 + int.from_bytes(data[at:at + 3], 'little') for at in (24, 27))
    elif chunk == b'VP8L':
        bits = int.from_bytes(data[21:25], 'little')
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(data[at:at + 2], 'little') & 0x3FFF for at in (26, 28))
    return FileHeader('WebP', width, height)


def _brands(data: bytes) -> set[bytes]:
    """Return what an ISO base media file declares to be, an empty set for another file."""
    if data[4:8] != b'ftyp':
        return set()
    end = min(int.from_bytes(data[:4], 'big'), len(data))
    return {data[at:at + 4] for at in (8, *range(16, end, 4))}


def _boxes(kind: str, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of the boxes of a file; raise FrameError where it ends too early."""
    at = 0
    while at < len(data):
        size, start = int.from_bytes(data[at:at + 4], 'big'), at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8:at + 16], 'big'), at + 16
        end = at + size if size else len(data)  # a last box without a size ends with the file
        if end > len(data) or end < start:
            raise _truncated(kind, data)
        yield data[at + 4:at + 8], data[start:end]
        at = end


def _avif(data: bytes) -> FileHeader:
    """Return the header with the size of the largest image; thumbnails are beside it."""
    boxes = dict(_boxes('AVIF', data))
    content, sizes = boxes.get(b'meta', b''), []
    at = content.find(b'ispe')
    while at >= 0:
        sizes.append((int.from_bytes(content[at + 8:at + 12], 'big'),
                      int.from_bytes(content[at + 12:at + 16], 'big')))
        at = content.find(b'ispe', at + 4)
    if not sizes or not (b'mdat' in boxes or b'idat' in content):
        raise _truncated('AVIF', data)
    return FileHeader('AVIF', *max(sizes, key=lambda size: size[0] * size[1]))


def _boxed_jxl(data: bytes) -> FileHeader:
    header = None
    for kind, content in _boxes('JPEG XL', data):
        if header is None and kind in (b'jxlc', b'jxlp'):
            header = _jxl(content[4 if kind == b'jxlp' else 0:])
    if header is None:
        raise _truncated('JPEG XL', data)
    return header


def _jxl(data: bytes) -> FileHeader:
    """Return the header of a codestream; whether it is complete only its decoder finds."""
    bits, at = int.from_bytes(data[2:18], 'little'), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> at - count & (1 << count) - 1

    def side() -> int:
        return 8 * (1 + take(5)) if is_small else 1 + take(JXL_NUMBER_BITS[take(2)])

    is_small = take(1) == 1
    height, ratio = side(), take(3)
    if ratio == 0:
        return FileHeader('JPEG XL', side(), height)
    wide, high = JXL_RATIOS[ratio - 1]
    return FileHeader('JPEG XL', height * wide // high, height)
