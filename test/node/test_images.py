# SPDX-License-Identifier: Apache-2.0
"""Every encoding gives the original colours; the error of a malformed image names its fault."""
from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from spann3r_ros.core.encodings import ENCODINGS, MAX_PIXELS, to_rgb
from spann3r_ros.core.types import FrameError

HEIGHT, WIDTH = 24, 32


def smooth_rgb() -> np.ndarray:
    """Return colours that vary slowly, so that subsampled encodings keep them."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([40 + 5 * x, 60 + 4 * y, 200 - 3 * x], axis=-1).astype(np.uint8)


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> Image:
    """Return an image message whose rows end with `padding` bytes of noise."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder('>' if big else '<')).reshape(height, -1)
    rows = rows.view(np.uint8)
    noise = np.full((height, padding), 0xAB, np.uint8)
    data = np.hstack([rows, noise])
    return Image(height=height, width=width, encoding=encoding, step=data.shape[1],
                 is_bigendian=int(big), data=data.tobytes())


def encode(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Return the pixels of an encoding, built channel by channel without OpenCV."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    name, bits = encoding.rstrip('0123456789'), 16 if encoding.endswith('16') else 8
    alpha = np.full_like(red, 77)
    if name in ('rgb', 'bgr', 'rgba', 'bgra'):
        planes = {'r': red, 'g': green, 'b': blue, 'a': alpha}
        pixels = np.stack([planes[letter] for letter in name], axis=-1)
    elif name == 'mono':
        pixels = red
    else:
        pattern = name.removeprefix('bayer_')
        pixels = np.empty_like(red)
        for place, letter in enumerate(pattern):
            row, column = divmod(place, 2)
            plane = {'r': red, 'g': green, 'b': blue}[letter]
            pixels[row::2, column::2] = plane[row::2, column::2]
    return pixels.astype(np.uint16) * 257 if bits == 16 else pixels


PLANAR = sorted(name for name in ENCODINGS if not name.startswith(('yuv', 'uyvy', 'yuyv')))


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', PLANAR)
def test_colours_survive_the_encoding(encoding: str, padding: int) -> None:
    padding += padding % 2 if encoding.endswith('16') else 0
    rgb = smooth_rgb()
    expected = rgb[..., :1].repeat(3, axis=-1) if encoding.startswith('mono') else rgb
    found = to_rgb(message(encode(rgb, encoding), encoding, padding))
    assert found.dtype == np.uint8 and found.shape == (HEIGHT, WIDTH, 3)
    inner = np.s_[2:-2, 2:-2] if 'bayer' in encoding else np.s_[:]
    difference = np.abs(found[inner].astype(int) - expected[inner])
    assert difference.max() <= (6 if 'bayer' in encoding else 0)


@pytest.mark.parametrize(('encoding', 'luma_first'), [
    ('yuv422', False), ('uyvy', False), ('yuv422_yuy2', True), ('yuyv', True)])
def test_yuv422_colours_survive(encoding: str, luma_first: bool) -> None:
    rgb = smooth_rgb().astype(float)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luma = 16 + 0.257 * red + 0.504 * green + 0.098 * blue  # BT.601, limited range
    u = (128 - 0.148 * red - 0.291 * green + 0.439 * blue)[:, ::2]
    v = (128 + 0.439 * red - 0.368 * green - 0.071 * blue)[:, ::2]
    pixels = np.empty((HEIGHT, WIDTH, 2))
    pixels[..., 0 if luma_first else 1] = luma
    chroma = 1 if luma_first else 0
    pixels[:, ::2, chroma], pixels[:, 1::2, chroma] = u, v
    found = to_rgb(message(pixels.round().astype(np.uint8), encoding))
    assert np.abs(found - rgb).max() <= 8


@pytest.mark.parametrize('big', [False, True])
def test_sixteen_bits_honour_the_byte_order(big: bool) -> None:
    pixels = np.full((4, 6), 0x12FE, np.uint16)
    assert (to_rgb(message(pixels, 'mono16', big=big)) == 0x12).all()


def broken(field: str, value: object) -> Image:
    image = message(smooth_rgb(), 'rgb8')
    setattr(image, field, value)
    return image


@pytest.mark.parametrize(('image', 'reason'), [
    (Image(encoding='rgb8'), 'size'),
    (broken('width', 0), 'size'),
    (broken('height', 2**31), 'size'),
    (broken('step', 3 * WIDTH - 1), f'step: expected at least {3 * WIDTH}'),
    (broken('step', 0), 'step'),
    (broken('step', 3 * WIDTH + 1), f'data: expected {HEIGHT} rows of {3 * WIDTH + 1}'),
    (broken('data', b''), 'data'),
    (broken('encoding', ''), "encoding: .* got ''"),
    (broken('encoding', 'purple8'), "got 'purple8'"),
    (message(np.full((4, 4), np.nan, np.float32), '32FC1'), "got '32FC1'"),
    (message(np.full((4, 4), 1000, np.uint16), '16UC1'), "got '16UC1'"),
    (message(np.zeros((4, 5, 2), np.uint8), 'yuv422'), 'width: expected an even'),
])
def test_malformed_raw_image_is_refused(image: Image, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        to_rgb(image)


def encoded(suffix: str, rgb: np.ndarray | None = None) -> bytes:
    rgb = smooth_rgb() if rgb is None else rgb
    return cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.mark.parametrize(('suffix', 'tolerance'), [('.png', 0), ('.jpg', 12)])
def test_compressed_colours_survive(suffix: str, tolerance: int) -> None:
    found = to_rgb(CompressedImage(format='any', data=encoded(suffix)))
    assert np.abs(found.astype(int) - smooth_rgb()).max() <= tolerance


def test_rotation_noted_in_a_jpeg_is_not_applied() -> None:
    exif = (b'Exif\0\0MM\0*\0\0\0\x08\0\x01' + struct.pack('>HHLHH', 0x0112, 3, 1, 6, 0)
            + b'\0\0\0\0')
    jpeg = encoded('.jpg')
    tagged = jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + jpeg[2:]
    assert to_rgb(CompressedImage(data=tagged)).shape == (HEIGHT, WIDTH, 3)


def png_header(width: int, height: int) -> bytes:
    header = b'IHDR' + struct.pack('>LLBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = [header, b'IDAT' + zlib.compress(b''), b'IEND']
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>L', len(chunk) - 4) + chunk + struct.pack('>L', zlib.crc32(chunk))
        for chunk in chunks)


def jpeg_of_size(width: int, height: int) -> bytes:
    """Return a valid small JPEG whose header claims another size."""
    data = bytearray(encoded('.jpg'))
    at = data.find(b'\xff\xc0')
    data[at + 5:at + 9] = struct.pack('>HH', height, width)
    return bytes(data)


@pytest.mark.parametrize(('data', 'reason'), [
    (b'', 'expected JPEG or PNG'),
    (b'GIF89a' + bytes(50), 'expected JPEG or PNG'),
    (encoded('.jpg')[:-2], 'complete JPEG'),
    (encoded('.jpg')[:200], 'complete JPEG'),
    (encoded('.jpg')[:3], 'complete JPEG'),
    (encoded('.png')[:-12], 'complete PNG'),
    (encoded('.png')[:60], 'complete PNG'),
    (jpeg_of_size(65000, 65000), f'size: expected 1 to {MAX_PIXELS}'),
    (png_header(100_000, 100_000), f'size: expected 1 to {MAX_PIXELS}'),
    (png_header(2**31 - 1, 1), 'size'),
    (png_header(0, 5), 'size'),
    (png_header(64, 64), 'corrupt|OpenCV'),
])
def test_malformed_compressed_image_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        to_rgb(CompressedImage(format='jpeg', data=data))


def test_every_truncation_of_a_jpeg_is_refused() -> None:
    jpeg = encoded('.jpg', np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    for length in range(len(jpeg)):
        with pytest.raises(FrameError):
            to_rgb(CompressedImage(data=jpeg[:length]))


def test_compressed_depth_is_refused() -> None:
    with pytest.raises(FrameError, match='compressedDepth'):
        to_rgb(CompressedImage(format='16UC1; compressedDepth', data=encoded('.png')))
