# SPDX-License-Identifier: Apache-2.0
"""The mapper on pointmaps that are noisy, drift, have floating points, or are unusable."""
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
from synthetic import SyntheticNetwork, SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, transform_points
from spann3r_ros.core.types import FrameError, Pointmap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    MapperConfig,
    PoseConfig,
    SightConfig,
    VoxelMapConfig,
)
from spann3r_ros.mapping.mapping_status import MapUpdate


class Shuffled(SyntheticNetwork):
    """Returns the right points at the wrong pixels: confident and finite, but no pose fits."""

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        return [replace(one, pointmap=self._shuffle(one.pointmap))
                for one in super().step(image, image_id)]

    def _shuffle(self, pointmap: Pointmap) -> Pointmap:
        order = np.random.default_rng(0).permutation(pointmap.confidence.size)
        points = pointmap.points.reshape(-1, 3)[order].reshape(pointmap.points.shape)
        return replace(pointmap, points=points)


@pytest.mark.parametrize(('track', 'limit'), [(False, 0.01), (True, 0.03)])
def test_noise_of_a_centimetre_moves_poses_little(track: bool, limit: float) -> None:
    """Independent noise of the pixels averages out; with tracked corners less of it does."""
    poses = orbit_trajectory(60)[:8]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses, SyntheticOptions(noise=0.01),
                         every_frame(MapperConfig(pose=PoseConfig(track_corners=track))))
    updates = run(mapper, [replace(frame, intrinsics=None) for frame in frames])
    live = [live_in_map(update) for update in updates if update.live_pose]
    for found in (mapper.trajectory, live):
        distance, angle = pose_errors(found, poses, frames)
        assert distance <= limit
        assert angle <= 0.5


def test_drift_of_the_network_appears_in_the_path_without_corners() -> None:
    poses = orbit_trajectory(60)[:5]
    frames = render_frames(SCENE, poses, CAMERA)
    found = {}
    for track in (False, True):
        mapper = make_mapper(poses, SyntheticOptions(drift=0.02),
                             every_frame(MapperConfig(pose=PoseConfig(track_corners=track))))
        run(mapper, frames)
        found[track], _ = pose_errors(mapper.trajectory, poses, frames)
    assert found[False] == pytest.approx(4 * 0.02, abs=0.005)
    assert found[True] < 0.6 * found[False]


def test_floaters_seen_once_can_be_hidden() -> None:
    poses = [orbit_trajectory(60)[0]] * 6
    images = SightConfig(check=False)  # the camera stands still
    options = SyntheticOptions(floater_fraction=0.5)
    share = {}
    for least in (1, 3):
        size = VoxelMapConfig(voxel_size=0.05, min_observations=least)
        config = every_frame(MapperConfig(sight=images, voxel_map=size))
        mapper = make_mapper(poses, options, config)
        run(mapper, render_frames(SCENE, poses, CAMERA))
        clean = make_mapper(poses, config=config)
        run(clean, render_frames(SCENE, poses, CAMERA))
        truth = {tuple(cell) for cell in _cells(clean)}
        found = [tuple(cell) for cell in _cells(mapper)]
        share[least] = np.mean([cell not in truth for cell in found])
    assert share[1] > 0.02
    assert share[3] < 0.2 * share[1]


def _cells(mapper: Mapper) -> np.ndarray:
    return np.floor(mapper.cloud().points / 0.05).astype(int)


@pytest.mark.parametrize('fault', ['not_finite', 'no_confidence'])
def test_unusable_first_pointmap_starts_the_map_again(fault: str) -> None:
    poses = orbit_trajectory(30)[:5]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses, SyntheticOptions(fault_at=0, fault=fault))
    assert mapper.process(frames[0]).keyframes == ()
    update = mapper.process(frames[1])
    assert [one.frame for one in update.failed] == [frames[0]]
    assert 'pointmap' in failures(update)[0]
    # Frame 1 is not lost: it is the first image of the new sequence.
    assert mapper.process(frames[2]).keyframes[0].stamp_ns == frames[1].stamp_ns
    assert mapper.process(frames[3]).keyframes[0].stamp_ns == frames[2].stamp_ns
    # The map begins at the camera that founded it.
    np.testing.assert_allclose(
        mapper.trajectory[0].world_from_camera[:3, 3], np.zeros(3), atol=0.01)
    assert mapper.status().memory.resets == 1


@pytest.mark.parametrize('integrate', [False, True])
def test_keyframe_without_a_pose_stays_out_of_the_map(integrate: bool) -> None:
    poses = orbit_trajectory(30)[:4]
    config = every_frame(MapperConfig(voxel_map=VoxelMapConfig(integrate_without_pose=integrate)))
    mapper = Mapper(Shuffled(SCENE, poses, SyntheticOptions(), CAMERA), config)
    updates = [mapper.process(frame) for frame in render_frames(SCENE, poses, CAMERA)]
    assert [update.keyframes[0].pose for update in updates[1:]] == [None] * 3
    assert mapper.trajectory == []
    status = mapper.status()
    assert (status.keyframes, status.poses_failed) == (3, 3)
    assert (status.voxels > 0, status.keyframes_left_out) == (integrate, 0 if integrate else 3)
    assert all(update.live_pose for update in updates[1:])


class Relocated(SyntheticNetwork):
    """Places the images of `wrong` in a wrong place, each pointmap consistent in itself."""

    wrong: dict[int, np.ndarray]

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        pointmap = super()._pointmap(index, origin)
        shift = self.wrong.get(index, np.zeros(3)).astype(np.float32)
        return replace(pointmap, points=pointmap.points + shift)


def relocated(wrong: dict[int, np.ndarray],
              **pose: object) -> tuple[Mapper, list[np.ndarray], list[MapUpdate]]:
    poses = orbit_trajectory(60)[:16]
    network = Relocated(SCENE, poses, SyntheticOptions(noise=0.002), CAMERA)
    network.wrong = wrong
    mapper = Mapper(network, every_frame(MapperConfig(pose=PoseConfig(**pose))))
    return mapper, poses, run(mapper, render_frames(SCENE, poses, CAMERA))


def test_pointmap_in_a_wrong_place_costs_neither_path_nor_map() -> None:
    wrong = {8: np.array([0.0, 0.0, 1.0])}
    mapper, poses, updates = relocated(wrong)
    frames = render_frames(SCENE, poses, CAMERA)
    status = mapper.status()
    assert (status.poses_gated, status.pose_resets, status.keyframes) == (1, 0, 16)
    assert pose_errors(mapper.trajectory, poses, frames)[0] < 0.03
    keyframe = next(one for one in located(*updates) if one.stamp_ns == frames[8].stamp_ns)
    world_from_map = poses[0] @ invert(MAP_FROM_OPTICAL)
    points = transform_points(world_from_map, keyframe.pointmap.points.astype(float))
    assert np.median(SCENE.distances(points.reshape(-1, 3))) < 0.04
    # The error of the path without the gate is what the test above measures.
    without, poses, _ = relocated(wrong, gate_probability=1.0)
    assert pose_errors(without.trajectory, poses, frames)[0] > 0.15


def test_network_that_stays_in_another_place_is_followed_in_the_end() -> None:
    mapper, poses, _ = relocated({index: np.array([0.0, 0.0, 1.0]) for index in range(8, 16)})
    status = mapper.status()
    assert (status.poses_gated, status.pose_resets) == (2, 1)


def test_keyframe_of_low_confidence_keeps_its_pose() -> None:
    poses = orbit_trajectory(30)[:5]

    class Unsure(SyntheticNetwork):
        def _pointmap(self, index: int, origin: int) -> Pointmap:
            pointmap = super()._pointmap(index, origin)
            pointmap.confidence[:] *= 0.1 if index == 2 else 1.0
            return pointmap

    frames = render_frames(SCENE, poses, CAMERA)
    mapper = Mapper(Unsure(SCENE, poses, SyntheticOptions(), CAMERA), every_frame())
    for frame in frames[:3]:
        mapper.process(frame)
    voxels = mapper.status().voxels
    update = mapper.process(frames[3])
    keyframe = update.keyframes[0]
    assert mapper.status().voxels == voxels > 0
    assert keyframe.stamp_ns == frames[2].stamp_ns
    pose = keyframe.pose_in(update.places[keyframe.fragment_id])
    distance, angle = pose_errors([pose], poses, frames)
    assert distance <= 0.01
    assert angle <= 0.5


def test_holes_in_a_pointmap_stay_holes() -> None:
    poses = orbit_trajectory(30)[:3]

    class Holed(SyntheticNetwork):
        def _pointmap(self, index: int, origin: int) -> Pointmap:
            pointmap = super()._pointmap(index, origin)
            pointmap.points[:10, :, 1] = np.inf
            pointmap.confidence[10:20] = np.nan
            return pointmap

    mapper = Mapper(Holed(SCENE, poses, SyntheticOptions(), CAMERA), every_frame())
    updates = [mapper.process(frame) for frame in render_frames(SCENE, poses, CAMERA)]
    keyframe, = located(updates[2])
    assert np.isnan(keyframe.pointmap.points[:20]).all()
    assert (keyframe.pointmap.confidence[:20] == 0.0).all()
    assert np.isfinite(keyframe.pointmap.points[20:]).all()
    assert keyframe.world_from_camera is not None
    assert np.isfinite(mapper.cloud().points).all()


def test_crash_of_the_network_is_raised_and_the_mapper_goes_on() -> None:
    poses = orbit_trajectory(30)[:4]
    frames = render_frames(SCENE, poses, CAMERA)
    mapper = make_mapper(poses, SyntheticOptions(fault_at=2, fault='crash'))
    mapper.process(frames[0])
    mapper.process(frames[1])
    assert isinstance(mapper.process(frames[2]).error_of(frames[2]), RuntimeError)
    assert mapper.process(frames[3]).keyframes[0].stamp_ns == frames[1].stamp_ns


def test_frame_of_wrong_intrinsics_affects_no_other() -> None:
    poses = orbit_trajectory(30)[:4]
    frames = render_frames(SCENE, poses, CAMERA, indexed=True)
    mapper = make_mapper(poses, SyntheticOptions(index_from_image=True))
    mapper.process(frames[0])
    mapper.process(frames[1])
    with pytest.raises(FrameError, match='intrinsics'):
        mapper.process(replace(frames[2], intrinsics=Intrinsics(50.0, 50.0, 9.0, 9.0, 20, 20)))
    assert mapper.process(frames[3]).keyframes[0].stamp_ns == frames[1].stamp_ns
