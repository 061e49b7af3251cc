# SPDX-License-Identifier: Apache-2.0
"""The log says what the node waits for, why no image comes, and when images are back."""
from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import Camera, Mapper, Orbit, Peer
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

Start = Callable[..., Mapper]
TOPIC = '/camera/image_raw'


def until_logged(peer: Peer, mapper: Mapper, text: str) -> str:
    """Wait for a line with a text and return the line."""
    peer.until(lambda: text in mapper.log, text)
    return next(line for line in mapper.log.splitlines() if text in line)


def publish(peer: Peer, kind: type, topic: str, reliable: bool = True) -> None:
    peer.node.create_publisher(kind, topic, QoSProfile(
        depth=5, reliability=ReliabilityPolicy.RELIABLE if reliable
        else ReliabilityPolicy.BEST_EFFORT))


def test_the_log_follows_a_camera_that_comes_goes_and_comes_back(
        peer: Peer, orbit: Orbit, start: Start) -> None:
    mapper = start(log_level='debug', **{'diagnostics.stale_after_sec': 0.5})
    until_logged(peer, mapper, f'configuring: loads the bundled weights; the images will be '
                               f'those on {TOPIC}')
    until_logged(peer, mapper, f'active: waiting for images on {TOPIC} (sensor_msgs/msg/Image, '
                               'best effort, volatile, depth 1)')
    assert 'nobody publishes it; no other topic has images' in until_logged(
        peer, mapper, f'no image on {TOPIC} for')
    publish(peer, CompressedImage, f'{TOPIC}/compressed')
    until_logged(peer, mapper, f'images are on {TOPIC}/compressed (compressed): remap image, '
                               'and set image_transport')
    camera = Camera(peer)
    camera.send(orbit.image(0))
    until_logged(peer, mapper, f'images come on {TOPIC} from /peer')
    until_logged(peer, mapper, '/peer is there, but sends no more')
    camera.send(orbit.image(1))
    until_logged(peer, mapper, f'images on {TOPIC} are back after')
    until_logged(peer, mapper, 'keyframe 1700000000123456789 ns in fragment 0, a pose')
    assert peer.change_state('deactivate')
    until_logged(peer, mapper, 'deactivated: 2 images received, the map has 1 keyframes')
    # A reason is logged once.
    assert mapper.log.count('nobody publishes it; no other topic has images') == 1


@pytest.mark.parametrize(('kind', 'reliable', 'mode', 'reason'), [
    (CompressedImage, True, 'live', '/peer publishes sensor_msgs/msg/CompressedImage there, the '
                                    'node expects sensor_msgs/msg/Image; no other topic has'),
    (Image, True, 'live', '/peer publishes it, but nothing comes; raw images may be too large'),
    (Image, False, 'replay', 'the QoS of /peer (best effort, volatile) is not compatible with '
                             'that of the node (reliable, volatile, depth 1000)')])
def test_the_log_says_why_a_publisher_is_not_heard(
        kind: type, reliable: bool, mode: str, reason: str, peer: Peer, start: Start) -> None:
    publish(peer, kind, TOPIC, reliable)
    mapper = start(mode=mode, **{'diagnostics.stale_after_sec': 0.1})
    until_logged(peer, mapper, reason)


def test_a_replay_that_is_busy_is_not_silent(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start({'delay_sec': 2.5}, mode='replay', **{'diagnostics.stale_after_sec': 1.5})
    camera.send(orbit.image(0))
    peer.until_settled(1)
    assert 'no image on' not in mapper.log.partition('images come on')[2]
