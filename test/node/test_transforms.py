# SPDX-License-Identifier: Apache-2.0
"""The node connects the map with the robot's tree by REP-105; no frame gets a second parent."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pytest
from harness import OPTICAL_FRAME, Camera, Mapper, Orbit, Peer, stamp_of, to_ns
from nav_msgs.msg import Odometry
from robot import Robot, base_from_optical
from scipy.spatial.transform import Rotation
from test_streaming import to_matrix as to_pose_matrix

from spann3r_ros.core.transforms import invert
from spann3r_ros.ros.conversions import to_transform

Start = Callable[..., Mapper]
LIMIT_M = 0.01


def motion(orbit: Orbit, first: int, last: int) -> np.ndarray:
    """Return how the camera moves along the orbit, `first_from_last` [4, 4]."""
    poses = orbit.poses
    return invert(poses[first % len(poses)]) @ poses[last % len(poses)]


def camera_in_map(robot: Robot, index: int) -> np.ndarray:
    return robot.lookup('map', OPTICAL_FRAME, stamp_of(index))


def farthest_off(robot: Robot, orbit: Orbit, indices: Iterable[int], first: int = 0) -> float:
    """Return the largest error of the camera's place by TF, looked up at each stamp."""
    errors = [camera_in_map(robot, index)[:3, 3]
              - (robot.first_pose @ motion(orbit, first, index))[:3, 3] for index in indices]
    return np.linalg.norm(errors, axis=1).max()


def until_broadcast(peer: Peer, robot: Robot, indices: Iterable[int]) -> None:
    stamps = {stamp_of(index) for index in indices}
    peer.until(lambda: stamps <= {
        to_ns(one.header.stamp) for one in robot.foreign_transforms()
        if 'map' in (one.header.frame_id, one.child_frame_id)}, 'a transform at each stamp')


def test_map_to_odom_where_the_robot_has_odometry(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay')
    robot.drive(0)
    robot.begin()
    camera.connect()
    for index in range(10):
        robot.drive(index)
        camera.send(orbit.image(index))
    robot.drive(10)
    peer.until_settled(10)
    until_broadcast(peer, robot, range(9))
    assert robot.edges() == {('map', 'odom')}
    assert all(len(parents) == 1 for parents in robot.parents().values())
    assert farthest_off(robot, orbit, range(9)) < LIMIT_M


def test_late_odometry_is_waited_for(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay', publish_tf='odom')
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    assert robot.edges() == set()
    robot.drive(*range(5))
    until_broadcast(peer, robot, range(4))
    assert farthest_off(robot, orbit, range(4)) < LIMIT_M


@pytest.mark.parametrize('interruption', ['reset', 'new_fragment', 'jump'])
def test_node_provides_odometry_without_jumps_if_the_robot_has_none(
        interruption: str, peer: Peer, camera: Camera, orbit: Orbit, start: Start,
        robot: Robot) -> None:
    odometry = peer.listen(Odometry, '/mapper/odometry')
    anew = interruption == 'reset'
    start(None if anew else {'stretch': 1.5}, autostart=False, mode='replay')
    robot.begin()
    # A bag that is played again shows the orbit as two seconds before.
    before = range(60, 66) if interruption == 'jump' else range(6)
    after = range(6, 12)
    camera.send(*map(orbit.image, before))
    peer.until_settled(6)
    if interruption != 'jump':
        assert peer.trigger(f'/mapper/{interruption}').success
    camera.send(*map(orbit.image, after))
    peer.until_settled(12)
    indices = [*before, *after]
    peer.until(lambda: len(odometry) >= len(indices), 'odometry')
    assert [to_ns(one.header.stamp) for one in odometry] == list(map(stamp_of, indices))
    assert {(one.header.frame_id, one.child_frame_id) for one in odometry} == {
        ('odom', 'base_link')}
    # A new map begins at the last pose of the one before.
    expected = [np.eye(4) if anew and last == after[0] else motion(orbit, first, last)
                for first, last in pairwise(indices)]
    places = [to_pose_matrix(one.pose.pose) @ robot.mounted for one in odometry]
    moved = [invert(one) @ other for one, other in pairwise(places)]
    assert np.allclose(moved, expected, atol=LIMIT_M)
    assert robot.edges() == {('map', 'odom'), ('odom', 'base_link')}
    assert all(len(parents) == 1 for parents in robot.parents().values())
    until_broadcast(peer, robot, indices)
    assert farthest_off(robot, orbit, before, before[0]) < LIMIT_M
    assert farthest_off(robot, orbit, after, after[0] if anew else before[0]) < LIMIT_M


def test_a_camera_alone_is_a_child_of_odom(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    odometry = peer.listen(Odometry, '/mapper/odometry')
    start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(5)))
    peer.until_settled(5)
    peer.until(lambda: len(odometry) >= 4, 'odometry')
    until_broadcast(peer, robot, range(5))
    assert robot.edges() == {('map', 'odom'), ('odom', OPTICAL_FRAME)}
    assert farthest_off(robot, orbit, range(5)) < LIMIT_M
    assert (odometry[-1].header.frame_id, odometry[-1].child_frame_id) == ('odom', OPTICAL_FRAME)
    by_tf = robot.lookup('odom', OPTICAL_FRAME, to_ns(odometry[-1].header.stamp))
    assert np.allclose(to_pose_matrix(odometry[-1].pose.pose), by_tf, atol=1e-9)


@pytest.mark.parametrize(('publish_tf', 'edges'), [
    ('camera', {(OPTICAL_FRAME, 'odom'), ('odom', 'map')}), ('odom', {('odom', 'map')}),
    ('base', {('odom', 'map'), ('base_link', 'odom')})])
def test_inverted_map_is_a_child(
        publish_tf: str, edges: set[tuple[str, str]], peer: Peer, camera: Camera, orbit: Orbit,
        start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay', publish_tf=publish_tf, invert_tf=True)
    robot.begin()
    if publish_tf == 'odom':
        robot.drive(*range(5))
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    until_broadcast(peer, robot, range(4))
    assert robot.edges() == edges
    assert all(len(parents) == 1 for parents in robot.parents().values())
    assert farthest_off(robot, orbit, range(4)) < LIMIT_M


def test_publish_tf_none_broadcasts_nothing(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    odometry = peer.listen(Odometry, '/mapper/odometry')
    start(autostart=False, mode='replay', publish_tf='none')
    robot.begin()
    robot.drive(*range(6))
    camera.send(*(orbit.image(index) for index in range(5)))
    peer.until_settled(5)
    peer.until(lambda: len(odometry) == 5, 'odometry of every solved pose')
    robot.settle()
    assert robot.edges() == set()


def test_a_second_parent_is_refused_with_the_reason(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    mapper = start(autostart=False, mode='replay', publish_tf='camera')
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    peer.until(lambda: 'has the parent base_link already' in mapper.log, 'the reason')
    assert robot.edges() == set()


def test_an_edge_with_another_publisher_is_not_broadcast(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    mapper = start(autostart=False, mode='replay')
    robot.drive(0)
    robot.begin()
    for index in range(3):
        robot.drive(index)
        camera.send(orbit.image(index))
    peer.until_settled(3)
    peer.until(lambda: robot.edges() == {('map', 'odom')}, 'our transform')
    # A localisation is started beside the mapper.
    other = to_transform(np.eye(4), stamp_of(40), 'map', 'odom')
    robot.publish(other)
    peer.until(lambda: other in robot.foreign_transforms(), 'the transform of the other')
    robot.settle()
    for index in range(3, 8):
        robot.drive(index)
        camera.send(orbit.image(index))
    peer.until_settled(8)
    robot.drive(8)
    peer.until(lambda: 'another node publishes map -> odom' in mapper.log, 'the reason')
    assert max(to_ns(one.header.stamp) for one in robot.foreign_transforms()
               if one != other) < stamp_of(5)


@pytest.mark.parametrize('pitch_deg', [20.0, -10.0])
def test_a_tilted_camera_is_levelled_by_the_robot(
        pitch_deg: float, peer: Peer, camera: Camera, orbit: Orbit, start: Start,
        robot: Robot) -> None:
    robot.mounted = base_from_optical(pitch_deg)
    start(autostart=False, mode='replay')
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    peer.until(lambda: ('odom', 'base_link') in robot.edges(), 'our odometry')
    map_from_base = robot.lookup('map', 'base_link', stamp_of(1))
    # The scene turns by a few degrees a frame, about the vertical of the robot.
    assert map_from_base[2, 2] > np.cos(np.radians(4.0))


@pytest.mark.parametrize(('map_origin', 'unit'), [('base', 2.5), ('camera', 1.0)])
def test_the_map_begins_at_the_base_or_at_the_camera(
        map_origin: str, unit: float, peer: Peer, camera: Camera, orbit: Orbit, start: Start,
        robot: Robot) -> None:
    """Also if the length of the map's unit is not known."""
    # The camera looks down and to the left; the robot has odometry.
    robot.mounted = base_from_optical(20.0)
    robot.mounted[:3, :3] = Rotation.from_euler('z', 40, degrees=True).as_matrix() @ (
        robot.mounted[:3, :3])
    start({'unit': unit}, autostart=False, mode='replay', map_origin=map_origin)
    robot.drive(0)
    robot.begin()
    for index in range(3):
        robot.drive(index)
        camera.send(orbit.image(index))
    robot.drive(3)
    peer.until_settled(3)
    until_broadcast(peer, robot, range(3))
    map_from_base = robot.lookup('map', 'base_link', stamp_of(0))
    map_from_camera = robot.lookup('map', OPTICAL_FRAME, stamp_of(0))
    if map_origin == 'base':
        assert np.allclose(map_from_base, np.eye(4), atol=LIMIT_M)
    else:
        assert np.allclose(map_from_camera[:3, 3], 0.0, atol=LIMIT_M)
        assert np.allclose(map_from_base[:3, 2], (0.0, 0.0, 1.0), atol=LIMIT_M)  # level
        assert abs(map_from_camera[1, 2]) < LIMIT_M < map_from_camera[0, 2]  # x along the view
