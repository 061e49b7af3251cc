# SPDX-License-Identifier: Apache-2.0
"""Cameras with given poses: the map is in metres and does not drift."""
from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, every_frame, failures, live_in_map, make_mapper, run
from synthetic import SyntheticNetwork, SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.types import Frame, FrameError, Pointmap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.tracking.known_poses import MAX_WAITING

FRAMES = 40
METRES_PER_UNIT = 2.5
# The network's own scale, and what it makes of a long way.
SPOILT = SyntheticOptions(index_from_image=True, stretch=1.0, drift=0.03)


def posed_frames(poses: list[np.ndarray], calibrated: bool = True) -> list[Frame]:
    frames = render_frames(SCENE, poses, CAMERA, calibrated, indexed=True)
    return [replace(frame, world_from_camera=pose)
            for frame, pose in zip(frames, poses, strict=True)]


@pytest.fixture(scope='module')
def orbit() -> list[np.ndarray]:
    return orbit_trajectory(FRAMES)


@pytest.mark.parametrize('calibrated', [True, False])
def test_map_is_placed_by_the_poses_in_metres(orbit: list[np.ndarray],
                                                  calibrated: bool) -> None:
    mapper = make_mapper(orbit, replace(SPOILT, unit=METRES_PER_UNIT))
    frames = posed_frames(orbit, calibrated)
    run(mapper, frames)
    errors = SCENE.distances(mapper.cloud().points)
    assert np.median(errors) < 0.02
    assert np.quantile(errors, 0.95) < 0.06
    assert [pose.stamp_ns for pose in mapper.trajectory] == [one.stamp_ns for one in frames]
    assert all(np.array_equal(pose.world_from_camera, known)
               for pose, known in zip(mapper.trajectory, orbit, strict=True))
    scale = mapper.status().scale
    assert (scale.metric, scale.value, scale.source) == (True, 1.0, 'poses')
    assert 0.0 < scale.variance < 0.01


def test_without_given_poses_the_same_network_drifts(orbit: list[np.ndarray]) -> None:
    mapper = make_mapper(orbit, SPOILT)
    frames = [replace(frame, world_from_camera=None) for frame in posed_frames(orbit)]
    run(mapper, frames)
    last = mapper.trajectory[-1].world_from_camera[:3, 3]
    truth = np.linalg.inv(orbit[0]) @ orbit[-1]
    assert abs(np.linalg.norm(last) - np.linalg.norm(truth[:3, 3])) > 0.3


def test_keyframes_wait_until_the_camera_moves(orbit: list[np.ndarray]) -> None:
    still = [orbit[0]] * 5 + orbit[:6]
    mapper = make_mapper(still, replace(SPOILT, drift=0.0))
    frames = posed_frames(still)
    updates = [mapper.process(frame) for frame in frames]
    counts = [len(update.keyframes) for update in updates]
    assert counts[:6] == [0] * 6
    first = next(index for index, count in enumerate(counts) if count)
    assert counts[first] == first  # all before it, none twice
    assert counts[first + 1:] == [1] * (len(counts) - first - 1)
    stamps = [keyframe.stamp_ns for update in updates for keyframe in update.keyframes]
    assert stamps == [frame.stamp_ns for frame in frames[:-1]]
    # The pose is known at once, scale or none.
    assert all(np.array_equal(live_in_map(update).world_from_camera, frame.world_from_camera)
               for update, frame in zip(updates, frames, strict=True))


def test_a_camera_that_does_not_move_maps_nothing_and_logs_it(
        orbit: list[np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
    count = MAX_WAITING + 3
    mapper = make_mapper([orbit[0]] * count, replace(SPOILT, drift=0.0))
    with caplog.at_level(logging.WARNING):
        updates = run(mapper, posed_frames([orbit[0]] * count))
    assert not any(update.keyframes for update in updates)
    assert mapper.status().voxels == 0
    assert not mapper.status().scale.metric
    assert 'does not move enough' in caplog.text
    assert f'{MAX_WAITING} keyframes are left out' in caplog.text


def test_a_frame_without_a_solution_affects_no_other(orbit: list[np.ndarray]) -> None:
    mapper = make_mapper(orbit, replace(SPOILT, fault_at=1, fault='not_finite'))
    frames = posed_frames(orbit)
    for frame in frames[:2]:
        mapper.process(frame)
    update = mapper.process(frames[2])
    assert update.error_of(frames[1]) and 'confidence above 0' in failures(update)[0]
    for frame in frames[3:10]:
        mapper.process(frame)
    mapper.flush()
    assert [pose.stamp_ns for pose in mapper.trajectory] == [
        frames[index].stamp_ns for index in range(10) if index != 1]


def test_fragments_are_placed_by_pose(orbit: list[np.ndarray]) -> None:
    mapper = make_mapper(orbit, replace(SPOILT, stretch=1.7))
    frames = posed_frames(orbit)
    for index, frame in enumerate(frames):
        if index and index % 10 == 0:
            mapper.new_fragment()
        mapper.process(frame)
    mapper.flush()
    assert mapper.status().fragment_id == 3
    assert [pose.stamp_ns for pose in mapper.trajectory] == [one.stamp_ns for one in frames]
    errors = SCENE.distances(mapper.cloud().points)
    assert np.median(errors) < 0.03
    assert np.quantile(errors, 0.95) < 0.1


def test_a_network_that_lost_the_camera_begins_a_fragment(orbit: list[np.ndarray]) -> None:
    network = SyntheticNetwork(SCENE, orbit, replace(SPOILT, drift=0.0), CAMERA)
    mapper = Mapper(network, every_frame())
    answer, rng = network._pointmap, np.random.default_rng(0)

    def lost(index: int, origin: int) -> Pointmap:
        pointmap = answer(index, origin)
        if network._fragments > 0 or index < 10:
            return pointmap
        return replace(pointmap, points=rng.normal(0.0, 2.0, pointmap.points.shape))

    network._pointmap = lost
    frames = posed_frames(orbit)[:30]
    failed = [frames.index(one.frame) for update in run(mapper, frames) for one in update.failed]
    assert failed == [10, 11]  # the frame after them was processed again after the restart
    assert mapper.status().fragment_id == 1
    assert mapper.status().memory.last_reset_reason == 'the network lost the camera'
    assert len(mapper.trajectory) == 28


def test_an_unusable_first_frame_leaves_no_state(orbit: list[np.ndarray]) -> None:
    """Without calibration: not even its estimate of the focal length."""
    network = SyntheticNetwork(SCENE, orbit, replace(SPOILT, drift=0.0), CAMERA)
    mapper = Mapper(network, every_frame())
    answer, rng = network._pointmap, np.random.default_rng(0)
    network._pointmap = lambda index, origin: answer(index, origin) if index else replace(
        answer(index, origin), points=rng.normal(0.0, 2.0, (96, 96, 3)))
    frames = posed_frames(orbit, calibrated=False)
    mapper.process(frames[0])
    assert mapper.process(frames[1]).error_of(frames[0])
    for frame in frames[2:9]:
        mapper.process(frame)
    mapper.flush()
    assert [pose.stamp_ns for pose in mapper.trajectory] == [
        frame.stamp_ns for frame in frames[1:9]]


def test_a_metric_map_stays_metric_in_a_new_fragment(orbit: list[np.ndarray]) -> None:
    mapper = make_mapper(orbit, SPOILT)
    frames = posed_frames(orbit)
    assert mapper.status().scale.source == 'none'
    for frame in frames[:8]:
        mapper.process(frame)
    mapper.new_fragment()
    mapper.process(frames[8])
    assert (mapper.status().fragment_id, mapper.status().scale.metric) == (1, True)


def test_frames_with_and_without_a_pose_do_not_mix(orbit: list[np.ndarray]) -> None:
    frames = posed_frames(orbit)
    bare = [replace(frame, world_from_camera=None) for frame in frames]
    for first, second in ((frames, bare), (bare, frames)):
        mapper = make_mapper(orbit, SPOILT)
        mapper.process(first[0])
        with pytest.raises(FrameError, match='with every frame of a map, or with none'):
            mapper.process(second[1])
        mapper.process(first[1])
        mapper.reset()
        mapper.process(second[2])


@pytest.mark.parametrize('pose', [np.eye(3), np.diag([1.0, 1.0, -1.0, 1.0]), 2 * np.eye(4),
                                  np.full((4, 4), np.nan)])
def test_a_pose_that_is_not_rigid_is_refused(orbit: list[np.ndarray], pose: np.ndarray) -> None:
    mapper = make_mapper(orbit, SPOILT)
    frame = replace(posed_frames(orbit[:1])[0], world_from_camera=pose)
    with pytest.raises(FrameError, match='world_from_camera: expected a rigid transform'):
        mapper.process(frame)


def test_automatic_voxels_measure_depth_from_the_camera(orbit: list[np.ndarray]) -> None:
    far = np.eye(4)
    far[:3, 3] = 100.0, -50.0, 3.0
    sizes = []
    for shift in (np.eye(4), far):
        moved = [shift @ pose for pose in orbit]
        mapper = make_mapper(orbit, replace(SPOILT, drift=0.0),
                             every_frame(MapperConfig(voxel_map=VoxelMapConfig(voxel_size=0.0))))
        frames = [replace(frame, world_from_camera=pose)
                  for frame, pose in zip(posed_frames(orbit), moved, strict=True)]
        run(mapper, frames[:8])
        sizes.append(mapper.voxel_map.voxel_size)
    depth = np.median(SCENE.render(orbit[0], CAMERA)[1][..., 2])
    assert sizes == pytest.approx([0.01 * depth] * 2, rel=0.02)


@pytest.mark.parametrize('jump_m', [1.0, 100.0])
def test_a_localisation_that_jumps_leaves_what_was_mapped_before_where_it_is(
        orbit: list[np.ndarray], jump_m: float, caplog: pytest.LogCaptureFixture) -> None:
    """The scale of the depth does not suffer, and each half of the map follows its poses."""
    frames, half = posed_frames(orbit), FRAMES // 2
    shift = np.array([jump_m, -0.5 * jump_m, 0.0])
    for index in range(half, FRAMES):
        moved = orbit[index].copy()
        moved[:3, 3] += shift
        frames[index] = replace(frames[index], world_from_camera=moved)
    mapper = make_mapper(orbit, replace(SPOILT, unit=METRES_PER_UNIT))
    with caplog.at_level(logging.WARNING):
        keyframes = [(update.places[one.fragment_id], one) for update in run(mapper, frames)
                     for one in update.keyframes]
    assert len(keyframes) == FRAMES
    for index, (place, keyframe) in enumerate(keyframes):
        points = keyframe.points_in(place) - (shift if index >= half else 0.0)
        assert np.nanmedian(SCENE.distances(points.reshape(-1, 3))) < 0.03
    (record,) = caplog.records
    metres = float(record.getMessage().removeprefix('the given poses jumped by ').split()[0])
    assert metres == pytest.approx(np.linalg.norm(shift), abs=0.3)  # the camera moves, too


@pytest.mark.parametrize('back_ns', [0, 50 * 10**9])
def test_a_frame_after_a_jump_back_of_the_stamps_has_no_speed(
        back_ns: int, orbit: list[np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
    mapper = make_mapper(orbit, replace(SPOILT, drift=0.0))
    frames = posed_frames(orbit)
    for frame in frames[:10]:
        mapper.process(frame)
    far = frames[9].world_from_camera.copy()
    far[:3, 3] += 3.0
    mapper.process(replace(frames[10], stamp_ns=frames[9].stamp_ns - back_ns,
                           world_from_camera=far))
    update = mapper.flush()
    assert update.failed == () and len(update.keyframes) == 1
    assert not any('the given poses jumped' in one.getMessage() for one in caplog.records)
