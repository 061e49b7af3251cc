# SPDX-License-Identifier: Apache-2.0
"""Live: `map -> odom` is repeated, and a robot that appears late is taken into the tree."""
from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest
from harness import (
    OPTICAL_FRAME,
    PERIOD_NS,
    Camera,
    Mapper,
    Orbit,
    Peer,
    raw_image,
    stamp_of,
    to_ns,
)
from nav_msgs.msg import Odometry
from robot import ODOM_FROM_WORLD, Listener, Robot, base_from_optical
from test_streaming import to_matrix as to_pose_matrix
from tf2_msgs.msg import TFMessage

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert
from spann3r_ros.pipeline.transform_tree import TransformTree
from spann3r_ros.ros.conversions import to_stamped_transform, to_transform

Start = Callable[..., Mapper]
TOLERANCE_SEC = 0.4
LOOK_UPS = 40
# Much less than the time between two images. Nav2 waits 0.1 to 0.3 s, but not on a busy machine.
PATIENCE_SEC = 0.5


def repeated(robot: Robot, images: list[int]) -> list[int]:
    """Return the stamps of `map -> odom` that are not those of images."""
    return [stamp for one in robot.foreign_transforms() if one.child_frame_id == 'odom'
            and (stamp := to_ns(one.header.stamp)) not in images]


def test_map_to_odom_is_repeated_ahead_of_time_while_the_node_is_active(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, transform_tolerance_sec=TOLERANCE_SEC, publish_tf='camera')
    peer.statuses()
    assert peer.change_state('configure') and peer.change_state('activate')
    images = []
    for index in range(2):
        images.append(time.time_ns())
        camera.send(raw_image(orbit.rgb[index], images[-1]))
        peer.until_settled(index + 1)
    peer.until(lambda: len(repeated(robot, images)) > 5, 'repetitions without an image')
    heard_ns, stamps = time.time_ns(), repeated(robot, images)
    # What is looked up now is known, and nothing is stamped further ahead than that.
    assert heard_ns < stamps[-1] <= heard_ns + TOLERANCE_SEC * 1e9
    assert all(first < second for first, second in zip(stamps, stamps[1:], strict=False))
    # The camera's pose in odom is held, but not ahead of time.
    held = {to_ns(one.header.stamp) for one in robot.foreign_transforms()
            if one.child_frame_id == OPTICAL_FRAME}
    assert set(images) < held and max(held) < time.time_ns()

    assert peer.change_state('deactivate')
    robot.settle()
    ended = len(repeated(robot, images))
    for _ in range(3):
        robot.settle()
    assert len(repeated(robot, images)) == ended
    # The last place is still valid, and is repeated again.
    assert peer.change_state('activate')
    peer.until(lambda: len(repeated(robot, images)) > ended + 1, 'repetitions')


@pytest.mark.parametrize('role', ['odom', 'base'])
def test_the_present_is_known_to_who_looks_it_up(
        role: str, peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    """While an image comes every two seconds, and to a late joiner while none comes."""
    sent, due_sec = 0, 0.0
    listener = Listener(peer)

    def known(listener: Listener, period_sec: float) -> int:
        """Return how many of 40 look-ups at the present succeed; images come meanwhile."""
        nonlocal sent, due_sec
        count = 0
        for _ in range(LOOK_UPS):
            if time.monotonic() >= due_sec:
                camera.send(raw_image(orbit.rgb[sent], time.time_ns()))
                sent, due_sec = sent + 1, time.monotonic() + period_sec
            count += listener.lookup('map', 'base_link', time.time_ns(), PATIENCE_SEC) is not None
            time.sleep(0.01)
        return count

    with ExitStack() as stack:
        start(autostart=False)
        peer.statuses()
        robot.begin()
        if role == 'odom':
            stack.enter_context(robot.driving())
        # The first pose comes with the second image.
        for sent in (1, 2):
            camera.send(raw_image(orbit.rgb[sent - 1], time.time_ns()))
            peer.until_settled(sent)
        peer.until(lambda: listener.lookup('map', 'base_link', time.time_ns(), PATIENCE_SEC)
                   is not None, 'the listener to hear TF')
        assert robot.edges() == {('map', 'odom')} | (
            {('odom', 'base_link')} if role == 'base' else set())
        assert known(listener, 2.0) == LOOK_UPS
        assert peer.set_enabled(False).success
        late = Listener(peer)
        peer.until(lambda: late.lookup('map', 'base_link', time.time_ns(), PATIENCE_SEC)
                   is not None, 'a late joiner to hear TF')
        assert known(late, 2.0) == LOOK_UPS
        assert peer.statuses()[-1].state == 'paused'


def test_a_robot_without_the_mount_of_its_camera_names_it(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    """As after `ros2 bag play --start-offset`: /tf_static was published before."""
    mapper = start(autostart=False, mode='replay')
    peer.statuses()
    assert peer.change_state('configure') and peer.change_state('activate')
    camera.connect()
    robot.drive(*range(6))
    robot.settle()
    # Images wait for the mount, until a second of image time has passed.
    camera.send(*(raw_image(orbit.rgb[index], stamp_of(index * 30)) for index in range(6)))
    peer.until(lambda: peer.statuses()[-1].frames_processed >= 3, 'images')
    text = (f'TF does not connect base_link with {OPTICAL_FRAME}: no transform from or to '
            f'{OPTICAL_FRAME} has come')
    # The next fault, that nothing can be broadcast, follows it.
    assert any(one.last_error.startswith(text) for one in peer.statuses())
    assert mapper.log.count(text) == 1


def test_a_robot_that_appears_late_joins_the_tree_without_a_step(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    robot.mounted = base_from_optical(15.0)
    odometry = peer.listen(Odometry, '/mapper/odometry')
    static = peer.listen(TFMessage, '/tf_static', latched=True)
    mapper = start(autostart=False, mode='replay')
    peer.statuses()
    assert peer.change_state('configure') and peer.change_state('activate')
    camera.send(*(orbit.image(index) for index in range(3)))
    peer.until_settled(3)
    peer.until(lambda: len(odometry) == 3, 'odometry of the camera')
    peer.until(lambda: ('odom', OPTICAL_FRAME) in robot.edges(), 'a lone camera on TF')
    robot.mount_camera()
    robot.settle()
    camera.send(*(orbit.image(index) for index in range(3, 6)))
    peer.until_settled(6)
    peer.until(lambda: len(odometry) == 6, 'odometry of the base')
    assert [one.child_frame_id for one in odometry] == [OPTICAL_FRAME] * 3 + ['base_link'] * 3
    poses = [to_pose_matrix(one.pose.pose) for one in odometry]
    poses[3:] = [one @ robot.mounted for one in poses[3:]]
    for index, place in enumerate(poses):
        truth = MAP_FROM_OPTICAL @ invert(orbit.poses[0]) @ orbit.poses[index]
        assert np.allclose(place, truth, atol=0.01)
    assert not odometry[3].twist.twist.linear.x
    assert odometry[3].twist.covariance[0] > 1e5
    bases = [orbit.poses[index] @ invert(robot.mounted) for index in (3, 4)]
    velocity = (invert(bases[0]) @ bases[1])[:3, 3] / (PERIOD_NS * 1e-9)
    linear = odometry[4].twist.twist.linear
    assert np.allclose([linear.x, linear.y, linear.z], velocity, atol=0.02 * abs(velocity).max())
    assert mapper.log.count('publish_tf: camera') == mapper.log.count('publish_tf: base') == 1
    # A consumer that heard a broadcast of the lone camera last has the mount again.
    peer.until(lambda: len(static) >= 2, 'the mount, published once more')
    consumer = TransformTree(keep_sec=600.0)
    consumer.take(to_stamped_transform(static[0].transforms[0]), static=True)
    consumer.take(to_stamped_transform(to_transform(
        np.eye(4), stamp_of(2), 'odom', OPTICAL_FRAME)))
    consumer.take(to_stamped_transform(static[1].transforms[0]), static=True)
    assert np.allclose(consumer.lookup('base_link', OPTICAL_FRAME, stamp_of(5)), robot.mounted)
    newest = {(one.header.frame_id, one.child_frame_id) for one in robot.foreign_transforms()
              if to_ns(one.header.stamp) == stamp_of(5)}
    assert newest == {('map', 'odom'), ('odom', 'base_link')}


def test_the_first_image_waits_for_the_mount_of_a_robot_that_publishes_tf(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, level_timeout_sec=30.0)
    peer.statuses()
    assert peer.change_state('configure')
    robot.settle()
    assert peer.change_state('activate')
    camera.connect()
    camera.send(orbit.image(0))
    peer.until(lambda: peer.statuses()[-1].images_waiting == 1, 'an image that waits')
    robot.mount_camera()
    peer.until_settled(1)
    camera.send(orbit.image(1))
    peer.until(lambda: ('odom', 'base_link') in robot.edges(), 'our odometry')
    assert (OPTICAL_FRAME not in {child for _, child in robot.edges()})


def test_transforms_that_nobody_needed_are_there_when_a_pose_needs_them(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    odometry = peer.listen(Odometry, '/mapper/odometry')
    start(autostart=False, publish_tf='none', level_timeout_sec=0.0)
    peer.statuses()
    assert peer.change_state('configure')
    peer.until(lambda: peer.node.count_subscribers('/tf') > 1, 'the mapper to listen')
    # A moving mount and odometry, while the node is inactive.
    for index in range(4):
        robot.publish(to_transform(robot.mounted, stamp_of(index), 'base_link', OPTICAL_FRAME))
        robot.drive(index)
    robot.settle()
    assert peer.change_state('activate')
    for index in range(1, 4):
        camera.send(orbit.image(index))
        peer.until_settled(index)
    peer.until(lambda: len(odometry) >= 2, 'odometry')
    for one in odometry:
        index = (to_ns(one.header.stamp) - stamp_of(0)) // PERIOD_NS
        assert one.child_frame_id == 'base_link'
        at = to_pose_matrix(one.pose.pose) @ robot.mounted
        assert np.allclose(at, ODOM_FROM_WORLD @ orbit.poses[index], atol=0.01)
    assert robot.edges() == {('base_link', OPTICAL_FRAME)}
