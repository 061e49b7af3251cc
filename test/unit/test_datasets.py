# SPDX-License-Identifier: Apache-2.0
"""Readers of four data sets and of plain folders, on folders that the tests write."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from recorded_rooms import HALF, WRITERS, pose, write_dtu, write_nrgbd, write_seven_scenes

from spann3r_ros.datasets.folders import LAYOUTS
from spann3r_ros.datasets.rgbd import DatasetError, RgbdSequence

SIZE = (96, 128)
NAMES = {'7scenes': 'chess03', 'nrgbd': 'kitchen', 'dtu': 'scan1',
         'tum': 'rgbd_dataset_freiburg3_box', 'plain': 'walk'}


def read(layout: str, root: Path, count: int = 3) -> RgbdSequence:
    WRITERS[layout](root, count)
    (sequence,) = LAYOUTS[layout](root)
    return sequence


@pytest.mark.parametrize('layout', LAYOUTS)
def test_points_of_every_view_lie_on_the_walls(layout: str, tmp_path: Path) -> None:
    sequence = read(layout, tmp_path)
    assert sequence.name == NAMES[layout]
    for index in range(len(sequence.views)):
        view = sequence.load(index, SIZE)
        assert view.image.shape == (*SIZE, 3) and view.valid.shape == SIZE
        points = view.world_points[view.valid] / sequence.unit_per_metre
        # A pixel of a depth image as small as this is 2 cm of a wall, seen aslant more.
        from_wall = np.abs(np.abs(points) - HALF).min(axis=1)
        assert np.median(from_wall) < 0.002 and from_wall.max() < 0.03
        assert (np.abs(points) < HALF + 0.03).all()


@pytest.mark.parametrize('layout', LAYOUTS)
def test_poses_are_world_from_camera_in_optical_axes(layout: str, tmp_path: Path) -> None:
    sequence = read(layout, tmp_path)
    # One of TUM's images has no pose near its stamp.
    expected = [0, 2] if layout == 'tum' else [0, 1, 2]
    assert len(sequence.views) == len(expected)
    for files, index in zip(sequence.views, expected, strict=True):
        truth = pose(index)
        truth[:3, 3] *= sequence.unit_per_metre
        np.testing.assert_allclose(files.world_from_camera, truth, atol=1e-6)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_colours_lie_where_the_points_are(layout: str, tmp_path: Path) -> None:
    view = read(layout, tmp_path).load(0, SIZE)
    scale = 1000.0 if layout == 'dtu' else 1.0
    painted = 127.5 + 127.5 * np.sin(5.0 * view.world_points[view.valid] / scale)
    difference = np.abs(view.image[view.valid][:, ::-1] - painted)
    assert np.median(difference) < 4.0


def test_no_depth_is_not_valid(tmp_path: Path) -> None:
    view = read('7scenes', tmp_path).load(0, SIZE)
    assert not view.valid[:8].any() and view.valid[9:].all()  # 40 of 480 rows are 65535


def test_mask_is_eroded(tmp_path: Path) -> None:
    write_dtu(tmp_path, 1)
    (sequence,) = LAYOUTS['dtu'](tmp_path)
    view = sequence.load(0, (460, 600))  # the window that the principal point allows
    rows = np.flatnonzero(view.valid.any(axis=1))
    # 480 - 2 * 100 rows, less ten that erosion takes in all
    assert len(rows) == pytest.approx(271, abs=1)


def test_erosion_is_ten_pixels_of_the_depth_image_for_any_size_of_the_mask(
        tmp_path: Path) -> None:
    write_dtu(tmp_path, 1)
    file = tmp_path / 'scan1/binary_masks/00000000.png'
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    half = cv2.resize(mask, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
    double = cv2.resize(mask, None, fx=2.0, fy=2.0, interpolation=cv2.INTER_NEAREST)
    for unequal in (half, double):
        cv2.imwrite(str(file), unequal)
        (sequence,) = LAYOUTS['dtu'](tmp_path)
        rows = np.flatnonzero(sequence.load(0, (460, 600)).valid.any(axis=1))
        assert len(rows) == pytest.approx(271, abs=1)


def test_views_without_a_pose_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    write_nrgbd(tmp_path, 4, lost=1)
    (sequence,) = LAYOUTS['nrgbd'](tmp_path)
    assert [view.number for view in sequence.views] == [0, 2, 3]
    assert sequence.find([3, 0]) == [2, 0]
    with pytest.raises(DatasetError, match='kitchen: expected an image 1 with a pose'):
        sequence.find([0, 1])


def test_scenes_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_seven_scenes(tmp_path, 1, 'stairs', 1)
    write_seven_scenes(tmp_path, 1, 'fire', 4)
    assert [item.name for item in LAYOUTS['7scenes'](tmp_path)] == ['fire04', 'stairs01']


@pytest.mark.parametrize(('layout', 'lost'), [
    ('7scenes', 'chess/seq-03/frame-000001.color.png'),
    ('7scenes', 'chess/seq-03/frame-000002.color.png'),
    ('7scenes', 'chess/seq-03/frame-000001.depth.proj.png'),
    ('7scenes', 'chess/seq-03/frame-000001.pose.txt'),
    ('nrgbd', 'kitchen/images/img0.png'),
    ('nrgbd', 'kitchen/images/img2.png'),
    ('nrgbd', 'kitchen/depth/depth2.png'),
    ('dtu', 'scan1/images/00000001.jpg'),
    ('dtu', 'scan1/images/00000002.jpg'),
    ('dtu', 'scan1/cams/00000001_cam.txt'),
    ('dtu', 'scan1/depths/00000001.npy'),
    ('dtu', 'scan1/binary_masks/00000000.png'),
    ('tum', 'rgbd_dataset_freiburg3_box/groundtruth.txt'),
    ('tum', 'rgbd_dataset_freiburg3_box/depth/1000.110000.png'),
    ('plain', 'walk/poses.txt'),
    ('plain', 'walk/depth/0001.png'),
    ('plain', 'walk/rgb/0002.png'),
])
def test_missing_file_is_named(layout: str, lost: str, tmp_path: Path) -> None:
    WRITERS[layout](tmp_path, 3)
    (tmp_path / lost).unlink()
    with pytest.raises(DatasetError, match=f'{lost}: expected, but it does not exist'):
        list(LAYOUTS[layout](tmp_path))


@pytest.mark.parametrize(('layout', 'lost', 'named'), [
    ('7scenes', 'chess/seq-03/frame-000002.*', 'chess/seq-03/frame-000002.color.png'),
    ('nrgbd', 'kitchen/*/*2.png', 'kitchen/images/img2.png'),
    ('nrgbd', 'kitchen/*/*3.png', 'kitchen/images/img3.png'),
    ('dtu', 'scan1/*/*2[._]*', 'scan1/images/00000002.jpg'),
])
def test_image_without_any_file_left_is_named(layout: str, lost: str, named: str,
                                              tmp_path: Path) -> None:
    WRITERS[layout](tmp_path, 4)
    for path in list(tmp_path.glob(lost)):
        path.unlink()
    with pytest.raises(DatasetError, match=f'{named}: expected, .*but it does not exist'):
        list(LAYOUTS[layout](tmp_path))


def test_even_steps_of_the_numbering_leave_no_gap(tmp_path: Path) -> None:
    write_seven_scenes(tmp_path, 9)
    for number in set(range(9)) - {0, 4, 8}:
        for path in list(tmp_path.glob(f'chess/seq-03/*{number}.*')):
            path.unlink()
    (sequence,) = LAYOUTS['7scenes'](tmp_path)
    assert [(view.number, view.position) for view in sequence.views] == [(0, 0), (4, 1), (8, 2)]


def test_cameras_of_dtu_that_took_no_image_are_no_gap(tmp_path: Path) -> None:
    write_dtu(tmp_path, 3)
    cameras = tmp_path / 'scan1/cams'
    (cameras / '00000063_cam.txt').write_text((cameras / '00000000_cam.txt').read_text())
    (sequence,) = LAYOUTS['dtu'](tmp_path)
    assert len(sequence.views) == 3


def test_two_images_of_one_number_are_named(tmp_path: Path) -> None:
    write_dtu(tmp_path, 2)
    image = tmp_path / 'scan1/images/00000001.jpg'
    image.with_suffix('.png').write_bytes(image.read_bytes())
    with pytest.raises(DatasetError, match='00000001.png: expected one image 1, got also '
                                           '00000001.jpg'):
        list(LAYOUTS['dtu'](tmp_path))


@pytest.mark.parametrize(('layout', 'lost'), [
    ('7scenes', 'chess/TestSplit.txt'), ('nrgbd', 'kitchen/poses.txt')])
def test_scene_without_its_list_is_not_skipped(layout: str, lost: str,
                                               tmp_path: Path) -> None:
    WRITERS[layout](tmp_path, 2)
    (tmp_path / lost).rename(tmp_path / 'set-aside.txt')
    with pytest.raises(DatasetError, match=f'{lost}: expected, but it does not exist'):
        list(LAYOUTS[layout](tmp_path))


@pytest.mark.parametrize(('layout', 'file', 'text', 'message'), [
    ('7scenes', 'chess/seq-03/frame-000001.pose.txt', '1 0 0\n', 'expected 4 numbers a line'),
    ('7scenes', 'chess/seq-03/frame-000001.pose.txt', 'one\n', 'expected numbers'),
    ('7scenes', 'chess/seq-03/frame-000001.pose.txt', '2 0 0 0\n' * 4, 'expected a rigid'),
    ('7scenes', 'chess/TestSplit.txt', 'third\n', 'expected sequenceN'),
    ('7scenes', 'chess/TestSplit.txt', '\n', 'expected sequenceN'),
    ('nrgbd', 'kitchen/poses.txt', '1 0 0 0\n', 'expected 12 lines for 3 images'),
    ('dtu', 'scan1/cams/00000001_cam.txt', 'extrinsic 1 2', 'expected "extrinsic" with 16'),
    ('dtu', 'pair.txt', '3\n0\n', 'expected the view lists'),
    ('tum', 'rgbd_dataset_freiburg3_box/rgb.txt', 'a b c\n', 'expected "stamp file"'),
    ('tum', 'rgbd_dataset_freiburg3_box/groundtruth.txt', '', 'expected poses'),
    ('plain', 'walk/poses.txt', ' '.join(['1'] * 16), 'expected 3 rows for the images .* got 1'),
    ('plain', 'walk/poses.txt', '1 0 0\n', 'expected 16 numbers a line'),
    ('plain', 'walk/poses.txt', (' '.join(['2'] * 16) + '\n') * 3, 'expected a rigid'),
    ('plain', 'walk/poses.txt', (' '.join(['inf'] * 16) + '\n') * 3, 'expected finite poses'),
    ('plain', 'walk/K.txt', '500 500 320 240\n', 'expected 3 numbers a line'),
    ('plain', 'walk/K.txt', '1 0 0\n0 -1 0\n0 0 1\n', 'expected a camera matrix'),
    ('plain', 'walk/K.txt', '1 0 0\n0 1 0\n', 'expected a camera matrix'),
])
def test_broken_file_is_named(layout: str, file: str, text: str, message: str,
                              tmp_path: Path) -> None:
    WRITERS[layout](tmp_path, 3)
    (tmp_path / file).write_text(text)
    with pytest.raises(DatasetError, match=f'{file}: {message}'):
        list(LAYOUTS[layout](tmp_path))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_folder_of_another_layout_is_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='expected .* below it, found none'):
        list(LAYOUTS[layout](tmp_path))
    with pytest.raises(DatasetError, match='expected a folder'):
        list(LAYOUTS[layout](tmp_path / 'nowhere'))


@pytest.mark.parametrize('content', [b'', b'no array', b'PK'])
def test_depth_that_is_not_an_array_is_named(content: bytes, tmp_path: Path) -> None:
    sequence = read('dtu', tmp_path)
    sequence.views[1].depth.write_bytes(content)
    with pytest.raises(DatasetError, match='00000001.npy: expected a'):
        sequence.load(1, SIZE)


def test_other_camera_than_tums_needs_a_calibration(tmp_path: Path) -> None:
    sequence = read('tum', tmp_path)
    folder = tmp_path / 'rgbd_dataset_freiburg3_box'
    for files in sequence.views:
        depth = cv2.imread(str(files.depth), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(files.depth), depth[::2, ::2])
    with pytest.raises(DatasetError, match='calibration.txt: expected, with fx fy cx cy'):
        list(LAYOUTS['tum'](tmp_path))
    (folder / 'calibration.txt').write_text('267.7 269.6 160.05 123.8\n')
    (sequence,) = LAYOUTS['tum'](tmp_path)
    view = sequence.load(0, SIZE)
    from_wall = np.abs(np.abs(view.world_points[view.valid]) - HALF).min(axis=1)
    assert np.median(from_wall) < 0.01


@pytest.mark.parametrize('place', ['chess', 'chess/seq-03'])
def test_own_recording_in_the_layout_of_7_scenes_needs_a_calibration(place: str,
                                                                     tmp_path: Path) -> None:
    sequence = read('7scenes', tmp_path)
    for files in sequence.views:
        depth = cv2.imread(str(files.depth), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(files.depth), depth[::2, ::2])
    with pytest.raises(DatasetError, match='calibration.txt: expected, with fx fy cx cy, for '
                                           'images that are not 640x480: .* is 320x240'):
        list(LAYOUTS['7scenes'](tmp_path))
    (tmp_path / place / 'calibration.txt').write_text('# halved\n262.5 262.5 160 120\n')
    (sequence,) = LAYOUTS['7scenes'](tmp_path)
    view = sequence.load(0, SIZE)
    from_wall = np.abs(np.abs(view.world_points[view.valid]) - HALF).min(axis=1)
    assert np.median(from_wall) < 0.01


def test_calibration_of_a_sequence_takes_precedence_over_its_scene(tmp_path: Path) -> None:
    write_seven_scenes(tmp_path, 1)
    (tmp_path / 'chess/calibration.txt').write_text('500 500 320 240\n')
    (tmp_path / 'chess/seq-03/calibration.txt').write_text('510 520 321 241\n')
    (sequence,) = LAYOUTS['7scenes'](tmp_path)
    assert sequence.views[0].calibration == (510.0, 520.0, 321.0, 241.0)


@pytest.mark.parametrize('content', [b'267.7 269.6\n', b'', b'fx fy cx cy\n', b'0 1 2 3\n',
                                     b'1 1 nan 3\n', b'1 2 3 4\n' * 2, b'\xff'])
@pytest.mark.parametrize(('layout', 'folder'), [
    ('7scenes', 'chess/seq-03'), ('tum', 'rgbd_dataset_freiburg3_box')])
def test_bad_calibration_is_named(layout: str, folder: str, content: bytes,
                                  tmp_path: Path) -> None:
    WRITERS[layout](tmp_path, 1)
    (tmp_path / folder / 'calibration.txt').write_bytes(content)
    with pytest.raises(DatasetError, match=f'{folder}/calibration.txt: expected one line, '
                                           f'fx fy cx cy, in pixels, got '):
        list(LAYOUTS[layout](tmp_path))


def test_bad_tum_pose_is_named(tmp_path: Path) -> None:
    write = WRITERS['tum']
    write(tmp_path, 3)
    truth = tmp_path / 'rgbd_dataset_freiburg3_box/groundtruth.txt'
    truth.write_text('999.996 nan 0 0 0 0 0 1\n')
    with pytest.raises(DatasetError, match='groundtruth.txt: expected a rigid'):
        list(LAYOUTS['tum'](tmp_path))


def test_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    sequence = read('7scenes', tmp_path)
    sequence.views[1].color.write_bytes(b'no image')
    with pytest.raises(DatasetError, match='frame-000001.color.png: expected an image'):
        sequence.load(1, SIZE)
