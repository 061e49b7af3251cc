# SPDX-License-Identifier: Apache-2.0
"""Thousands of messages that no camera should send: each is counted and has no other effect."""
from __future__ import annotations

import math
import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from harness import (
    CAMERA,
    Camera,
    Mapper,
    Message,
    Orbit,
    Peer,
    balanced,
    compressed,
    stamp_of,
    to_ns,
)
from malformed import (
    MalformedCalibrations,
    MalformedFiles,
    MalformedImages,
    malformed_transforms,
)
from rclpy.publisher import Publisher
from robot import Robot, to_matrix
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from test_transforms import LIMIT_M, motion, until_broadcast

from spann3r_ros.core.image_files.file_headers import MAX_PIXELS
from spann3r_ros.ros.conversions import POINT, to_camera_info

Start = Callable[..., Mapper]
PORTION, PORTIONS = 150, 5
MEBIBYTE = 2**20
ODD_FRAMES = ('', '/', '/camera', 'a' * 5000, 'ünïcode', 'two words', 'map', 'odom', '\n')


def matched_publisher(peer: Peer, kind: type, topic: str) -> Publisher:
    publisher = peer.publisher(kind, topic)
    peer.until_read(publisher)
    return publisher


def send(peer: Peer, publisher: Publisher, message: Message) -> None:
    """Publish a message and wait until the mapper has received it."""
    publisher.publish(message)
    peer.state()


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_malformed_images_are_counted_and_have_no_effect(
        transport: str, peer: Peer, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    mapper = start(mode='replay', image_transport=transport)
    if transport == 'raw':
        camera = Camera(peer, Image, '/camera/image_raw')
        source, good = MalformedImages(orbit.image(0), seed=1), orbit.image
    else:
        camera = Camera(peer, CompressedImage, '/camera/image_raw/compressed')
        source = MalformedFiles(orbit.rgb[0], seed=2)

        def good(index: int) -> CompressedImage:
            return compressed(orbit.rgb[index], stamp_of(index), '.png')
    camera.send(good(0), good(1))
    resident = []
    for portion in range(PORTIONS):
        camera.send(*source.take(PORTION, stamp_of(portion + 2)))
        camera.send(good(portion + 2))
        status = peer.until_settled(2 + (portion + 1) * (PORTION + 1))
        assert (status.frames_failed, status.frames_processed) == (
            (portion + 1) * PORTION, portion + 3), status.last_error
        resident.append(mapper.resident_bytes)

    # A keyframe of every good image but the newest: the map went on where it was.
    peer.until(lambda: len(clouds) == status.frames_processed - 1, 'the last keyframe')
    assert [to_ns(cloud.header.stamp) for cloud in clouds] == [
        stamp_of(index) for index in range(PORTIONS + 1)]
    assert all(balanced(one) for one in peer.statuses())
    assert status.fragment_id == 0 and status.voxels > 1000
    assert resident[-1] - resident[0] < 16 * MEBIBYTE
    assert mapper.alive() and 'Traceback' not in mapper.log


def test_a_malformed_calibration_fails_its_image_at_most(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    mapper = start(mode='replay')
    infos = matched_publisher(peer, CameraInfo, '/camera/camera_info')
    camera.connect()
    send(peer, infos, to_camera_info(CAMERA, orbit.image(0).header))
    camera.send(orbit.image(0))
    mapped, last = [0], 28
    for index, (info, costly) in enumerate(
            MalformedCalibrations(seed=3).take(map(stamp_of, range(1, last))), start=1):
        send(peer, infos, info)
        camera.send(orbit.image(index))
        status = peer.until_settled(index + 1)
        mapped += [] if costly else [index]
        assert (status.frames_processed, status.frames_failed) == (
            len(mapped), index + 1 - len(mapped)), (info, status.last_error)
        assert not costly or 'calibration: expected that of the map' in status.last_error
    send(peer, infos, to_camera_info(CAMERA, orbit.image(last).header))
    camera.send(orbit.image(last))
    assert peer.until_settled(last + 1).frames_processed == len(mapped) + 1
    peer.until(lambda: len(clouds) == len(mapped), 'a cloud for each mapped image')
    assert [to_ns(cloud.header.stamp) for cloud in clouds] == list(map(stamp_of, mapped))
    assert mapper.alive() and 'Traceback' not in mapper.log


def test_good_images_of_odd_frames_are_mapped(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    mapper = start(mode='replay')
    for count, frame in enumerate(ODD_FRAMES):
        assert peer.trigger('/mapper/reset').success  # a map has one camera
        images = orbit.image(2 * count), orbit.image(2 * count + 1)
        for image in images:
            image.header.frame_id = frame
        camera.send(*images)
        status = peer.until_settled(2 * (count + 1))
        assert status.frames_failed == 0, (frame, status.last_error)
    peer.until(lambda: len(clouds) == len(ODD_FRAMES), 'a cloud for each frame')
    robot.settle()
    edges = robot.edges()
    assert ('map', 'odom') in edges
    assert {parent for parent, _ in edges - {('map', 'odom')}} == {'odom'}
    assert {child for _, child in edges}.isdisjoint({'', 'map', '/map', '/odom'})
    assert mapper.alive() and 'Traceback' not in mapper.log


def test_malformed_masks_leave_the_last_good_one(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    mapper = start(mode='replay', mask='latest')
    masks = matched_publisher(peer, Image, '/mask')
    free = np.ones((96, 96), np.uint8)
    free[30:50, 40:80] = 0
    good, small = (Image(height=side, width=side, encoding='mono8', step=side,
                         data=free[:side, :side].tobytes()) for side in (96, 48))
    send(peer, masks, good)
    camera.send(orbit.image(0), orbit.image(1))
    for mask in MalformedImages(good, seed=4).take(30, stamp_of(0)):
        send(peer, masks, mask)
    camera.send(orbit.image(2))
    status = peer.until_settled(3)
    assert (status.frames_processed, status.frames_failed) == (3, 0)
    assert status.last_error
    send(peer, masks, small)
    camera.send(orbit.image(3))
    status = peer.until_settled(4)
    assert status.frames_failed == 1 and 'mask: expected' in status.last_error
    send(peer, masks, good)
    camera.send(orbit.image(4))
    assert peer.until_settled(5).frames_processed == 4
    peer.until(lambda: len(clouds) == 3, 'three keyframes')
    for cloud in clouds:
        points = np.frombuffer(cloud.data, POINT).reshape(96, 96)
        assert np.array_equal(np.isnan(points['x']), free == 0)
    assert mapper.alive() and 'Traceback' not in mapper.log


def test_malformed_transforms_move_nothing(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, robot: Robot) -> None:
    mapper = start(autostart=False, mode='replay')
    robot.drive(0)
    robot.begin()
    for index in range(6):
        robot.drive(index)
        for one in malformed_transforms(robot.place(index), 30, seed=index):
            robot.publish(one)
        camera.send(orbit.image(index))
    robot.drive(6)
    assert peer.until_settled(6).frames_processed == 6
    until_broadcast(peer, robot, range(6))
    # Without a buffer of the test, which would hear the malformed transforms too.
    sent = {to_ns(one.header.stamp): one for one in robot.foreign_transforms()
            if (one.header.frame_id, one.child_frame_id) == ('map', 'odom')}
    for index in range(6):
        map_from_base = to_matrix(sent[stamp_of(index)]) @ to_matrix(robot.place(index))
        assert np.allclose(map_from_base @ robot.mounted,
                           robot.first_pose @ motion(orbit, 0, index), atol=LIMIT_M)
    # After a jump back the newest transforms are checked again.
    camera.send(*(orbit.image(index) for index in (-60, -59, -58)))
    status = peer.until_settled(9)
    assert (status.frames_processed, status.resets) == (9, 1)
    assert mapper.alive() and 'Traceback' not in mapper.log


def test_the_largest_picture_is_mapped_and_a_larger_one_refused(
        peer: Peer, orbit: Orbit, start: Start) -> None:
    camera = Camera(peer, CompressedImage, '/camera/image_raw/compressed')
    mapper = start(mode='replay', image_transport='compressed')
    side = math.isqrt(MAX_PIXELS)
    # Grey: three channels would take three times as long.
    pixels = cv2.resize(orbit.rgb[0][..., 0], (side, side), interpolation=cv2.INTER_NEAREST)
    data = bytearray(cv2.imencode('.png', pixels)[1].tobytes())
    largest, larger = (compressed(orbit.rgb[0], stamp_of(index), '.png') for index in range(2))
    largest.data = bytes(data)
    data[16:20] = struct.pack('>L', side + 1)
    larger.data = bytes(data)
    camera.send(largest, larger)
    status = peer.until_settled(2)
    assert (status.frames_processed, status.frames_failed) == (1, 1)
    assert f'size: expected 1 to {MAX_PIXELS} pixels' in status.last_error
    assert mapper.alive()
