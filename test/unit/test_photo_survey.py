# SPDX-License-Identifier: Apache-2.0
"""What photographs share, which repeat others, and the camera that they have in common."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from photo_rooms import RoomPhotos, room_photos, write_photo

from spann3r_ros.core.types import FrameError
from spann3r_ros.datasets.photos.photo_files import PhotoFile
from spann3r_ros.mapping.mapper_config import SightConfig
from spann3r_ros.mapping.selection.sight import BLACK, BLURRED
from spann3r_ros.reconstruction.common_camera import CommonCamera, choose_camera
from spann3r_ros.reconstruction.corners import find_corners, shared_corners
from spann3r_ros.reconstruction.survey import select, survey


@pytest.fixture(scope='module')
def rooms() -> RoomPhotos:
    return room_photos(10, 2)


def reasons(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Return the names of the photographs that are used, and the reasons of the others."""
    read, unread = survey(sorted(folder.iterdir()), lambda _: None)
    kept, left_out = select(read, SightConfig())
    return {one.path.stem for one in kept}, {one.path.stem: one.reason
                                             for one in (*unread, *left_out)}


def test_photographs_of_one_room_share_corners_and_no_others(rooms: RoomPhotos) -> None:
    corners = [find_corners(image) for image in rooms.images]
    for index in range(9):
        pixels = shared_corners(corners[index], corners[index + 1])
        assert len(pixels[0]) == len(pixels[1]) >= 30
    for own in range(10):
        for foreign in (10, 11):
            assert not len(shared_corners(corners[own], corners[foreign])[0])


def test_a_date_stamp_is_nothing_shared(rooms: RoomPhotos) -> None:
    stamped = []
    for image in (rooms.images[0], rooms.images[10]):
        image = image.copy()
        image[190:230, 20:300] = 0
        cv2.putText(image, '2026-11-28 ROOM', (22, 222), cv2.FONT_HERSHEY_SIMPLEX, 1.0,
                    (255, 160, 0), 2)
        stamped.append(find_corners(image))
    assert not len(shared_corners(*stamped)[0])


def test_blank_images_have_no_corners() -> None:
    nothing = find_corners(np.full((64, 64, 3), 90, np.uint8))
    assert nothing.pixels.shape == (0, 2) and not len(shared_corners(nothing, nothing)[0])


def test_equal_and_nearly_equal_photographs_are_used_once(rooms: RoomPhotos,
                                                          tmp_path: Path) -> None:
    for index in range(6):
        write_photo(tmp_path / f'own{index}.png', rooms.images[index])
    write_photo(tmp_path / 'zcopy.png', rooms.images[2])
    write_photo(tmp_path / 'again.jpg', rooms.images[4])
    small = cv2.resize(rooms.images[5], (200, 150), interpolation=cv2.INTER_AREA)
    write_photo(tmp_path / 'asmaller.png', small)
    kept, left_out = reasons(tmp_path)
    # Of nearly equal ones the larger, then the sharper one is used; none of those in a turn is.
    assert len(kept) == 6 and {'own0', 'own2', 'own5'} <= kept
    assert left_out['zcopy'] == 'the same picture as own2.png'
    assert left_out['asmaller'] == 'nearly the same picture as own5.png'
    assert {'again', 'own4'} & set(left_out)


def test_blurred_and_black_photographs_are_left_out(rooms: RoomPhotos, tmp_path: Path) -> None:
    for index in range(8):
        write_photo(tmp_path / f'{index}.png', rooms.images[index])
    shaken = cv2.blur(rooms.images[9], (25, 3))
    write_photo(tmp_path / 'shaken.png', shaken)
    write_photo(tmp_path / 'black.png', np.zeros_like(shaken))
    (tmp_path / 'text.jpg').write_text('no image')
    kept, left_out = reasons(tmp_path)
    assert kept == {str(index) for index in range(8)}
    assert left_out['shaken'] == BLURRED and left_out['black'] == BLACK
    assert 'expected one of JPEG' in left_out['text']


def test_what_is_used_depends_on_no_name(rooms: RoomPhotos, tmp_path: Path) -> None:
    for order, folder in ((range(6), tmp_path / 'a'), (range(5, -1, -1), tmp_path / 'b')):
        folder.mkdir()
        for name, index in enumerate(order):
            write_photo(folder / f'{name}.png', rooms.images[index])
    digests = [[one.digest for one in survey(sorted(folder.iterdir()), lambda _: None)[0]]
               for folder in (tmp_path / 'a', tmp_path / 'b')]
    assert digests[0] == digests[1]


def test_camera_is_that_of_most_photographs() -> None:
    sizes = [(240, 320), (320, 240), (240, 320), (480, 640)]
    assert choose_camera(sizes, [28.0, 28.0, None, 50.0]) == CommonCamera((240, 320), 28.0)
    assert choose_camera(sizes[:2], [None, None]) == CommonCamera((240, 320), None)
    # Most photographs of that size do not say.
    assert choose_camera([(240, 320)] * 3, [28.0, None, None]).focal_mm is None


@pytest.mark.parametrize(('focal_mm', 'size'), [(28.0, (640, 480)), (56.0, (320, 240)),
                                                (56.0, (240, 320)), (14.0, (480, 640))])
def test_other_photographs_span_the_same_angles(focal_mm: float, size: tuple[int, int]) -> None:
    camera = CommonCamera((240, 320), 28.0)
    photo = np.zeros((*size, 3), np.uint8)
    # A point 0.2 to the right and 0.1 down, at depth 1, by this photograph's own camera.
    own = CommonCamera(size, focal_mm).intrinsics
    at = (round(own.fx * 0.2 + own.cx), round(own.fy * 0.1 + own.cy))
    cv2.circle(photo, at, 6, (255, 255, 255), -1)
    image, filled = camera.fit(PhotoFile(photo, focal_mm))
    rows, columns = np.nonzero(image[..., 0] > 100)
    common = camera.intrinsics
    assert image.shape == (240, 320, 3)
    assert columns.mean() == pytest.approx(common.fx * 0.2 + common.cx, abs=1.5)
    assert rows.mean() == pytest.approx(common.fy * 0.1 + common.cy, abs=1.5)
    covers = camera.scale(size, focal_mm) * np.array(size) >= (240, 320)
    assert (filled is None) == covers.all()


def test_photograph_of_a_small_part_is_refused() -> None:
    camera = CommonCamera((240, 320), 24.0)
    with pytest.raises(FrameError, match='field of view'):
        camera.fit(PhotoFile(np.zeros((240, 320, 3), np.uint8), 200.0))
