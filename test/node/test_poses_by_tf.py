# SPDX-License-Identifier: Apache-2.0
"""Poses from TF: the map is in their frame, and the node publishes no pose of the camera."""
from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import OPTICAL_FRAME, Camera, Mapper, Orbit, Peer, balanced, stamp_of, to_ns
from nav_msgs.msg import Odometry, Path
from robot import Robot
from sensor_msgs.msg import PointCloud2
from synthetic import SyntheticScene

from spann3r_ros.pipeline.node_settings import NodeConfig
from spann3r_ros.ros.conversions import POINT

Start = Callable[..., Mapper]
SCENE = SyntheticScene()
# For images whose pose comes: how late it may be is the machine's affair.
PATIENT_SEC = 50.0


def points_of(clouds: list[PointCloud2]) -> np.ndarray:
    """Return all points [n, 3] of clouds."""
    data = b''.join(cloud.data.tobytes() for cloud in clouds)
    points = np.frombuffer(data, POINT)
    return np.stack([points[axis] for axis in 'xyz'], axis=1)


def test_the_map_is_in_the_frame_of_the_poses(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    # The network drifts by a metre and a half along the way, and does not measure in metres.
    start({'drift': 0.05, 'unit': 2.5}, autostart=False, mode='replay', pose_source='tf',
          pose_timeout_sec=PATIENT_SEC)
    clouds = peer.listen(PointCloud2, '/mapper/points')
    poses = peer.listen(PoseWithCovarianceStamped, '/mapper/pose')
    odometry = peer.listen(Odometry, '/mapper/odometry')
    paths = peer.listen(Path, '/mapper/path', latched=True)
    peer.statuses()
    robot.begin()
    camera.connect()
    for index in range(30):
        robot.localise(index)
        robot.drive(index)
        camera.send(orbit.image(index))
    status = peer.until_settled(30)
    assert (status.frames_processed, status.metric, status.scale_source) == (30, True, 'poses')
    peer.until(lambda: len(clouds) == 29, 'a cloud for each keyframe')
    assert [to_ns(one.header.stamp) for one in clouds] == [stamp_of(n) for n in range(29)]
    assert {one.header.frame_id for one in clouds} == {'map'}
    errors = SCENE.distances(points_of(clouds))
    assert np.median(errors) < 0.02
    assert np.quantile(errors, 0.95) < 0.06
    peer.until(lambda: paths and len(paths[-1].poses) == 29, 'the path')
    for index, place in enumerate(paths[-1].poses):
        at = place.pose.position
        assert np.allclose((at.x, at.y, at.z), orbit.poses[index][:3, 3], atol=1e-6)
    assert [to_ns(one.header.stamp) for one in poses] == [stamp_of(n) for n in range(30)]
    # A localisation must not receive its own output as an input.
    assert odometry == []
    assert robot.edges() == set()


def test_images_wait_for_their_poses(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay', pose_source='tf', pose_timeout_sec=PATIENT_SEC)
    peer.statuses()
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(8)))
    robot.settle()
    for index in range(8):
        robot.localise(index)
        robot.drive(index)
    assert peer.until_settled(8).frames_processed == 8


def test_transforms_are_received_while_images_block_the_node(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    """A slow network, and many more transforms than the node's executor could receive."""
    start({'delay_sec': 0.2}, autostart=False, mode='replay', pose_source='tf',
          pose_timeout_sec=PATIENT_SEC)
    paths = peer.listen(Path, '/mapper/path', latched=True)
    peer.statuses()
    robot.begin()
    camera.connect()
    for index in range(30):
        robot.localise(*[index] * 10)
        robot.drive(*[index] * 10)
        camera.send(orbit.image(index))
        peer.until(lambda n=index: ('odom', 'base_link') in robot.edges_at(stamp_of(n)), 'TF')
    assert peer.until_settled(30).frames_processed == 30
    peer.until(lambda: paths and len(paths[-1].poses) == 29, 'the path')
    for index, place in enumerate(paths[-1].poses):
        at = place.pose.position
        assert np.allclose((at.x, at.y, at.z), orbit.poses[index][:3, 3], atol=1e-6)


def test_a_bag_that_begins_again_finds_its_first_pose(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    """Transforms of the new time come before its first image; none may be lost."""
    mapper = start(autostart=False, mode='replay', pose_source='tf',
                   pose_timeout_sec=PATIENT_SEC)
    peer.statuses()
    robot.begin()
    camera.connect()
    # A minute passes between: more than tf2 takes back by itself.
    for index in (*range(4), *range(1800, 1803), *range(4)):
        robot.localise(index)
        robot.drive(index)
        camera.send(orbit.image(index))
        robot.settle()
    status = peer.until_settled(11)
    assert (status.frames_processed, status.frames_dropped) == (11, 0)
    assert 'jumped back' in mapper.log


def test_a_reset_drops_the_images_that_wait(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay', pose_source='tf', pose_timeout_sec=PATIENT_SEC)
    peer.statuses()
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(3)))
    robot.settle()
    peer.until(lambda: peer.trigger('/mapper/reset').success
               and peer.statuses()[-1].frames_dropped == 3, 'three dropped images')
    robot.localise(0, 1, 2)
    robot.drive(0, 1, 2)
    robot.settle()
    assert peer.until_settled(3).frames_processed == 0


@pytest.mark.parametrize('frame', ['', 'map'])
def test_an_image_that_names_no_camera_is_refused(
        frame: str, peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(mode='replay', pose_source='tf')
    peer.statuses()
    image = orbit.image(0)
    image.header.frame_id = frame
    camera.send(image)
    status = peer.until_settled(1)
    assert status.frames_failed == 1
    assert 'set the parameter optical_frame' in status.last_error


def test_a_map_in_the_frame_of_odometry(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay', pose_source='tf', map_frame='odom',
          pose_timeout_sec=PATIENT_SEC)
    clouds = peer.listen(PointCloud2, '/mapper/points')
    peer.statuses()
    robot.begin()
    camera.connect()
    for index in range(6):
        robot.drive(index)
        camera.send(orbit.image(index))
    peer.until_settled(6)
    peer.until(lambda: len(clouds) == 5, 'a cloud for each keyframe')
    assert {one.header.frame_id for one in clouds} == {'odom'}


def test_images_without_a_pose_are_dropped_and_reported(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    start(autostart=False, mode='replay', pose_source='tf', pose_timeout_sec=0.3)
    peer.statuses()
    robot.begin()
    camera.send(*(orbit.image(index) for index in range(4)))
    status = peer.until_settled(4)
    assert status.frames_dropped == 4
    assert f"no pose of '{OPTICAL_FRAME}'" in status.last_error
    indices = count(4)

    def have_passed() -> bool:
        index = next(indices)
        robot.localise(index)
        robot.drive(index)
        camera.send(orbit.image(index))
        return peer.until_settled(index + 1).frames_processed >= 5

    # On a busy machine a pose may come too late, too.
    peer.until(have_passed, 'five images with a pose')
    status = peer.statuses()[-1]
    assert status.frames_dropped + status.frames_processed == status.frames_received
    assert all(map(balanced, peer.statuses()))


def test_poses_from_tf_exclude_publishing_them() -> None:
    with pytest.raises(ValueError, match='publish_tf: expected auto or none'):
        NodeConfig(pose_source='tf', publish_tf='camera')
