# SPDX-License-Identifier: Apache-2.0
"""Loops in a map: they are found again, and rooms that look alike are not welded."""
from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import pytest
from oracle import RoomsNetwork, TwinRooms, twin_walk
from synthetic import every_frame, square_camera

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.similarity import error_vectors
from spann3r_ros.core.transforms import invert, invert_similarity
from spann3r_ros.core.types import DeviceMemoryError, Frame
from spann3r_ros.mapping.loops.loop_closer import LoopCloser, LoopRecord
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import KeyframeConfig, LoopConfig, MapperConfig
from spann3r_ros.mapping.storage.map_directory import map_hashes
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree

CAMERA = square_camera(96)
SCENE = TwinRooms()
# Images of the first room, then of the way through the door.
FIRST_ROOM, WAY = 40, 12
FRAGMENT = 15
LOOPS = LoopConfig(enabled=True, interval=1)


class Forgetful(RoomsNetwork):
    """Has no memory for a pair."""

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Raise."""
        raise DeviceMemoryError('no memory')


class Plain(RoomsNetwork):
    """Has no descriptors, and must not be asked for a pair."""

    pair = None

    def _estimate(self, place: int) -> Estimate:
        return replace(super()._estimate(place), descriptor=None)


def network(returns: bool, kind: type[RoomsNetwork] = RoomsNetwork) -> RoomsNetwork:
    return kind(SCENE, *twin_walk(returns), CAMERA)


def mapped(answering: RoomsNetwork, loops: LoopConfig, count: int | None = None,
           config: MapperConfig | None = None) -> Mapper:
    mapper = Mapper(answering, replace(config or every_frame(MapperConfig(live_pose=False)),
                                       loops=loops))
    for index, frame in enumerate(frames(answering)[:count]):
        step(mapper, index, frame)
    return mapper


def frames(answering: RoomsNetwork) -> list[Frame]:
    return [Frame(10**9 + index * 10**8, 'camera', view.image, CAMERA)
            for index, view in enumerate(answering.views)]


def step(mapper: Mapper, index: int, frame: Frame) -> None:
    if index and index % FRAGMENT == 0:
        mapper.new_fragment()
    assert not mapper.process(frame).failed


def closer(mapper: Mapper) -> LoopCloser:
    return mapper._state.back_end.loops


def image_of(pose_ns: int) -> int:
    return (pose_ns - 10**9) // 10**8


def found(mapper: Mapper) -> list[tuple[int, int]]:
    """Return the images of each loop."""
    return [(image_of(one.first_pose.stamp_ns), image_of(one.second_pose.stamp_ns))
            for one in closer(mapper).records if not one.reason]


@lru_cache(maxsize=1)
def returned() -> Mapper:
    """Return the map of a walk that comes back to the first room."""
    return mapped(network(returns=True), LOOPS)


def test_rooms_that_look_alike_are_not_welded() -> None:
    mapper = mapped(network(returns=False), LOOPS)
    loops, records = closer(mapper), closer(mapper).records
    # Those within a room are loops indeed.
    assert all(second < FIRST_ROOM + WAY or first >= FIRST_ROOM for first, second in found(mapper))
    far = [one for one in records if one.reason.startswith('far from the path')]
    assert len(far) >= 30
    assert (loops.verified, loops.refused) == (len(found(mapper)), len(records)
                                                - len(found(mapper)))
    # Images and geometry of the rooms do not differ: with a path that may have drifted
    # by any distance, they are welded.
    welded = mapped(network(returns=False), replace(LOOPS, drift=10.0))
    assert sum(first < FIRST_ROOM and second > FIRST_ROOM + WAY
               for first, second in found(welded)) >= 30


def test_a_place_seen_again_closes_loops_between_the_right_keyframes() -> None:
    mapper = returned()
    views = network(returns=True).views
    back = range(FIRST_ROOM + 2 * WAY, len(views))
    loops = [(first, second) for first, second in found(mapper) if second in back]
    # The last image has its estimate at the end of the recording.
    assert len({second for _, second in loops}) >= 0.9 * (len(back) - 1)
    for one in closer(mapper).records:
        if one.reason:
            continue
        first, second = (views[image_of(pose.stamp_ns)].world_from_camera
                         for pose in (one.first_pose, one.second_pose))
        error = error_vectors(invert_similarity(one.first_from_second) @ invert(first) @ second)
        assert np.linalg.norm(error[:3]) < 0.15 and np.linalg.norm(error[3:6]) < 0.05


def test_the_same_images_give_the_same_loops() -> None:
    again = mapped(network(returns=True), LOOPS)
    assert len(closer(again).records) == len(closer(returned()).records) > 0
    for one, two in zip(closer(again).records, closer(returned()).records, strict=True):
        assert same(one, two)
    assert map_hashes(again) == map_hashes(returned())


def same(one: LoopRecord, two: LoopRecord) -> bool:
    def flat(record: LoopRecord) -> list[object]:
        values = asdict(record)
        return [values[name] for name in ('first', 'second', 'similarity', 'reason', 'distance')
                ] + [record.first_from_second.tolist(),
                     record.first_pose.fragment_from_camera.tolist()]
    return flat(one) == flat(two)


def test_a_network_without_descriptors_has_no_loops() -> None:
    mapper = mapped(network(returns=True, kind=Plain), LOOPS, 75)
    assert not closer(mapper).records and closer(mapper).verified == 0
    assert {one.kind for one in mapper._state.atlas.constraints} == {'overlap'}


def test_verifications_are_limited() -> None:
    rare = closer(mapped(network(returns=True), replace(LOOPS, interval=10)))
    seconds = [one.second for one in rare.records]
    assert len(seconds) >= 3 and np.diff(seconds).min() >= 10


def test_a_pair_without_memory_is_refused() -> None:
    mapper = mapped(network(returns=True, kind=Forgetful), LOOPS)
    assert {one.reason.split(':')[0] for one in closer(mapper).records} == {'no memory'}
    assert closer(mapper).verified == 0 < closer(mapper).refused


def test_evicted_keyframes_close_no_loops() -> None:
    small = replace(MapperConfig(live_pose=False), keyframes=KeyframeConfig(
        selection='stride', max_full_bytes=0, max_bytes=800_000))
    mapper = mapped(network(returns=True), LOOPS, config=small)
    kept = mapper.status().kept
    assert kept.evicted > 0 and len(closer(mapper)._places) <= kept.keyframes + 1


def test_a_map_of_a_version_without_loops_is_continued() -> None:
    answering = network(returns=True)
    tree = mapped(answering, LoopConfig(), count=20).tree()
    del tree['state']['loops']
    for fragment in tree['state']['atlas']['fragments']:
        del fragment['keyframes'].values_by_name['descriptors']
    mapper = Mapper(network(returns=True), every_frame(MapperConfig(
        loops=LOOPS, live_pose=False)))
    mapper.load(decode_tree(*encode_tree(tree)))
    for index, frame in list(enumerate(frames(answering)))[20:]:
        step(mapper, index, frame)
    # The keyframes of the earlier version have no descriptors; saved again they still have none.
    again = Mapper(network(returns=True), mapper._config)
    again.load(decode_tree(*encode_tree(mapper.tree())))
    kept = [one.descriptor is not None for fragment in again._state.atlas.fragments.values()
            for one in fragment.keyframes.values()]
    assert len(kept) - sum(kept) in (19, 20) and sum(kept) > 60
    assert found(mapper) and min(first for first, _ in found(mapper)) >= 19
    tree = mapper.tree()
    tree['state']['atlas']['fragments'][3]['keyframes']['descriptors'][-1, 0] = np.nan
    with pytest.raises(ValueError, match='descriptors'):
        again.load(decode_tree(*encode_tree(tree)))


def test_a_saved_map_finds_the_same_loops() -> None:
    answering, middle = network(returns=True), FIRST_ROOM + 2 * WAY + 8
    mapper = mapped(answering, LOOPS, count=middle)
    other = Mapper(network(returns=True), mapper._config)
    other.load(decode_tree(*encode_tree(mapper.tree())))
    assert len(closer(other).records) == len(closer(mapper).records) > 0
    assert closer(other).verified == closer(mapper).verified
    for index, frame in list(enumerate(frames(answering)))[middle:]:
        step(mapper, index, frame)
        step(other, index, frame)
    assert found(other) == found(mapper)
    assert len(found(mapper)) > 30
    assert map_hashes(other) == map_hashes(mapper)


def test_a_saved_map_decides_as_one_that_was_not_saved_after_evictions() -> None:
    answering, middle = network(returns=True), FIRST_ROOM + 2 * WAY + 4
    small = replace(MapperConfig(live_pose=False), keyframes=KeyframeConfig(
        selection='stride', max_full_bytes=0, max_bytes=800_000))
    mapper = mapped(answering, LOOPS, middle, small)
    assert mapper.status().kept.evicted > 20
    other = Mapper(network(returns=True), mapper._config)
    other.load(decode_tree(*encode_tree(mapper.tree())))
    for index, frame in list(enumerate(frames(answering)))[middle:]:
        step(mapper, index, frame)
        step(other, index, frame)
        places = [closer(one)._places for one in (mapper, other)]
        np.testing.assert_array_equal(places[0].whitened(), places[1].whitened())
    assert len(found(mapper)) > 5
    assert all(map(same, closer(mapper).records, closer(other).records))
    assert map_hashes(other) == map_hashes(mapper)
    for name, wrong in (('numbers', np.arange(5)[::-1].copy()), ('basis', np.zeros((3, 3), 'f')),
                        ('mean', np.zeros(7, np.float32)), ('whitened', np.zeros((2, 2), 'f'))):
        tree = mapper.tree()
        tree['state']['loops']['places'][name] = wrong
        with pytest.raises(ValueError, match='loops.places'):
            other.load(decode_tree(*encode_tree(tree)))


def test_a_descriptor_that_is_not_finite_is_left_out() -> None:
    class Spoilt(RoomsNetwork):
        def _estimate(self, place: int) -> Estimate:
            estimate = super()._estimate(place)
            if self._indices[place] % 10 == 3:
                return replace(estimate, descriptor=np.full_like(estimate.descriptor, np.nan))
            return estimate
    mapper = mapped(network(returns=True, kind=Spoilt), LOOPS)
    assert mapper.status().back_end_failures == 0
    assert len(found(mapper)) > 20
    assert not any(image_of(one.second_pose.stamp_ns) % 10 == 3 for one in closer(mapper).records)
