# SPDX-License-Identifier: Apache-2.0
"""The tree of transforms: look-ups by the rules of tf2, and the publishers of edges."""
from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spann3r_ros.core.transforms import to_rigid
from spann3r_ros.pipeline.transform_tree import StampedTransform, TransformTree

SECOND_NS = 10**9


def edge(parent: str, child: str, stamp_ns: int = 0, place: tuple[float, ...] = (0, 0, 0),
         yaw_deg: float = 0.0) -> StampedTransform:
    quaternion = Rotation.from_euler('z', yaw_deg, degrees=True).as_quat()
    return StampedTransform(parent, child, stamp_ns, tuple(map(float, place)), tuple(quaternion))


def matrix(place: tuple[float, ...], yaw_deg: float) -> np.ndarray:
    return to_rigid(Rotation.from_euler('z', yaw_deg, degrees=True).as_matrix(), np.array(place))


@pytest.fixture
def robot() -> TransformTree:
    """Return odom -> base_link, moving for a second, with a camera on it."""
    tree = TransformTree(keep_sec=10.0)
    tree.take(edge('odom', 'base_link', 5 * SECOND_NS, (1, 0, 0), 0))
    tree.take(edge('odom', 'base_link', 6 * SECOND_NS, (2, 0, 0), 90))
    tree.take(edge('base_link', 'camera', 0, (0.3, 0, 0.5), -90), static=True)
    return tree


def test_chain_is_composed_at_its_time(robot: TransformTree) -> None:
    expected = matrix((2, 0, 0), 90) @ matrix((0.3, 0, 0.5), -90)
    np.testing.assert_allclose(robot.lookup('odom', 'camera', 6 * SECOND_NS), expected, atol=1e-12)
    back = robot.lookup('camera', 'odom', 6 * SECOND_NS)
    np.testing.assert_allclose(back @ expected, np.eye(4), atol=1e-12)


def test_times_between_are_interpolated_and_no_time_is_the_newest(robot: TransformTree) -> None:
    np.testing.assert_allclose(robot.lookup('odom', 'base_link', 5_500_000_000),
                               matrix((1.5, 0, 0), 45), atol=1e-9)
    np.testing.assert_array_equal(robot.lookup('odom', 'camera', None),
                                  robot.lookup('odom', 'camera', 6 * SECOND_NS))


def test_newest_time_is_the_earliest_last_stamp_of_the_chain(robot: TransformTree) -> None:
    for second in (5, 6, 7, 8):
        robot.take(edge('map', 'odom', second * SECOND_NS, (0, float(second), 0)))
    assert robot.lookup('map', 'base_link', None)[1, 3] == 6.0


@pytest.mark.parametrize(('target', 'source', 'seconds'), [
    ('odom', 'nothing', 6), ('odom', 'base_link', 4), ('odom', 'base_link', 7),
    ('world', 'base_link', 6), ('nothing', 'nothing', 6)])
def test_unknown_frames_times_and_trees_are_none(robot: TransformTree, target: str, source: str,
                                                 seconds: int) -> None:
    robot.take(edge('world', 'table'), static=True)
    assert robot.lookup(target, source, seconds * SECOND_NS) is None


def test_old_transforms_are_removed(robot: TransformTree) -> None:
    robot.take(edge('odom', 'base_link', 15_500_000_000, (3, 0, 0)))
    assert robot.lookup('odom', 'base_link', 5 * SECOND_NS) is None
    assert robot.lookup('odom', 'base_link', 7 * SECOND_NS) is not None
    robot.take(edge('odom', 'base_link', SECOND_NS))
    assert robot.lookup('odom', 'base_link', SECOND_NS) is None


def test_loop_is_followed_once() -> None:
    tree = TransformTree(keep_sec=10.0)
    for parent, child in (('a', 'b'), ('b', 'c'), ('c', 'a')):
        tree.take(edge(parent, child), static=True)
    assert tree.lookup('a', 'c', 0) is not None
    assert tree.ancestors_of('a') == {'a', 'b', 'c'}


@pytest.mark.parametrize('change', [
    {'parent': ''}, {'child': ''}, {'child': 'odom'}, {'stamp_ns': -1},
    {'translation': (math.nan, 0.0, 0.0)}, {'translation': (0.0, math.inf, 0.0)},
    {'quaternion': (0.0, 0.0, 0.0, 0.0)}, {'quaternion': (0.0, 0.0, 0.0, 1.1)},
    {'quaternion': (math.nan, 0.0, 0.0, 1.0)}])
def test_unsound_transform_is_refused_with_a_warning(
        robot: TransformTree, change: dict, caplog: pytest.LogCaptureFixture) -> None:
    bad = replace(edge('odom', 'other', SECOND_NS), **change)
    with caplog.at_level(logging.WARNING):
        robot.take(bad)
    assert 'TF: expected two frames' in caplog.text
    assert robot.lookup('odom', 'other', None) is None
    assert robot.lookup('odom', 'base_link', 6 * SECOND_NS) is not None


def test_own_broadcasts_are_distinguished_from_those_of_others(robot: TransformTree) -> None:
    robot.announce('map', 'odom', 6 * SECOND_NS)
    robot.take(edge('map', 'odom', 6 * SECOND_NS))
    assert not robot.is_foreign('map', 'odom') and robot.is_foreign('odom', 'base_link')
    robot.take(edge('map', 'odom', 7 * SECOND_NS))
    assert robot.is_foreign('map', 'odom')


def test_every_parent_ever_given_is_remembered(robot: TransformTree) -> None:
    robot.take(edge('other', 'base_link', 7 * SECOND_NS))
    assert robot.parents_of('base_link') == {'odom', 'other'}
    assert robot.ancestors_of('camera') == {'base_link', 'odom', 'other'}


def test_beginning_again_keeps_static_transforms_and_those_of_the_new_time() -> None:
    tree = TransformTree(keep_sec=10.0)
    tree.take(edge('base_link', 'camera'), static=True)
    for second in (100, 101, 3, 4):  # tf2 refuses the last two: they are too old
        tree.take(edge('odom', 'base_link', second * SECOND_NS, (float(second), 0, 0)))
    assert tree.lookup('odom', 'base_link', 3 * SECOND_NS) is None
    tree.begin_again(3 * SECOND_NS)
    assert tree.lookup('odom', 'base_link', 3 * SECOND_NS)[0, 3] == 3.0
    assert tree.lookup('odom', 'base_link', 101 * SECOND_NS) is None
    assert tree.lookup('base_link', 'camera', None) is not None


def test_new_parent_holds_from_its_own_stamp_on() -> None:
    tree = TransformTree(keep_sec=10.0)
    tree.take(edge('world', 'a'), static=True)
    tree.take(edge('world', 'b', place=(100, 0, 0)), static=True)
    for second in (1, 2):
        tree.take(edge('a', 'o', second * SECOND_NS, (second, 0, 0)))
    for second in (3, 4):
        tree.take(edge('b', 'o', second * SECOND_NS, (-second, 0, 0)))
    # Between transforms to two parents tf2 takes the earlier one.
    places = [tree.lookup('world', 'o', round(second * SECOND_NS))[0, 3]
              for second in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)]
    np.testing.assert_allclose(places, [1.0, 1.5, 2.0, 2.0, 97.0, 96.5, 96.0], atol=1e-12)
    np.testing.assert_allclose(tree.lookup('o', 'world', 2_500_000_000)[0, 3], -2.0, atol=1e-12)
    assert tree.lookup('world', 'o', None)[0, 3] == 96.0


def test_newest_common_time_is_that_of_the_newest_parents() -> None:
    tree = TransformTree(keep_sec=10.0)
    tree.take(edge('a', 'b'), static=True)
    tree.take(edge('a', 'o', SECOND_NS, (1, 0, 0)))
    tree.take(edge('b', 'o', 3 * SECOND_NS, (3, 0, 0)))
    tree.take(edge('o', 'camera', SECOND_NS))
    tree.take(edge('o', 'camera', 2 * SECOND_NS))
    assert tree.lookup('a', 'camera', None)[0, 3] == 1.0


def test_slash_before_a_name_is_ignored() -> None:
    tree = TransformTree(keep_sec=10.0)
    tree.announce('map', '/odom', SECOND_NS)
    tree.take(edge('/map', 'odom', SECOND_NS, (9, 0, 0)))
    assert not tree.is_foreign('map', 'odom')
    tree.take(edge('/map', 'odom', SECOND_NS + 1, (2, 0, 0)))
    tree.take(edge('/map', 'odom', SECOND_NS - 1, (2, 0, 0)))
    tree.take(edge('/odom', '/base', SECOND_NS, (1, 0, 0)))
    assert tree.lookup('map', '/base', SECOND_NS)[0, 3] == 3.0
    assert tree.ancestors_of('/base') == {'odom', 'map'}
    assert tree.is_foreign('/odom', 'base') and tree.is_foreign('map', '/odom')


def test_after_a_short_jump_no_transform_of_the_old_time_is_left() -> None:
    tree = TransformTree(keep_sec=10.0)
    for tenth in range(101):
        for child in ('base', 'lidar'):
            tree.take(edge('odom', child, tenth * SECOND_NS // 10, (tenth / 10, 0, 0)))
    # Two of the new time come before its first image, in disorder; none of the lidar's does.
    for tenth in (81, 80):
        tree.take(edge('odom', 'base', tenth * SECOND_NS // 10, (500, 0, 0)))
    tree.begin_again(8 * SECOND_NS)
    assert tree.lookup('odom', 'base', 8_050_000_000)[0, 3] == 500.0
    for child, stamp_ns in (('base', 7_950_000_000), ('base', 8_150_000_000),
                            ('base', 9_950_000_000), ('lidar', 8 * SECOND_NS)):
        assert tree.lookup('odom', child, stamp_ns) is None
    # A second jump: what came before the first image of the last time is old now.
    for tenth in range(82, 101):
        tree.take(edge('odom', 'base', tenth * SECOND_NS // 10, (600, 0, 0)))
    tree.begin_again(8 * SECOND_NS)
    assert tree.lookup('odom', 'base', 8_050_000_000) is None
    tree.take(edge('odom', 'base', 8 * SECOND_NS, (700, 0, 0)))
    assert tree.lookup('odom', 'base', None)[0, 3] == 700.0


@pytest.mark.parametrize('rounds', [1, 8])
@pytest.mark.parametrize('apart_sec', [1, 3600])
def test_an_edge_of_two_times_is_reported_once(
        apart_sec: int, rounds: int, caplog: pytest.LogCaptureFixture) -> None:
    """The older publisher may be a recording that is played again and again."""
    tree = TransformTree(keep_sec=10.0)
    for tenth in range(80):
        now_ns = (apart_sec + 10) * SECOND_NS + tenth * SECOND_NS // 10
        tree.take(edge('odom', 'base', now_ns))
        tree.take(edge('odom', 'base', tenth % (80 // rounds) * SECOND_NS // 10))
    assert caplog.text.count('odom -> base comes from two publishers') == 1


@pytest.mark.parametrize('seconds', [3, 60])
def test_a_recording_that_is_played_again_and_again_is_not_from_two_publishers(
        seconds: int, caplog: pytest.LogCaptureFixture) -> None:
    """No image is used meanwhile, so no jump of the images makes the tree begin again."""
    tree = TransformTree(keep_sec=10.0)
    for round_ in range(12):
        # Not every round brings the first transforms.
        for tenth in range(round_ % 5, 10 * seconds):
            tree.take(edge('odom', 'base', tenth * SECOND_NS // 10))
    assert caplog.text == ''


def test_changes_are_reported_once_each(robot: TransformTree) -> None:
    calls = []
    robot.changed = lambda: calls.append(1)
    robot.take(edge('odom', 'base_link', 7 * SECOND_NS))
    robot.take(edge('base_link', 'lamp'), static=True)
    robot.take(edge('', 'lamp'))
    assert len(calls) == 2


@pytest.mark.parametrize(('stamp_ns', 'expected'), [(0, 1.0), (15, 1.5), (50, 2.0)])
def test_nearest_time_is_within_what_the_whole_chain_knows(
        stamp_ns: int, expected: float) -> None:
    tree = TransformTree(100.0)
    tree.take(edge('base', 'mast', 10, (1, 0, 0)))
    tree.take(edge('base', 'mast', 20, (2, 0, 0)))
    tree.take(edge('base', 'mast', 90, (9, 0, 0)))
    tree.take(edge('mast', 'camera', 5))
    tree.take(edge('mast', 'camera', 20))
    found = tree.lookup_nearest('base', '/camera', stamp_ns)
    assert found[0, 3] == pytest.approx(expected)
    assert tree.lookup_nearest('base', 'other', stamp_ns) is None


def test_own_broadcasts_are_not_looked_up() -> None:
    tree = TransformTree(keep_sec=10.0)
    calls = []
    tree.changed = lambda: calls.append(1)
    tree.announce('odom', 'camera', SECOND_NS)
    tree.take(edge('odom', 'camera', SECOND_NS))
    assert tree.lookup('odom', 'camera', None) is None
    assert tree.parents_of('camera') == set() and not tree.has_any() and not calls


def test_a_stamp_is_awaited_only_after_the_last_known_one(robot: TransformTree) -> None:
    assert robot.awaits('odom', 'camera', 6 * SECOND_NS + 1)
    assert not robot.awaits('odom', 'camera', 6 * SECOND_NS)
    assert not robot.awaits('odom', 'camera', 4 * SECOND_NS)
    assert not robot.awaits('base_link', 'camera', 9 * SECOND_NS)  # static
    assert not robot.awaits('odom', 'nothing', 9 * SECOND_NS)
    assert robot.static_edge('/camera').parent == 'base_link'
    assert robot.static_edge('base_link') is None and robot.static_edge('nothing') is None


def test_what_has_come_is_taken_before_a_look_up_unless_static_transforms_answer_it(
        robot: TransformTree) -> None:
    calls = []

    def refresh() -> None:
        calls.append(1)
        robot.take(edge('odom', 'base_link', 7 * SECOND_NS, (3, 0, 0)))

    robot.refresh = refresh
    np.testing.assert_allclose(robot.lookup('base_link', 'camera', 7 * SECOND_NS),
                               matrix((0.3, 0, 0.5), -90), atol=1e-12)
    assert not calls
    assert robot.lookup('odom', 'base_link', 7 * SECOND_NS)[0, 3] == 3.0
    assert robot.lookup_nearest('odom', 'base_link', 8 * SECOND_NS)[0, 3] == 3.0
    assert not robot.awaits('odom', 'camera', 7 * SECOND_NS)
    robot.begin_again(SECOND_NS)
    assert len(calls) == 4


def test_the_missing_link_between_two_frames_is_named(robot: TransformTree) -> None:
    assert TransformTree(10.0).missing_link('base_link', 'camera') == ''  # there is no TF
    assert robot.missing_link('/odom', 'camera') == ''
    assert 'base_link with lidar: no transform from or to lidar has' in robot.missing_link(
        'base_link', '/lidar')
    robot.take(edge('rig', 'lidar', 0), static=True)
    assert 'with lidar: no transform between odom and rig has' in robot.missing_link(
        'base_link', 'lidar')
