# SPDX-License-Identifier: Apache-2.0
"""The contents of an image file decide how it is read; a truncated or unknown one is refused."""
from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from types import ModuleType

import colour_chart
import numpy as np
import pytest
from colour_chart import File
from PIL import Image, ImageFile

from spann3r_ros.core.encodings import to_rgb
from spann3r_ros.core.image_files import file_decoding
from spann3r_ros.core.image_files.file_headers import MAX_PIXELS, read_header
from spann3r_ros.core.types import FrameError, UnsupportedImageError

CHART = colour_chart.chart()
HEIGHT, WIDTH = CHART.shape[:2]
FILES = {name: write() for name, write in colour_chart.files(CHART).items()}
AVIF, JXL = (colour_chart.recorded(name).data for name in ('avif', 'jxl'))
READS_AVIF = file_decoding._by_opencv(AVIF, 1) is not None
JXL_BOX, JXL_TYPE = b'\0\0\0\x0cJXL \r\n\x87\n', b'\0\0\0\x14ftypjxl \0\0\0\0jxl '


def assert_has_colours(rgb: np.ndarray, name: str, limit: int) -> None:
    assert rgb.dtype == np.uint8 and rgb.shape == CHART.shape
    assert colour_chart.errors(rgb, colour_chart.expected(CHART, name)).max() <= limit


@pytest.mark.parametrize('name', FILES)
def test_chart_keeps_its_colours(name: str) -> None:
    assert_has_colours(to_rgb(FILES[name]), name, 4 if name.startswith(('JPEG', 'WebP')) else 0)


@pytest.mark.parametrize('named', ['', 'jpeg', 'png', 'rgb8; jpeg compressed bgr8', 'x' * 5000])
def test_the_named_format_does_not_matter(named: str) -> None:
    for name in ('JPEG', 'PNG', 'WebP'):
        assert_has_colours(to_rgb(File(named, FILES[name].data)), name, 4)


def test_only_the_pixels_of_a_mosaic_become_colours() -> None:
    mosaic = FILES['PNG of a Bayer camera'].data
    shown = to_rgb(File('mono8; png compressed ', mosaic))
    assert np.array_equal(shown[..., 0], shown[..., 2])
    for encoding in ('bayer_rggb8', 'bayer_gbrg16'):
        # The transport converted these itself; `mono8` is its target for JPEG.
        for form, name in ((f'{encoding}; png compressed bgr8', 'PNG'),
                           (f'{encoding}; jpeg compressed mono8', 'JPEG, grey')):
            assert_has_colours(to_rgb(File(form, FILES[name].data)), name, 4)
    for bits in (8, 16):
        encoding = f'bayer_bggr{bits}'
        numbers = np.frombuffer(colour_chart.raw(CHART, encoding).data, f'<u{bits // 8}')
        data = colour_chart._by_opencv(numbers.reshape(HEIGHT, WIDTH), '.png')
        assert_has_colours(to_rgb(File(f'{encoding}; png compressed ', data)), encoding, 0)


@pytest.mark.skipif(not READS_AVIF, reason='OpenCV without AVIF')
def test_avif_keeps_its_colours() -> None:
    assert_has_colours(to_rgb(File('avif', AVIF)), 'AVIF', 5)
    with pytest.raises(FrameError, match='expected a decodable') as caught:
        to_rgb(File('avif', patched(AVIF, b'mdat', 4, bytes(300))))
    assert not isinstance(caught.value, UnsupportedImageError)


@pytest.mark.skipif(READS_AVIF, reason='OpenCV with AVIF')
def test_avif_that_no_library_reads_is_refused_with_the_remedy() -> None:
    with pytest.raises(UnsupportedImageError, match='got AVIF; run: pip install pillow-avif-plug'):
        to_rgb(File('avif', AVIF))


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType | None], None]:
    """Return a function that puts a module in the place of Pillow's plugin for JPEG XL."""
    monkeypatch.setattr(Image, 'OPEN', dict(Image.OPEN))
    monkeypatch.setattr(Image, 'ID', list(Image.ID))
    Image.OPEN.pop('JXL', None)

    def place(module: ModuleType | None) -> None:
        file_decoding._load_plugin.cache_clear()
        monkeypatch.setitem(sys.modules, 'pillow_jxl', module)

    yield place
    file_decoding._load_plugin.cache_clear()


def test_jpeg_xl_without_its_plugin_is_refused_with_the_remedy(
        plugins: Callable[[ModuleType | None], None]) -> None:
    plugins(None)
    for data in (JXL, JXL_BOX + JXL_TYPE + struct.pack('>L', 8 + len(JXL)) + b'jxlc' + JXL):
        with pytest.raises(UnsupportedImageError, match=(
                r'OpenCV \S+ or Pillow \S+ reads, got JPEG XL; run: pip install '
                'pillow-jxl-plugin, or set the format of its publisher to jpeg or png$')):
            to_rgb(File('jxl', data))


@pytest.mark.parametrize(('mode', 'shown'), [('RGB', 'PNG'), ('RGBA', 'PNG'), ('L', 'PNG, grey'),
                                             ('I;16', 'PNG, 16 bits, grey')])
def test_jpeg_xl_is_read_by_a_plugin_of_pillow(
        mode: str, shown: str, plugins: Callable[[ModuleType | None], None]) -> None:
    """The plugin here gives the chart for every file, in the mode of the test."""
    pixels = {'RGB': CHART, 'RGBA': np.dstack([CHART, CHART[..., :1]]),
              'L': colour_chart.as_grey(CHART),
              'I;16': colour_chart.as_grey(CHART).astype('<u2') * 256 + 99}[mode]

    class Reader(ImageFile.ImageFile):
        format = 'JXL'

        def _open(self) -> None:
            self._size, self._mode = (WIDTH, HEIGHT), mode
            self.fp = BytesIO(pixels.tobytes())
            self.tile = [('raw', (0, 0, *self.size), 0, mode)]

    module = ModuleType('pillow_jxl')
    plugins(module)
    Image.register_open('JXL', Reader, lambda prefix: prefix.startswith(b'\xff\n'))
    assert_has_colours(to_rgb(File('jxl', JXL)), shown, 0)


@pytest.mark.parametrize(('start', 'size'), [
    ('ff0a0f0700138802', (96, 64)), ('ff0af8be01001388', (640, 480)),
    ('ff0aba211d001388', (1920, 1080)), ('ff0ac006980e0013', (333, 217)),
    ('ff0a410600138802', (8, 8)), ('ff0afa111e001388', (720, 576)),
    ('ff0aba5d00c00013', (1, 3000)), ('ff0afaf919001388', (8000, 8000))])
def test_size_in_a_jpeg_xl_header_is_read(start: str, size: tuple[int, int]) -> None:
    header = read_header(bytes.fromhex(start), '')
    assert (header.width, header.height) == size


def test_size_in_other_headers_is_read() -> None:
    for name, data in [*((name, file.data) for name, file in FILES.items()), ('AVIF', AVIF)]:
        header = read_header(data, '')
        assert (name.partition(',')[0].split()[0], WIDTH, HEIGHT) == (
            header.kind, header.width, header.height)


def png_header(width: int, height: int) -> bytes:
    header = b'IHDR' + struct.pack('>LLBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = [header, b'IDAT' + zlib.compress(b''), b'IEND']
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>L', len(chunk) - 4) + chunk + struct.pack('>L', zlib.crc32(chunk))
        for chunk in chunks)


def patched(data: bytes, mark: bytes, offset: int, numbers: bytes) -> bytes:
    """Return a file with other bytes some way behind a mark."""
    at = data.index(mark) + offset
    return data[:at] + numbers + data[at + len(numbers):]


JPEG, PNG, WEBP = (FILES[name].data for name in ('JPEG', 'PNG', 'WebP'))
LARGE_WEBP = (b'RIFF' + struct.pack('<L', 22) + b'WEBPVP8X' + struct.pack('<LL', 10, 0)
              + b'\xff\xff\xff' * 2)


@pytest.mark.parametrize(('data', 'reason'), [
    (b'', 'expected one of JPEG, PNG, WebP, AVIF, JPEG XL, got 0 bytes that begin with nothing'),
    (b'no picture', 'got 10 bytes that begin with 6e 6f 20 70'),
    (patched(JPEG, b'\xff\xc0', 5, struct.pack('>HH', 65000, 65000)), f'1 to {MAX_PIXELS}'),
    (png_header(100_000, 100_000), f'size: expected 1 to {MAX_PIXELS}'),
    (png_header(2**31 - 1, 1), 'size'),
    (png_header(0, 5), 'size'),
    (png_header(64, 64), 'corrupt|OpenCV'),
    (LARGE_WEBP, f'size: expected 1 to {MAX_PIXELS} pixels, got 16777216 x 16777216'),
    (patched(AVIF, b'ispe', 8, struct.pack('>LL', 50_000, 50_000)), 'size'),
    (b'\xff\n\xfe' + b'\xff' * 16, 'size: expected .* x 1073741824'),
])
def test_malformed_file_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason) as caught:
        to_rgb(File('jpeg', data))
    assert not isinstance(caught.value, UnsupportedImageError)


@pytest.mark.parametrize(('data', 'kind'), [
    (b'II*\0' + bytes(50), 'TIFF'), (b'MM\0*' + bytes(50), 'TIFF'), (b'GIF89a', 'GIF'),
    (b'BM' + bytes(50), 'BMP'), (b'\0\0\0\x0cjP  \r\n\x87\n', 'JPEG 2000'),
    (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'HEIF')])
def test_other_formats_are_named_with_the_remedy(data: bytes, kind: str) -> None:
    with pytest.raises(UnsupportedImageError, match=(
            fr"^data: expected one of .*, got {kind} \(format 'tiff'\); set the format of its "
            'publisher to jpeg or png$')) as caught:
        to_rgb(File('tiff', data))
    assert caught.value.name == kind


def test_video_is_named_with_the_remedy() -> None:
    with pytest.raises(UnsupportedImageError, match=(
            r"got H.264 or H.265 video \(format 'h264'\); republish the video as images")):
        to_rgb(File('h264', b'\0\0\0\x01\x67\x42\x00\x1f' + bytes(100)))


@pytest.mark.parametrize('data', [
    JPEG, FILES['JPEG, progressive'].data, PNG, WEBP, FILES['WebP, lossless'].data,
    FILES['WebP, EXIF rotation'].data, AVIF],
    ids=['jpeg', 'progressive', 'png', 'webp', 'lossless webp', 'extended webp', 'avif'])
def test_every_truncation_of_a_file_is_refused(data: bytes) -> None:
    for length in range(len(data) - 1):
        with pytest.raises(FrameError) as caught:
            to_rgb(File('', data[:length]))
        assert length < 40 or 'expected a complete' in str(caught.value), length


def test_a_jpeg_xl_container_without_its_end_is_refused() -> None:
    whole = JXL_BOX + JXL_TYPE + struct.pack('>L', 8 + len(JXL)) + b'jxlc' + JXL
    assert read_header(whole, '').width == WIDTH
    for length in range(len(JXL_BOX), len(whole)):
        with pytest.raises(FrameError, match='expected a complete JPEG XL file'):
            read_header(whole[:length], '')


def test_compressed_depth_is_refused() -> None:
    with pytest.raises(FrameError, match='compressedDepth'):
        to_rgb(File('16UC1; compressedDepth', PNG))
