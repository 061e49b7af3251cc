# SPDX-License-Identifier: Apache-2.0
"""Files of photographs and videos: what is read, how it is turned, and what is named."""
from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from photo_rooms import write_photo
from PIL import Image

from spann3r_ros.core.types import FrameError
from spann3r_ros.datasets.photos import photo_files
from spann3r_ros.datasets.photos.photo_files import (
    are_consecutive,
    find_photos,
    name_key,
    read_photo,
    read_size,
)
from spann3r_ros.datasets.photos.photo_tags import focal_pixels, read_tags
from spann3r_ros.datasets.photos.video_file import VideoFile

# Four quarters of different colours: every rotation and reflection can be seen.
QUARTERS = np.zeros((32, 48, 3), np.uint8)
QUARTERS[:16, :24], QUARTERS[:16, 24:], QUARTERS[16:, :24] = (200, 0, 0), (0, 200, 0), (0, 0, 200)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_photograph_is_turned_as_pillow_turns_it(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / 'a.png'
    write_photo(path, QUARTERS, 28, orientation)
    from PIL import ImageOps
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.rgb, expected)
    assert photo.focal_mm == 28
    assert read_size(path) == (expected.shape[:2], 28)


def test_focal_length_is_by_the_diagonal() -> None:
    # 36 x 24 pixels on a film of 36 x 24 mm: a pixel is a millimetre.
    assert focal_pixels(50.0, 24, 36) == pytest.approx(50.0)
    assert focal_pixels(50.0, 36, 24) == pytest.approx(50.0)


@pytest.mark.parametrize('focal', [0, 60_000])
def test_focal_length_of_no_lens_is_not_used(focal: int, tmp_path: Path) -> None:
    write_photo(tmp_path / 'a.jpg', QUARTERS, focal)
    assert read_photo(tmp_path / 'a.jpg').focal_mm is None


def test_damaged_tags_leave_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    write_photo(path, QUARTERS, 28, 6)
    data = bytearray(path.read_bytes())
    start = data.find(b'Exif\0\0')
    data[start + 14:start + 30] = b'\xff' * 16
    path.write_bytes(data)
    assert read_tags(bytes(data)).orientation == 1
    assert read_photo(path).rgb.shape == (32, 48, 3)


def _encoded(image: Image.Image, kind: str) -> bytes:
    stream = BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


WHOLE = Image.fromarray(QUARTERS)


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('a.jpg', b'', 'the file is empty'),
    ('a.jpg', b'not an image', 'expected one of JPEG'),
    ('a.jpg', _encoded(WHOLE, 'JPEG')[:-40], 'expected a complete JPEG file'),
    ('a.png', _encoded(WHOLE, 'PNG')[:-20], 'expected a complete PNG file'),
    ('a.heic', b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(64), 'HEIF is not read; convert'),
    ('a.jpg', b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(64), 'HEIF is not read; convert'),
    ('a.tif', _encoded(WHOLE, 'TIFF'), 'TIFF is not read; convert it to JPEG or PNG'),
    ('a.nef', b'raw data of a camera', '.nef is not read; convert it to JPEG or PNG'),
    ('a.avif', b'\0\0\0\x18ftypavif\0\0\0\0mif1avif' + bytes(64), 'AVIF')])
def test_unusable_file_is_named_with_its_reason(name: str, content: bytes, message: str,
                                                tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FrameError) as raised:
        read_photo(path)
    assert message in str(raised.value) and 'publisher' not in str(raised.value)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / 'a.jpg').mkdir()
    with pytest.raises(FrameError, match='cannot be read: Is a directory'):
        read_photo(tmp_path / 'a.jpg')


def _photo(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    return read_photo(path).rgb


def test_gray_alpha_palette_cmyk_and_16_bits_become_rgb(tmp_path: Path) -> None:
    gray = _photo(tmp_path / 'gray.png', WHOLE.convert('L'))
    assert (gray[..., 0] == gray[..., 2]).all() and gray.shape == QUARTERS.shape
    for name, image in (('alpha', WHOLE.convert('RGBA')), ('palette', WHOLE.quantize(4))):
        np.testing.assert_array_equal(_photo(tmp_path / f'{name}.png', image), QUARTERS)
    cmyk = _photo(tmp_path / 'cmyk.jpg', WHOLE.convert('CMYK'), quality=95)
    assert np.abs(cmyk.astype(int) - QUARTERS).mean() < 8.0
    wide = QUARTERS.astype(np.uint16)[..., ::-1] << 8
    cv2.imwrite(str(tmp_path / 'wide.png'), wide)
    np.testing.assert_array_equal(read_photo(tmp_path / 'wide.png').rgb, QUARTERS)


def test_folder_counts_what_is_no_photograph(tmp_path: Path) -> None:
    for name in ('b10.JPG', 'b9.jpg', 'notes.txt', '.hidden.jpg', 'a.heic'):
        (tmp_path / name).write_bytes(b'x')
    (tmp_path / 'below').mkdir()
    found = find_photos([tmp_path])
    assert [path.name for path in found.paths] == ['a.heic', 'b9.jpg', 'b10.JPG']
    assert found.others == 1


@pytest.mark.parametrize(('sources', 'message'), [
    (('missing.jpg',), 'which does not exist'), (('empty',), 'found none among 0 files'),
    (('empty', 'a.jpg'), 'expected one folder'), (('v.mp4', 'a.jpg'), 'expected one folder')])
def test_input_that_is_none_is_named(sources: tuple[str, ...], message: str,
                                     tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    for name in ('a.jpg', 'v.mp4'):
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(ValueError, match=message):
        find_photos([tmp_path / name for name in sources])


@pytest.mark.parametrize(('names', 'expected'), [
    (['f1', 'f2', 'f10'], False), (['f8', 'f9', 'f10', 'f11'], True),
    (['f0', 'f5', 'f10', 'f15'], True), (['IMG_1', 'IMG_2', 'DSC_3'], False),
    (['a', 'b', 'c'], False), (['f1'], False), (['f2', 'f02'], False),
    ([f'{index:03d}' for index in range(20) if index != 7], True),
    ([f'{index:03d}' for index in range(20) if index % 3], False),
    (['a1_2', 'a2_2', 'a3_2'], True), (['a1_1', 'a2_2', 'a3_3'], False)])
def test_consecutive_numbers_are_recognised(names: list[str], expected: bool) -> None:
    assert are_consecutive([Path(f'{name}.jpg') for name in names]) is expected


def test_names_are_sorted_by_their_numbers() -> None:
    names = [Path(name) for name in ('10.jpg', '9.jpg', 'a2', 'a10', 'a1b', '٣.jpg')]
    assert [path.name for path in sorted(names, key=name_key)] == [
        '٣.jpg', '9.jpg', '10.jpg', 'a1b', 'a2', 'a10']


@pytest.fixture
def clip(tmp_path: Path) -> Callable[[int, float], Path]:
    """Return a function that writes a video whose frames become brighter."""
    def write(frames: int, rate: float) -> Path:
        path = tmp_path / 'clip.avi'
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate, (64, 48))
        for index in range(frames):
            writer.write(np.full((48, 64, 3), 4 * index, np.uint8))
        writer.release()
        return path
    return write


@pytest.mark.parametrize(('fps', 'expected'), [(0.0, 40), (5.0, 10), (20.0, 40), (100.0, 40),
                                               (7.0, 14)])
def test_video_has_at_most_so_many_images_a_second(
        clip: Callable[[int, float], Path], fps: float, expected: int) -> None:
    video = VideoFile(clip(40, 20.0), fps)
    images = list(video)
    assert abs(len(images) - expected) <= 1
    stamps = [stamp_ns for stamp_ns, _ in images]
    assert stamps == sorted(set(stamps)) and abs(stamps[-1] / 1e9 - 1.95) <= 1.0 / (fps or 20.0)
    # An image has the brightness of its stamp.
    for stamp_ns, rgb in images:
        assert abs(rgb.mean() - 4 * stamp_ns / 1e9 * 20.0) < 3.0
    assert not video.is_cut and video.decoded == 40


def test_cut_video_ends_early_and_other_files_are_refused(
        clip: Callable[[int, float], Path], tmp_path: Path) -> None:
    path = clip(40, 20.0)
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    video = VideoFile(path)
    images = list(video)
    assert 5 <= len(images) <= 25 and video.is_cut
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.raises(ValueError, match='input: expected a video that OpenCV'):
        VideoFile(tmp_path / 'text.mp4')
    with pytest.raises(ValueError, match='fps: expected 0'):
        VideoFile(path, -1.0)


def test_suffixes_are_in_one_list() -> None:
    assert not photo_files.READ & photo_files.NOT_READ
    assert not photo_files.VIDEOS & (photo_files.READ | photo_files.NOT_READ)
