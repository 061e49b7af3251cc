# SPDX-License-Identifier: Apache-2.0
"""Which edges are broadcast, when, and with what: the map moves, `odom` does not."""
from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spann3r_ros.core.transforms import invert, matrix_to_quaternion, move_pose, to_rigid
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.pipeline.frame_roles import MAX_WAITING, Edge, FrameRoles
from spann3r_ros.pipeline.node_settings import NodeConfig
from spann3r_ros.pipeline.odometer import Motion
from spann3r_ros.pipeline.transform_tree import StampedTransform, TransformTree

SECOND_NS = 10**9
STEP_NS = SECOND_NS // 10
CAMERA = 'camera_optical'


def pose(*place: float, yaw_deg: float = 0.0) -> np.ndarray:
    turn = Rotation.from_euler('z', yaw_deg, degrees=True).as_matrix()
    return to_rigid(turn, np.array([*place, 0.0, 0.0, 0.0][:3]))


def similarity(scale: float, *place: float, yaw_deg: float = 0.0) -> np.ndarray:
    matrix = pose(*place, yaw_deg=yaw_deg)
    matrix[:3, :3] *= scale
    return matrix


def stamped(parent: str, child: str, matrix: np.ndarray, stamp_ns: int = 0) -> StampedTransform:
    return StampedTransform(parent, child, stamp_ns, tuple(matrix[:3, 3].tolist()),
                            tuple(matrix_to_quaternion(matrix[:3, :3]).tolist()))


def stamp_of(index: int) -> int:
    return 100 * SECOND_NS + index * STEP_NS


MOUNT = pose(0.3, 0.1, 1.2, yaw_deg=-90.0)  # base_from_optical


@dataclass
class Rig:
    """A camera in a map, with a robot or without, and a consumer of TF that hears everything."""

    config: NodeConfig = field(default_factory=NodeConfig)
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.tree = TransformTree(30.0)
        self.consumer = TransformTree(30.0)
        self.sent: list[tuple[int, Edge]] = []
        self.warnings: list[str] = []
        self.motions: list[Motion] = []
        self.roles = FrameRoles(self.config, self.tree, self._hear, self.warnings.append,
                                lambda edge: self.consumer.take(edge, static=True),
                                lambda: self.now_ns)
        self.roles.moved = self.motions.append
        self.roles.take_places({0: np.eye(4)})

    def _hear(self, edges: list[Edge], stamp_ns: int) -> None:
        for edge in edges:
            self.sent.append((stamp_ns, edge))
            transform = stamped(edge.parent, edge.child, edge.parent_from_child, stamp_ns)
            self.tree.take(transform)
            self.consumer.take(transform)

    def others(self, transform: StampedTransform, static: bool = False) -> None:
        """Broadcast a transform of the robot."""
        self.tree.take(transform, static)
        self.consumer.take(transform, static)

    def mount(self, base_from_optical: np.ndarray = MOUNT) -> None:
        self.others(stamped('base_link', CAMERA, base_from_optical), static=True)

    def drive(self, *indices: int, odom_from_base: np.ndarray | None = None) -> None:
        for index in indices:
            place = odom_of(index) if odom_from_base is None else odom_from_base
            self.others(stamped('odom', 'base_link', place, stamp_of(index)))

    def see(self, *indices: int, fragment_id: int = 0, still: bool = False) -> None:
        """Take camera poses; the fragment's frame is that of the map at the beginning."""
        for index in indices:
            where = pose(1.0, 2.0) if still else camera_of(index)
            self.roles.take(FragmentPose(stamp_of(index), CAMERA, fragment_id, where))

    def edges(self, since: int = 0) -> set[tuple[str, str]]:
        return {(edge.parent, edge.child) for _, edge in self.sent[since:]}

    def last(self, child: str) -> np.ndarray:
        return next(edge.parent_from_child for _, edge in reversed(self.sent)
                    if edge.child == child)


def camera_of(index: int) -> np.ndarray:
    return pose(0.2 * index, 1.0, 0.3, yaw_deg=5.0 * index)


def odom_of(index: int) -> np.ndarray:
    """Return the robot's own odometry, which drifts."""
    return pose(3.0, -1.0 + 0.02 * index, yaw_deg=40.0) @ camera_of(index) @ invert(MOUNT)


def rig_of(role: str, **settings: object) -> Rig:
    rig = Rig(NodeConfig(publish_tf='auto', **settings))
    if role != 'camera':
        rig.mount()
    if role == 'odom':
        rig.drive(*range(30))
    return rig


def below_odom(role: str) -> str:
    """Return the frame whose pose in `odom` the node publishes."""
    return CAMERA if role == 'camera' else 'base_link'


@pytest.mark.parametrize(('role', 'edges'), [
    ('camera', {('map', 'odom'), ('odom', CAMERA)}),
    ('base', {('map', 'odom'), ('odom', 'base_link')}), ('odom', {('map', 'odom')})])
def test_each_role_connects_map_and_camera_through_odom(
        role: str, edges: set[tuple[str, str]], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        rig = rig_of(role)
        rig.see(0, 1, 2)
    assert rig.edges() == edges and not rig.warnings
    assert caplog.text.count(f'publish_tf: {role}') == 1
    for index in range(3):
        np.testing.assert_allclose(rig.consumer.lookup('map', CAMERA, stamp_of(index)),
                                   camera_of(index), atol=1e-9)
    child = below_odom(role)
    assert {motion.child_frame for motion in rig.motions} == {child}


@pytest.mark.parametrize('role', ['camera', 'base', 'odom'])
def test_a_moved_fragment_moves_map_to_odom_at_once_and_odom_never(role: str) -> None:
    rig = rig_of(role)
    rig.now_ns = stamp_of(3)
    rig.see(0, 1, 2)
    known = len(rig.sent)
    moved = similarity(2.0, 4.0, -3.0, yaw_deg=120.0)
    rig.roles.take_places({0: moved, 7: np.eye(4)})
    rig.roles.repeat(0.2)
    (stamp_ns, edge), *held = rig.sent[known:]
    assert (stamp_ns, edge.parent, edge.child) == (rig.now_ns + SECOND_NS // 5 + 1, 'map', 'odom')
    below = [] if role == 'odom' else [(rig.now_ns + 1, 'odom', below_odom(role))]
    assert [(stamp, edge.parent, edge.child) for stamp, edge in held] == below
    rotation = edge.parent_from_child[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    odom_from_camera = invert(camera_of(2)) if role != 'odom' else invert(odom_of(2) @ MOUNT)
    np.testing.assert_allclose(edge.parent_from_child @ invert(odom_from_camera),
                               move_pose(moved, camera_of(2)), atol=1e-9)
    rig.see(3)
    np.testing.assert_allclose(rig.consumer.lookup('map', CAMERA, stamp_of(3)),
                               move_pose(moved, camera_of(3)), atol=1e-9)
    if role != 'odom':
        start = np.eye(4)
    else:
        start = odom_of(0) @ MOUNT @ invert(camera_of(0))
    for index, motion in enumerate(rig.motions):
        np.testing.assert_allclose(motion.odom_from_camera, start @ camera_of(index), atol=1e-9)


def test_map_to_odom_is_repeated_only_when_time_goes_on() -> None:
    rig = rig_of('odom')
    rig.now_ns = stamp_of(1)
    rig.roles.repeat(0.2)
    assert not rig.sent
    rig.see(0)
    for _ in range(3):
        rig.roles.repeat(0.2)  # the clock of a simulation pauses
    assert len(rig.sent) == 2
    rig.now_ns += 1
    rig.roles.repeat(0.2)
    assert [stamp for stamp, _ in rig.sent] == [
        stamp_of(0), stamp_of(1) + SECOND_NS // 5 + 1, stamp_of(1) + SECOND_NS // 5 + 2]
    rig.now_ns = 0
    rig.roles.repeat(0.2)
    assert len(rig.sent) == 3


@pytest.mark.parametrize('role', ['camera', 'base'])
def test_the_last_pose_in_odom_is_held_for_a_time_and_while_paused(role: str) -> None:
    rig = rig_of(role, odom_hold_sec=2.0)
    rig.now_ns = stamp_of(0) + SECOND_NS // 20
    rig.see(0)
    child, last = below_odom(role), rig.last(below_odom(role))

    def known_after(seconds: float) -> bool:
        for rig.now_ns in (stamp_of(0) + round((seconds - ago) * SECOND_NS) for ago in (0.05, 0)):
            rig.roles.repeat(0.2)
        found = rig.consumer.lookup('odom', child, rig.now_ns)
        assert found is None or np.allclose(found, last)
        return found is not None

    assert known_after(0.5) and known_after(1.9) and not known_after(2.1)
    assert rig.consumer.lookup('map', 'odom', rig.now_ns) is not None
    assert rig.warnings == [f'no pose for 2 s (odom_hold_sec): odom -> {child} is not repeated '
                            'until the next one']
    rig.see(21)
    last = rig.last(child)
    rig.roles.pause(True)
    assert known_after(2.2) and known_after(3600.0)
    rig.roles.pause(False)
    # The first pose after the pause takes a while.
    assert known_after(3601.9) and len(rig.warnings) == 1 and not known_after(3602.1)
    # An image whose stamp is that of a repetition, in a simulation, still gives a pose.
    rig.now_ns = stamp_of(30)
    rig.see(29)
    rig.roles.repeat(0.0)
    rig.see(30)
    stamps = [stamp for stamp, edge in rig.sent if edge.child == child]
    assert len(set(stamps)) == len(stamps)


def test_the_hold_counts_from_the_activation_and_from_a_jump_back_of_the_clock() -> None:
    rig = rig_of('base', odom_hold_sec=2.0)
    rig.now_ns = stamp_of(0)
    rig.see(0)

    def repeats_at(seconds: float) -> bool:
        rig.now_ns, known = stamp_of(0) + round(seconds * SECOND_NS), len(rig.sent)
        rig.roles.repeat(0.2)
        return 'base_link' in {edge.child for _, edge in rig.sent[known:]}

    rig.now_ns += 60 * SECOND_NS
    rig.roles.hold_anew()
    assert repeats_at(60.1) and repeats_at(61.9)
    rig.roles.follow_jump()
    assert repeats_at(-3.0) and repeats_at(-1.1) and not repeats_at(-0.9)


def test_map_to_odom_is_not_repeated_in_another_time_than_that_of_the_images() -> None:
    rig = rig_of('camera')
    rig.now_ns = stamp_of(0) + 3600 * SECOND_NS
    rig.see(0)
    rig.roles.repeat(0.2)
    rig.now_ns += 1
    rig.roles.repeat(0.2)
    assert len(rig.sent) == 2
    assert len(rig.warnings) == 1 and 'set use_sim_time' in rig.warnings[0]


def test_nothing_is_repeated_that_another_node_publishes() -> None:
    rig = rig_of('odom')
    rig.now_ns = stamp_of(1)
    rig.see(0)
    rig.others(stamped('map', 'odom', pose(9.0), stamp_of(1)))
    known = len(rig.sent)
    rig.roles.repeat(0.2)
    assert len(rig.sent) == known
    assert 'another node publishes map -> odom' in rig.warnings[-1]


def test_a_camera_that_stands_still_does_not_move_when_its_robot_appears(
        caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    with caplog.at_level(logging.INFO):
        rig.see(0, 1, 2, still=True)
        known = len(rig.sent)
        rig.mount()
        rig.see(3, 4, 5, still=True)
    assert rig.edges(known) == {('map', 'odom'), ('odom', 'base_link')}
    assert [motion.child_frame for motion in rig.motions] == [CAMERA] * 3 + ['base_link'] * 3
    assert not rig.warnings
    for motion in rig.motions:
        assert not motion.twist.any()
        np.testing.assert_allclose(motion.odom_from_camera, pose(1.0, 2.0), atol=1e-12)
    np.testing.assert_allclose(rig.motions[-1].odom_from_child, pose(1.0, 2.0) @ invert(MOUNT),
                               atol=1e-12)
    for index in range(3, 6):
        for frame in ('map', 'odom'):
            np.testing.assert_allclose(rig.consumer.lookup(frame, CAMERA, stamp_of(index)),
                                       pose(1.0, 2.0), atol=1e-9)
    for role in ('camera', 'base'):
        assert caplog.text.count(f'publish_tf: {role}') == 1


def test_roles_go_on_to_the_robot_s_odometry_and_never_back(
        caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    with caplog.at_level(logging.INFO):
        rig.see(0)
        rig.mount()
        rig.see(1)
        # The robot's odometry may reach its base through another frame.
        rig.others(stamped('base_footprint', 'base_link', np.eye(4)), static=True)
        for index in range(2, 6):
            rig.others(stamped('odom', 'base_footprint', odom_of(index), stamp_of(index)))
        known = len(rig.sent)
        rig.see(2, 3)
        rig.see(8)  # its odometry has stopped
        rig.see(9)
    assert rig.edges(known) == {('map', 'odom')}
    assert caplog.text.count('publish_tf:') == 3 and 'publish_tf: odom' in caplog.text
    for index in (2, 3):
        np.testing.assert_allclose(rig.consumer.lookup('map', CAMERA, stamp_of(index)),
                                   camera_of(index), atol=1e-9)


@pytest.mark.parametrize('publish_tf', ['auto', 'camera'])
def test_a_static_parent_that_a_late_broadcast_replaced_is_restored(publish_tf: str) -> None:
    rig = Rig(NodeConfig(publish_tf=publish_tf))
    rig.see(0)
    # The consumer hears the robot before the mapper does, and then the mapper's broadcast.
    late = stamped('base_link', CAMERA, MOUNT)
    rig.consumer.take(late, static=True)
    rig.see(1)
    assert rig.consumer.lookup('base_link', CAMERA, stamp_of(1)) is None
    rig.tree.take(late, static=True)
    rig.see(2)
    for index in (0, 1, 2, 50):
        np.testing.assert_allclose(rig.consumer.lookup('base_link', CAMERA, stamp_of(index)),
                                   MOUNT, atol=1e-9)
    assert ('odom', CAMERA) not in rig.edges(4)


def test_a_camera_without_a_mount_is_not_put_below_the_odometry_of_a_robot() -> None:
    rig = Rig()
    rig.now_ns = stamp_of(1)
    rig.drive(*range(9))
    rig.see(0)
    rig.roles.repeat(0.2)
    assert not rig.sent
    assert 'another node uses the frame odom' in rig.warnings[0]
    rig.mount()
    rig.see(1)
    assert rig.edges() == {('map', 'odom')}
    np.testing.assert_allclose(rig.consumer.lookup('map', CAMERA, stamp_of(1)), camera_of(1),
                               atol=1e-9)


def test_with_camera_given_a_late_parent_ends_the_broadcasts_with_the_reason() -> None:
    rig = Rig(NodeConfig(publish_tf='camera'))
    rig.now_ns = stamp_of(2)
    rig.see(0)
    rig.mount()
    known = len(rig.sent)
    rig.see(1)
    rig.roles.repeat(0.2)
    assert not rig.sent[known:]
    assert f'{CAMERA} has the parent base_link already' in rig.warnings[0]


def turned(index: int) -> np.ndarray:
    """Return `base_from_optical` of a head that turns."""
    return pose(0.3, 0.0, 1.0, yaw_deg=15.0 * index)


@pytest.mark.parametrize('role', ['base', 'odom'])
def test_a_turning_head_is_looked_up_at_the_stamp_of_the_image(role: str) -> None:
    base = pose(2.0, 1.0)  # it stands still
    rig = Rig()
    if role == 'odom':
        rig.drive(*range(12), odom_from_base=base)
    for index in range(10):
        rig.others(stamped('base_link', CAMERA, turned(index), stamp_of(index)))

    def look(index: int) -> None:
        rig.roles.take(FragmentPose(stamp_of(index), CAMERA, 0, base @ turned(index)))

    look(2)
    look(5)
    look(10)  # the head's transform of this stamp is yet to come
    assert len(rig.motions) == 2
    assert {stamp for stamp, _ in rig.sent} == {stamp_of(2), stamp_of(5)}
    rig.others(stamped('base_link', CAMERA, turned(10), stamp_of(10)))
    rig.roles.send_waiting()
    assert len(rig.motions) == 3
    for motion in rig.motions:
        np.testing.assert_allclose(motion.odom_from_child, base, atol=1e-9)
        np.testing.assert_allclose(motion.twist, 0, atol=1e-9)
    for index in (2, 5, 10):
        np.testing.assert_allclose(rig.consumer.lookup('map', 'base_link', stamp_of(index)), base,
                                   atol=1e-9)


def test_odometry_begins_at_the_robot_s_own_at_the_stamp_of_the_first_pose() -> None:
    rig = Rig()
    rig.mount()
    rig.drive(*range(4))
    rig.see(5)
    assert not rig.motions  # the robot's odometry is yet to reach it
    rig.drive(4, 5, 6, 7)
    rig.see(6)
    for index, motion in zip((5, 6), rig.motions, strict=True):
        expected = odom_of(5) @ MOUNT @ invert(camera_of(5)) @ camera_of(index)
        np.testing.assert_allclose(motion.odom_from_camera, expected, atol=1e-9)


def test_odometry_begins_without_the_robot_s_own_if_that_has_stopped() -> None:
    rig = Rig()
    rig.mount()
    rig.drive(0, 1)
    rig.see(*range(2, MAX_WAITING + 2))
    assert len(rig.motions) == MAX_WAITING


def test_a_mount_unknown_after_a_jump_back_does_not_change_the_child() -> None:
    rig = Rig()
    for index in range(3):
        rig.others(stamped('base_link', CAMERA, turned(index), stamp_of(index)))
    rig.see(2, still=True)
    rig.tree.begin_again(stamp_of(-50))
    rig.roles.restart()
    rig.roles.take_places({0: np.eye(4)})
    for index in (-50, -49):
        rig.see(index, still=True)
    assert len(rig.motions) == 1
    for index in (-50, -49, -48):
        rig.others(stamped('base_link', CAMERA, turned(index), stamp_of(index)))
    rig.roles.send_waiting()
    assert [motion.child_frame for motion in rig.motions] == ['base_link'] * 3
    for motion in rig.motions:
        np.testing.assert_allclose(motion.odom_from_camera, pose(1.0, 2.0), atol=1e-9)


def test_a_pose_before_the_first_mount_of_the_new_time_is_dropped_with_the_reason() -> None:
    rig = Rig()
    rig.others(stamped('base_link', CAMERA, MOUNT, stamp_of(0)))
    rig.see(0)
    rig.others(stamped('base_link', CAMERA, MOUNT, stamp_of(500)))  # the buffer forgets the old
    rig.see(100, 500)
    assert [motion.stamp_ns for motion in rig.motions] == [stamp_of(0), stamp_of(500)]
    assert 'no base_link -> camera_optical at the stamp' in rig.warnings[0]


def test_poses_wait_for_a_mount_that_has_stopped_and_the_oldest_are_dropped() -> None:
    rig = Rig()
    rig.others(stamped('base_link', CAMERA, MOUNT, stamp_of(0)))
    rig.see(0, *range(1, MAX_WAITING + 2))
    assert len(rig.motions) == 1
    assert rig.warnings == [f'{MAX_WAITING} poses wait for base_link -> {CAMERA} on TF at their '
                            'stamps: the oldest is dropped']


@pytest.mark.parametrize('role', ['camera', 'base'])
def test_inverted_edges_hang_the_map_below_the_robot(role: str) -> None:
    rig = rig_of(role, invert_tf=True)
    rig.now_ns = stamp_of(1)
    rig.see(0, 1)
    rig.roles.repeat(0.2)
    child = below_odom(role)
    assert rig.edges() == {('odom', 'map'), (child, 'odom')}
    np.testing.assert_allclose(rig.consumer.lookup('map', CAMERA, stamp_of(1)), camera_of(1),
                               atol=1e-9)


def test_none_broadcasts_nothing_and_odometry_goes_on() -> None:
    rig = Rig(NodeConfig(publish_tf='none'))
    rig.now_ns = stamp_of(1)
    rig.mount()
    rig.see(0, 1)
    rig.roles.repeat(0.2)
    assert not rig.sent and len(rig.motions) == 2


@pytest.mark.parametrize('frame', ['', 'map', '/map', 'odom', '/odom'])
def test_images_in_a_frame_of_the_map_are_not_broadcast(frame: str) -> None:
    rig = Rig()
    rig.roles.take(FragmentPose(stamp_of(0), frame, 0, camera_of(0)))
    assert not rig.sent and 'set the parameter optical_frame' in rig.warnings[0]


def test_after_a_jump_back_the_map_follows_the_poses_of_the_new_time() -> None:
    """`odom` of the robot drifts: an older pose must not decide where the map is."""
    rig = rig_of('odom')
    rig.mount()
    rig.drive(*range(50, 60))
    rig.see(*range(50, 60))
    rig.see(61)  # waits for odometry that never comes
    assert rig.roles._placed
    rig.tree.begin_again(stamp_of(0))
    rig.roles.follow_jump()
    assert not rig.roles._placed
    rig.drive(*range(10))
    rig.see(*range(10))
    assert np.allclose(rig.last('odom') @ odom_of(9), camera_of(9) @ invert(MOUNT))
    # What the timer repeats is the newest, too.
    rig.now_ns = stamp_of(10)
    rig.roles.take(FragmentPose(stamp_of(9) + 1, CAMERA, 0, camera_of(9)))
    rig.roles.repeat(0.2)
    assert np.allclose(rig.last('odom') @ odom_of(9), camera_of(9) @ invert(MOUNT))


@pytest.mark.parametrize('role', ['camera', 'base', 'odom'])
def test_map_to_odom_is_silent_while_the_camera_is_searched_for(role: str) -> None:
    rig = rig_of(role, odom_hold_sec=60.0)
    rig.drive(*range(8 if role == 'odom' else 0))
    rig.see(1, 2)
    before = rig.last('odom')
    # Another map is loaded; the camera is in a fragment whose place is not known.
    rig.roles.restart(is_located=False)
    rig.roles.take_places({1: similarity(2.0, 5.0)}, is_located=False)
    since = len(rig.sent)
    rig.now_ns = stamp_of(4)
    rig.see(3, 4, fragment_id=1)
    rig.now_ns += STEP_NS
    rig.roles.repeat(0.2)
    assert ('map', 'odom') not in rig.edges(since)
    assert bool(rig.edges(since)) is (role != 'odom')
    # It is found: what is repeated is right at once, and odom has not moved.
    place = similarity(2.0, -3.0, 1.0, yaw_deg=30.0)
    motions, since = len(rig.motions), len(rig.sent)
    rig.roles.take_places({1: place}, is_located=True)
    rig.now_ns += STEP_NS
    rig.roles.repeat(0.2)
    assert ('map', 'odom') in rig.edges(since) and len(rig.motions) == motions
    in_map = move_pose(place, camera_of(4))
    odom_from_camera = odom_of(4) @ MOUNT if role == 'odom' else rig.motions[-1].odom_from_camera
    np.testing.assert_allclose(rig.last('odom') @ odom_from_camera, in_map, atol=1e-9)
    assert not np.allclose(before, rig.last('odom'))
    rig.see(5, fragment_id=1)
    assert rig.sent[-1][0] == stamp_of(5) and ('map', 'odom') in rig.edges(len(rig.sent) - 2)
