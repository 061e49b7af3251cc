# SPDX-License-Identifier: Apache-2.0
"""Loops that the mapper finds by itself on a walk that drifts: all of the map follows."""
from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from oracle import EXACT, RoomsNetwork, TwinRooms, twin_walk
from scipy.spatial import cKDTree
from synthetic import SyntheticOptions, every_frame, square_camera

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
from blind_images import bag_frames

from spann3r_ros import share_directory
from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import Frame
from spann3r_ros.mapping.fragments.graph_view import ACCEPTED, REFUSED
from spann3r_ros.mapping.front_end import TIME_JUMPED
from spann3r_ros.mapping.loops.loop_closer import LoopCloser
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    FragmentConfig,
    LoopConfig,
    MapperConfig,
    VoxelMapConfig,
)
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.occupancy.occupancy_grid import Grid, GridView
from spann3r_ros.mapping.storage.map_directory import map_hashes
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree
from spann3r_ros.networks.registry import open_network, resolve_checkpoint
from spann3r_ros.pipeline.frame_roles import Edge, FrameRoles
from spann3r_ros.pipeline.node_settings import NodeConfig
from spann3r_ros.pipeline.transform_tree import TransformTree

BAG = share_directory() / 'bags' / 'demo_room'
CAMERA, SCENE = square_camera(64), TwinRooms()
DRIFT = 0.006  # metres along x for each image
VOXEL = 0.06
LOOPS = LoopConfig(enabled=True)
CONFIG = every_frame(MapperConfig(
    fragments=FragmentConfig(max_keyframes=10), loops=LOOPS,
    voxel_map=VoxelMapConfig(voxel_size=VOXEL), grid=GridConfig(force=True)))
POSES, ALIKE = twin_walk(returns=True)


@cache
def network(drift: float = DRIFT) -> RoomsNetwork:
    return RoomsNetwork(SCENE, POSES, ALIKE, CAMERA, SyntheticOptions(drift=drift), EXACT)


@cache
def frames() -> list[Frame]:
    return [Frame(10**9 + index * 10**8, 'camera', view.image, CAMERA, first_pose=POSES[0])
            for index, view in enumerate(network().views)]


@cache
def walked(drift: float = DRIFT, loops: LoopConfig = LOOPS) -> tuple[Mapper, list[MapUpdate]]:
    """Return the map of the whole walk, and its updates."""
    mapper = Mapper(network(drift), replace(CONFIG, loops=loops))
    updates = [*(mapper.process(frame) for frame in frames()), mapper.flush()]
    assert not any(update.failed for update in updates)
    return mapper, updates


def path_errors(mapper: Mapper) -> np.ndarray:
    """Return how far each camera is from the truth, in metres [n]."""
    return np.array([np.linalg.norm((one.world_from_camera - true)[:3, 3])
                     for one, true in zip(mapper.trajectory, POSES, strict=True)])


def off(points: np.ndarray) -> float:
    """Return how far points [n, 3] are from those of the walk without drift: 90 % are nearer."""
    true = cKDTree(walked(0.0, LoopConfig())[0].cloud().points)
    return float(np.quantile(true.query(points)[0], 0.9))


def grid_of(mapper: Mapper) -> Grid:
    assert not mapper.grid_reason
    return GridView()(mapper.grid_snapshot())


def obstacles(mapper: Mapper) -> np.ndarray:
    """Return the centres [n, 2] of the occupied cells."""
    grid = grid_of(mapper)
    return grid.resolution * (np.argwhere(grid.values >= 65)[:, ::-1] + 0.5) + grid.origin[:2]


def grid_error(mapper: Mapper) -> float:
    true = cKDTree(obstacles(walked(0.0, LoopConfig())[0]))
    return float(np.quantile(true.query(obstacles(mapper))[0], 0.9))


def test_a_loop_that_the_mapper_finds_moves_path_cloud_and_grid() -> None:
    drifted, (mapper, updates) = walked(loops=LoopConfig())[0], walked()
    status = mapper.status()
    assert status.loops_accepted >= 5 and status.loops_rejected == 0
    assert status.fragments_unconnected == 0 and status.revision > 0
    assert len(mapper.graph().edges[ACCEPTED]) == status.loops_accepted
    before, after = path_errors(drifted)[-1], path_errors(mapper)[-1]
    assert before == pytest.approx(DRIFT * (len(POSES) - 1), rel=0.3)
    assert after <= 0.2 * before
    for measure in (lambda one: off(one.cloud().points), grid_error):
        assert measure(mapper) <= 0.4 * measure(drifted)
    # The voxels of each fragment moved with it.
    moved = {one for update in updates for one in update.moved}
    assert moved == set(mapper._state.atlas.fragments) - {0}


def test_a_correction_moves_map_from_odom_and_not_odom() -> None:
    _, updates = walked()
    sent: dict[str, list[np.ndarray]] = {'odom': [], 'camera': []}

    def hear(edges: list[Edge], _: int) -> None:
        for edge in edges:
            sent[edge.child].append(edge.parent_from_child)
    roles = FrameRoles(NodeConfig(publish_tf='camera'), TransformTree(30.0), hear,
                       lambda _: None, lambda _: None, lambda: 0)
    jumps, steps = [], []
    for index, update in enumerate(updates[:-1]):
        roles.take_places(update.places)
        if update.live_pose is None:
            continue
        count = len(sent['camera'])
        roles.take(update.live_pose)
        assert len(sent['camera']) == len(sent['odom']) == count + 1
        if count:
            true = invert(POSES[index - 1]) @ POSES[index]
            step = invert(sent['camera'][-2]) @ sent['camera'][-1]
            steps.append(np.linalg.norm((step - true)[:3, 3]))
            jumps.append(np.linalg.norm((sent['odom'][-1] - sent['odom'][-2])[:3, 3]))
    assert max(steps) < 3 * DRIFT < 0.1 < max(jumps)


def test_a_fragment_that_is_not_connected_is_joined_by_a_loop_that_the_mapper_finds() -> None:
    mapper = Mapper(network(), CONFIG)
    first_room, door, back = 40, 50, len(POSES) - 40
    for frame in frames()[:first_room]:
        mapper.process(frame)
    # The stamps jump: the next image shows nothing of the last one.
    mapper.end_sequence(TIME_JUMPED)
    assert mapper.status().fragments_unconnected == 0
    unconnected = []
    for frame in frames()[door:]:
        mapper.process(frame)
        unconnected.append(mapper.status().fragments_unconnected)
    mapper.flush()
    # The fragments after the jump are joined to each other, and later by a loop to the first ones.
    joined = unconnected.index(0, 2)
    assert set(unconnected[2:joined]) == {1, 2} and set(unconnected[joined:]) == {0}
    assert joined > back - door
    assert any(one.accepted and one.first < 4 <= one.second
               for one in mapper._state.atlas.constraints if one.kind == 'loop')
    assert path_error_of(mapper, frames()[-1].stamp_ns) < 0.2


def path_error_of(mapper: Mapper, stamp_ns: int) -> float:
    found = next(one for one in mapper.trajectory if one.stamp_ns == stamp_ns)
    true = POSES[(stamp_ns - 10**9) // 10**8]
    return float(np.linalg.norm((found.world_from_camera - true)[:3, 3]))


@pytest.mark.parametrize('saved', [False, True])
def test_the_join_after_a_jump_of_the_stamps_is_checked_by_the_first_keyframe(
        saved: bool, caplog: pytest.LogCaptureFixture) -> None:
    for first_again, unconnected in ((30, 0), (27, 0), (50, 1)):
        mapper = Mapper(network(), replace(CONFIG, loops=LoopConfig()))
        for frame in frames()[15:30]:
            mapper.process(frame)
        mapper.end_sequence(TIME_JUMPED)
        count = len(mapper._state.atlas.constraints)
        for frame in frames()[first_again:first_again + 4]:
            mapper.process(frame)
            if saved:
                tree = decode_tree(*encode_tree(mapper.tree()))
                mapper = Mapper(network(), mapper._config)
                mapper.load(tree)
        status = mapper.status()
        assert status.fragments_unconnected == unconnected, first_again
        assert len(mapper._state.atlas.constraints) == count + 1 - unconnected
    assert caplog.text.count('is not connected: its first keyframe shows another place') == 1


def test_the_bundled_network_goes_on_at_the_same_place_only() -> None:
    frames, bundled = bag_frames(BAG), open_network(resolve_checkpoint(''))
    for first_again, unconnected in ((22, 0), (50, 1)):
        mapper = Mapper(bundled)
        for frame in frames[12:20]:
            mapper.process(frame)
        mapper.end_sequence(TIME_JUMPED)
        for frame in frames[first_again:first_again + 5]:
            mapper.process(frame)
        mapper.flush()
        status = mapper.status()
        assert (status.fragments, status.fragments_unconnected) == (2, unconnected)


def test_refused_candidates_are_in_the_status_and_on_the_graph() -> None:
    class Denying(RoomsNetwork):
        def pair(self, first: np.ndarray, second: np.ndarray) -> None:
            raise RuntimeError('never')
    mapper = Mapper(Denying(SCENE, POSES, ALIKE, CAMERA, SyntheticOptions(), EXACT), CONFIG)
    for frame in frames():
        assert not mapper.process(frame).failed
    status = mapper.status()
    assert status.loops_refused == len(mapper.graph().edges[REFUSED]) > 3
    assert status.loop_refusal == 'no answer: RuntimeError: never'
    ends = mapper.graph().edges[REFUSED]
    path = mapper.path().map_from_camera[:, :3, 3]
    assert cKDTree(path).query(ends.reshape(-1, 3))[0].max() < 1e-9
    # Of fragments that are gone nothing is left.
    closer = mapper._state.back_end.loops
    assert {one.first_pose.fragment_id for one in closer.records} >= {1}
    del mapper._state.atlas.fragments[1]
    closer._forget_removed(mapper._state.atlas)
    assert 1 not in {one.first_pose.fragment_id for one in closer.records}
    assert closer.refused == status.loops_refused


def test_loops_that_are_off_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(mapper: Mapper) -> tuple[object, ...]:
        grid = grid_of(mapper)
        return (map_hashes(mapper), grid.values.tobytes(), grid.origin,
                [constraint.first_from_second.tobytes()
                 for constraint in mapper._state.atlas.constraints])
    off, on = everything(walked(loops=LoopConfig())[0]), everything(walked()[0])

    def unexpected(*_: object) -> None:
        raise AssertionError('the places are used')
    # A mapper that cannot have a loop.
    monkeypatch.setattr(LoopCloser, '_close', unexpected)
    monkeypatch.setattr(LoopCloser, '_index', unexpected)
    monkeypatch.setattr(RoomsNetwork, 'pair', None)
    plain = Mapper(network(), replace(CONFIG, loops=LoopConfig(
        interval=1, min_similarity=0.0, drift=10.0)))
    for frame in frames():
        plain.process(frame)
    plain.flush()
    assert everything(plain) == off and plain.status().back_end_failures == 0
    assert off != on
