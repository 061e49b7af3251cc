# SPDX-License-Identifier: Apache-2.0
"""Videos with true depth: the views that the mapper sees, stamps, bad files, a real recording."""
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded_rooms import HALF, write_plain

from spann3r_ros.datasets.layouts import RATES, detect_layout, read_videos
from spann3r_ros.datasets.rgbd import DatasetError, unproject
from spann3r_ros.evaluation.rgbd.true_views import load_views, open_video

SQUARE = {'camera': (90.0, 90.0, 47.5, 47.5), 'size': (96, 96)}


@pytest.mark.parametrize('calibrated', [True, False])
def test_true_views_lie_on_the_walls_in_the_window_of_the_mapper(
        calibrated: bool, tmp_path: Path) -> None:
    write_plain(tmp_path, 2, camera=(150.0, 152.0, 70.3, 66.8), size=(160, 120), depth_step=2)
    (sequence,) = read_videos(tmp_path, 'plain')
    views = load_views(open_video(sequence, None, 10.0), (48, 48), calibrated)
    # About the principal point at column 70 and row 67, or about the middle.
    assert views.intrinsics.cx == pytest.approx(23.5, abs=0.5) or not calibrated
    assert calibrated or views.intrinsics.cx < 20.5
    for index in range(2):
        known = views.depth[index] > 0.0
        points = views.world_points(index)[known]
        from_wall = np.abs(np.abs(points) - HALF).min(axis=1)
        assert known.all() and np.median(from_wall) < 0.02 and from_wall.max() < 0.08
        painted = 127.5 + 127.5 * np.sin(5.0 * points)
        assert np.median(np.abs(views.images[index][known][:, ::-1] - painted)) < 6.0


def test_stamps_are_those_of_the_recording_or_of_the_rate(tmp_path: Path) -> None:
    write_plain(tmp_path, 4, **SQUARE)
    (sequence,) = read_videos(tmp_path, 'plain')
    sequence = sequence.select([0, 2, 3])
    assert open_video(sequence, 20.0, 10.0).stamps_ns == (0, 100_000_000, 150_000_000)
    stamped = replace(sequence, views=tuple(replace(view, stamp_sec=1000.25 + view.position)
                                            for view in sequence.views))
    assert open_video(stamped, None, 10.0).stamps_ns[1] == 1_002_250_000_000
    backwards = replace(stamped, views=stamped.views[::-1])
    with pytest.raises(DatasetError, match='walk: expected stamps that increase'):
        open_video(backwards, None, 10.0)
    with pytest.raises(ValueError, match='rate: expected images per second above 0, got 0'):
        open_video(sequence, 0.0, 10.0)


def test_bad_images_and_depth_are_refused(tmp_path: Path) -> None:
    write_plain(tmp_path, 2, **SQUARE)
    (sequence,) = read_videos(tmp_path, 'plain')
    nothing = replace(sequence, read_depth=lambda path: np.zeros((96, 96), np.float32))
    with pytest.raises(DatasetError, match='walk: expected depth, got none'):
        load_views(open_video(nothing, None, 10.0), (32, 32), True)
    write_plain(tmp_path / 'other', 1, **SQUARE | {'size': (48, 48)})
    sequence.views[1].color.write_bytes((tmp_path / 'other/walk/rgb/0000.png').read_bytes())
    with pytest.raises(DatasetError, match='0001.png: expected 96x96 pixels .* got 48x48'):
        load_views(open_video(sequence, None, 10.0), (32, 32), True)


def test_depth_and_poses_of_a_real_recording_agree() -> None:
    folder = os.environ.get('SPANN3R_RGBD')
    if not folder:
        pytest.skip('SPANN3R_RGBD: no folder of a recording with depth and poses given')
    layout = detect_layout(Path(folder))
    sequence = next(read_videos(Path(folder), layout))
    views = load_views(open_video(sequence.select([0, 5]), None, RATES.get(layout, 10.0)),
                       (96, 96), True)
    camera = views.intrinsics
    moved = (unproject(views.depth[0], camera).reshape(-1, 3)[views.depth[0].ravel() > 0.0]
             @ views.poses[0, :3, :3].T + views.poses[0, :3, 3] - views.poses[1, :3, 3]
             ) @ views.poses[1, :3, :3]
    columns = np.round(camera.fx * moved[:, 0] / moved[:, 2] + camera.cx).astype(int)
    rows = np.round(camera.fy * moved[:, 1] / moved[:, 2] + camera.cy).astype(int)
    inside = (moved[:, 2] > 0.1) & (columns >= 0) & (columns < 96) & (rows >= 0) & (rows < 96)
    second = views.depth[1][rows[inside], columns[inside]]
    ratio = second[second > 0.0] / moved[inside][second > 0.0, 2]
    assert len(ratio) > 500 and np.median(np.abs(ratio - 1.0)) < 0.03
