# SPDX-License-Identifier: Apache-2.0
"""`publish_tf: auto` with a robot that starts late, and with one whose odometry stops."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from harness import OPTICAL_FRAME, Camera, Mapper, Orbit, Peer, stamp_of, to_ns
from robot import Robot

from spann3r_ros.core.transforms import invert
from spann3r_ros.pipeline.frame_roles import MAX_WAITING

Start = Callable[..., Mapper]


def test_late_odometry_of_the_robot_is_used(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    mapper = start(autostart=False, mode='replay')
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    peer.until(lambda: ('odom', 'base_link') in robot.edges(), 'our odometry')
    robot.drive(3)
    robot.settle()
    for index in range(4, 9):
        robot.drive(index)
        camera.send(orbit.image(index))
    peer.until_settled(9)
    robot.drive(9)
    late = {stamp_of(index) for index in range(5, 8)}
    peer.until(lambda: late <= {to_ns(one.header.stamp) for one in robot.foreign_transforms()
                                if one.child_frame_id == 'odom'}, 'map -> odom for late stamps')
    assert 'publish_tf: odom' in mapper.log
    heard = [to_ns(one.header.stamp) for message in list(peer.received['/tf'])
             for one in message.transforms if one.child_frame_id == 'base_link']
    assert [heard.count(stamp) for stamp in late] == [1, 1, 1]  # the robot's own
    for index in range(5, 8):
        place = robot.lookup('map', OPTICAL_FRAME, stamp_of(index))
        truth = robot.first_pose @ invert(orbit.poses[0]) @ orbit.poses[index]
        assert np.linalg.norm(place[:3, 3] - truth[:3, 3]) < 0.01


def test_poses_that_get_no_odometry_are_reported(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    mapper = start(autostart=False, mode='replay', publish_tf='odom')
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(MAX_WAITING + 3)))
    peer.until_settled(MAX_WAITING + 3)
    peer.until(lambda: 'poses wait for odom -> base_link on TF' in mapper.log, 'the reason')
    assert robot.edges() == set()
