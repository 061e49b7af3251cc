# SPDX-License-Identifier: Apache-2.0
"""A new fragment is joined to the map at any scale, or the failure is reported."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, every_frame, make_mapper, pose_errors
from synthetic import SyntheticNetwork, SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert
from spann3r_ros.core.types import DeviceMemoryError, Frame, FrameError, Pointmap
from spann3r_ros.mapping.fragments import overlap
from spann3r_ros.mapping.fragments.sequence_alignment import Alignment
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import FragmentConfig, MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.storage.map_directory import map_hashes
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree

FRAMES = 30
INDEXED = SyntheticOptions(index_from_image=True)
# No wall is on a boundary.
COARSE = every_frame(MapperConfig(voxel_map=VoxelMapConfig(voxel_size=0.047)))


@pytest.fixture(scope='module')
def orbit() -> tuple[list[np.ndarray], list[Frame]]:
    poses = orbit_trajectory(FRAMES)
    return poses, render_frames(SCENE, poses, CAMERA, indexed=True)


def voxels_of_one_fragment(poses: list[np.ndarray], frames: list[Frame]) -> int:
    mapper = make_mapper(poses, INDEXED, COARSE)
    for frame in frames:
        mapper.process(frame)
    mapper.flush()
    return mapper.status().voxels


def test_fragments_of_any_scale_join_into_one_map(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    mapper = make_mapper(poses, replace(INDEXED, stretch=1.7), COARSE)
    fragments = []
    for index, frame in enumerate(frames):
        if index and index % 6 == 0:
            mapper.new_fragment()
        update = mapper.process(frame)
        fragments.append(mapper.status().fragment_id)
        if index:
            assert update.live_pose is not None
    mapper.flush()
    assert fragments == [index // 6 for index in range(FRAMES)]
    # Every frame is a keyframe once, also the two that are seen again at each restart.
    assert [pose.stamp_ns for pose in mapper.trajectory] == [frame.stamp_ns for frame in frames]
    distance, angle = pose_errors(mapper.trajectory, poses, frames)
    assert distance <= 0.01
    assert angle <= 0.5
    # The voxels of fragments that overlap are joined in the cloud.
    assert len(mapper.cloud()) < 1.05 * voxels_of_one_fragment(poses, frames)
    assert mapper.status().memory.resets == FRAMES // 6 - 1


def test_without_alignment_the_fragments_do_not_join(orbit: tuple[list[np.ndarray], list[Frame]],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above measures the alignment: without it the points are in the wrong place."""
    poses, frames = orbit
    monkeypatch.setattr(overlap, 'align', lambda views: Alignment(
        views[0].first_from_camera, np.eye(7), 1000, 1.0, 0.0, 1.0))
    mapper = make_mapper(poses, replace(INDEXED, stretch=1.7))
    for index, frame in enumerate(frames):
        if index == 15:
            mapper.new_fragment()
        mapper.process(frame)
    assert pose_errors(mapper.trajectory, poses, frames)[0] > 0.2


def test_out_of_memory_loses_its_frame_and_begins_a_fragment(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    mapper = make_mapper(poses, replace(INDEXED, stretch=0.5, fault_at=12,
                                        fault='out_of_memory'))
    for index, frame in enumerate(frames):
        if index == 12:
            assert isinstance(mapper.process(frame).error_of(frame), DeviceMemoryError)
        else:
            mapper.process(frame)
    mapper.flush()
    assert mapper.status().fragment_id == 1
    assert mapper.status().memory.last_reset_reason == 'out of memory'
    kept = [frame.stamp_ns for index, frame in enumerate(frames) if index != 12]
    assert [pose.stamp_ns for pose in mapper.trajectory] == kept
    assert max(pose_errors(mapper.trajectory, poses, frames)) <= 0.5


def test_fragment_before_any_keyframe_begins_the_map(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    mapper = make_mapper(poses, INDEXED)
    mapper.process(frames[0])
    mapper.new_fragment()
    for frame in frames[1:8]:
        mapper.process(frame)
    mapper.flush()
    assert [pose.stamp_ns for pose in mapper.trajectory] == [
        frame.stamp_ns for frame in frames[:8]]
    assert pose_errors(mapper.trajectory, poses, frames)[0] <= 0.01


class Blank(SyntheticNetwork):
    """Completes each image at once; the images in `blank` show a wall of low confidence."""

    blank: tuple[int, ...] = ()

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        super().step(image, image_id)
        return [self._estimate(-1)]

    def provisional(self) -> None:
        return None

    def flush(self) -> list[Estimate]:
        return []

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        pointmap = super()._pointmap(index, origin)
        hide = 0.01 if index in self.blank else 1.0
        return replace(pointmap, confidence=pointmap.confidence * np.float32(hide))


def test_blank_wall_does_not_place_the_next_fragment(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    network = Blank(SCENE, poses, replace(INDEXED, stretch=1.7), CAMERA)
    network.blank = (4, 5)
    mapper = Mapper(network, every_frame())
    for index, frame in enumerate(frames[:12]):
        if index == 6:
            mapper.new_fragment()
        mapper.process(frame)
    assert mapper.status().fragment_id == 1
    assert [pose.stamp_ns for pose in mapper.trajectory] == [one.stamp_ns for one in frames[:12]]
    assert pose_errors(mapper.trajectory, poses, frames)[0] <= 0.01


def test_a_fragment_without_a_measured_place_goes_on_where_the_last_one_ended(
        orbit: tuple[list[np.ndarray], list[Frame]], caplog: pytest.LogCaptureFixture) -> None:
    poses, frames = orbit
    # The unit changes before the second fragment, and not again.
    network = Blank(SCENE, poses, replace(INDEXED, stretch=1.7), CAMERA)
    mapper = Mapper(network, every_frame())
    for index, frame in enumerate(frames[:18]):
        if index in (6, 12):
            mapper.new_fragment()
        if index == 12:
            network.blank = (9, 10, 11)
            network.options = replace(network.options, stretch=1.0, unit=1.0 / 1.7)
        assert not mapper.process(frame).failed
        assert mapper.status().phase == 'tracking'
    assert caplog.text.count('fragment 2 is not connected') == 1
    assert mapper.status().fragments_unconnected == 1
    atlas = mapper._state.atlas
    assert [one.connected for one in atlas.fragments.values()] == [True, True, False]
    assert [(one.first, one.second) for one in atlas.constraints] == [(0, 1)]
    assert [pose.stamp_ns for pose in mapper.trajectory] == [
        frame.stamp_ns for frame in frames[:18]]
    assert pose_errors(mapper.trajectory, poses, frames)[0] <= 0.01
    # The next one is joined to the one that is not connected.
    network.blank = ()
    mapper.new_fragment()
    for frame in frames[18:22]:
        mapper.process(frame)
    assert [(one.first, one.second) for one in atlas.constraints] == [(0, 1), (2, 3)]
    assert [one.connected for one in atlas.fragments.values()] == [True, True, False, True]


@pytest.mark.parametrize('shared', [1, 3])
def test_a_fragment_ends_after_as_many_keyframes_as_set(
        orbit: tuple[list[np.ndarray], list[Frame]], shared: int) -> None:
    poses, frames = orbit
    limits = FragmentConfig(max_keyframes=6, overlap_keyframes=shared)
    network = SyntheticNetwork(SCENE, poses, replace(INDEXED, stretch=0.8), CAMERA)
    mapper = Mapper(network, every_frame(MapperConfig(fragments=limits)))
    steps, step = [], network.step

    def counted(image: np.ndarray, image_id: int) -> list[Estimate]:
        steps.append(image_id)
        return step(image, image_id)

    network.step = counted
    for index, frame in enumerate(frames):
        update = mapper.process(frame)
        assert index == 0 or update.live_pose is not None
    mapper.flush()
    status = mapper.status()
    assert status.fragments == 5
    assert status.memory.recoveries == 0
    # Each join costs the images of the overlap, and the one whose estimate was still to come.
    assert len(steps) == FRAMES + 4 * (shared + 1)
    assert steps.count(0) == 4
    assert [pose.stamp_ns for pose in mapper.trajectory] == [frame.stamp_ns for frame in frames]
    assert pose_errors(mapper.trajectory, poses, frames)[0] <= 0.01
    atlas = mapper._state.atlas
    assert [(one.first, one.second) for one in atlas.constraints] == [
        (n, n + 1) for n in range(4)]


def test_a_fragment_begins_without_an_overlap_after_the_camera_was_lost(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    network = Scattered(SCENE, poses, INDEXED, CAMERA)
    mapper = Mapper(network, every_frame(MapperConfig(fragments=FragmentConfig(max_lost=3))))
    ids = []
    for frame in [*frames[:6], *frames[20:28]]:
        mapper.process(frame)
        ids.append(mapper.status().fragment_id)
    mapper.flush()
    assert ids == [0] * 10 + [1] * 4
    status = mapper.status()
    assert (status.fragments, status.fragments_unconnected) == (2, 1)
    assert status.memory.last_reset_reason == 'the last keyframes have no pose'
    assert status.memory.recoveries == 1
    assert not mapper._state.atlas.constraints
    assert mapper.trajectory[-1].stamp_ns == frames[27].stamp_ns


class Scattered(SyntheticNetwork):
    """Scatters the points of some images, so that they have no pose."""

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        pointmap = super()._pointmap(index, origin)
        if index == origin or index not in (20, 21, 22):
            return pointmap
        noise = np.random.default_rng(index).normal(0.0, 5.0, pointmap.points.shape)
        return replace(pointmap, points=noise.astype(np.float32))


class Rescaled(SyntheticNetwork):
    """Has another scale in each fragment."""

    scales = (1.0, 0.5, 2.0, 0.7, 1.5, 1.1)

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        pointmap = super()._pointmap(index, origin)
        return replace(pointmap, points=pointmap.points * np.float32(self.scales[self._fragments]))


def test_six_fragments_of_different_scales_keep_the_path(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    network = Rescaled(SCENE, poses, replace(INDEXED, noise=0.01), CAMERA)
    mapper = Mapper(network, every_frame(MapperConfig(fragments=FragmentConfig(max_keyframes=5))))
    for frame in frames:
        mapper.process(frame)
    mapper.flush()
    assert mapper.status().fragments == 6
    truth = [(MAP_FROM_OPTICAL @ invert(poses[0]) @ pose)[:3, 3] for pose in poses]
    found = [pose.world_from_camera[:3, 3] for pose in mapper.trajectory]
    length = np.linalg.norm(np.diff(truth, axis=0), axis=1).sum()
    error = np.sqrt(np.mean(np.sum(np.subtract(found, truth)**2, axis=1)))
    assert error < 0.01 * length


class Refusing(SyntheticNetwork):
    """Refuses images that are no keyframes yet while `closed` is set."""

    closed = False

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        if self.closed and image_id > 0:
            raise FrameError('closed')
        return super().step(image, image_id)


def test_a_map_saved_in_the_middle_of_a_join_goes_on(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    networks = [Refusing(SCENE, poses, replace(INDEXED, stretch=1.7), CAMERA) for _ in range(2)]
    mapper, loaded = map(Mapper, networks)
    for frame in frames[:6]:
        mapper.process(frame)
    mapper.new_fragment()
    networks[0].closed = True
    assert len(mapper.process(frames[6]).failed) == 2
    saved = decode_tree(*encode_tree(mapper.tree()))
    # The estimate of the newest image that is seen again is still to come.
    assert [one.integer('index') for one in saved.node('state').node('poses').nodes('views')] == [
        0, 1]
    loaded.load(saved)
    networks[0].closed = False
    for frame in frames[7:12]:
        for one in (mapper, loaded):
            one.process(frame)
    for one in (mapper, loaded):
        one.flush()
    assert map_hashes(mapper) == map_hashes(loaded)
    constraints = [one._state.atlas.constraints[0] for one in (mapper, loaded)]
    assert np.array_equal(constraints[0].covariance, constraints[1].covariance)
    assert pose_errors(loaded.trajectory, poses, frames)[0] <= 0.01


class RefusingAtOnce(Refusing, Blank):
    """Has no lag: a fragment is joined before its first frame comes."""


def test_a_fragment_that_got_no_keyframe_leaves_no_constraint(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    network = RefusingAtOnce(SCENE, poses, replace(INDEXED, stretch=1.7), CAMERA)
    mapper = Mapper(network, every_frame())
    for index, frame in enumerate(frames[:9]):
        if index in (5, 6):
            mapper.new_fragment()
        network.closed = index == 5
        mapper.process(frame)
        assert len(mapper._state.atlas.constraints) == (index >= 5)
    atlas = mapper._state.atlas
    assert list(atlas.fragments) == [0, 1]
    assert [(one.first, one.second) for one in atlas.constraints] == [(0, 1)]


def test_constraints_are_saved_with_their_covariance(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    mapper = make_mapper(poses, replace(INDEXED, stretch=1.7, noise=0.01))
    for index, frame in enumerate(frames[:12]):
        if index == 6:
            mapper.new_fragment()
        mapper.process(frame)
    (saved,) = mapper._state.atlas.constraints
    assert (np.linalg.eigvalsh(saved.covariance) > 0.0).all()
    assert np.sqrt(np.diag(saved.covariance)).max() < 0.1
    loaded = make_mapper(poses, INDEXED)
    tree = mapper.tree()
    loaded.load(decode_tree(*encode_tree(tree)))
    assert np.array_equal(loaded._state.atlas.constraints[0].covariance, saved.covariance)
    # Maps of earlier versions have no covariances.
    del tree['state']['atlas']['constraints'][0]['covariance']
    loaded.load(decode_tree(*encode_tree(tree)))
    assert loaded._state.atlas.constraints[0].covariance is None


class Fading(Blank):
    """Is less and less sure of the images, and as sure as ever after a reset."""

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        pointmap = super()._pointmap(index, origin)
        sure = np.arange(pointmap.confidence.size).reshape(pointmap.confidence.shape) % 30
        return replace(pointmap, confidence=np.where(
            sure < 30 - (index - origin), pointmap.confidence, np.float32(0.01)))


def test_a_fragment_begins_when_the_confidence_falls(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    poses, frames = orbit
    for share, fragments in ((0.0, 1), (0.7, 3)):
        limits = FragmentConfig(min_confidence_share=share)
        mapper = Mapper(Fading(SCENE, poses, INDEXED, CAMERA),
                        every_frame(MapperConfig(fragments=limits)))
        for frame in frames:
            mapper.process(frame)
        mapper.flush()
        assert mapper.status().fragments == fragments
        assert mapper.status().fragments_unconnected == 0
        assert pose_errors(mapper.trajectory, poses, frames)[0] <= 0.01
    reason = mapper.status().memory.last_reset_reason
    assert reason == 'the confidence of the last keyframes is low'
