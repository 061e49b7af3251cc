# SPDX-License-Identifier: Apache-2.0
"""Robots as they are: several of them, names with slashes, moving heads, transforms twice."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from harness import OPTICAL_FRAME, Camera, Mapper, Orbit, Peer, running, stamp_of
from robot import ODOM_FROM_WORLD, Robot, base_from_optical
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import PointCloud2
from test_transforms import LIMIT_M, farthest_off, motion, until_broadcast
from tf2_msgs.msg import TFMessage

from spann3r_ros.core.transforms import invert
from spann3r_ros.ros.conversions import to_transform

Start = Callable[..., Mapper]


class NamespacedMapper(Mapper):
    """The mapper of a robot that has its own /tf in its namespace."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self.remaps = (f'__ns:={namespace}', 'image:=camera/image_raw', '/tf:=tf',
                       'camera_info:=camera/camera_info', '/tf_static:=tf_static')
        super().__init__(directory, autostart=False, mode='replay')


class SlashedRobot(Robot):
    """A robot whose names of frames begin with a slash."""

    def publish(self, transform: TransformStamped) -> None:
        transform.header.frame_id = f'/{transform.header.frame_id}'
        transform.child_frame_id = f'/{transform.child_frame_id}'
        self._own.add((transform.header.frame_id, transform.child_frame_id))
        super().publish(transform)


@pytest.fixture
def peers(domain: int) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        peers = []
        for namespace in ('/robot1', '/robot2'):
            peers.append(Peer(namespace))
            stack.callback(peers[-1].close)
        yield peers


def test_two_robots_with_the_same_names_do_not_mix(
        peers: list[Peer], orbit: Orbit, peer: Peer, tmp_path: Path) -> None:
    """Each has /tf in its namespace. The names of the second one begin with a slash."""
    common = [peer.listen(TFMessage, topic) for topic in ('/tf', '/tf_static')]
    robots = [Robot(peers[0], orbit), SlashedRobot(peers[1], orbit)]
    robots[1].mounted = base_from_optical(15.0)
    robots[1].mounted[2, 3] = 0.4
    clouds = [one.listen(PointCloud2, '/mapper/points') for one in peers]
    cameras = [Camera(one) for one in peers]
    first = 0, 20
    with ExitStack() as stack:
        for index, one in enumerate(peers):
            stack.enter_context(running(NamespacedMapper(
                tmp_path / str(index), f'/robot{index + 1}')))
            one.statuses()
            robots[index].drive(first[index])
            robots[index].begin()
        for step in range(4):
            for index, (robot, camera) in enumerate(zip(robots, cameras, strict=True)):
                robot.drive(first[index] + step)
                image = orbit.image(first[index] + step)
                # The second camera's name begins with a slash in every second image.
                image.header.frame_id = '/' * (index * step % 2) + image.header.frame_id
                camera.send(image)
        for index, (one, robot) in enumerate(zip(peers, robots, strict=True)):
            robot.drive(first[index] + 4)
            one.until_settled(4)
            seen = range(first[index], first[index] + 3)
            until_broadcast(one, robot, seen)
            assert robot.edges() == {('map', 'odom')}
            assert farthest_off(robot, orbit, seen, first[index]) < LIMIT_M
            one.until(lambda index=index: len(clouds[index]) == 3, 'clouds')
            assert {cloud.header.frame_id for cloud in clouds[index]} == {'map'}
    assert common == [[], []]


def test_a_camera_on_a_turning_head_gives_the_motion_of_the_base(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay')
    mounted = []
    for index in range(7):
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler('z', 12 * index, degrees=True).as_matrix()
        mounted.append(turn @ robot.mounted)
    assert peer.change_state('configure')
    robot.settle()
    for index, one in enumerate(mounted):
        robot.publish(to_transform(one, stamp_of(index), 'base_link', OPTICAL_FRAME))
    robot.settle()
    assert peer.change_state('activate')
    camera.send(*(orbit.image(index) for index in range(6)))
    peer.until_settled(6)
    until_broadcast(peer, robot, range(6))
    assert robot.edges() >= {('map', 'odom'), ('odom', 'base_link')}
    for index in range(6):
        expected = mounted[0] @ motion(orbit, 0, index) @ invert(mounted[index])
        found = robot.lookup('map', 'base_link', stamp_of(index))
        assert np.allclose(found, expected, atol=LIMIT_M)


@pytest.mark.parametrize('own_map', [False, True])
def test_a_robot_that_owns_map_to_odom_keeps_it(
        own_map: bool, peer: Peer, camera: Camera, orbit: Orbit, start: Start,
        robot: Robot) -> None:
    """The poses still come, and with the remedy of the warning its map joins the tree."""
    poses = peer.listen(PoseWithCovarianceStamped, '/mapper/pose')
    settings = {'map_frame': '/visual_map', 'invert_tf': True} if own_map else {}
    mapper = start(autostart=False, mode='replay', **settings)
    robot.localise(0)
    robot.drive(0)
    robot.begin()
    for index in range(6):
        robot.localise(index)
        robot.drive(index)
        camera.send(orbit.image(index))
    robot.localise(6)
    robot.drive(6)
    peer.until_settled(6)
    peer.until(lambda: len(poses) == 6, 'a pose for each image')
    if own_map:
        peer.until(lambda: robot.edges_at(stamp_of(5)) >= {('odom', 'visual_map')}, 'our map')
        for index in range(6):
            found = robot.lookup('visual_map', OPTICAL_FRAME, stamp_of(index))
            assert np.allclose(found, robot.first_pose @ motion(orbit, 0, index), atol=LIMIT_M)
    robot.settle()
    assert robot.edges() == ({('odom', 'visual_map')} if own_map else set())
    assert mapper.log.count('another node publishes map -> odom') == (not own_map)
    assert ('another node publishes map -> odom' in peer.statuses()[-1].last_error) == (
        not own_map)
    assert all(len(parents) == 1 for parents in robot.parents().values())


def test_transforms_that_come_twice_do_no_harm(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    """A robot's transforms from two publishers: the robot itself and a recording of it."""
    recorded = peer.publisher(TFMessage, '/tf')
    recorded_static = peer.publisher(TFMessage, '/tf_static', latched=True)
    mapper = start(autostart=False, mode='replay')
    recorded_static.publish(TFMessage(transforms=[
        to_transform(robot.mounted, 0, 'base_link', OPTICAL_FRAME)]))
    robot.drive(0)
    robot.begin()
    peer.until(recorded.get_subscription_count, 'the mapper to listen to the recording')
    robot.settle()
    for index in range(8):
        robot.drive(index)
        for _ in range(20):
            recorded.publish(TFMessage(transforms=[robot.place(index)]))
        camera.send(orbit.image(index))
    robot.drive(8)
    assert peer.until_settled(8).frames_processed == 8
    until_broadcast(peer, robot, range(8))
    assert robot.edges() == {('map', 'odom')}
    assert farthest_off(robot, orbit, range(8)) < LIMIT_M
    assert 'WARN' not in mapper.log and 'Traceback' not in mapper.log
    # The stamps of the recording are of another time: those of the edge jump to and fro.
    for index in range(8, 20):
        robot.drive(index)
        recorded.publish(TFMessage(transforms=[
            to_transform(ODOM_FROM_WORLD, time.time_ns(), 'odom', 'base_link')]))
    peer.until(lambda: 'odom -> base_link comes from two publishers' in mapper.log, 'the reason')
    robot.settle()
    assert mapper.log.count('comes from two publishers') == 1
