# SPDX-License-Identifier: Apache-2.0
"""Thousands of messages that no camera should send: each is counted, nothing else happens."""
from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
from harness import Camera, Mapper, Orbit, Peer, balanced, compressed, stamp_of, to_ns
from malformed import MalformedFiles, MalformedImages, malformed_calibrations
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

Start = Callable[..., Mapper]
PORTION, PORTIONS = 150, 5
MEBIBYTE = 2**20


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_malformed_images_are_counted_and_cost_nothing(
        transport: str, peer: Peer, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    mapper = start(mode='replay', image_transport=transport)
    if transport == 'raw':
        camera = Camera(peer, Image, '/camera/image_raw')
        source, good = MalformedImages(orbit.rgb[0], seed=1), orbit.image
    else:
        camera = Camera(peer, CompressedImage, '/camera/image_raw/compressed')
        source = MalformedFiles(orbit.rgb[0], seed=2)

        def good(index: int) -> CompressedImage:
            return compressed(orbit.rgb[index], stamp_of(index), '.png')
    calibrations = peer.publisher(CameraInfo, '/camera/camera_info')
    camera.send(good(0), good(1))
    resident = []
    for portion in range(PORTIONS):
        for info in islice(malformed_calibrations(portion), 10):
            calibrations.publish(info)
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
