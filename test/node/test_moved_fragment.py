# SPDX-License-Identifier: Apache-2.0
"""A fragment that moves, or that a loop moves: all of the map follows over DDS, odom does not."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath

import numpy as np
import pytest
from harness import Camera, Mapper, Orbit, Peer, running, stamp_of, to_ns
from movable_mapper import LOOP_ADDED, LOOP_TOPIC, TOPIC
from nav_msgs.msg import Odometry, Path
from robot import Robot
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64MultiArray
from visualization_msgs.msg import Marker, MarkerArray

from spann3r_ros.core.transforms import quaternion_to_matrix, to_rigid
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.ros import conversions

SCALE, ALL = 2.5, 9
MOVE = np.eye(4)
MOVE[:3, :3] = SCALE * Rotation.from_rotvec([0.2, -0.3, 1.1]).as_matrix()
MOVE[:3, 3] = 4.0, -7.0, 2.0


class MovableMapper(Mapper):
    program = FilePath(__file__).with_name('movable_mapper.py')


@pytest.fixture
def mapper(tmp_path: FilePath) -> Iterator[Mapper]:
    with running(MovableMapper(tmp_path, {'index_from_image': True}, mode='replay',
                               autostart=False, map_publish_period_sec=0.0)) as mapper:
        yield mapper


def matrix(pose: object) -> np.ndarray:
    place, turn = pose.position, pose.orientation
    return to_rigid(quaternion_to_matrix([turn.x, turn.y, turn.z, turn.w]),
                    np.array([place.x, place.y, place.z]))


def poses(path: Path) -> dict[int, np.ndarray]:
    return {to_ns(one.header.stamp): matrix(one.pose) for one in path.poses}


def points(cloud: PointCloud2) -> np.ndarray:
    table = np.frombuffer(cloud.data, conversions.POINT)
    return np.stack([table[axis] for axis in 'xyz'], axis=1).astype(float)


def moved(points: np.ndarray) -> np.ndarray:
    return points @ MOVE[:3, :3].T + MOVE[:3, 3]


def check_saved(folder: FilePath, cloud: np.ndarray, path: dict[int, np.ndarray]) -> None:
    """Check that a saved map has a cloud [n, 3] and a path."""
    saved = read_ply(folder / 'map.ply').points
    assert (saved.min(axis=0) < cloud.min(axis=0) + 0.3).all()
    assert (saved.max(axis=0) > cloud.max(axis=0) - 0.3).all()
    for one in read_tum(folder / 'trajectory.tum')[:5]:
        np.testing.assert_allclose(one.world_from_camera, path[one.stamp_ns], atol=1e-5)


def check_steps(robot: Robot, orbit: Orbit, images: range) -> None:
    """Check that the base makes its true steps in `odom` to these images."""
    true_base = [pose @ np.linalg.inv(robot.mounted) for pose in orbit.poses]
    for index in images:
        step = np.linalg.inv(robot.lookup('odom', 'base_link', stamp_of(index - 1))) @ (
            robot.lookup('odom', 'base_link', stamp_of(index)))
        np.testing.assert_allclose(
            step, np.linalg.inv(true_base[index - 1]) @ true_base[index], atol=0.02)


def check_places(robot: Robot, orbit: Orbit, before: np.ndarray) -> None:
    """Check that the robot is where the move took it in `map`, and goes on in its unit there."""
    for index in (ALL - 2, ALL - 1):
        true = before @ robot.mounted @ np.linalg.inv(orbit.poses[5]) @ orbit.poses[index]
        found = robot.lookup('map', 'camera_optical', stamp_of(index))
        np.testing.assert_allclose(found[:3, 3], moved(true[:3, 3]), atol=0.05)


def test_all_outputs_follow_a_fragment_and_odometry_does_not(
        peer: Peer, camera: Camera, orbit: Orbit, mapper: Mapper) -> None:
    robot = Robot(peer, orbit)
    robot.begin()
    paths = peer.listen(Path, '/mapper/path', latched=True)
    clouds = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    odometry = peer.listen(Odometry, '/mapper/odometry')
    move = peer.publisher(Float64MultiArray, TOPIC)
    camera.send(*(orbit.image(index) for index in range(6)))
    peer.until_settled(6)
    peer.until(lambda: paths and len(paths[-1].poses) == 5, 'the path')
    peer.until(lambda: clouds and to_ns(clouds[-1].header.stamp) == stamp_of(4), 'the map')
    newest = stamp_of(5)
    peer.until(lambda: ('map', 'odom') in robot.edges_at(newest), 'TF')
    path, cloud = poses(paths[-1]), points(clouds[-1])
    before = robot.lookup('map', 'base_link', newest)
    odom_before = robot.lookup('odom', 'base_link', newest)

    peer.until(move.get_subscription_count, 'the mapper to listen')
    move.publish(Float64MultiArray(data=[0.0, *MOVE.ravel()]))
    peer.until(lambda: peer.statuses()[-1].revision == 1, 'the move')
    first = moved(path[stamp_of(0)][:3, 3])
    found = peer.until(lambda: next((
        one for one in map(poses, paths) if np.allclose(one[stamp_of(0)][:3, 3], first)), None),
        'the moved path')
    assert found.keys() == path.keys()
    for stamp, pose in found.items():
        np.testing.assert_allclose(pose[:3, 3], moved(path[stamp][:3, 3]), atol=1e-6)
        np.testing.assert_allclose(pose[:3, :3], MOVE[:3, :3] / SCALE @ path[stamp][:3, :3],
                                   atol=1e-6)
    peer.until(lambda: len(clouds[-1].data) == len(cloud) * conversions.POINT.itemsize
               and np.abs(points(clouds[-1]) - moved(cloud)).max() < 1e-4, 'the moved map')

    # A late subscriber gets the moved map.
    heard = len(clouds)
    peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    peer.until(lambda: len(clouds) > heard, 'the latched map')
    assert np.abs(points(clouds[-1]) - moved(cloud)).max() < 1e-4
    assert peer.trigger('/mapper/save_map').success
    check_saved(mapper.map_directory / 'map', moved(cloud), found)

    camera.send(*(orbit.image(index) for index in range(6, ALL)))
    peer.until_settled(ALL)
    last = stamp_of(ALL - 1)
    peer.until(lambda: ('map', 'odom') in robot.edges_at(last), 'TF at the last image')
    # Odometry has gone on in its own unit, without a step.
    np.testing.assert_allclose(robot.lookup('odom', 'base_link', newest), odom_before, atol=1e-9)
    steps = np.array([one.twist.twist.linear.x for one in odometry])
    assert np.abs(np.diff(steps[1:])).max() < 0.5
    check_steps(robot, orbit, range(6, ALL))
    check_places(robot, orbit, before)


def namespaces(graph: MarkerArray) -> dict[str, int]:
    """Return the number of points of each namespace; all markers replace those before."""
    assert graph.markers[0].action == Marker.DELETEALL
    assert {one.header.frame_id for one in graph.markers} == {'map'}
    return {one.ns: len(one.points) for one in graph.markers[1:]}


def test_a_loop_moves_the_map_and_not_the_odometry(
        peer: Peer, camera: Camera, orbit: Orbit, mapper: Mapper) -> None:
    robot, loop_at, count = Robot(peer, orbit), 11, 15
    robot.begin()
    paths = peer.listen(Path, '/mapper/path', latched=True)
    clouds = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    graphs = peer.listen(MarkerArray, '/mapper/graph', latched=True)
    add_loop = peer.publisher(Float64MultiArray, LOOP_TOPIC)
    camera.send(*(orbit.image(index) for index in range(6)))
    peer.until_settled(6)
    assert peer.trigger('/mapper/new_fragment').success
    camera.send(*(orbit.image(index) for index in range(6, loop_at)))
    peer.until_settled(loop_at)
    newest, last = stamp_of(loop_at - 1), stamp_of(count - 1)
    peer.until(lambda: ('map', 'odom') in robot.edges_at(newest), 'TF')
    peer.until(lambda: paths and len(paths[-1].poses) == loop_at - 1, 'the path')
    peer.until(lambda: graphs and namespaces(graphs[-1]) == {
        'keyframes': loop_at - 1, 'fragments': 2 * (loop_at - 3), 'joins': 2}, 'the graph')
    path, cloud = poses(paths[-1]), points(clouds[-1])
    map_from_odom = robot.lookup('map', 'odom', newest)
    odom_before = robot.lookup('odom', 'base_link', newest)

    # Both fragments are in the frame of the map: the loop says that the second one is 5 cm off.
    shift = np.eye(4)
    shift[:3, 3] = 0.0, 0.05, 0.0
    peer.until(add_loop.get_subscription_count, 'the mapper to listen')
    add_loop.publish(Float64MultiArray(data=[0.0, 1.0, *shift.ravel()]))
    peer.until(lambda: LOOP_ADDED in mapper.log, 'the loop')
    camera.send(*(orbit.image(index) for index in range(loop_at, count)))
    peer.until_settled(count)
    status = peer.statuses()[-1]
    assert (status.revision, status.loops_accepted, status.loops_rejected) == (1, 1, 0)
    assert (status.fragments, status.fragments_unconnected) == (2, 0)
    peer.until(lambda: ('map', 'odom') in robot.edges_at(last), 'TF at the last image')
    found = peer.until(lambda: next((one for one in map(poses, paths)
                                     if stamp_of(count - 2) in one), None), 'the path')
    first, second = stamp_of(2), stamp_of(8)
    np.testing.assert_allclose(found[first], path[first], atol=1e-9)
    step = found[second][:3, 3] - path[second][:3, 3]
    assert 0.02 < step[1] < 0.06
    peer.until(lambda: len(clouds[-1].data) and to_ns(clouds[-1].header.stamp) == stamp_of(
        count - 2), 'the map')
    assert not np.array_equal(points(clouds[-1])[:len(cloud)], cloud)
    peer.until(lambda: namespaces(graphs[-1]).get('loops_accepted') == 2, 'the loop on the graph')

    # The correction is in map -> odom. The robot's odometry goes on without a step.
    moved_by = robot.lookup('map', 'odom', last) @ np.linalg.inv(map_from_odom)
    np.testing.assert_allclose(moved_by[:3, :3] @ path[second][:3, 3] + moved_by[:3, 3],
                               found[second][:3, 3], atol=0.01)
    np.testing.assert_allclose(robot.lookup('odom', 'base_link', newest), odom_before, atol=1e-9)
    check_steps(robot, orbit, range(8, count))
    np.testing.assert_allclose(robot.lookup('map', 'camera_optical', stamp_of(count - 2)),
                               found[stamp_of(count - 2)], atol=0.01)
