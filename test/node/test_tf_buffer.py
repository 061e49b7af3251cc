# SPDX-License-Identifier: Apache-2.0
"""The tree of transforms, as this package asks it; holds for the genuine tf2_ros as well."""
from __future__ import annotations

import numpy as np
import pytest
import tf2_ros
from geometry_msgs.msg import TransformStamped
from rclpy.time import Time
from scipy.spatial.transform import Rotation

SECOND_NS = 10**9


def edge(parent: str, child: str, stamp_ns: int = 0, place: tuple[float, ...] = (0, 0, 0),
         yaw_deg: float = 0.0) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = map(float, place)
    q.x, q.y, q.z, q.w = map(float, Rotation.from_euler('z', yaw_deg, degrees=True).as_quat())
    return message


def matrix(message: TransformStamped) -> np.ndarray:
    t, q = message.transform.translation, message.transform.rotation
    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    result[:3, 3] = [t.x, t.y, t.z]
    return result


@pytest.fixture
def robot() -> tf2_ros.Buffer:
    """Return odom -> base_link, moving for a second, with a camera on it."""
    buffer = tf2_ros.Buffer()
    buffer.set_transform(edge('odom', 'base_link', 5 * SECOND_NS, (1, 0, 0), 0), 'test')
    buffer.set_transform(edge('odom', 'base_link', 6 * SECOND_NS, (2, 0, 0), 90), 'test')
    buffer.set_transform_static(edge('base_link', 'camera', 0, (0.3, 0, 0.5), -90), 'test')
    return buffer


def test_chain_is_composed_at_its_time(robot: tf2_ros.Buffer) -> None:
    found = robot.lookup_transform('odom', 'camera', Time(seconds=6))
    expected = matrix(edge('', '', 0, (2, 0, 0), 90)) @ matrix(edge('', '', 0, (0.3, 0, 0.5), -90))
    np.testing.assert_allclose(matrix(found), expected, atol=1e-12)
    back = robot.lookup_transform('camera', 'odom', Time(seconds=6))
    np.testing.assert_allclose(matrix(back) @ expected, np.eye(4), atol=1e-12)
    assert (found.header.frame_id, found.child_frame_id) == ('odom', 'camera')


def test_times_between_are_interpolated_and_the_newest_is_time_zero(
        robot: tf2_ros.Buffer) -> None:
    half = robot.lookup_transform('odom', 'base_link', Time(nanoseconds=5_500_000_000))
    np.testing.assert_allclose(matrix(half), matrix(edge('', '', 0, (1.5, 0, 0), 45)), atol=1e-9)
    newest = robot.lookup_transform('odom', 'camera', Time())
    assert Time.from_msg(newest.header.stamp).nanoseconds == 6 * SECOND_NS


@pytest.mark.parametrize(('target', 'source', 'seconds', 'error'), [
    ('odom', 'nothing', 6, 'LookupException'),
    ('odom', 'base_link', 4, 'ExtrapolationException'),
    ('odom', 'base_link', 7, 'ExtrapolationException'),
    ('world', 'base_link', 6, 'ConnectivityException')])
def test_what_cannot_be_told_raises(robot: tf2_ros.Buffer, target: str, source: str,
                                    seconds: int, error: str) -> None:
    robot.set_transform_static(edge('world', 'table'), 'test')
    with pytest.raises(getattr(tf2_ros, error)) as caught:
        robot.lookup_transform(target, source, Time(seconds=seconds))
    assert isinstance(caught.value, tf2_ros.TransformException)


def test_cleared_buffer_knows_static_transforms_only(robot: tf2_ros.Buffer) -> None:
    robot.clear()
    robot.lookup_transform('base_link', 'camera', Time())
    with pytest.raises(tf2_ros.TransformException):
        robot.lookup_transform('odom', 'base_link', Time())
