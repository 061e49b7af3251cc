# SPDX-License-Identifier: Apache-2.0
"""Whatever a camera driver publishes, at default settings on both sides, yields a map."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count

import colour_chart
import cv2
import numpy as np
import pytest
from harness import OPTICAL_FRAME, Mapper, Orbit, Peer, stamp_of
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from spann3r_ros.ros.conversions import to_stamp

Start = Callable[..., Mapper]
RAW = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', 'bayer_rggb8', 'bayer_grbg8',
       'bayer_gbrg8', 'bayer_bggr8', 'bayer_rggb16', 'yuv422', 'yuv422_yuy2', 'nv12', 'nv24',
       '8UC3', '16UC1')
# As image_transport's plugins name them: the encoding of the raw image, then the codec.
COMPRESSED = {'rgb8; jpeg compressed bgr8': '.jpg', 'mono8; jpeg compressed': '.jpg',
              'bgr8; png compressed bgr8': '.png', 'mono16; png compressed': '.png',
              'jpeg': '.jpg', 'webp': '.webp'}
RELIABILITIES = (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE)
ENOUGH = 3


def to_raw(rgb: np.ndarray, encoding: str) -> Image:
    return Image(**asdict(colour_chart.raw(rgb, encoding)))


def to_compressed(rgb: np.ndarray, form: str) -> CompressedImage:
    pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    if form.startswith('mono'):
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if form.startswith('mono16'):
        pixels = pixels.astype(np.uint16) * 257
    return CompressedImage(format=form, data=cv2.imencode(COMPRESSED[form], pixels)[1].tobytes())


def send_until_mapped(peer: Peer, publisher: Publisher, images: Iterator[Image | CompressedImage],
                      what: str) -> None:
    """Publish image after image until some frames are mapped; best effort may lose images."""
    before = peer.until(lambda: peer.statuses()[-1:], 'a status')[0]

    def mapped() -> bool:
        publisher.publish(next(images))
        seen = len(peer.statuses())
        # On a busy machine images would otherwise replace each other until none are left.
        peer.until(lambda: len(peer.statuses()) > seen and not peer.statuses()[-1].frames_waiting,
                   f'a status after an image of {what}')
        last = peer.statuses()[-1]
        assert last.frames_failed == before.frames_failed, f'{what}: {last.last_error}'
        return last.frames_processed >= before.frames_processed + ENOUGH and last.voxels > 1000

    peer.until(mapped, f'a map of {what}')


@pytest.mark.parametrize('reliability', RELIABILITIES)
@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_every_encoding_yields_a_map(
        transport: str, reliability: ReliabilityPolicy, peer: Peer, orbit: Orbit,
        start: Start) -> None:
    raw = transport == 'raw'
    qos = QoSProfile(depth=1, reliability=reliability)
    publisher = peer.node.create_publisher(
        Image if raw else CompressedImage,
        '/camera/image_raw' + ('' if raw else '/compressed'), qos)
    start(image_transport=transport)
    peer.until(publisher.get_subscription_count, 'the mapper to read images')
    peer.until(peer.statuses, 'a status')
    ticks = count()
    for form in RAW if raw else COMPRESSED:
        def images(form: str = form) -> Iterator[Image | CompressedImage]:
            for index, rgb in enumerate(orbit.rgb):
                image = to_raw(rgb, form) if raw else to_compressed(rgb, form)
                image.header.frame_id = OPTICAL_FRAME
                image.header.stamp = to_stamp(stamp_of(next(ticks)))
                yield image
                assert index < 50, f'{form}: 50 images and no map'
        assert peer.trigger('/mapper/reset').success
        send_until_mapped(peer, publisher, images(), f'{form}, {reliability.name}')
