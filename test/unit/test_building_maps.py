# SPDX-License-Identifier: Apache-2.0
"""A building's recording mapped from its bag, its scores, its picture; the short long path."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spann3r_ros.core.types import Frame
from spann3r_ros.datasets.bag_truth import read_truth
from spann3r_ros.datasets.bags import CameraBag
from spann3r_ros.evaluation.building_scores import (
    align_poses,
    score_building,
    score_loops,
)
from spann3r_ros.evaluation.pictures.building_picture import draw_building_map
from spann3r_ros.mapping.fragments.atlas import Constraint
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.storage.map_directory import encode_map, read_map
from spann3r_ros.pipeline.transform_tree import StampedTransform, TransformTree
from spann3r_ros.rooms.buildings.building_views import base_from_camera, on_floor
from spann3r_ros.tools.building_bag import (
    START_NS,
    BuildingRecording,
    write_building_bag,
)
from spann3r_ros.tools.recorded_views import TrueViews
from spann3r_ros.tools.simulated_network import SimulatedNetwork, SimulatedSettings

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import long_path

RECORDING = BuildingRecording(frames=60, width=64, height=48, network_width=64, network_height=48)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrueViews]:
    path = tmp_path_factory.mktemp('building') / 'bag'
    return path, write_building_bag(path, RECORDING)


def test_bag_has_images_calibration_and_truth(bag: tuple[Path, TrueViews]) -> None:
    with CameraBag(bag[0]) as opened:
        assert opened.count == RECORDING.frames and opened.is_compressed
        assert opened.has('camera_info') and opened.has('tf') and opened.has('tf_static')
    truth = read_truth(bag[0])
    assert np.allclose(np.stack([one.world_from_camera for one in truth.poses]), bag[1].poses,
                       atol=1e-6)
    size = RECORDING.building().plan.size
    assert (truth.points > -0.05).all() and (truth.points < size + 0.05).all()


def to_transform(message: Any) -> StampedTransform:  # noqa: ANN401
    stamp, move = message.header.stamp, message.transform
    return StampedTransform(
        message.header.frame_id, message.child_frame_id, stamp.sec * 10**9 + stamp.nanosec,
        tuple(getattr(move.translation, axis) for axis in 'xyz'),
        tuple(getattr(move.rotation, axis) for axis in 'xyzw'))


def test_transforms_in_the_bag_are_those_of_the_wheels(bag: tuple[Path, TrueViews]) -> None:
    tree = TransformTree(keep_sec=600.0)
    with CameraBag(bag[0]) as opened:
        for role, _, message in opened.messages():
            for one in message.transforms if role in ('tf', 'tf_static') else ():
                tree.take(to_transform(one), static=role == 'tf_static')
    walk = RECORDING.walk(RECORDING.building())
    wheels = on_floor(walk.odometry[::5])
    for index in (0, 17, RECORDING.frames - 1):
        found = tree.lookup('odom', 'camera_optical_frame', START_NS + index * 10**8)
        assert np.allclose(found, wheels[index] @ base_from_camera(), atol=1e-6)
    # The wheels err.
    first, last = (walk.poses[index] for index in (0, -1))
    assert np.linalg.norm(first[:2] - last[:2]) < 0.01 < np.linalg.norm(walk.odometry[-1, :2])


@pytest.fixture(scope='module')
def mapped(bag: tuple[Path, TrueViews]) -> Mapper:
    """Return a map of two fragments, which follow the truth but for the network's errors."""
    views, images = bag[1], []
    with CameraBag(bag[0]) as opened:
        images = [cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)[..., ::-1]
                  for role, _, message in opened.messages() if role == 'image']
    settings = SimulatedSettings(depth_error=0.005, unit_spread=0.0)
    mapper = Mapper(SimulatedNetwork(views, settings),
                    MapperConfig(voxel_map=VoxelMapConfig(voxel_size=0.02)))
    for index, image in enumerate(images):
        if index == RECORDING.frames // 2:
            mapper.new_fragment()
        stamp_ns = START_NS + index * 10**8
        update = mapper.process(Frame(stamp_ns, 'camera', np.ascontiguousarray(image),
                                      views.camera))
        assert not update.failed
    return mapper


def test_scores_of_a_good_map(bag: tuple[Path, TrueViews], mapped: Mapper,
                              tmp_path: Path) -> None:
    encode_map(mapped).write(tmp_path)
    truth, plan = read_truth(bag[0]), RECORDING.building().plan
    scores = score_building(tmp_path, truth.poses, plan)
    # With so few images the robot turns by 40 degrees from one to the next.
    assert scores.trajectory_error < 0.05 * scores.path_length
    assert 1.0 + scores.scale_error == pytest.approx(0.37, rel=0.1)
    assert scores.loops == ()
    walls = [('before', None), ('after', scores)]
    draw_building_map(tmp_path / 'map.png', plan, scores.path, walls, None, 0.05)
    assert (tmp_path / 'map.png').stat().st_size > 20_000
    with pytest.raises(ValueError, match='expected 3 or more poses'):
        score_building(tmp_path, truth.poses[:2], plan)


def test_loops_are_true_where_they_place_a_fragment_rightly(
        bag: tuple[Path, TrueViews], mapped: Mapper, tmp_path: Path) -> None:
    atlas = mapped._front_end.state.atlas
    first, second = atlas.fragments.values()
    measured = np.linalg.inv(first.map_from_fragment) @ second.map_from_fragment
    wrong = measured.copy()
    wrong[:3, 3] += 0.37 * 1.5 * np.eye(3)[0]
    before = list(atlas.constraints)
    atlas.constraints += [Constraint('loop', first.id, second.id, measured),
                          Constraint('loop', first.id, second.id, wrong)]
    encode_map(mapped).write(tmp_path)
    atlas.constraints[:] = before
    truth = {pose.stamp_ns: pose.world_from_camera for pose in read_truth(bag[0]).poses}
    found = score_loops(read_map(tmp_path), truth)
    assert [one.is_true for one in found] == [True, False]
    assert found[1].error_m - found[0].error_m == pytest.approx(1.5, abs=0.5)


def test_straight_paths_are_aligned_by_their_orientations() -> None:
    true = on_floor([[0.5 * index, 1.0, 0.0] for index in range(5)])
    turned = on_floor([[3.0, 2.0, 0.4]])[0] @ true
    turned[:, :3, 3] /= 2.0
    found = align_poses(turned, true)
    assert found.scale == pytest.approx(2.0)
    assert np.allclose(found.apply(turned[:, :3, 3]), true[:, :3, 3], atol=1e-9)


def test_short_long_path_stays_within_its_bounds() -> None:
    """The shortened form of `make bench-long`."""
    frames = 60
    views, images = long_path.render(long_path.long_building(0.1 * frames), frames)
    run = long_path.measure(views, images, fragment_frames=4, max_voxels=20_000)
    assert long_path.faults(run, max_voxels=20_000) == []
    assert 10 <= run.fragments[-1] <= 15 and run.constraints[-1] == run.fragments[-1] - 1
    assert [one.frame for one in run.corrections] == list(range(5, 60, 6))
    assert run.trajectory_error_m < 0.05 * run.path_m and not run.failures
    # A bound that is exceeded is found.
    assert 'voxels, bound 1000' in long_path.faults(run, max_voxels=1000)[0]
    assert 'cells of evidence, bound 1000' in long_path.faults(run, 20_000, max_cells=1000)[0]
    assert run.corrections[-1].loops == 1 and run.corrections[-1].solve_ms > 0.0
