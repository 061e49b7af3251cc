# SPDX-License-Identifier: Apache-2.0
"""A new fragment is joined to the map at any scale, or the failure is reported."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, every_frame, failures, make_mapper, pose_errors
from synthetic import SyntheticNetwork, SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import DeviceMemoryError, FragmentPose, Frame, Pointmap
from spann3r_ros.mapping.fragments.placement import AlignmentError, place_after
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.tracking.solved_keyframes import MAX_FAILED_PLACEMENTS

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
    monkeypatch.setattr('spann3r_ros.mapping.tracking.solved_keyframes.place_after',
                        lambda anchor, *_: anchor.pose.fragment_from_camera)
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


def test_fragment_that_cannot_be_placed_is_reported_and_tried_again(
        orbit: tuple[list[np.ndarray], list[Frame]], monkeypatch: pytest.MonkeyPatch) -> None:
    poses, frames = orbit
    network = SyntheticNetwork(SCENE, poses, INDEXED, CAMERA)
    mapper = Mapper(network, every_frame())
    for frame in frames[:6]:
        mapper.process(frame)
    keyframes = mapper.status().keyframes
    step = network.step

    def no_confidence(image: np.ndarray, image_id: int) -> list[Estimate]:
        return [replace(one, pointmap=replace(
            one.pointmap, confidence=np.zeros_like(one.pointmap.confidence)))
            for one in step(image, image_id)]

    mapper.new_fragment()
    monkeypatch.setattr(network, 'step', no_confidence)
    for index, frame in enumerate(frames[6:8], start=6):
        update = mapper.process(frame)
        # The anchor was estimated together with the oldest image: that one is given up.
        assert [one.frame for one in update.failed] == [frames[index - 1]]
        assert 'could not be placed' in failures(update)[0]
        assert mapper.status().phase == 'lost'
    monkeypatch.undo()
    assert mapper.status().keyframes == keyframes
    for frame in frames[8:14]:
        mapper.process(frame)
    mapper.flush()
    distance, _ = pose_errors(mapper.trajectory, poses, frames)
    assert distance <= 0.01
    assert mapper.trajectory[-1].stamp_ns == frames[13].stamp_ns


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


def test_anchor_that_never_fits_places_a_fragment_with_the_last_scale(
        orbit: tuple[list[np.ndarray], list[Frame]], caplog: pytest.LogCaptureFixture) -> None:
    poses, frames = orbit
    # The unit changes before the second fragment, and not again.
    network = Blank(SCENE, poses, replace(INDEXED, stretch=1.7), CAMERA)
    mapper, phases = Mapper(network, every_frame()), []
    for index, frame in enumerate(frames[:18]):
        if index in (6, 12):
            mapper.new_fragment()
        if index == 12:
            network.blank = (11,)
            network.options = replace(network.options, stretch=1.0, unit=1.0 / 1.7)
        assert not mapper.process(frame).failed
        phases.append(mapper.status().phase)
    assert phases == ['tracking'] * 12 + ['lost'] * MAX_FAILED_PLACEMENTS + ['tracking'] * 3
    assert 'the scale of the last one placed' in caplog.text
    # The frames that came while the fragment had no place have waited.
    assert [pose.stamp_ns for pose in mapper.trajectory] == [
        frame.stamp_ns for frame in frames[:18]]
    assert pose_errors(mapper.trajectory, poses, frames)[0] <= 0.01


def anchored(orbit: tuple[list[np.ndarray], list[Frame]]) -> tuple[Keyframe, Pointmap]:
    depth = SCENE.render(orbit[0][0], CAMERA)[1].astype(np.float32)
    confidence = np.full(depth.shape[:2], 0.9, np.float32)
    pose = FragmentPose(0, 'camera', 0, np.eye(4))
    anchor = Keyframe(0, 'camera', 0, orbit[1][0].rgb, CAMERA, depth[..., 2], confidence, pose)
    return anchor, Pointmap(depth / 3.0, confidence)


def test_scale_tolerates_outliers_and_rejects_their_majority(
        orbit: tuple[list[np.ndarray], list[Frame]]) -> None:
    anchor, pointmap = anchored(orbit)
    rows = len(pointmap.points)
    rng = np.random.default_rng(0)
    for share, fine in ((0.2, True), (0.8, False)):
        points = pointmap.points.copy()
        wrong = slice(0, round(share * rows))
        points[wrong] *= np.exp(rng.normal(0.0, 1.5, points[wrong].shape[:2]))[..., None]
        spoilt = replace(pointmap, points=points)
        if fine:
            placed = place_after(anchor, spoilt, 0.1)
            assert placed[0, 0] == pytest.approx(3.0, rel=0.01)
        else:
            with pytest.raises(AlignmentError, match='agree on a scale'):
                place_after(anchor, spoilt, 0.1)
