# SPDX-License-Identifier: Apache-2.0
"""A map that is loaded goes on as one that was never saved: every value of its state is equal."""
from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from oracle import RoomsNetwork, TwinRooms, twin_walk
from safetensors.numpy import load
from synthetic import SyntheticOptions, square_camera

from spann3r_ros.core.types import Frame
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    FragmentConfig,
    KeyframeConfig,
    LoopConfig,
    MapperConfig,
)
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.scale.scale_config import ScaleConfig
from spann3r_ros.mapping.storage.map_directory import map_hashes
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree
from spann3r_ros.pipeline.image_clock import ImageClock

CAMERA = square_camera(96)
SCENE = TwinRooms()
WALK = twin_walk(returns=True, turns=0.5)
# So many frames after a load everything is compared.
LATER = 6
FULL = KeyframeConfig()
# Keyframes become compact, and some are removed.
BOUNDED = KeyframeConfig(max_full_bytes=400_000, max_bytes=1_000_000)


def make(keyframes: KeyframeConfig) -> Mapper:
    """Return a mapper of the default selection, with fragments, loops, scale, carving and grid."""
    network = RoomsNetwork(SCENE, *WALK, CAMERA,
                           SyntheticOptions(unit=0.6, noise=0.003, stretch=1.03))
    return Mapper(network, MapperConfig(
        keyframes=keyframes, loops=LoopConfig(enabled=True, interval=1, min_gap=8),
        scale=ScaleConfig(source='odometry'), fragments=FragmentConfig(max_keyframes=8),
        grid=GridConfig(enabled=True, force=True)))


@cache
def frames() -> list[Frame]:
    views = RoomsNetwork(SCENE, *WALK, CAMERA).views
    return [Frame(10**9 + index * 10**8, 'camera', view.image, CAMERA,
                  odometry=view.world_from_camera) for index, view in enumerate(views)]


Encoded = tuple[bytes, bytes]


@dataclass(frozen=True)
class Run:
    """Encoded states after each frame, the moments to save at by name, and the final hashes."""

    states: dict[int, Encoded]
    moments: dict[str, int]
    hashes: dict[str, str]


@cache
def uninterrupted(keyframes: KeyframeConfig) -> Run:
    mapper, states, moments = make(keyframes), {}, {}
    for index, frame in enumerate(frames()):
        former = mapper.status()
        assert not mapper.process(frame).failed
        state, status = mapper._state, mapper.status()
        states[index] = encode_tree(mapper.tree())
        happens = {
            'the first image waits': not status.keyframes,
            'a frame is spare': state.spare is not None,
            'the first keyframe': status.keyframes == 1,
            'the map is metric': status.scale.metric,
            'a fragment has begun': status.fragment_id > former.fragment_id,
            'a frame is pending': bool(state.pending) and status.keyframes == 12,
            'a keyframe was skipped': bool(state.pending) and status.skipped > former.skipped,
            'keyframes were removed': status.kept.evicted >= 3,
            'a correction is computed': state.back_end.correction._running is not None,
            'a loop has moved fragments': status.loops_accepted > 0 and index % 5 == 0}
        for name, now in happens.items():
            if now and index + LATER < len(frames()):
                moments.setdefault(name, index)
    mapper.flush()
    return Run(states, moments, map_hashes(mapper))


def differences(one: Encoded, other: Encoded) -> list[str]:
    """Return the paths of the values that differ."""
    first, second = (_leaves(json.loads(text), '') | {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in load(arrays).items()}
        for text, arrays in (one, other))
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def _leaves(value: object, path: str) -> dict[str, object]:
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {path: value}
    leaves = {f'{path} ': len(items)}
    for name, item in items:
        leaves |= _leaves(item, f'{path}.{name}')
    return leaves


MOMENTS = [
    (FULL, 'the first image waits'), (FULL, 'a frame is spare'), (FULL, 'the first keyframe'),
    (FULL, 'the map is metric'), (FULL, 'a fragment has begun'), (FULL, 'a frame is pending'),
    (FULL, 'a keyframe was skipped'), (FULL, 'a correction is computed'),
    (FULL, 'a loop has moved fragments'), (BOUNDED, 'keyframes were removed')]


@pytest.mark.parametrize(('keyframes', 'moment'), MOMENTS, ids=[name for _, name in MOMENTS])
def test_a_loaded_map_goes_on_with_the_same_values(keyframes: KeyframeConfig,
                                                   moment: str) -> None:
    run = uninterrupted(keyframes)
    at = run.moments[moment]
    mapper = make(keyframes)
    mapper.load(decode_tree(*run.states[at]))
    assert differences(encode_tree(mapper.tree()), run.states[at]) == []
    for frame in frames()[at + 1:at + LATER + 1]:
        mapper.process(frame)
    assert differences(encode_tree(mapper.tree()), run.states[at + LATER]) == []


def test_a_chain_of_loads_ends_with_the_same_map() -> None:
    """A new mapper for every ten frames: the last one flushes the map of one that had them all."""
    run, state = uninterrupted(FULL), None
    for begin in range(0, len(frames()), 10):
        mapper = make(FULL)
        if state is not None:
            mapper.load(decode_tree(*state))
        for frame in frames()[begin:begin + 10]:
            mapper.process(frame)
        state = encode_tree(mapper.tree())
    mapper.flush()
    assert map_hashes(mapper) == run.hashes


def test_a_fragment_that_was_asked_for_begins_after_the_load() -> None:
    plain, loaded = make(FULL), make(FULL)
    for frame in frames()[:12]:
        plain.process(frame)
    plain.new_fragment()
    loaded.load(decode_tree(*encode_tree(plain.tree())))
    for mapper in (plain, loaded):
        for frame in frames()[12:16]:
            mapper.process(frame)
    assert plain.status().fragment_id == 1
    assert differences(*(encode_tree(one.tree()) for one in (plain, loaded))) == []


def test_the_spare_frame_of_a_loaded_map_is_used_at_its_end() -> None:
    """The network needs two images; the second one was no keyframe."""
    def still(index: int) -> Frame:
        return replace(frames()[0], stamp_ns=10**9 + index * 10**7)
    plain, loaded = make(FULL), make(FULL)
    for index in range(2):
        plain.process(still(index))
    assert plain._state.spare is not None
    loaded.load(decode_tree(*encode_tree(plain.tree())))
    for mapper in (plain, loaded):
        mapper.flush()
    assert len(plain.trajectory) == 2
    assert map_hashes(loaded) == map_hashes(plain)


def test_arrays_keep_their_shape_and_type_in_a_file() -> None:
    tree = {'none': np.array(2.5), 'empty': np.zeros((0, 3), np.int8), 'flag': np.array([True]),
            'transposed': np.arange(6, dtype=np.int32).reshape(2, 3).T, 'half': np.float16([1.5])}
    saved = decode_tree(*encode_tree(tree)).arrays()
    for name, array in tree.items():
        assert (saved[name].dtype, saved[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(saved[name], array)


@pytest.mark.parametrize(('next_sec', 'is_alone'), [(0.1, False), (60.0, True), (-5.0, True)])
def test_the_clock_goes_on_if_the_next_image_follows_the_loaded_ones(
        next_sec: float, is_alone: bool) -> None:
    """Of an image that does not, nobody knows yet whether its stamp is the wild one."""
    clock, loaded_ns = ImageClock(), 100 * 10**9
    clock.begin_again(loaded_ns)
    stamp_ns = loaded_ns + round(next_sec * 1e9)
    clock.begin(stamp_ns)
    assert (clock.newest_ns, clock.is_new, clock.is_alone) == (stamp_ns, False, is_alone)
