# SPDX-License-Identifier: Apache-2.0
"""Loops and measured scales correct a map beside the live stream, at a frame that they decide."""
from __future__ import annotations

import math
import time
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, make_mapper
from synthetic import SyntheticNetwork, SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.transforms import invert, similarity_scale
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.mapping.fragments.constraint import Constraint, without_fragment
from spann3r_ros.mapping.loops import correction as correction_module
from spann3r_ros.mapping.loops.pose_graph import ScalePrior
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.scale.scale_config import ScaleConfig
from spann3r_ros.mapping.storage.map_directory import encode_map, map_hashes, read_map
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree

# One round, in which the network drifts by 4 mm a step in the world, and a third of another one.
ROUND, COUNT, PER_FRAGMENT = 30, 40, 5
POSES = (2 * orbit_trajectory(ROUND))[:COUNT]
FRAMES = render_frames(SCENE, POSES, CAMERA, indexed=True)
DRIFTING = SyntheticOptions(index_from_image=True, drift=0.004)
SURE = np.diag([0.005] * 3 + [0.005] * 3 + [0.01]) ** 2
LOOP_AT = 34


@cache
def begun() -> Mapper:
    return go_on(make_mapper(POSES, DRIFTING), 0, LOOP_AT)


def mapped() -> Mapper:
    return deepcopy(begun(), {id(one): one for one in (SCENE, POSES, *FRAMES)})


def go_on(mapper: Mapper, start: int, end: int) -> Mapper:
    for index in range(start, end):
        if index and index % PER_FRAGMENT == 0:
            mapper.new_fragment()
        mapper.process(FRAMES[index])
    return mapper


def true_loop(mapper: Mapper, first: int, second: int, shift: float = 0.0) -> Constraint:
    """Return what verification would measure between two fragments, from the true poses."""
    fragments = mapper._state.atlas.fragments
    found = []
    for one in (first, second):
        path = fragments[one].path
        index = next(index for index, frame in enumerate(FRAMES)
                     if frame.stamp_ns == path.stamps[1])
        found.append((path.transforms[1], POSES[index]))
    (first_from_camera, true_first), (second_from_camera, true_second) = found
    between = invert(true_first) @ true_second
    between[0, 3] += shift
    return Constraint('loop', first, second,
                      first_from_camera @ between @ invert(second_from_camera), SURE)


def add(mapper: Mapper, *loops: Constraint) -> Mapper:
    """Hand loops to the back end as a detector of loops does."""
    mapper._state.back_end.correction.add(loops, mapper._state.atlas)
    return mapper


def closed() -> Mapper:
    mapper = mapped()
    return add(mapper, true_loop(mapper, 0, 6))


def end_error(mapper: Mapper) -> float:
    """Return how far a camera of the second round is from the first one, in metres."""
    poses = {pose.stamp_ns: pose.world_from_camera for pose in mapper.trajectory}
    first, second = poses[FRAMES[2].stamp_ns], poses[FRAMES[2 + ROUND].stamp_ns]
    return float(np.linalg.norm(first[:3, 3] - second[:3, 3]))


def test_a_loop_is_applied_at_the_second_keyframe_after_its_snapshot() -> None:
    mapper = closed()
    before = end_error(mapper)
    assert before > 0.08
    # The snapshot is taken at the next keyframe.
    for index in range(LOOP_AT, LOOP_AT + 2):
        assert not go_on(mapper, index, index + 1)._state.atlas.revision
        assert mapper._state.back_end.is_pending
    update = mapper.process(FRAMES[LOOP_AT + 2])
    assert update.revision == len(update.moved) > 4 and 0 not in update.moved
    assert set(update.moved) <= set(update.places)
    assert not mapper._state.back_end.is_pending
    assert end_error(mapper) < 0.2 * before
    status = mapper.status()
    assert (status.loops_accepted, status.loops_rejected) == (1, 0)
    assert status.fragments_unconnected == 0


@pytest.mark.parametrize('delay_sec', [0.0, 0.4])
def test_the_result_does_not_depend_on_how_long_the_solution_takes(
        monkeypatch: pytest.MonkeyPatch, delay_sec: float) -> None:
    expected = map_hashes(go_on(closed(), LOOP_AT, COUNT))

    def slow(*arguments: object) -> object:
        time.sleep(delay_sec)
        return solve(*arguments)
    solve = correction_module.solve
    monkeypatch.setattr(correction_module, 'solve', slow)
    began = time.monotonic()
    mapper = closed()
    assert map_hashes(go_on(mapper, LOOP_AT, COUNT)) == expected
    assert time.monotonic() - began >= delay_sec


def test_images_go_on_while_a_graph_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, seen = Event(), []

    def waiting(*arguments: object) -> object:
        seen.append(arrived.wait(30.0))
        return solve(*arguments)
    solve = correction_module.solve
    monkeypatch.setattr(correction_module, 'solve', waiting)
    # The solution ends only after the images before its application have been processed.
    mapper = go_on(closed(), LOOP_AT, LOOP_AT + 2)
    assert mapper.status().keyframes == LOOP_AT + 1 and not seen
    arrived.set()
    go_on(mapper, LOOP_AT + 2, LOOP_AT + 3)
    assert seen == [True] and mapper.status().revision


def test_fragments_that_began_after_the_snapshot_follow_the_last_one_before_it() -> None:
    # The snapshot is taken at the first of these frames; the second one begins a fragment.
    mapper = go_on(closed(), LOOP_AT, LOOP_AT + 2)
    atlas = mapper._state.atlas
    assert atlas.current.id == 7 and not atlas.revision
    before = {one.id: one.map_from_fragment for one in atlas.fragments.values()}
    update = mapper.process(FRAMES[LOOP_AT + 2])
    assert {6, 7} <= set(update.moved)
    np.testing.assert_allclose(
        np.linalg.inv(update.places[6]) @ update.places[7],
        np.linalg.inv(before[6]) @ before[7], atol=1e-12)
    # Later fragments are joined as ever.
    assert end_error(go_on(mapper, LOOP_AT + 3, COUNT)) < 0.03


def test_a_move_between_snapshot_and_application_stays() -> None:
    plain, moved = closed(), closed()
    place = np.diag([2.0, 2.0, 2.0, 1.0])
    place[:3, 3] = 3.0, -1.0, 0.5
    for mapper in (plain, moved):
        mapper.process(FRAMES[LOOP_AT])
    moved._state.atlas.move_all(place)
    for mapper in (plain, moved):
        go_on(mapper, LOOP_AT + 1, LOOP_AT + 4)
    assert plain.status().revision and not moved._state.back_end.is_pending
    for pose, expected in zip(moved.trajectory, plain.trajectory, strict=True):
        np.testing.assert_allclose(pose.world_from_camera[:3, 3], (
            place @ expected.world_from_camera)[:3, 3], atol=1e-6)


def test_a_move_stays_if_the_oldest_fragment_is_gone_meanwhile() -> None:
    plain, moved = closed(), closed()
    place = np.diag([2.0, 2.0, 2.0, 1.0])
    place[:3, 3] = 3.0, -1.0, 0.5
    for mapper in (plain, moved):
        mapper.process(FRAMES[LOOP_AT])
        atlas = mapper._state.atlas
        del atlas.fragments[0]
        atlas.constraints = without_fragment(atlas.constraints, 0)
    moved._state.atlas.move_all(place)
    for mapper in (plain, moved):
        go_on(mapper, LOOP_AT + 1, LOOP_AT + 4)
    assert plain.status().revision > 0 and moved.status().back_end_failures == 0
    for pose, expected in zip(moved.trajectory, plain.trajectory, strict=True):
        np.testing.assert_allclose(pose.world_from_camera[:3, 3], (
            place @ expected.world_from_camera)[:3, 3], atol=1e-6)


def test_a_fragment_that_moves_alone_meanwhile_keeps_its_motion() -> None:
    plain, moved = closed(), closed()
    stretch = np.diag([1.02, 1.02, 1.02, 1.0])
    stretch[:3, 3] = 0.1, 0.0, 0.0
    for mapper in (plain, moved):
        mapper.process(FRAMES[LOOP_AT])
    atlas = moved._state.atlas
    assert atlas.current.id == 6
    atlas.move(6, atlas.current.map_from_fragment @ stretch)
    for mapper in (plain, moved):
        mapper._state.back_end.finish(mapper._state.atlas)
    for one in plain._state.atlas.fragments.values():
        np.testing.assert_allclose(
            atlas.fragments[one.id].map_from_fragment,
            one.map_from_fragment @ (stretch if one.id == 6 else np.eye(4)), atol=1e-9)


@pytest.mark.parametrize('more', [0, 1, 2])
def test_the_end_of_a_recording_applies_what_is_due(more: int) -> None:
    mapper = go_on(closed(), LOOP_AT, LOOP_AT + more)
    before = end_error(mapper)
    update = mapper.flush()
    assert update.moved and not mapper._state.back_end.is_pending
    assert end_error(mapper) < 0.2 * before


@pytest.mark.parametrize('more', [0, 2])
def test_a_map_that_is_saved_while_a_solution_runs_is_continued(
        tmp_path: Path, more: int) -> None:
    mapper = go_on(closed(), LOOP_AT, LOOP_AT + more)
    status, seen = mapper.status(), []
    encode_map(mapper, lambda _: seen.append(end_error(mapper))).write(tmp_path)
    # What is saved is corrected; the map itself has not changed, and says so.
    assert seen[0] < 0.03
    assert replace(mapper.status(), memory=None) == replace(status, memory=None)
    loaded = make_mapper(POSES, DRIFTING)
    loaded.load(read_map(tmp_path))
    for one in (mapper, loaded):
        go_on(one, LOOP_AT + more, COUNT)
    assert map_hashes(loaded) == map_hashes(mapper)
    assert loaded.status().revision == mapper.status().revision > 0
    assert loaded.status().loops_accepted == 1


def test_saved_cloud_and_path_have_the_corrections_that_are_due(tmp_path: Path) -> None:
    mapper = go_on(closed(), LOOP_AT, LOOP_AT + 1)
    before = map_hashes(mapper)
    encode_map(mapper).write(tmp_path)
    assert map_hashes(mapper) == before and mapper._state.back_end.is_pending
    saved = {one.stamp_ns: one.world_from_camera[:3, 3]
             for one in read_tum(tmp_path / 'map' / 'trajectory.tum')}
    assert len(saved) == len(mapper.trajectory)
    first, second = FRAMES[2].stamp_ns, FRAMES[2 + ROUND].stamp_ns
    assert np.linalg.norm(saved[first] - saved[second]) < 0.03 < end_error(mapper)


def test_a_map_of_a_version_without_a_pose_graph_is_continued() -> None:
    mapper = mapped()
    tree = mapper.tree()
    del tree['state']['correction']
    for fragment in tree['state']['atlas']['fragments']:
        del fragment['connected']
    for constraint in tree['state']['atlas']['constraints']:
        del constraint['covariance'], constraint['accepted']
    atlas = mapper._state.atlas
    atlas.constraints = [replace(one, covariance=None) for one in atlas.constraints]
    loaded = make_mapper(POSES, DRIFTING)
    loaded.load(decode_tree(*encode_tree(tree)))
    for one in (mapper, loaded):
        add(one, true_loop(one, 0, 6))
        go_on(one, LOOP_AT, COUNT)
    # Its joins have no covariance of their own: the loop moves the fragments a little otherwise.
    assert loaded.status().loops_accepted == mapper.status().loops_accepted == 1
    assert np.allclose(loaded.path().map_from_camera, mapper.path().map_from_camera, atol=0.1)


def test_a_copy_of_a_map_has_its_own_correction() -> None:
    mapper = go_on(closed(), LOOP_AT, LOOP_AT + 1)
    state = mapper._state
    copy = deepcopy(state.back_end), deepcopy(state.atlas, {
        id(one): one for one in mapper._layers})
    copy[0].finish(copy[1])
    assert copy[1].revision and not state.atlas.revision and state.back_end.is_pending


def test_a_false_loop_changes_nothing_but_its_count() -> None:
    plain, mapper = mapped(), mapped()
    add(mapper, true_loop(mapper, 1, 4, shift=1.5))
    for one in (plain, mapper):
        go_on(one, LOOP_AT, COUNT).flush()
    assert (mapper.status().loops_accepted, mapper.status().loops_rejected) == (0, 1)
    assert mapper.status().revision == 0
    assert map_hashes(mapper) == map_hashes(plain)


def test_without_a_loop_there_is_nothing_to_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError
    monkeypatch.setattr(correction_module, '_Running', unexpected)
    mapper = go_on(mapped(), LOOP_AT, COUNT)
    mapper.flush()
    assert mapper.status().revision == 0 and not mapper._state.back_end.is_pending


def test_a_measured_scale_takes_part_in_the_solution_of_a_loop(
        monkeypatch: pytest.MonkeyPatch) -> None:
    plain, mapper = closed(), mapped()
    monkeypatch.setattr(mapper._state.back_end.scale, 'priors',
                        lambda _: [ScalePrior(2, float(np.log(3.0)), 1e-6)])
    # It waits for a loop.
    go_on(mapper, LOOP_AT, LOOP_AT + 1)
    assert not mapper._state.back_end.is_pending and not mapper.status().revision
    add(mapper, true_loop(mapper, 0, 6))
    for one in (plain, mapper):
        one.flush()
    scale = similarity_scale(mapper._state.atlas.fragments[2].map_from_fragment)
    assert scale == pytest.approx(3.0, rel=1e-3)
    # The whole map is stretched about its origin, and corrected by the loop as without the scale.
    for one in plain._state.atlas.fragments.values():
        place = mapper._state.atlas.fragments[one.id].map_from_fragment
        assert similarity_scale(place) == pytest.approx(
            3.0 * similarity_scale(one.map_from_fragment), rel=0.02)
    assert end_error(mapper) < 3.0 * 0.03 < end_error(mapped())


def test_given_poses_are_not_corrected() -> None:
    mapper, shifted = make_mapper(POSES, DRIFTING), np.eye(4)
    shifted[0, 3] = 0.1
    for index in range(20):
        if index in (8, 14):
            mapper.new_fragment()
        mapper.process(replace(FRAMES[index], world_from_camera=POSES[index]))
        if index == 16:
            add(mapper, Constraint('loop', 0, 1, shifted, SURE))
    assert mapper.status().revision == 0 and mapper.status().fragments_unconnected == 0


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_graph_without_a_solution_leaves_the_map_and_is_reported(
        caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        if remaining:
            raise remaining.pop()
        return solve(*_)
    solve, remaining = correction_module.solve, [ArithmeticError('singular'), SystemExit()]
    monkeypatch.setattr(correction_module, 'solve', failing)
    mapper = mapped()
    for dead, count in (('its thread has died', 1), ('singular', 2)):
        add(mapper, true_loop(mapper, 0, 6))
        mapper = go_on(mapper, LOOP_AT + 3 * count - 3, LOOP_AT + 3 * count)
        status = mapper.status()
        assert caplog.text.count(f'the pose graph has no solution: {dead}') >= 1
        assert f'the pose graph has no solution: {dead}' in status.back_end_reason
        # The loop does not spoil the next solution, and stays counted.
        assert (status.revision, status.back_end_failures) == (0, count)
        assert (status.loops_accepted, status.loops_rejected) == (0, count)
        assert not mapper._state.back_end.is_pending
    assert status.keyframes == LOOP_AT + 5
    add(mapper, true_loop(mapper, 0, 6)).flush()
    assert mapper.status().loops_accepted == 1 and end_error(mapper) < 0.03
    loaded = make_mapper(POSES, DRIFTING)
    loaded.load(decode_tree(*encode_tree(mapper.tree())))
    for name in ('loops_accepted', 'loops_rejected', 'back_end_failures', 'back_end_reason'):
        assert getattr(loaded.status(), name) == getattr(mapper.status(), name)


def test_constraints_that_are_no_loops_of_the_map_are_refused() -> None:
    mapper = mapped()
    for wrong in (-SURE, None, np.nan * SURE):
        with pytest.raises(ValueError, match='constraint: expected a finite similarity'):
            add(mapper, replace(true_loop(mapper, 0, 6), covariance=wrong))
    for wrong in (replace(true_loop(mapper, 0, 6), second=20),
                  replace(true_loop(mapper, 0, 6), kind='overlap')):
        with pytest.raises(ValueError, match='constraint: expected a loop between two of the'):
            add(mapper, wrong)
    assert not mapper._state.back_end.is_pending


def test_a_map_that_is_saved_before_a_correction_is_applied_shares_the_network(
        monkeypatch: pytest.MonkeyPatch) -> None:
    mapper = go_on(make_mapper(POSES, DRIFTING), 0, LOOP_AT)
    add(mapper, true_loop(mapper, 0, 6))

    def refuse(*_: object) -> None:
        raise AssertionError('the network is copied')
    monkeypatch.setattr(SyntheticNetwork, '__deepcopy__', refuse, raising=False)
    assert mapper._state.back_end.is_pending
    encode_map(mapper)


def test_a_measured_scale_does_not_undo_what_a_loop_has_corrected() -> None:
    rng = np.random.default_rng(0)
    config = MapperConfig(scale=ScaleConfig('depth'))
    mapper = make_mapper(POSES, DRIFTING, config)
    scales, revisions = [], []
    for index, (frame, pose) in enumerate(zip(FRAMES, POSES, strict=True)):
        if index and index % 10 == 0:
            mapper.new_fragment()
        metres = SCENE.render(pose, CAMERA)[1][..., 2]
        mapper.process(replace(frame, depth=(metres * np.exp(
            0.15 * rng.standard_normal(metres.shape))).astype(np.float32)))
        if index == LOOP_AT - 1:
            loop = true_loop(mapper, 0, 3)
            stretched = loop.first_from_second.copy()
            stretched[:3, :3] *= 1.06
            add(mapper, replace(loop, first_from_second=stretched))
        status = mapper.status()
        revisions.append(status.revision)
        newest = mapper._state.atlas.fragments[status.fragment_id]
        scales.append(math.log(similarity_scale(newest.map_from_fragment)))
    applied = LOOP_AT + 2
    assert status.scale.metric and status.loops_accepted == 1
    assert revisions[applied] > revisions[applied - 1]
    assert scales[applied] - scales[applied - 1] > 0.015
    # The keyframes after it measure the scale of before; nothing moves the fragment back.
    assert abs(scales[-1] - scales[applied]) < 0.003
