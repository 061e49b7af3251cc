# SPDX-License-Identifier: Apache-2.0
"""The map gets its unit from the robot's odometry: `map` moves, `odom` does not."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from harness import Camera, Mapper, Orbit, Peer, stamp_of
from nav_msgs.msg import Odometry
from robot import Robot
from sensor_msgs.msg import Image
from synthetic import SyntheticScene
from synthetic_mapper import CAMERA
from test_transforms import motion, until_broadcast

from spann3r_ros.core.transforms import invert

Start = Callable[..., Mapper]
UNIT = 0.37
COUNT = 20


@pytest.mark.parametrize('source', ['odometry', 'auto'])
def test_the_map_becomes_metric_by_odometry_in_tf(
        source: str, peer: Peer, camera: Camera, orbit: Orbit, start: Start,
        robot: Robot) -> None:
    start({'unit': UNIT}, autostart=False, mode='replay',
          **{'scale.source': source, 'pose_timeout_sec': 20.0})
    odometry = peer.listen(Odometry, '/mapper/odometry')
    statuses = peer.statuses()
    robot.drive(0)
    robot.begin()
    camera.connect()
    for index in range(COUNT):
        robot.drive(index)
        camera.send(orbit.image(index))
    robot.drive(COUNT)
    status = peer.until_settled(COUNT)
    assert (status.frames_processed, status.metric, status.scale, status.scale_source) == (
        COUNT, True, 1.0, 'odometry')
    assert 0.02 < np.sqrt(status.scale_variance) <= 0.06
    first = next(one for one in statuses if one.metric)
    assert all(one.metric == (one.frames_processed >= first.frames_processed)
               for one in statuses)
    assert {(one.metric, one.scale_source) for one in statuses} == {
        (False, 'none'), (True, 'odometry')}
    until_broadcast(peer, robot, range(COUNT - 1))
    # The node broadcasts map -> odom alone; the camera is where the robot says from now on.
    assert robot.edges() == {('map', 'odom')}
    beginning = robot.lookup('map', 'base_link', stamp_of(0))
    assert np.allclose(beginning, np.eye(4), atol=0.01)
    for last in (16, 18):
        moved = robot.lookup('map', 'base_link', stamp_of(last))
        truth = robot.first_pose @ motion(orbit, 0, last) @ invert(robot.mounted)
        assert np.linalg.norm(moved[:3, 3] - truth[:3, 3]) < 0.05 * np.linalg.norm(truth[:3, 3])
    # Before, the map was too large by the factor.
    before = robot.lookup('map', 'base_link', stamp_of(4))
    truth = robot.first_pose @ motion(orbit, 0, 4) @ invert(robot.mounted)
    assert np.linalg.norm(before[:3, 3]) > 2.0 * np.linalg.norm(truth[:3, 3])
    # Odometry has no step; its unit is that of the map as it began.
    places = np.array([[one.pose.pose.position.x, one.pose.pose.position.y] for one in odometry])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert len(steps) >= COUNT - 2 and steps.max() < 1.5 * np.median(steps)


def test_without_odometry_the_node_says_why_there_is_no_scale(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    mapper = start({'unit': UNIT}, autostart=False, mode='live', **{'scale.source': 'odometry'})
    robot.begin()
    camera.connect()
    camera.send(orbit.image(0))
    peer.until(lambda: 'no scale: TF has no odom -> camera_optical' in mapper.log, 'a warning')
    camera.send(orbit.image(1))
    status = peer.until_settled(2)
    assert (status.frames_dropped, status.metric) == (0, False)
    assert 'TF does not connect odom with camera_optical' in mapper.log


def test_depth_images_make_the_map_metric(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    """They are in millimetres; one of them comes after its image."""
    start({'unit': UNIT}, mode='replay', **{'scale.source': 'depth', 'pose_timeout_sec': 20.0})
    depths = peer.publisher(Image, 'depth')
    camera.connect()
    peer.until(depths.get_subscription_count, 'the mapper to listen to depth')
    scene = SyntheticScene()
    for index in range(8):
        image = orbit.image(index)
        metres = scene.render(orbit.poses[index], CAMERA)[1][..., 2]
        depth = Image(header=image.header, height=96, width=96, encoding='16UC1', step=192,
                      data=np.round(1000.0 * metres).astype('<u2').tobytes())
        if index == 3:
            camera.send(image)
            depths.publish(depth)
        else:
            depths.publish(depth)
            camera.send(image)
    status = peer.until_settled(8)
    assert (status.frames_processed, status.metric, status.scale_source) == (8, True, 'depth')
