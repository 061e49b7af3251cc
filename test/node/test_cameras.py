# SPDX-License-Identifier: Apache-2.0
"""Cameras of other sizes, shapes and lenses: points stay on the surfaces that the image shows."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from harness import CAMERA, Camera, Mapper, Orbit, Peer, raw_image, stamp_of, to_ns
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from synthetic import SyntheticScene, shade

from spann3r_ros.core.camera import Distortion, Intrinsics
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, transform_points
from spann3r_ros.ros.conversions import POINT, to_camera_info

Start = Callable[..., Mapper]
# What these images show need not tell their index: the n-th one is that of the n-th pose.
COUNTED = {'index_from_image': False}
# Each is CAMERA once the network's 96x96 pixels are cut out of its image, or hold all of it.
WIDE = {
    'crop': Intrinsics(CAMERA.fx * 192 / 170, CAMERA.fy * 108 / 96, 95.5, 53.5, 192, 108),
    'letterbox': Intrinsics(2 * CAMERA.fx, 2 * CAMERA.fy, 95.5, 53.5, 192, 108),
}
SEEN_ROWS = {'crop': slice(0, 96), 'letterbox': slice(21, 75)}
COVERAGE = {'crop': 108**2 / (192 * 108), 'letterbox': 1.0}
BARREL = replace(CAMERA, distortion=Distortion('plumb_bob', (-0.2, 0.05, 0.002, -0.001, 0.0)))
DARKEST = 80
LIMIT_M = 0.01
LIMIT_GREY = 8


class Calibration:
    """The publisher of a camera's calibration."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._publisher = peer.publisher(CameraInfo, '/camera/camera_info')

    def connect(self) -> None:
        self._peer.until_read(self._publisher)

    def publish(self, camera: Intrinsics, image: Image) -> None:
        """Let the mapper take a calibration of an image's stamp before that image comes."""
        info = to_camera_info(camera, image.header)
        if camera.distortion is not None:
            info.d = list(camera.distortion.coefficients)
        self.connect()
        self._publisher.publish(info)
        for _ in range(3):
            self._peer.state()  # it answers calls in between


@pytest.fixture
def calibration(peer: Peer) -> Calibration:
    return Calibration(peer)


def stamps(messages: list) -> list[int]:
    return [to_ns(message.header.stamp) for message in messages]


def points_of(cloud: PointCloud2) -> np.ndarray:
    return np.frombuffer(cloud.data, POINT).reshape(cloud.height, cloud.width)


def colours_of(points: np.ndarray) -> np.ndarray:
    packed = np.ascontiguousarray(points['rgb']).view('<u4')
    return (packed[..., None] >> np.array([16, 8, 0]) & 255).astype(int)


def truth(orbit: Orbit, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours CAMERA sees, and where in the map their surfaces are."""
    rgb, points = SyntheticScene().render(orbit.poses[index], CAMERA)
    map_from_camera = MAP_FROM_OPTICAL @ invert(orbit.poses[0]) @ orbit.poses[index]
    return np.maximum(rgb, DARKEST), transform_points(map_from_camera, points)


def assert_on_surfaces(cloud: PointCloud2, orbit: Orbit, index: int) -> None:
    """Check place and colour of all points, whose pixels are those of CAMERA."""
    points = points_of(cloud)
    colours, places = truth(orbit, index)
    found = np.isfinite(points['x'])
    distance = np.linalg.norm(
        np.stack([points[axis] for axis in 'xyz'], axis=-1) - places, axis=-1)
    assert distance[found].max() < LIMIT_M
    # At the textures' edges resampled colours differ, elsewhere hardly.
    assert np.median(np.abs(colours_of(points) - colours)[found]) < LIMIT_GREY


def test_another_image_size_is_refused_until_a_reset(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    start(mode='replay')
    images = [orbit.image(index) for index in range(10)]
    for index in (3, 4, 7, 8, 9):
        images[index] = raw_image(cv2.resize(orbit.rgb[index], (144, 144)), stamp_of(index))
    camera.send(*images[:7])
    before = peer.until_settled(7)
    assert (before.frames_processed, before.frames_failed) == (5, 2)
    assert before.last_error == ('image: expected 96x96 pixels as the images of the map, got '
                                 '144x144; reset to change the size')
    peer.until(lambda: len(clouds) >= 4, 'the keyframes of the old size')
    assert stamps(clouds) == [stamp_of(index) for index in (0, 1, 2, 5)]

    assert peer.trigger('/mapper/reset').success
    camera.send(*images[7:])
    after = peer.until_settled(10)
    assert (after.frames_processed, after.frames_failed) == (8, 2)
    assert after.fragment_id == before.fragment_id + 1
    peer.until(lambda: len(clouds) >= 6, 'the keyframes of the new size')
    assert stamps(clouds[4:]) == [stamp_of(index) for index in (7, 8)]


def test_a_late_calibration_is_used_after_a_reset(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, calibration: Calibration) -> None:
    used = peer.listen(CameraInfo, '/mapper/depth/camera_info')
    mapper = start(mode='replay')
    images = [orbit.image(index) for index in range(9)]
    camera.send(*images[:3])
    peer.until_settled(3)
    # Longer than the estimate from the pointmaps, so that the test sees which one is used.
    given = replace(CAMERA, fx=1.05 * CAMERA.fx, fy=1.04 * CAMERA.fy)
    calibration.publish(given, images[3])
    camera.send(*images[3:6])
    status = peer.until_settled(6)
    assert (status.frames_processed, status.resets) == (6, 0)
    assert mapper.log.count('a calibration came after the first image of the map') == 1
    assert peer.trigger('/mapper/reset').success
    camera.send(*images[6:])
    peer.until_settled(9)
    peer.until(lambda: len(used) >= 7, 'every keyframe')
    assert stamps(used) == [stamp_of(index) for index in (0, 1, 2, 3, 4, 6, 7)]
    assert [one.k[0] for one in used[:5]] == pytest.approx([CAMERA.fx] * 5, rel=0.02)
    assert [(one.k[0], one.k[4]) for one in used[5:]] == [(given.fx, given.fy)] * 2


def test_live_the_first_image_waits_for_its_calibration(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, calibration: Calibration) -> None:
    used = peer.listen(CameraInfo, '/mapper/depth/camera_info')
    given = replace(CAMERA, fx=1.05 * CAMERA.fx, fy=1.04 * CAMERA.fy)
    start(mode='live', **{'qos_overrides./camera/image_raw.subscription.reliability': 'reliable'})
    calibration.connect()
    camera.send(orbit.image(0))
    calibration.publish(given, orbit.image(0))
    peer.until_settled(1)
    for index in range(1, 3):
        camera.send(orbit.image(index))
        peer.until_settled(index + 1)
    peer.until(lambda: len(used) >= 2, 'two keyframes')
    assert [(one.k[0], one.k[4]) for one in used] == [(given.fx, given.fy)] * 2


@pytest.mark.parametrize('fit', WIDE)
def test_a_wide_image_gives_no_points_in_its_bars(
        fit: str, peer: Peer, camera: Camera, orbit: Orbit, start: Start,
        calibration: Calibration) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    maps = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    start(COUNTED, mode='replay', field_of_view=fit, map_publish_period_sec=0.0)
    # No pixel is as black as the bars about a letterboxed image.
    images = [raw_image(np.maximum(SyntheticScene().render(orbit.poses[index], WIDE[fit])[0],
                                   DARKEST), stamp_of(index)) for index in range(4)]
    camera.connect()
    calibration.publish(WIDE[fit], images[0])
    camera.send(*images)
    status = peer.until_settled(4)
    assert status.frames_processed == 4
    assert status.image_coverage == pytest.approx(COVERAGE[fit], rel=0.01)
    peer.until(lambda: len(clouds) >= 3 and stamps(maps[-1:]) == [stamp_of(2)], 'the clouds')
    expected = np.zeros((96, 96), bool)
    expected[SEEN_ROWS[fit]] = True
    for index, cloud in enumerate(clouds):
        points = points_of(cloud)
        assert np.array_equal(np.isfinite(points['x']), expected)
        assert np.array_equal(points['confidence'] > 0.0, expected)
        assert_on_surfaces(cloud, orbit, index)
    assert maps[-1].width == status.voxels > 1000
    assert colours_of(points_of(maps[-1])).min() > DARKEST / 2


def test_a_distorted_image_is_mapped_as_the_pinhole_would_see_it(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, calibration: Calibration) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    used = peer.listen(CameraInfo, '/mapper/depth/camera_info')
    start(COUNTED, mode='replay')
    distorted = [taken_through_the_lens(orbit, index) for index in range(4)]
    # The lens bends by far more than the tolerance.
    assert np.median(np.abs(distorted[0].astype(int) - truth(orbit, 0)[0])) > 2 * LIMIT_GREY
    images = [raw_image(rgb, stamp_of(index)) for index, rgb in enumerate(distorted)]
    camera.connect()
    calibration.publish(BARREL, images[0])
    camera.send(*images)
    assert peer.until_settled(4).frames_processed == 4
    peer.until(lambda: len(clouds) >= 3 and len(used) >= 3, 'the keyframes')
    for index, (cloud, info) in enumerate(zip(clouds, used, strict=True)):
        assert_on_surfaces(cloud, orbit, index)
        assert not any(info.d)
        assert list(info.k) == pytest.approx(CAMERA.matrix.ravel().tolist())


def taken_through_the_lens(orbit: Orbit, index: int) -> np.ndarray:
    """Return the image of the scene that BARREL takes, ray by ray."""
    pixels = np.stack(np.indices((96, 96))[::-1], axis=-1).reshape(-1, 1, 2).astype(float)
    bent = cv2.undistortPointsIter(
        pixels, BARREL.matrix, np.array(BARREL.distortion.coefficients), np.eye(3), np.eye(3),
        (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-9)).reshape(-1, 2)
    pose = orbit.poses[index]
    directions = np.column_stack([bent, np.ones(len(bent))]) @ pose[:3, :3].T
    reach, surface = SyntheticScene().cast(pose[:3, 3], directions)
    rgb = shade(pose[:3, 3] + directions * reach[:, None], surface).reshape(96, 96, 3)
    return np.maximum(rgb, DARKEST)
