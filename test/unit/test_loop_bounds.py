# SPDX-License-Identifier: Apache-2.0
"""A map that sees the same places for ever has a bounded number of loops, and stays connected."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spann3r_ros.core.transforms import to_rigid
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.loops import loop_bounds
from spann3r_ros.mapping.loops.atlas_graph import graph_of
from spann3r_ros.mapping.loops.correction import Correction
from spann3r_ros.mapping.loops.loop_bounds import superfluous
from spann3r_ros.mapping.loops.pair_alignment import MismatchError
from spann3r_ros.mapping.loops.pose_graph import groups
from spann3r_ros.mapping.loops.verification import Overlap, check_overlap
from spann3r_ros.mapping.mapper_config import LoopConfig, MapperConfig

SURE = np.diag([0.01] * 7) ** 2


def loop(first: int, second: int, accepted: bool | None, shift: float = 0.0) -> Constraint:
    between = np.eye(4)
    between[0, 3] = shift
    return Constraint('loop', first, second, between, SURE, accepted)


def join(first: int) -> Constraint:
    return Constraint('overlap', first, first + 1, np.eye(4), SURE)


def test_the_oldest_loops_are_superfluous_unless_they_alone_connect(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_bounds, 'MOST_ACCEPTED', 3)
    monkeypatch.setattr(loop_bounds, 'MOST_REJECTED', 2)
    # Fragments 3 and 4 hang on a loop alone.
    constraints = [join(0), join(1), join(3), loop(0, 3, True), loop(0, 1, False),
                   loop(0, 2, True), loop(1, 2, None), loop(0, 1, True), loop(0, 2, False),
                   loop(1, 2, True), loop(1, 2, False), loop(0, 2, True)]
    found = {id(one) for one in superfluous(constraints)}
    assert [index for index, one in enumerate(constraints) if id(one) in found] == [4, 5, 7]
    left = [one for one in constraints if id(one) not in found]
    assert len(set(groups(range(5), [one for one in left if one.accepted is not False]).values(
        ))) == 1
    assert superfluous(left) == []


def test_a_map_forgets_the_loops_that_it_rejects_and_counts_them(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_bounds, 'MOST_REJECTED', 4)
    atlas, correction = walked(6), Correction(LoopConfig())
    for number in range(15):
        correction.add([loop(0, 4, None, shift=50.0 + number)], atlas)
        correction.finish(atlas)
        assert atlas.loops(accepted=False) == number + 1
        assert sum(one.kind == 'loop' for one in atlas.constraints) == min(number + 1, 4)
    assert atlas.loops(accepted=True) == atlas.revision == 0
    # A loop of a removed fragment stays counted.
    correction.add([loop(1, 2, None)], atlas)
    correction.finish(atlas)
    assert atlas.loops(accepted=True) == 1
    for one in (1, 2):
        atlas.fragments[one].path.drop_oldest(100)
    atlas.begin()
    assert list(atlas.fragments)[:3] == [0, 3, 4] and atlas.loops(accepted=True) == 1
    assert atlas.loops(accepted=False) == 15


def walked(fragments: int, config: MapperConfig | None = None) -> Atlas:
    """Return an atlas of joined fragments, of a path of eight metres each."""
    atlas = Atlas(config or MapperConfig(), ())
    for number in range(fragments):
        if number:
            atlas.begin()
            atlas.constraints.append(join(number - 1))
        for way in range(9):
            atlas.current.path.append(FragmentPose(
                way, 'camera', number, to_rigid(np.zeros(3), np.array([float(way), 0.0, 0.0]))))
        atlas.current.received = 9
    return atlas


def test_the_graph_is_that_of_the_whole_path_when_poses_are_gone() -> None:
    whole, bounded = walked(4), walked(4)
    for one in (whole, bounded):
        one.constraints += [loop(0, 3, True), loop(0, 2, True)]
    for one, count in ((0, 9), (1, 9), (2, 5)):
        bounded.fragments[one].path.drop_oldest(count)
    expected, found = (graph_of(one, (), 0.02) for one in (whole, bounded))
    for one, other in zip(expected.constraints, found.constraints, strict=True):
        np.testing.assert_allclose(other.covariance, one.covariance, rtol=1e-12)
    # The way through a fragment that was removed is a part of the next join.
    bounded.fragments[0].keyframes[0] = None
    bounded.begin()
    assert list(bounded.fragments) == [0, 2, 3, 4]
    assert [one.gap for one in bounded.fragments.values()] == [0.0, 8.0, 0.0, 0.0]
    joined = next(one for one in graph_of(bounded, (), 0.02).constraints
                  if one.kind == 'overlap' and one.first == 0)
    assert joined.covariance[0, 0] > 2 * (0.02 * 8.0)**2


@pytest.mark.parametrize('name', ['support', 'conflict', 'residual', 'correlation'])
def test_a_number_that_is_unknown_verifies_nothing(name: str) -> None:
    good = Overlap(0.9, 0.0, 0.01, 0.9)
    check_overlap(good, LoopConfig())
    with pytest.raises(MismatchError):
        check_overlap(replace(good, **{name: np.nan}), LoopConfig())
