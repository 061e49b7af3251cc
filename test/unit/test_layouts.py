# SPDX-License-Identifier: Apache-2.0
"""RGB-D videos: detection of layouts, plain folders, ranges of frames."""
from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from recorded_rooms import (
    HALF,
    WRITERS,
    pose,
    write_nrgbd,
    write_plain,
    write_seven_scenes,
    write_tum,
)
from test_fine_tuning import TINY, recorded

from spann3r_ros.datasets.folders import LAYOUTS
from spann3r_ros.datasets.layouts import detect_layout, read_videos, split_range
from spann3r_ros.datasets.rgbd import DatasetError
from spann3r_ros.training.schedule import moment
from spann3r_ros.training.sources.mixture import open_sources
from spann3r_ros.training.sources.recordings import recorded_sequences
from spann3r_ros.training.training_config import Stage

SMALL = {'size': (64, 48), 'camera': (53.0, 53.0, 31.5, 23.5)}


@pytest.mark.parametrize(('layout', 'folders'), [
    ('plain', ['', 'walk']), ('tum', ['', 'rgbd_dataset_freiburg3_box']),
    ('7scenes', ['', 'chess', 'chess/seq-03']), ('nrgbd', [''])])
def test_layout_is_detected_and_its_sequence_is_read(
        layout: str, folders: list[str], tmp_path: Path) -> None:
    WRITERS[layout](tmp_path, 3)
    for folder in folders:
        root = tmp_path / folder
        assert detect_layout(root) == layout
        (sequence,) = read_videos(root, layout)
        assert len(sequence.views) == (2 if layout == 'tum' else 3)


def test_folder_without_a_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r'expected one of the layouts plain: rgb/NNNN.jpg, .*'
                                           r'K.txt; tum: rgb.txt, .*none of these'):
        detect_layout(tmp_path)
    with pytest.raises(DatasetError, match='nowhere: expected a folder'):
        detect_layout(tmp_path / 'nowhere')


def test_folder_of_two_layouts_asks_for_the_layout(tmp_path: Path) -> None:
    write_plain(tmp_path, 1, **SMALL)
    (tmp_path / 'walk/groundtruth.txt').touch()
    with pytest.raises(DatasetError, match='files of plain and tum; give --layout'):
        detect_layout(tmp_path / 'walk')


def test_plain_folder_without_its_camera_is_named(tmp_path: Path) -> None:
    write_plain(tmp_path, 2, **SMALL)
    (tmp_path / 'walk/K.txt').unlink()
    assert detect_layout(tmp_path / 'walk') == 'plain'
    with pytest.raises(DatasetError, match='walk/K.txt: expected, but it does not exist'):
        list(LAYOUTS['plain'](tmp_path / 'walk'))


def test_sequences_of_a_scene_are_those_of_the_test_split_or_all(tmp_path: Path) -> None:
    write_seven_scenes(tmp_path, 1, number=3)
    write_seven_scenes(tmp_path, 1, number=4)  # TestSplit.txt names this one
    assert [item.name for item in read_videos(tmp_path / 'chess', '7scenes')] == ['chess04']
    (tmp_path / 'chess/TestSplit.txt').unlink()
    assert [item.name for item in read_videos(tmp_path, '7scenes')] == ['chess03', 'chess04']


def test_depth_that_is_not_registered_is_used_with_a_warning(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_seven_scenes(tmp_path, 2)
    folder = tmp_path / 'chess/seq-03'
    for path in list(folder.glob('*.depth.proj.png')):
        path.rename(folder / path.name.replace('.depth.proj.', '.depth.'))
    (sequence,) = read_videos(folder, '7scenes')
    assert sequence.views[1].depth.name == 'frame-000001.depth.png'
    assert 'as if it were registered' in caplog.text
    with pytest.raises(DatasetError, match='depth.proj.png: expected'):
        list(LAYOUTS['7scenes'](tmp_path))  # the paper's figures need registered depth


def test_stamps_of_tum_are_read(tmp_path: Path) -> None:
    write_tum(tmp_path, 3)
    (sequence,) = LAYOUTS['tum'](tmp_path)
    assert [view.stamp_sec for view in sequence.views] == pytest.approx([1000.0, 1000.2])


@pytest.mark.parametrize('step', [2, 4])
def test_depth_of_another_size_than_colour_has_a_scaled_camera(step: int, tmp_path: Path) -> None:
    write_plain(tmp_path, 1, depth_step=step)
    (sequence,) = LAYOUTS['plain'](tmp_path)
    assert sequence.image_size() == (480 // step, 640 // step)
    view = sequence.load(0, (48, 64))
    from_wall = np.abs(np.abs(view.world_points[view.valid]) - HALF).min(axis=1)
    assert np.median(from_wall) < 0.01 and from_wall.max() < 0.06


def test_depth_of_another_shape_than_colour_is_refused(tmp_path: Path) -> None:
    write_plain(tmp_path, 1, **SMALL)
    cv2.imwrite(str(tmp_path / 'walk/depth/0000.png'), np.ones((48, 48), np.uint16))
    with pytest.raises(DatasetError, match='0000.png: expected the aspect ratio of the 64x48'):
        list(LAYOUTS['plain'](tmp_path))


def test_plain_depth_is_not_cut_and_unknown_depth_is_left_out(tmp_path: Path) -> None:
    write_plain(tmp_path, 1, **SMALL)
    file = tmp_path / 'walk/depth/0000.png'
    depth = np.full((48, 64), 30_000, np.uint16)
    depth[0, :2] = 0, 65535
    cv2.imwrite(str(file), depth)
    (sequence,) = LAYOUTS['plain'](tmp_path)
    metres = sequence.read_depth(file)
    assert metres[0, :3].tolist() == [0.0, 0.0, 30.0] and (metres[1:] == 30.0).all()


def test_plain_images_may_have_gaps_and_poses_may_be_unknown(tmp_path: Path) -> None:
    write_plain(tmp_path, 5, first=7, **SMALL)
    for name in ('rgb/0008.png', 'depth/0008.png'):
        (tmp_path / 'walk' / name).unlink()
    poses = np.stack([pose(index).ravel() for index in (0, 2, 3, 4)])
    poses[1] = np.inf
    np.savetxt(tmp_path / 'walk/poses.txt', poses)
    (sequence,) = LAYOUTS['plain'](tmp_path)
    assert [(view.number, view.position) for view in sequence.views] == [(7, 0), (10, 2), (11, 3)]
    np.testing.assert_allclose(sequence.views[1].world_from_camera, pose(3), atol=1e-9)


def test_range_of_frames_has_both_ends(tmp_path: Path) -> None:
    write_nrgbd(tmp_path, 5, lost=2)
    (sequence,) = LAYOUTS['nrgbd'](tmp_path)
    assert [view.position for view in sequence.within(1, 3).views] == [1, 3]
    for first, last in ((0, 5), (3, 3), (3, 1), (-1, 2)):
        with pytest.raises(DatasetError, match=f'within 0 to 4, .* got {first} to {last}'):
            sequence.within(first, last)
    with pytest.raises(DatasetError, match='expected two views or more'):
        sequence.within(1, 2)


def test_range_is_split_from_a_folder() -> None:
    assert split_range('/data/a:0-259') == ('/data/a', (0, 259))
    assert split_range('/data/a-1:b') == ('/data/a-1:b', None)


def test_training_draws_views_of_the_range_only(tmp_path: Path) -> None:
    write_plain(tmp_path, 8, **SMALL)
    data = f'plain:{tmp_path}/walk:2-5'
    (sequence,) = recorded_sequences((data,))
    assert [view.number for view in sequence.views] == [2, 3, 4, 5]
    config = replace(recorded(tmp_path / 'other'), network=TINY, data=(data,), frame_gap=(1, 3),
                     color_jitter=False, stages=(Stage(1.0, (3,)),))
    source = open_sources(config, [0], 'cpu')[0]
    allowed = {sequence.load(index, (32, 48)).image.tobytes() for index in range(4)}
    batch = source.batch(6, 3, (32, 48), moment(config, 5), random.Random(0))
    drawn = {image.numpy().transpose(1, 2, 0).tobytes()
             for image in batch.images.flatten(0, 1)}
    assert drawn == allowed
    assert batch.valid.float().mean() > 0.99


@pytest.mark.parametrize('data', ['plain', 'plain:', 'flat:/data', ':0-2'])
def test_training_data_without_layout_or_folder_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match='data: expected LAYOUT:FOLDER'):
        list(recorded_sequences((data,)))
