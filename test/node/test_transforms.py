# SPDX-License-Identifier: Apache-2.0
"""The map joins the robot's tree by REP-105, and never gives a frame a second parent."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from harness import OPTICAL_FRAME, Camera, Mapper, Orbit, Peer, stamp_of, to_ns
from nav_msgs.msg import Odometry
from rclpy.time import Time
from robot import Robot, base_from_optical

from spann3r_ros.mapping.geometry import MAP_FROM_OPTICAL, invert
from spann3r_ros.nodes.conversions import to_matrix, to_transform

Start = Callable[..., Mapper]
LIMIT_M = 0.01


def truth(orbit: Orbit, index: int) -> np.ndarray:
    return MAP_FROM_OPTICAL @ invert(orbit.poses[0]) @ orbit.poses[index]


def camera_in_map(robot: Robot, index: int) -> np.ndarray:
    return to_matrix(robot.tree().lookup_transform(
        'map', OPTICAL_FRAME, Time(nanoseconds=stamp_of(index))).transform)


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
    stamps = {stamp_of(index) for index in range(9)}
    peer.until(lambda: stamps <= {to_ns(one.header.stamp) for one in robot.told()},
               'a transform per keyframe')
    assert robot.edges() == {('map', 'odom')}
    assert all(len(parents) == 1 for parents in robot.parents().values())
    for index in range(9):
        error = camera_in_map(robot, index)[:3, 3] - truth(orbit, index)[:3, 3]
        assert np.linalg.norm(error) < LIMIT_M


def test_late_odometry_is_waited_for(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay', publish_tf='odom')
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    assert robot.edges() == set()
    robot.drive(*range(5))
    peer.until(lambda: len({to_ns(one.header.stamp) for one in robot.told()}) == 4,
               'transforms of all poses')
    assert np.linalg.norm(camera_in_map(robot, 2)[:3, 3] - truth(orbit, 2)[:3, 3]) < LIMIT_M


def test_odometry_is_ours_where_the_robot_has_none_and_does_not_jump(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    odometry = peer.listen(Odometry, '/mapper/odometry')
    start(autostart=False, mode='replay')
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(6)))
    peer.until_settled(6)
    assert peer.trigger('/mapper/reset').success
    camera.send(*(orbit.image(index) for index in range(6, 12)))
    peer.until_settled(12)
    peer.until(lambda: to_ns(odometry[-1].header.stamp) == stamp_of(11), 'odometry')
    assert robot.edges() == {('map', 'odom'), ('odom', 'base_link')}
    assert all(len(parents) == 1 for parents in robot.parents().values())
    # The first two poses of each map may come in one; later ones are a step of the orbit apart.
    step = np.linalg.norm(orbit.poses[1][:3, 3] - orbit.poses[0][:3, 3])
    places = np.array([[one.pose.pose.position.x, one.pose.pose.position.y,
                        one.pose.pose.position.z] for one in odometry])
    stamps = [to_ns(one.header.stamp) for one in odometry]
    assert stamps == sorted(stamps) and len(stamps) >= 10
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 2.5 * step
    assert {(one.header.frame_id, one.child_frame_id) for one in odometry} == {
        ('odom', 'base_link')}
    # Right after the reset the map starts anew, odom does not.
    there = camera_in_map(robot, 7)
    expected = MAP_FROM_OPTICAL @ invert(orbit.poses[6]) @ orbit.poses[7]
    assert np.linalg.norm(there[:3, 3] - (expected[:3, 3])) < 0.05


def test_a_camera_alone_hangs_below_the_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    odometry = peer.listen(Odometry, '/mapper/odometry')
    start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(5)))
    peer.until_settled(5)
    peer.until(lambda: len(odometry) >= 4, 'odometry')
    assert robot.edges() == {('map', OPTICAL_FRAME)}
    for index in range(4):
        assert np.linalg.norm(
            camera_in_map(robot, index)[:3, 3] - truth(orbit, index)[:3, 3]) < LIMIT_M
    assert odometry[-1].child_frame_id == OPTICAL_FRAME


def test_inverted_the_map_hangs_below_the_camera(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(mode='replay', invert_tf=True)
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    peer.until(lambda: len(robot.told()) >= 3, 'transforms')
    assert robot.edges() == {(OPTICAL_FRAME, 'map')}
    assert np.linalg.norm(camera_in_map(robot, 2)[:3, 3] - truth(orbit, 2)[:3, 3]) < LIMIT_M


def test_a_second_parent_is_refused_with_the_reason(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    mapper = start(autostart=False, mode='replay', publish_tf='camera')
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    peer.until(lambda: 'has the parent base_link already' in mapper.log, 'the reason')
    assert robot.edges() == set()


def test_an_edge_with_another_publisher_is_left_to_it(
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
    peer.until(lambda: other in robot.told(), 'the transform of the other')
    robot.settle()
    for index in range(3, 8):
        robot.drive(index)
        camera.send(orbit.image(index))
    peer.until_settled(8)
    robot.drive(8)
    peer.until(lambda: 'somebody else publishes map -> odom' in mapper.log, 'the reason')
    assert max(to_ns(one.header.stamp) for one in robot.told() if one != other) < stamp_of(5)


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
    map_from_base = to_matrix(robot.tree().lookup_transform(
        'map', 'base_link', Time(nanoseconds=stamp_of(1))).transform)
    # The scene turns by a few degrees a frame, about the vertical that the robot tells.
    assert map_from_base[2, 2] > np.cos(np.radians(4.0))
