# SPDX-License-Identifier: Apache-2.0
"""No frame that the mapper has taken is lost to the failure of another one."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn_index import decode_index
from mapper_runs import CAMERA, SCENE
from synthetic import SyntheticNetwork, SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import DeviceMemoryError, FrameError, Pointmap, StampedPose
from spann3r_ros.mapping.mapper import Mapper
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


def indices(poses: list[StampedPose]) -> list[int]:
    stamps = [frame.stamp_ns for frame in FRAMES]
    return [stamps.index(pose.stamp_ns) for pose in poses]


def network(kind: type[SyntheticNetwork]) -> SyntheticNetwork:
    return kind(SCENE, POSES, INDEXED, CAMERA)


@pytest.mark.parametrize(('errors', 'failed'), [
    ({6: DeviceMemoryError, 7: DeviceMemoryError}, [5, 6]),  # 7: the anchor
    ({6: DeviceMemoryError, 8: DeviceMemoryError}, [5, 6]),  # 8: the pending frame
    ({6: DeviceMemoryError, 7: DeviceMemoryError, 9: DeviceMemoryError}, [5, 6, 7]),
    ({6: DeviceMemoryError, 7: RuntimeError}, [5, 6])])
def test_frame_waits_while_fragments_cannot_begin(
        errors: dict[int, type[Exception]], failed: list[int]) -> None:
    refusing = network(Refusing)
    refusing.refuse(errors)
    mapper, seen = Mapper(refusing), []
    for index, frame in enumerate(FRAMES[:12]):
        try:
            mapper.process(frame)
        except (FrameError, RuntimeError):
            seen.append(index)
    mapper.flush()
    assert seen == failed
    assert indices(mapper.trajectory) == [n for n in range(12) if n not in failed]


def test_frame_that_a_new_fragment_refuses_costs_only_itself() -> None:
    refusing = network(Refusing)
    refusing.refuse({7: FrameError})  # step 6 is the anchor's, step 7 that of frame 4 again
    mapper = Mapper(refusing)
    for frame in FRAMES[:5]:
        mapper.process(frame)
    mapper.new_fragment()
    [(frame, error)] = mapper.process(FRAMES[5]).refused
    assert frame is FRAMES[4] and 'step 7' in str(error)
    for frame in FRAMES[6:9]:
        mapper.process(frame)
    mapper.flush()
    assert indices(mapper.trajectory) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert mapper.status().fragment_id == 1


@pytest.mark.parametrize('unusable', [6, 7])
def test_unusable_estimate_leaves_the_other_one_of_its_step(unusable: int) -> None:
    pairs = network(InPairs)
    pairs.unusable = (unusable,)
    mapper, delivered = Mapper(pairs), []
    for index, frame in enumerate(FRAMES[:12]):
        if index == unusable == 7:
            with pytest.raises(FrameError, match='pointmap'):
                mapper.process(frame)
            continue
        update = mapper.process(frame)
        delivered += [one.pose for one in update.keyframes]
        assert [one for one, _ in update.refused] == [FRAMES[6]] * (index == 7)
    mapper.new_fragment()
    delivered += [one.pose for one in mapper.process(FRAMES[12]).keyframes]
    mapped = [n for n in range(13) if n != unusable]
    assert indices(mapper.trajectory) == mapped
    assert indices(delivered) == mapped


def test_keyframes_of_frames_that_a_new_fragment_processes_again_are_delivered() -> None:
    pairs = network(InPairs)
    mapper = Mapper(pairs)
    delivered = [one.pose for frame in FRAMES[:7] for one in mapper.process(frame).keyframes]
    mapper.new_fragment()  # frame 6 is pending: it completes with the anchor
    delivered += [one.pose for one in mapper.process(FRAMES[7]).keyframes]
    assert indices(delivered) == indices(mapper.trajectory) == list(range(7))


@pytest.mark.parametrize(('kind', 'unusable'), [(InPairs, 6), (InFours, 3)])
def test_runner_delivers_the_keyframes_beside_a_failure(
        kind: type[InPairs], unusable: int) -> None:
    one = network(kind)
    one.unusable = (unusable,)
    mapper = Mapper(one)
    collected = run_frames(mapper, FRAMES[:8])
    delivered = [keyframe.pose for update in collected.updates for keyframe in update.keyframes]
    assert indices(delivered) == [n for n in range(8) if n != unusable]
