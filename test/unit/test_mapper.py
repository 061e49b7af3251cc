# SPDX-License-Identifier: Apache-2.0
"""The mapper on rendered rooms: poses, axes, bounds, and the effect of wrong pointmaps."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mapper_runs import (
    CAMERA,
    SCENE,
    every_frame,
    failures,
    live_in_map,
    located,
    make_mapper,
    pose_errors,
    run,
)
from scipy.spatial.transform import Rotation
from synthetic import (
    SyntheticNetwork,
    SyntheticOptions,
    look_at,
    orbit_trajectory,
    render_frames,
)

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import invert, map_axes, transform_points
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.core.views import preprocess
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    KeyframeConfig,
    MapperConfig,
    PoseConfig,
    VoxelMapConfig,
)
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.pipeline.runner import run_frames

LIMIT_M, LIMIT_DEG = 0.01, 0.5
CORRUPTED = SyntheticOptions(corrupted_fraction=0.3)
EVERYONE_VOTES = PoseConfig(min_confidence=0.0, best_fraction=1.0)


@pytest.fixture(scope='module')
def orbit() -> tuple[list[np.ndarray], list[Frame]]:
    poses = orbit_trajectory(60)
    return poses, render_frames(SCENE, poses, CAMERA)


@pytest.fixture(scope='module')
def mapped(orbit: tuple[list[np.ndarray], list[Frame]]) -> tuple[Mapper, list[MapUpdate]]:
    mapper = make_mapper(orbit[0])
    return mapper, run(mapper, orbit[1])


def test_orbit_recovers_every_pose(
        orbit: tuple[list[np.ndarray], list[Frame]],
        mapped: tuple[Mapper, list[MapUpdate]]) -> None:
    (poses, frames), (mapper, updates) = orbit, mapped
    assert [pose.stamp_ns for pose in mapper.trajectory] == [frame.stamp_ns for frame in frames]
    distance, angle = pose_errors(mapper.trajectory, poses, frames)
    assert distance <= LIMIT_M
    assert angle <= LIMIT_DEG

    live = [live_in_map(update) for update in updates if update.live_pose]
    # Intrinsics come with the frames, so only the very first one has no live pose.
    assert [pose.stamp_ns for pose in live] == [frame.stamp_ns for frame in frames[1:]]
    distance, angle = pose_errors(live, poses, frames)
    assert distance <= LIMIT_M
    assert angle <= LIMIT_DEG


def test_orbit_without_calibration_recovers_every_pose(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    mapper = make_mapper(poses)
    updates = run(mapper, [replace(frame, intrinsics=None) for frame in frames])
    keyframe = next(update.keyframes[0] for update in updates if update.keyframes)
    assert keyframe.intrinsics.fx == pytest.approx(CAMERA.fx, rel=0.01)
    distance, angle = pose_errors(mapper.trajectory, poses, frames)
    assert distance <= LIMIT_M
    assert angle <= LIMIT_DEG


def test_wrong_points_of_low_confidence_do_not_move_poses(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    mapper = make_mapper(poses, CORRUPTED)
    run(mapper, frames)
    assert len(mapper.trajectory) == len(frames)
    distance, angle = pose_errors(mapper.trajectory, poses, frames)
    assert distance <= LIMIT_M
    assert angle <= LIMIT_DEG


def test_ignoring_confidence_exceeds_the_limit_of_the_error(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit[0][:20], orbit[1][:20]
    mapper = make_mapper(poses, CORRUPTED, every_frame(MapperConfig(pose=EVERYONE_VOTES)))
    run(mapper, frames)
    distance, _ = pose_errors(mapper.trajectory, poses, frames)
    assert distance > LIMIT_M


def test_pure_forward_motion_moves_along_map_x() -> None:
    start = np.array([-1.8, 0.0, 1.2])
    poses = [look_at(start + [0.1 * n, 0.0, 0.0], np.array([2.0, 0.0, 1.2])) for n in range(4)]
    mapper = make_mapper(poses)
    run(mapper, render_frames(SCENE, poses, CAMERA))
    np.testing.assert_allclose(mapper.trajectory[-1].world_from_camera[:3, 3], [0.3, 0.0, 0.0],
                               atol=LIMIT_M)


def test_level_floor_is_flat_and_below(
        orbit: tuple[list[np.ndarray], list[Frame]],
        mapped: tuple[Mapper, list[MapUpdate]]) -> None:
    # The first camera is level, 1.2 m above the floor.
    floor_z = []
    for pose, update in zip(orbit[0], mapped[1][1:], strict=True):
        world_z = transform_points(pose, SCENE.render(pose, CAMERA)[1])[..., 2]
        floor_z.append(located(update)[0].pointmap.points[..., 2][world_z < 1e-6])
    floor_z = np.concatenate(floor_z)
    assert len(floor_z) > 10_000
    assert np.abs(floor_z + 1.2).max() < 0.02

    z = mapped[0].cloud().points[:, 2]
    assert z.min() == pytest.approx(-1.2, abs=0.02)
    assert z.max() == pytest.approx(SCENE.room[1, 2] - 1.2, abs=0.02)


def test_revisiting_adds_few_voxels() -> None:
    poses = orbit_trajectory(20) * 2
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses)
    for frame in frames[:21]:
        mapper.process(frame)
    once = mapper.status().voxels
    for frame in frames[21:]:
        mapper.process(frame)
    mapper.flush()
    assert once > 1000
    assert mapper.status().voxels < 1.05 * once


def test_second_run_is_bit_identical() -> None:
    poses = orbit_trajectory(8)
    frames = render_frames(SCENE, poses, CAMERA)
    clouds, paths = [], []
    for _ in range(2):
        mapper = make_mapper(poses, SyntheticOptions(noise=0.01))
        run(mapper, frames)
        clouds.append(mapper.cloud())
        paths.append(np.stack([pose.world_from_camera for pose in mapper.trajectory]))
    np.testing.assert_array_equal(clouds[0].points, clouds[1].points)
    np.testing.assert_array_equal(clouds[0].colors, clouds[1].colors)
    np.testing.assert_array_equal(paths[0], paths[1])


def test_keyframe_points_are_in_map_axes_and_reproject() -> None:
    poses = orbit_trajectory(30)[:4]
    frames = render_frames(SCENE, poses, CAMERA)
    keyframe = located(run(make_mapper(poses), frames)[3])[0]
    assert keyframe.stamp_ns == frames[2].stamp_ns
    camera_from_map = invert(keyframe.world_from_camera)
    seen = keyframe.pointmap.points @ camera_from_map[:3, :3].T + camera_from_map[:3, 3]
    u = seen[..., 0] / seen[..., 2] * keyframe.intrinsics.fx + keyframe.intrinsics.cx
    columns = np.broadcast_to(np.arange(96), (96, 96))
    assert np.abs(u - columns).max() < 0.5


def test_first_frame_completes_no_keyframe_and_flush_returns_the_last() -> None:
    poses = orbit_trajectory(20)[:3]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses)
    updates = run(mapper, frames)
    assert (updates[0].keyframes, updates[0].live_pose) == ((), None)
    stamps = [update.keyframes[0].stamp_ns for update in updates[1:]]
    assert stamps == [frame.stamp_ns for frame in frames]


def test_one_frame_makes_no_map() -> None:
    poses = orbit_trajectory(20)[:1]
    mapper = make_mapper(poses)
    updates = run(mapper, render_frames(SCENE, poses, CAMERA))
    assert not updates[-1].keyframes
    assert mapper.status().voxels == 0


def test_flush_closes_until_reset() -> None:
    poses = orbit_trajectory(20)[:6]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses)
    run(mapper, frames[:3])
    with pytest.raises(FrameError, match='reset'):
        mapper.process(frames[3])
    mapper.reset()
    mapper.process(frames[3])
    mapper.process(frames[4])
    assert mapper.status().keyframes == 1


def test_reset_empties_the_map_and_begins_a_fragment() -> None:
    poses = orbit_trajectory(20)[:6]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses)
    for frame in frames[:3]:
        mapper.process(frame)
    before = mapper.status()
    mapper.reset()
    after = mapper.status()
    assert before.voxels > 0
    assert (after.voxels, after.keyframes, len(mapper.trajectory)) == (0, 0, 0)
    assert after.fragment_id == before.fragment_id + 1
    assert after.memory.resets == 1


@pytest.mark.parametrize('fault', ['not_finite', 'no_confidence'])
def test_unusable_pointmap_fails_one_frame_and_leaves_the_map(fault: str) -> None:
    poses = orbit_trajectory(30)[:7]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses, SyntheticOptions(fault_at=3, fault=fault))
    for frame in frames[:4]:
        mapper.process(frame)
    voxels = mapper.status().voxels
    update = mapper.process(frames[4])
    assert [one.frame for one in update.failed] == [frames[3]]
    assert 'pointmap' in failures(update)[0]
    assert mapper.status().voxels == voxels
    # The fault is that of frame 3: frame 4 has a live pose and a prior as any other.
    assert update.live_pose is not None
    mapper.process(frames[5])
    mapper.process(frames[6])
    assert [pose.stamp_ns for pose in mapper.trajectory] == [
        frames[n].stamp_ns for n in (0, 1, 2, 4, 5)]
    assert np.isfinite(mapper.cloud().points).all()


def test_error_at_the_end_of_a_recording_is_one_of_its_last_frame() -> None:
    poses = orbit_trajectory(30)[:4]
    frames = render_frames(SCENE, poses, CAMERA)
    # The pointmap of the last frame comes with the flush.
    run = run_frames(make_mapper(poses, SyntheticOptions(fault_at=3, fault='not_finite')), frames)
    [(frame, error)] = run.failures
    assert frame is frames[3] and 'pointmap' in str(error)


def test_frame_refused_by_the_network_affects_no_other() -> None:
    poses = orbit_trajectory(30)[:6]
    frames = render_frames(SCENE, poses, CAMERA, indexed=True)
    mapper = make_mapper(poses, SyntheticOptions(fault_at=3, index_from_image=True))
    for frame in frames[:3]:
        mapper.process(frame)
    update = mapper.process(frames[3])
    assert update.error_of(frames[3]) and 'frame 3' in failures(update)[0]
    mapper.process(frames[4])
    mapper.process(frames[5])
    distance, _ = pose_errors(mapper.trajectory, poses, frames)
    assert len(mapper.trajectory) == 4
    assert distance <= LIMIT_M


@pytest.mark.parametrize('change, reason', [
    ({'rgb': np.zeros((64, 64, 3), np.uint8)},
     r'rgb: expected height and width \(96, 96\).*\(64, 64\)'),
    ({'frame_id': 'other'}, "frame_id: expected images of 'camera' as before, got 'other'")])
def test_another_camera_is_refused_by_name(change: dict, reason: str) -> None:
    poses = orbit_trajectory(30)[:3]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses)
    mapper.process(frames[0])
    mapper.process(frames[1])
    with pytest.raises(FrameError, match=reason):
        mapper.process(replace(frames[2], **change))
    assert mapper.process(frames[2]).keyframes


def test_skipped_frames_are_counted_and_not_processed() -> None:
    poses = orbit_trajectory(30)[:9]
    frames = render_frames(SCENE, poses, CAMERA, indexed=True)
    mapper = make_mapper(poses, SyntheticOptions(index_from_image=True),
                         every_frame(MapperConfig(keyframes=KeyframeConfig(stride=3))))
    updates = run(mapper, frames)
    assert [update.skipped for update in updates[:-1]] == [False, True, True] * 3
    assert mapper.status().skipped == 6
    assert [pose.stamp_ns for pose in mapper.trajectory] == [
        frames[n].stamp_ns for n in (0, 3, 6)]


def test_live_pose_can_be_switched_off() -> None:
    poses = orbit_trajectory(30)[:3]
    updates = run(make_mapper(poses, config=every_frame(MapperConfig(live_pose=False))),
                  render_frames(SCENE, poses, CAMERA))
    assert all(update.live_pose is None for update in updates)


def test_voxels_stay_within_the_bound() -> None:
    poses = orbit_trajectory(16)
    config = every_frame(MapperConfig(voxel_map=VoxelMapConfig(max_voxels=6000)))
    mapper = make_mapper(poses, config=config)
    for frame in render_frames(SCENE, poses, CAMERA):
        mapper.process(frame)
        assert mapper.status().voxels <= 6000
    assert mapper.status().voxels_evicted > 0


def test_path_is_bounded() -> None:
    poses = orbit_trajectory(30)[:6]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses, config=every_frame(MapperConfig(path_max_size=2)))
    run(mapper, frames)
    assert [pose.stamp_ns for pose in mapper.trajectory] == [
        frame.stamp_ns for frame in frames[-2:]]


@pytest.mark.parametrize(('pitch_deg', 'roll_deg'), [(-25.0, 0.0), (15.0, 10.0), (-5.0, -20.0)])
def test_floor_is_flat_when_gravity_is_given(pitch_deg: float, roll_deg: float) -> None:
    poses = []
    for pose in orbit_trajectory(8):
        tilt = Rotation.from_euler('xz', [pitch_deg, roll_deg], degrees=True).as_matrix()
        poses.append(pose.copy())
        poses[-1][:3, :3] = pose[:3, :3] @ tilt
    frames = [replace(frame, first_pose=map_axes(pose[:3, :3].T @ [0.0, 0.0, 1.0]))
              for frame, pose in zip(render_frames(SCENE, poses, CAMERA), poses, strict=True)]
    mapper = make_mapper(poses)
    floor_z = []
    for pose, update in zip(poses, run(mapper, frames)[1:], strict=True):
        world_z = transform_points(pose, SCENE.render(pose, CAMERA)[1])[..., 2]
        floor_z.append(located(update)[0].pointmap.points[..., 2][world_z < 1e-6])
    floor_z = np.concatenate(floor_z)
    assert len(floor_z) > 1000
    assert np.abs(floor_z + poses[0][2, 3]).max() < 0.02
    forward = mapper.trajectory[0].world_from_camera[:3, 2]
    assert forward[1] == pytest.approx(0.0, abs=0.01) and forward[0] > 0.8


@pytest.mark.parametrize('resampling', ['exact', 'fast'])
def test_network_gets_the_image_resized_as_configured(resampling: str) -> None:
    poses = orbit_trajectory(2)
    rgb = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    seen: list[np.ndarray] = []

    class Watching(SyntheticNetwork):
        def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
            seen.append(image)
            return super().step(image, image_id)

    mapper = Mapper(Watching(SCENE, poses, SyntheticOptions(), CAMERA),
                    every_frame(MapperConfig(resampling=resampling)))
    mapper.process(Frame(0, 'camera', rgb))
    exact = preprocess(Frame(0, 'camera', rgb), (CAMERA.height, CAMERA.width)).image
    assert np.array_equal(seen[0], exact) == (resampling == 'exact')
