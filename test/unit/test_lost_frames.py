# SPDX-License-Identifier: Apache-2.0
"""No frame that the mapper has taken is lost to the failure of another one."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn_index import decode_index
from mapper_runs import CAMERA, SCENE, every_frame
from synthetic import SyntheticNetwork, SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import (
    DeviceMemoryError,
    FragmentPose,
    FrameError,
    Pointmap,
    StampedPose,
)
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import FragmentConfig, MapperConfig
from spann3r_ros.mapping.tracking.solved_keyframes import SolvedPoses
from spann3r_ros.pipeline.runner import run_frames

POSES = orbit_trajectory(60)
FRAMES = render_frames(SCENE, POSES, CAMERA, indexed=True)
INDEXED = SyntheticOptions(index_from_image=True)


class Refusing(SyntheticNetwork):
    """Raises the error that `errors` names for a step, counted from one."""

    def refuse(self, errors: dict[int, type[Exception]]) -> None:
        self.calls, self.errors = 0, errors

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        self.calls += 1
        if self.calls in self.errors:
            raise self.errors[self.calls](f'step {self.calls}')
        return super().step(image, image_id)


class InPairs(SyntheticNetwork):
    """Completes two images with every second step; the images in `unusable` get no points."""

    unusable: tuple[int, ...] = ()

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        self._indices.append(decode_index(image))
        self._ids.append(image_id)
        return [] if len(self._ids) % 2 else [self._estimate(-2), self._estimate(-1)]

    def provisional(self) -> None:
        return None

    def flush(self) -> list[Estimate]:
        return [self._estimate(-1)] if len(self._ids) % 2 else []

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        pointmap = super()._pointmap(index, origin)
        hide = np.nan if index in self.unusable else 1.0
        return replace(pointmap, points=pointmap.points * np.float32(hide))


class InFours(InPairs):
    """Completes all images at the end of the sequence, the first two before."""

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        estimates = super().step(image, image_id)
        return estimates if len(self._ids) == 2 else []

    def flush(self) -> list[Estimate]:
        return [self._estimate(place) for place in range(2, len(self._ids))]


def indices(poses: list[StampedPose] | list[FragmentPose]) -> list[int]:
    stamps = [frame.stamp_ns for frame in FRAMES]
    return [stamps.index(pose.stamp_ns) for pose in poses]


# Steps are counted in some tests: one image begins a fragment.
ONE_SHARED = every_frame(MapperConfig(fragments=FragmentConfig(overlap_keyframes=1)))


def network(kind: type[SyntheticNetwork]) -> SyntheticNetwork:
    return kind(SCENE, POSES, INDEXED, CAMERA)


@pytest.mark.parametrize(('errors', 'failed'), [
    ({6: DeviceMemoryError, 7: DeviceMemoryError}, [5, 6]),  # 7: the overlap
    ({6: DeviceMemoryError, 8: DeviceMemoryError}, [5, 6]),  # 8: the pending frame
    ({6: DeviceMemoryError, 7: DeviceMemoryError, 9: DeviceMemoryError}, [5, 6, 7]),
    ({6: DeviceMemoryError, 7: RuntimeError}, [5, 6])])
def test_frame_waits_while_fragments_cannot_begin(
        errors: dict[int, type[Exception]], failed: list[int]) -> None:
    refusing = network(Refusing)
    refusing.refuse(errors)
    mapper, seen = Mapper(refusing, ONE_SHARED), []
    for index, frame in enumerate(FRAMES[:12]):
        if mapper.process(frame).error_of(frame):
            seen.append(index)
    mapper.flush()
    assert seen == failed
    assert indices(mapper.trajectory) == [n for n in range(12) if n not in failed]


def test_frame_that_a_new_fragment_refuses_costs_only_itself() -> None:
    refusing = network(Refusing)
    refusing.refuse({7: FrameError})  # step 6 is the overlap's, step 7 that of frame 4 again
    mapper = Mapper(refusing, ONE_SHARED)
    for frame in FRAMES[:5]:
        mapper.process(frame)
    mapper.new_fragment()
    assert mapper.process(FRAMES[5]).error_of(FRAMES[4])
    for frame in FRAMES[6:9]:
        mapper.process(frame)
    mapper.flush()
    assert indices(mapper.trajectory) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert mapper.status().fragment_id == 1


@pytest.mark.parametrize('unusable', [6, 7])
def test_unusable_estimate_leaves_the_other_one_of_its_step(unusable: int) -> None:
    pairs = network(InPairs)
    pairs.unusable = (unusable,)
    mapper, delivered = Mapper(pairs, every_frame()), []
    for index, frame in enumerate(FRAMES[:12]):
        update = mapper.process(frame)
        assert [FRAMES.index(one.frame) for one in update.failed] == [unusable] * (index == 7)
        delivered += [one.pose for one in update.keyframes]
    mapper.new_fragment()
    delivered += [one.pose for one in mapper.process(FRAMES[12]).keyframes]
    mapped = [n for n in range(13) if n != unusable]
    assert indices(mapper.trajectory) == mapped
    assert indices(delivered) == mapped


def test_keyframes_of_frames_that_a_new_fragment_processes_again_are_delivered() -> None:
    pairs = network(InPairs)
    mapper = Mapper(pairs, every_frame())
    delivered = [one.pose for frame in FRAMES[:7] for one in mapper.process(frame).keyframes]
    mapper.new_fragment()  # frame 6 is pending: it completes with the overlap
    delivered += [one.pose for one in mapper.process(FRAMES[7]).keyframes]
    assert indices(delivered) == indices(mapper.trajectory) == list(range(7))


@pytest.mark.parametrize(('errors', 'lost'), [
    ({6: DeviceMemoryError, 7: DeviceMemoryError}, [5, 6]),  # 7: the overlap
    ({6: DeviceMemoryError, 8: DeviceMemoryError}, [5, 6]),  # 8: the pending frame
    ({6: DeviceMemoryError, 7: DeviceMemoryError, 8: DeviceMemoryError}, [4, 5, 6]),
    ({6: DeviceMemoryError, 7: DeviceMemoryError, 9: FrameError}, [4, 5, 6])])
def test_frame_that_waits_for_a_fragment_joins_the_map_at_its_end(
        errors: dict[int, type[Exception]], lost: list[int]) -> None:
    refusing = network(Refusing)
    refusing.refuse(errors)
    mapper = Mapper(refusing, ONE_SHARED)
    failed = [one.frame for frame in FRAMES[:7] for one in mapper.process(frame).failed]
    last = mapper.flush()
    failed += [one.frame for one in last.failed]
    assert sorted(FRAMES.index(frame) for frame in failed) == lost
    assert indices([one.pose for one in last.keyframes]) == [4] * (4 not in lost)
    assert indices(mapper.trajectory) == [n for n in range(7) if n not in lost]
    assert mapper.status().keyframes == len(mapper.trajectory)
    with pytest.raises(FrameError, match='closed'):
        mapper.process(FRAMES[7])


def test_a_fragment_without_a_place_keeps_the_frames_that_follow(
        monkeypatch: pytest.MonkeyPatch) -> None:
    indexed = network(SyntheticNetwork)
    mapper, step = Mapper(indexed, every_frame()), indexed.step

    def no_confidence(image: np.ndarray, image_id: int) -> list[Estimate]:
        return [one if one.image_id > 0 else replace(one, pointmap=replace(
            one.pointmap, confidence=np.zeros_like(one.pointmap.confidence)))
            for one in step(image, image_id)]

    for frame in FRAMES[:6]:
        mapper.process(frame)
    mapper.new_fragment()
    monkeypatch.setattr(indexed, 'step', no_confidence)
    assert not [*mapper.process(FRAMES[6]).failed, *mapper.flush().failed]
    assert mapper.status().fragments_unconnected == 1
    assert indices(mapper.trajectory) == list(range(7))
    truth = [POSES[0][:3, 3] - POSES[index][:3, 3] for index in range(7)]
    walked = [mapper.trajectory[0].world_from_camera[:3, 3] - pose.world_from_camera[:3, 3]
              for pose in mapper.trajectory]
    np.testing.assert_allclose(np.linalg.norm(walked, axis=1), np.linalg.norm(truth, axis=1),
                               atol=0.01)


@pytest.mark.parametrize(('kind', 'unusable'), [(InPairs, 6), (InFours, 3)])
def test_runner_delivers_the_keyframes_beside_a_failure(
        kind: type[InPairs], unusable: int) -> None:
    one = network(kind)
    one.unusable = (unusable,)
    mapper = Mapper(one, every_frame())
    collected = run_frames(mapper, FRAMES[:8])
    delivered = [keyframe.pose for update in collected.updates for keyframe in update.keyframes]
    assert indices(delivered) == [n for n in range(8) if n != unusable]


def test_a_fragment_asked_for_at_the_end_costs_no_frame() -> None:
    mapper = Mapper(network(SyntheticNetwork), every_frame())
    for frame in FRAMES[:5]:
        mapper.process(frame)
    mapper.new_fragment()
    assert not mapper.flush().failed
    assert indices(mapper.trajectory) == list(range(5))


def test_a_live_pose_that_raises_costs_the_live_pose_alone(
        monkeypatch: pytest.MonkeyPatch) -> None:
    mapper = Mapper(network(SyntheticNetwork), every_frame())
    for frame in FRAMES[:4]:
        mapper.process(frame)
    with monkeypatch.context() as patch:
        patch.setattr(SolvedPoses, 'live_pose', lambda *_: 1 / 0)
        update = mapper.process(FRAMES[4])
    assert (update.live_pose, update.failed) == (None, ())
    mapper.flush()
    assert indices(mapper.trajectory) == list(range(5))


def test_a_map_without_a_posed_keyframe_begins_again_in_the_axes_of_the_map() -> None:
    class Shuffled(SyntheticNetwork):
        def _pointmap(self, index: int, origin: int) -> Pointmap:
            pointmap = super()._pointmap(index, origin)
            if index < 4:
                points = pointmap.points.reshape(-1, 3)
                order = np.random.default_rng(0).permutation(len(points))
                pointmap = replace(pointmap, points=points[order].reshape(pointmap.points.shape))
            return pointmap

    mapper = Mapper(network(Shuffled), every_frame())
    for frame in FRAMES[:4]:
        mapper.process(frame)
    mapper.new_fragment()
    for frame in FRAMES[4:8]:
        mapper.process(frame)
    mapper.flush()
    first = next(pose for pose in mapper.trajectory if pose.stamp_ns >= FRAMES[4].stamp_ns)
    # A level camera looks along x of the map.
    np.testing.assert_allclose(first.world_from_camera[:3, :3] @ [0.0, 0.0, 1.0],
                               [1.0, 0.0, 0.0], atol=0.3)


def test_an_unusable_first_frame_leaves_the_camera_to_the_next_one() -> None:
    spoilt = SyntheticNetwork(SCENE, POSES, replace(INDEXED, fault_at=0, fault='not_finite'),
                              CAMERA)
    mapper = Mapper(spoilt, every_frame())
    for frame in FRAMES[:2]:
        mapper.process(frame)
    with pytest.raises(FrameError, match='frame_id'):
        mapper.process(replace(FRAMES[2], frame_id='other'))
    with pytest.raises(FrameError, match='world_from_camera'):
        mapper.process(replace(FRAMES[2], world_from_camera=np.eye(4)))
    mapper.process(FRAMES[2])
    mapper.flush()
    assert indices(mapper.trajectory) == [1, 2]
