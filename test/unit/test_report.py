# SPDX-License-Identifier: Apache-2.0
"""A run's table and picture show what there is, and what is missing."""
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from spann3r_ros.cli.commands.scores.report import find_faults, run_rows
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.core.types import StampedPose
from spann3r_ros.datasets.bag_truth import Truth
from spann3r_ros.evaluation.bag_comparison import AlignmentError, Comparison, compare
from spann3r_ros.evaluation.pictures.cloud_picture import cloud_content
from spann3r_ros.evaluation.pictures.map_picture import PANEL_WIDTH, Content, bounds, draw_map
from spann3r_ros.evaluation.pictures.splat import orbit_view, splat, top_view
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud

RUN = {'images': 60, 'received': 60, 'processed': 57, 'skipped': 1, 'dropped': 1, 'failed': 1,
       'wall_sec': 3.0, 'latencies_sec': [0.1] * 9 + [1.0], 'inference_sec': [0.05],
       'saved': True, 'message': 'wrote map.ply'}
SCALE, SHIFT = 2.0, np.array([3.0, 1.0, 1.5])


@pytest.fixture
def truth() -> Truth:
    """A walk round a box room, camera 1.5 above the floor."""
    rng = np.random.default_rng(0)
    walls = rng.uniform([0.0, 0.0, 0.0], [6.0, 4.0, 2.5], (3000, 3))
    walls[:1000, 2] = 0.0
    walls[1000:2000, 0] = 6.0
    walls[2000:, 2] = 2.5
    poses = []
    for index, angle in enumerate(np.linspace(0.0, 4.0, 20)):
        pose = np.eye(4)
        pose[:3, :3] = MAP_FROM_OPTICAL[:3, :3]
        pose[:3, 3] = [3 + 1.5 * np.cos(angle), 2 + np.sin(angle), 1.5]
        poses.append(StampedPose(index, 'camera', pose))
    outline = np.array([[0.0, 0, 0], [6, 0, 0], [6, 4, 0], [0, 4, 0]])
    return Truth(poses, walls, outline)


def estimate(truth: Truth, error: float = 0.0) -> tuple[VoxelCloud, list[StampedPose]]:
    """Return the truth as a map of half the size, elsewhere; `error` lifts the points."""
    points = ((truth.points + [0.0, 0.0, error] - SHIFT) / SCALE).astype(np.float32)
    poses = []
    for pose in truth.poses:
        matrix = pose.world_from_camera.copy()
        matrix[:3, 3] = (matrix[:3, 3] - SHIFT) / SCALE
        poses.append(replace(pose, world_from_camera=matrix))
    colors = np.tile(np.array([[200, 30, 30]], np.uint8), (len(points), 1))
    return VoxelCloud(points, colors, np.ones(len(points), np.float32)), poses


def test_perfect_map_of_another_scale_has_no_error(truth: Truth) -> None:
    found = compare(*estimate(truth), truth)
    assert found.alignment.scale == pytest.approx(SCALE, rel=2e-3)
    assert found.trajectory_error < 1e-6
    assert found.rotation_deg < 1e-3
    assert found.accuracy is not None and found.completion is not None
    assert max(found.accuracy.mean, found.completion.mean) < 0.01


def test_lifted_map_shows_in_accuracy(truth: Truth) -> None:
    found = compare(*estimate(truth, error=0.05), truth)
    assert found.accuracy is not None
    assert 0.02 < found.accuracy.mean <= 0.05 + 1e-6


def test_rough_path_does_not_shrink_the_map(truth: Truth) -> None:
    cloud, poses = estimate(truth)
    rng = np.random.default_rng(1)
    for pose in poses:
        pose.world_from_camera[:3, 3] += rng.normal(scale=0.5, size=3)
    found = compare(cloud, poses, truth)
    assert found.alignment.scale == pytest.approx(SCALE, rel=0.15)
    assert found.trajectory_error > 0.3


def test_foreign_stamps_admit_no_comparison(truth: Truth) -> None:
    cloud, poses = estimate(truth)
    poses = [replace(pose, stamp_ns=pose.stamp_ns + 10**9) for pose in poses]
    with pytest.raises(AlignmentError, match='got 0'):
        compare(cloud, poses, truth)


def count_color(picture: Path, color: tuple[int, int, int]) -> int:
    image = cv2.imread(str(picture))[..., ::-1].astype(int)
    return int((np.abs(image - color).max(axis=-1) < 12).sum())


def test_picture_shows_map_path_and_truth(truth: Truth, tmp_path: Path) -> None:
    cloud, poses = estimate(truth)
    poses[3].world_from_camera[:3, 3] += 0.2
    draw_map(tmp_path / 'map.png', cloud, poses, truth, compare(cloud, poses, truth))
    assert cv2.imread(str(tmp_path / 'map.png')).shape[1] == 2 * PANEL_WIDTH
    assert count_color(tmp_path / 'map.png', (200, 30, 30)) > 5000
    assert count_color(tmp_path / 'map.png', (255, 176, 0)) > 300
    assert count_color(tmp_path / 'map.png', (56, 224, 192)) > 50


def test_picture_needs_neither_truth_nor_path(truth: Truth, tmp_path: Path) -> None:
    cloud, _ = estimate(truth)
    draw_map(tmp_path / 'map.png', cloud, [], None, None)
    assert count_color(tmp_path / 'map.png', (200, 30, 30)) > 5000
    assert count_color(tmp_path / 'map.png', (56, 224, 192)) == 0


def test_top_view_has_x_to_the_right_and_y_up() -> None:
    view = top_view(np.array([0.0, 0.0]), np.array([10.0, 10.0]), 100, 100)
    np.testing.assert_allclose(view.project(np.array([[10.0, 10.0, 0.0]]))[0, :2], [100.0, 0.0])


def test_orbit_view_looks_at_its_target_with_z_up() -> None:
    target = np.array([1.0, 2.0, 3.0])
    view = orbit_view(target, 2.0, 30.0, 40.0, 200, 100)
    middle, above = view.project(np.stack([target, target + [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(middle[:2], [100.0, 50.0])
    assert above[0] == pytest.approx(100.0)
    assert above[1] < 50.0


def test_nearest_point_hides_the_others() -> None:
    view = top_view(np.array([-1.0, -1.0]), np.array([1.0, 1.0]), 20, 20)
    points = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    colors = np.diag([255, 255, 255]).astype(np.uint8)
    image = splat(view, points, colors, 4.0, (0, 0, 0), shaded=False)
    assert image[10, 10].tolist() == [0, 255, 0]
    assert image[0, 0].tolist() == [0, 0, 0]


def test_complete_run_has_no_fault() -> None:
    assert find_faults(RUN, voxels=5) == []


@pytest.mark.parametrize(('change', 'voxels', 'fault'), [
    ({'received': 59}, 5, '60 images in the bag, 59 received'),
    ({'processed': 56}, 5, '60 frames received, 59 finished'),
    ({}, 0, 'the map is empty'),
    ({'saved': False, 'message': 'disk full'}, 0, 'no map: disk full'),
])
def test_incomplete_run_is_a_fault(change: dict[str, int], voxels: int, fault: str) -> None:
    assert fault in find_faults(RUN | change, voxels)


def test_rows_give_rate_and_percentiles() -> None:
    rows = dict(run_rows(RUN))
    assert rows['frames per second'] == '19.3'
    assert rows['latency p50 / p95'] == '100 / 595 ms'
    assert rows['frames dropped'] == '1'


def test_table_columns_line_up() -> None:
    table = format_table(('name', 'value'), [('a', '1'), ('longer', '22')])
    assert table.splitlines() == ['name    value', '------  -----', 'a           1',
                                  'longer     22']


def test_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match='expected 2 cells'):
        format_table(('a', 'b'), [('1',)])


def test_comparison_without_points_has_no_cloud_errors(truth: Truth) -> None:
    bare = Truth(truth.poses, np.zeros((0, 3)), truth.outline)
    found: Comparison = compare(*estimate(truth), bare)
    assert found.accuracy is None and found.completion is None


@pytest.mark.parametrize(('poses', 'tilt_deg', 'follows_path', 'is_cut'), [
    (20, 0.0, True, True), (20, 0.0, False, True), (20, 40.0, False, False),
    (1, 0.0, False, False)])
def test_picture_of_photographs_is_without_the_ceiling_if_up_is_known(
        poses: int, tilt_deg: float, follows_path: bool, is_cut: bool, truth: Truth) -> None:
    cloud, trajectory = estimate(truth)
    tilt = np.eye(4)
    tilt[:2, :2] = cv2.getRotationMatrix2D((0.0, 0.0), tilt_deg, 1.0)[:, :2]
    trajectory = [replace(one, world_from_camera=one.world_from_camera @ tilt)
                  for one in trajectory[:poses]]
    content, found = cloud_content(cloud, trajectory, follows_path)
    assert found == is_cut
    ceiling = cloud.points[:, 2].max()
    assert (content.points[:, 2] > ceiling - 0.05).any() != is_cut
    assert len(content.colors) == len(content.points)
    assert len(content.path) == (poses if follows_path else 0)


def test_bounds_have_what_lies_beside_the_room_but_no_outliers() -> None:
    points = np.random.default_rng(0).uniform(0.0, 10.0, (2000, 3))
    points[:10, 0], points[10:12, 1] = 10.9, 500.0
    nothing = np.zeros((0, 3))
    low, high = bounds(Content(points, np.zeros((2000, 3), np.uint8), nothing, nothing, nothing,
                               'm'))
    assert (low <= points.min(axis=0)).all()
    assert high[0] == pytest.approx(10.9)
    assert high[1] < 12.0
