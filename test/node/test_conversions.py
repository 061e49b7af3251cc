# SPDX-License-Identifier: Apache-2.0
"""Messages have the values of the mapper."""
from __future__ import annotations

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from nav_msgs.msg import Path
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField

from spann3r_ros.core.camera import Distortion, Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.messages import to_intrinsics, to_nanoseconds
from spann3r_ros.core.types import FragmentPose, FrameError, StampedPose
from spann3r_ros.mapping.fragments.atlas import PathView
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.pipeline.transform_tree import TransformTree
from spann3r_ros.ros import conversions

STAMP_NS = 1_700_000_000_123_456_789


@pytest.mark.parametrize('stamp_ns', [0, 1, 999_999_999, STAMP_NS, 2**31 * 10**9 - 1])
def test_stamp_keeps_every_nanosecond(stamp_ns: int) -> None:
    assert to_nanoseconds(conversions.to_stamp(stamp_ns)) == stamp_ns


@pytest.mark.parametrize('stamp', [Time(sec=-1), Time(sec=1, nanosec=10**9)])
def test_impossible_stamp_is_refused(stamp: Time) -> None:
    with pytest.raises(FrameError, match='stamp'):
        to_nanoseconds(stamp)


def test_cloud_carries_points_colours_and_confidence() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 4, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (3, 4, 3), np.uint8)
    confidence = rng.random((3, 4), np.float32)
    header = conversions.to_header(STAMP_NS, 'map')
    sent = conversions.to_cloud(points, colors, confidence, header)
    cloud = deserialize_message(serialize_message(sent), PointCloud2)

    assert (cloud.height, cloud.width, cloud.row_step) == (3, 4, 4 * cloud.point_step)
    assert len(cloud.data) == cloud.height * cloud.row_step
    assert cloud.is_dense and cloud.header == header
    assert {field.datatype for field in cloud.fields} == {PointField.FLOAT32}
    raw = np.frombuffer(cloud.data, np.uint8).reshape(3, 4, cloud.point_step)
    offsets = {field.name: field.offset for field in cloud.fields}
    for axis, name in enumerate('xyz'):
        column = raw[..., offsets[name]:offsets[name] + 4].copy().view('<f4')[..., 0]
        assert np.array_equal(column, points[..., axis])
    # RViz and PCL read the bytes of `rgb` as blue, green, red.
    assert np.array_equal(raw[..., offsets['rgb']:offsets['rgb'] + 3], colors[..., ::-1])


def test_cloud_with_holes_is_not_dense() -> None:
    points = np.zeros((1, 2, 3), np.float32)
    points[0, 1] = np.nan
    cloud = conversions.to_cloud(points, np.zeros((1, 2, 3), np.uint8),
                                 np.zeros((1, 2), np.float32), conversions.to_header(0, 'map'))
    assert not cloud.is_dense


@pytest.mark.parametrize(('max_bytes', 'sent'), [(2000, 100), (1999, 50), (1000, 50), (999, 34)])
def test_map_cloud_stays_within_its_budget(max_bytes: int, sent: int) -> None:
    points = np.arange(300, dtype=np.float32).reshape(100, 3)
    voxels = VoxelCloud(points, np.zeros((100, 3), np.uint8), np.ones(100, np.float32))
    max_bytes += conversions.ENVELOPE_BYTES + len('map')
    cloud = conversions.map_cloud(voxels, conversions.to_header(0, 'map'), max_bytes)
    assert cloud.width == sent and len(cloud.data) == sent * 20
    assert len(serialize_message(cloud)) <= max_bytes
    x = np.frombuffer(cloud.data, conversions.POINT)['x']
    assert np.array_equal(x, points[::-(-100 // sent), 0])


@pytest.mark.parametrize(('max_bytes', 'shape'), [
    (960, (6, 8)), (959, (3, 4)), (240, (3, 4)), (239, (2, 3)), (20, (1, 1))])
def test_keyframe_cloud_stays_within_its_budget_and_keeps_its_order(
        max_bytes: int, shape: tuple[int, int]) -> None:
    depth = np.arange(1, 49, dtype=np.float32).reshape(6, 8)
    keyframe = Keyframe(0, 'camera', 0, np.zeros((6, 8, 3), np.uint8),
                        Intrinsics(8.0, 8.0, 4.0, 3.0, 8, 6), depth,
                        np.ones((6, 8), np.float32), FragmentPose(0, 'camera', 0, np.eye(4)))
    place = np.diag([2.0, 2.0, 2.0, 1.0])
    points = keyframe.points_in(place)
    assert np.array_equal(points[..., 2], 2.0 * depth)
    max_bytes += conversions.ENVELOPE_BYTES + len('map')
    cloud = conversions.keyframe_cloud(keyframe, place, conversions.to_header(0, 'map'),
                                       max_bytes)
    assert (cloud.height, cloud.width) == shape
    assert len(serialize_message(cloud)) <= max_bytes
    stride = -(-8 // shape[1])
    x = np.frombuffer(cloud.data, conversions.POINT)['x'].reshape(shape)
    assert np.array_equal(x, points[::stride, ::stride, 0])


def test_empty_map_is_an_empty_cloud() -> None:
    empty = VoxelCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8),
                       np.zeros(0, np.float32))
    cloud = conversions.map_cloud(empty, conversions.to_header(0, 'map'), 1000)
    assert (cloud.height, cloud.width, len(cloud.data)) == (1, 0, 0)


def test_float_image_keeps_values() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    image = conversions.to_float_image(values, conversions.to_header(0, 'camera'))
    assert (image.height, image.width, image.step, image.encoding) == (2, 3, 12, '32FC1')
    assert np.array_equal(np.frombuffer(image.data, '<f4').reshape(2, 3), values)


def test_transform_agrees_with_the_pose() -> None:
    rotation = Rotation.random(random_state=3)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation.as_matrix(), [1.0, -2.0, 3.0]
    pose = StampedPose(STAMP_NS, 'camera', matrix)
    transform = conversions.to_transform(matrix, STAMP_NS, 'map', 'camera')
    tree = TransformTree(keep_sec=1.0)
    tree.take(conversions.to_stamped_transform(transform))
    np.testing.assert_allclose(tree.lookup('map', 'camera', STAMP_NS), matrix, atol=1e-12)
    assert (transform.header.frame_id, transform.child_frame_id) == ('map', 'camera')
    assert to_nanoseconds(transform.header.stamp) == STAMP_NS
    q, t = transform.transform.rotation, transform.transform.translation
    assert (rotation * Rotation.from_quat([q.x, q.y, q.z, q.w]).inv()).magnitude() < 1e-9
    assert (t.x, t.y, t.z) == (1.0, -2.0, 3.0)
    posed = conversions.to_pose_with_covariance(pose, 'map').pose.pose
    assert (posed.orientation, posed.position.x) == (q, 1.0)


def test_calibration_is_equal_after_a_round_trip() -> None:
    intrinsics = Intrinsics(500.0, 510.0, 319.5, 239.5, 640, 480)
    info = conversions.to_camera_info(intrinsics, conversions.to_header(0, 'camera'))
    assert to_intrinsics(info) == intrinsics
    assert info.p[0] == 500.0 and info.p[5] == 510.0


def test_distortion_belongs_to_raw_images_only() -> None:
    info = CameraInfo(width=640, height=480, distortion_model='plumb_bob')
    info.k = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
    info.p = [480.0, 0.0, 310.0, 0.0, 0.0, 481.0, 250.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    info.d = [0.0] * 5
    assert to_intrinsics(info).distortion is None
    info.d = [-0.2, 0.1, 0.0, 0.0, 0.0]
    raw = to_intrinsics(info)
    assert raw == Intrinsics(500.0, 500.0, 320.0, 240.0, 640, 480,
                             Distortion('plumb_bob', (-0.2, 0.1, 0.0, 0.0, 0.0)))
    assert to_intrinsics(info, rectified=True) == Intrinsics(
        480.0, 481.0, 310.0, 250.0, 640, 480)


def test_uncalibrated_camera_has_no_intrinsics() -> None:
    assert to_intrinsics(CameraInfo(width=640, height=480)) is None


@pytest.mark.parametrize('focal', [-1.0, np.nan, np.inf])
def test_wrong_focal_length_is_refused(focal: float) -> None:
    info = CameraInfo(width=640, height=480)
    info.k = [focal, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
    with pytest.raises(FrameError, match='focal lengths above 0 in K'):
        to_intrinsics(info)


@pytest.mark.parametrize('frame', ['map', 'm', 'a/longer/name', 'abcdefg', 'abcdefgh', ''])
@pytest.mark.parametrize('count', [0, 1, 5])
def test_serialized_path_is_that_of_rclpy(frame: str, count: int) -> None:
    rotations = Rotation.random(count, random_state=1).as_matrix() if count else np.eye(3)[:0]
    transforms = np.tile(np.eye(4), (count, 1, 1))
    if count:
        transforms[:, :3, :3] = rotations
        transforms[:, :3, 3] = np.random.default_rng(0).normal(size=(count, 3))
    stamps = STAMP_NS + np.arange(count, dtype=np.int64) * 333_333_333
    header = conversions.to_header(STAMP_NS, frame)
    content = conversions.serialized_path(PathView(stamps, transforms), header)
    found = deserialize_message(content, Path)
    # The padding is of any value.
    assert len(serialize_message(found)) == len(content)
    assert found.header == header and len(found.poses) == count
    for one, stamp, transform in zip(found.poses, stamps, transforms, strict=True):
        assert one.header == conversions.to_header(int(stamp), frame)
        expected = conversions.to_pose(transform)
        for name in 'xyz':
            assert getattr(one.pose.position, name) == getattr(expected.position, name)
        turn = [getattr(one.pose.orientation, name) for name in 'xyzw']
        wanted = [getattr(expected.orientation, name) for name in 'xyzw']
        assert abs(np.dot(turn, wanted)) == pytest.approx(1.0, abs=1e-12)
