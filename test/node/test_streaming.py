# SPDX-License-Identifier: Apache-2.0
"""Frames arrive over DDS and a map is published; every frame is counted."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import (
    CAMERA,
    OPTICAL_FRAME,
    Camera,
    Mapper,
    Orbit,
    Peer,
    balanced,
    compressed,
    stamp_of,
    to_ns,
)
from nav_msgs.msg import Path
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, transform_points
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.ros.conversions import POINT

Start = Callable[..., Mapper]
CLOUD_DTYPE = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('rgb', '<f4'),
                        ('confidence', '<f4')])


def malformed_images(orbit: Orbit) -> list[Image]:
    """Return one message per way an image can be wrong."""
    empty, short, step, encoding, depth = (orbit.image(index) for index in range(5))
    empty.height = empty.width = empty.step = 0
    empty.data = b''
    short.data = short.data[:-1]
    step.step -= 1
    encoding.encoding = 'purple8'
    values = np.full((96, 96), np.nan, np.float32)
    depth.encoding, depth.step, depth.data = '32FC1', 4 * 96, values.tobytes()
    return [empty, short, step, encoding, depth]


def stamps(messages: list) -> list[int]:
    return [to_ns(message.header.stamp) for message in messages]


def test_replay_maps_every_frame_and_counts_malformed_ones(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    mapper = start(mode='replay')
    peer.statuses()
    bad = malformed_images(orbit)
    for index in range(20):
        camera.send(orbit.image(index))
        if index < len(bad):
            camera.send(bad[index])

    status = peer.until_settled(20 + len(bad))
    assert (status.frames_processed, status.frames_failed) == (20, len(bad))
    assert (status.frames_dropped, status.frames_skipped) == (0, 0)
    assert '32FC1' in status.last_error
    assert all(balanced(one) for one in peer.statuses())
    assert status.voxels > 1000
    assert not status.metric and np.isinf(status.scale_variance)

    answer = peer.trigger('/mapper/save_map')
    assert answer.success, answer.message
    peer.until(lambda: len(clouds) == 20, 'the last frame to join the map')
    assert stamps(clouds) == [stamp_of(index) for index in range(20)]
    assert {cloud.header.frame_id for cloud in clouds} == {'map'}
    assert len(read_ply(mapper.map_directory / 'map' / 'map.ply')) > status.voxels
    poses = read_tum(mapper.map_directory / 'map' / 'trajectory.tum')
    assert [pose.stamp_ns for pose in poses] == [stamp_of(index) for index in range(20)]
    truth = MAP_FROM_OPTICAL @ invert(orbit.poses[0]) @ orbit.poses[19] @ invert(MAP_FROM_OPTICAL)
    assert np.allclose(poses[19].world_from_camera[:3, 3], truth[:3, 3], atol=0.02)


def test_compressed_images_are_mapped_and_a_truncated_one_is_refused(
        peer: Peer, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    start(mode='replay', image_transport='compressed')
    camera = Camera(peer, CompressedImage, '/camera/image_raw/compressed')
    truncated = compressed(orbit.rgb[0], stamp_of(0))
    truncated.data = truncated.data[:len(truncated.data) // 2]
    suffixes = ['.jpg', '.png'] * 4
    camera.send(truncated, *(compressed(orbit.rgb[index], stamp_of(index), suffix)
                             for index, suffix in enumerate(suffixes)))

    status = peer.until_settled(9)
    assert (status.frames_processed, status.frames_failed) == (8, 1)
    assert 'JPEG' in status.last_error
    peer.until(lambda: len(clouds) == 7, 'seven keyframes')
    assert stamps(clouds) == [stamp_of(index) for index in range(7)]


def test_live_overload_drops_the_oldest_and_counts_all(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start({'delay_sec': 0.5}, **{
        'qos_overrides./camera/image_raw.subscription.reliability': 'reliable',
        'qos_overrides./camera/image_raw.subscription.depth': 100})
    peer.statuses()
    # Alone, since a burst may be over before the worker has taken its first image.
    camera.send(orbit.image(0))
    peer.until_settled(1)
    camera.send(*(orbit.image(index) for index in range(1, 50)))

    status = peer.until_settled(50)
    assert status.frames_dropped > 10
    assert status.frames_processed >= 2
    assert status.frames_processed + status.frames_dropped == 50
    assert all(balanced(one) for one in peer.statuses())
    # The newest frame is never the one that is dropped.
    assert to_ns(status.header.stamp) == stamp_of(49)
    assert status.latency_last_sec >= status.inference_last_sec >= 0.5
    assert status.latency_max_sec >= status.latency_p95_sec >= status.latency_mean_sec / 2


def test_max_rate_skips_by_image_time(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(mode='replay', max_rate=10.0)
    camera.send(*(orbit.image(index) for index in range(30)))

    status = peer.until_settled(30)
    assert status.frames_processed == 10
    assert status.frames_skipped == 20


def test_outputs_of_one_keyframe_agree(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    topics = {'points': PointCloud2, 'confidence': Image, 'depth/image_rect': Image,
              'depth/camera_info': CameraInfo, 'pose': PoseWithCovarianceStamped}
    heard = {name: peer.listen(kind, f'/mapper/{name}') for name, kind in topics.items()}
    path = peer.listen(Path, '/mapper/path')
    former_depth = peer.listen(Image, '/mapper/depth')
    transforms = peer.listen(TFMessage, '/tf')
    # A network's points are off the rays of their pixels.
    mapper = start(options={'noise': 0.02}, mode='replay', map_publish_period_sec=0.0)
    camera.connect()
    infos = peer.publisher(CameraInfo, '/camera/camera_info')
    peer.until_read(infos)
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    peer.until(lambda: all(len(heard[name]) >= 3 for name in topics) and len(path) >= 3,
               'all outputs')

    cloud, confidence, depth, info = (
        heard[name][2]
        for name in ('points', 'confidence', 'depth/image_rect', 'depth/camera_info'))
    assert stamps([cloud, confidence, depth, info]) == [stamp_of(2)] * 4
    assert {one.header.frame_id for one in (confidence, depth, info)} == {OPTICAL_FRAME}
    assert confidence.encoding == depth.encoding == '32FC1'
    peer.until(lambda: len(former_depth) >= 3, 'depth under its former name')
    assert former_depth[2] == depth
    assert mapper.log.count('the topic /mapper/depth is deprecated') == 1
    points = np.frombuffer(cloud.data, CLOUD_DTYPE).reshape(cloud.height, cloud.width)
    assert cloud.point_step == CLOUD_DTYPE.itemsize
    assert [field.name for field in cloud.fields] == list(CLOUD_DTYPE.names)
    assert np.array_equal(
        points['confidence'], np.frombuffer(confidence.data, '<f4').reshape(96, 96))
    red = (np.ascontiguousarray(points['rgb']).view('<u4') >> 16).astype(np.uint8)
    assert np.array_equal(red, orbit.rgb[2][..., 0])

    pose = next(one for one in path[-1].poses if to_ns(one.header.stamp) == stamp_of(2)).pose
    back = back_project(np.frombuffer(depth.data, '<f4').reshape(96, 96), info)
    world = transform_points(to_matrix(pose), back)
    expected = np.stack([points[axis] for axis in 'xyz'], axis=-1)
    assert np.linalg.norm(world - expected, axis=-1).max() < 1e-3

    for edge in (('map', 'odom'), ('odom', OPTICAL_FRAME)):
        sent = [one for message in transforms for one in message.transforms
                if (one.header.frame_id, one.child_frame_id) == edge]
        assert sorted(stamps(sent)) == [stamp_of(index) for index in range(4)]
        assert sorted(stamps(heard['pose'])) == sorted(stamps(sent))
    assert all(len(message.transforms) == 2 for message in transforms)


def back_project(depth: np.ndarray, info: CameraInfo) -> np.ndarray:
    rows, columns = np.indices(depth.shape)
    return np.stack([(columns - info.k[2]) / info.k[0] * depth,
                     (rows - info.k[5]) / info.k[4] * depth, depth], axis=-1)


def to_matrix(pose: object) -> np.ndarray:
    from scipy.spatial.transform import Rotation
    q, p = pose.orientation, pose.position
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    matrix[:3, 3] = [p.x, p.y, p.z]
    return matrix


def test_camera_info_is_used_when_fresh_and_of_the_image(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    used = peer.listen(CameraInfo, '/mapper/depth/camera_info')
    start(mode='replay')
    camera.connect()
    infos = peer.publisher(CameraInfo, '/camera/camera_info')
    peer.until_read(infos)
    # Longer than the estimate from the pointmaps, so that the test sees which one is used.
    given = 1.05 * CAMERA.fx
    for index, late_sec in enumerate((100, 100, 100, 0, 0, 0)):
        if index == 3:
            peer.until_settled(3)
            assert peer.trigger('/mapper/reset').success
        info = CameraInfo(header=orbit.image(index).header, width=96, height=96)
        info.header.stamp.sec -= late_sec
        info.k = [given, 0.0, CAMERA.cx, 0.0, given, CAMERA.cy, 0.0, 0.0, 1.0]
        infos.publish(info)
        camera.send(orbit.image(index))

    peer.until(lambda: len(used) == 4, 'four keyframes')
    focals = [one.k[0] for one in used]
    assert focals[:2] == pytest.approx([CAMERA.fx] * 2, rel=0.02)
    assert focals[3] == pytest.approx(given)


def test_a_late_subscriber_gets_the_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(5)))
    status = peer.until_settled(5)
    clouds = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    path = peer.listen(Path, '/mapper/path', latched=True)
    peer.until(lambda: clouds and path, 'the map')
    assert clouds[-1].width == status.voxels
    assert len(path[-1].poses) == 4
    assert stamps(clouds[-1:]) == [stamp_of(3)]


@pytest.mark.parametrize('fault', ['frame_error', 'crash'])
def test_a_failing_frame_affects_no_other(
        fault: str, peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start({'fault_at': 3, 'fault': fault}, mode='replay')
    camera.send(*(orbit.image(index) for index in range(8)))
    status = peer.until_settled(8)
    assert (status.frames_processed, status.frames_failed) == (7, 1)
    assert 'frame 3' in status.last_error
    assert ('Traceback' in mapper.log) == (fault == 'crash')
    assert status.voxels > 1000


def test_point_layout_is_packed() -> None:
    assert CLOUD_DTYPE == POINT


def test_masked_pixels_enter_no_cloud(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    start(mode='replay', mask='exact')
    camera.connect()
    masks = peer.publisher(Image, '/mask')
    peer.until_read(masks)
    free = np.ones((96, 96), np.uint8)
    free[30:50, 40:80] = 0
    for index in range(5):
        header = orbit.image(index).header
        camera.send(orbit.image(index))
        if index != 3:
            masks.publish(Image(header=header, height=96, width=96, encoding='mono8', step=96,
                                data=free.tobytes()))
    peer.until(lambda: len(clouds) == 3, 'three keyframes')
    status = peer.until_settled(5)
    assert (status.frames_processed, status.frames_dropped) == (4, 1)
    for cloud in clouds:
        points = np.frombuffer(cloud.data, CLOUD_DTYPE).reshape(96, 96)
        assert np.array_equal(np.isnan(points['x']), free == 0)
        assert (points['confidence'][free == 0] == 0.0).all()
