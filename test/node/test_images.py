# SPDX-License-Identifier: Apache-2.0
"""Images received over DDS show what a replay sees in them; unknown encodings are counted."""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace

import colour_chart
import numpy as np
import pytest
from harness import Camera, Mapper, Orbit, Peer, raw_image, stamp_of
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from test_cameras import colours_of, points_of, stamps

from spann3r_ros.core import encodings
from spann3r_ros.core.types import UnsupportedImageError
from spann3r_ros.pipeline.node_settings import NodeConfig
from spann3r_ros.ros.inputs import images
from spann3r_ros.ros.inputs.subscriptions import InputSubscriptions

Start = Callable[..., Mapper]
CHART = colour_chart.chart()


class Recorder:
    """Has the place of the intake: it decodes the images at once and keeps them."""

    def __init__(self) -> None:
        self.taken: list[np.ndarray] = []
        self.takes_depth = False

    def take_image(self, stamp_ns: int, frame_id: str, decode: Callable[[], np.ndarray]) -> None:
        self.taken.append(decode())


def as_image(raw: colour_chart.Raw) -> Image:
    return Image(**asdict(raw))


@pytest.mark.parametrize('padding', [0, 2, 6])
def test_node_and_replay_see_the_same_pixels(padding: int) -> None:
    for encoding in colour_chart.RAW:
        for big in (False, True):
            message = as_image(colour_chart.raw(CHART, encoding, padding, big))
            assert np.array_equal(images.to_rgb(message), encodings.to_rgb(message)), encoding
        message = as_image(replace(colour_chart.raw(CHART, encoding), step=0))
        assert np.array_equal(images.to_rgb(message), encodings.to_rgb(message)), encoding


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_a_chart_sent_over_dds_keeps_its_colours(
        transport: str, peer: Peer, node: LifecycleNode) -> None:
    if transport == 'raw':
        kind, topic = Image, '/image'
        sent = {name: as_image(colour_chart.raw(CHART, name)) for name in colour_chart.RAW}
    else:
        kind, topic = CompressedImage, '/image/compressed'
        sent = {name: CompressedImage(**asdict(write()))
                for name, write in colour_chart.files(CHART).items()}
    recorder = Recorder()
    inputs = InputSubscriptions(node, NodeConfig(mode='replay', image_transport=transport),
                                recorder)
    publisher = peer.publisher(kind, topic)
    peer.serve(node)
    peer.until(lambda: publisher.get_subscription_count() and node.count_publishers(topic)
               and any(one.get_publisher_count() for one in inputs._subscriptions), 'the topic')
    for message in sent.values():
        publisher.publish(message)
    peer.until(lambda: len(recorder.taken) == len(sent), 'the images')
    for (name, message), found in zip(sent.items(), recorder.taken, strict=True):
        errors = colour_chart.errors(found, colour_chart.expected(CHART, name))
        assert errors.mean(axis=0).max() < 2, name
        assert np.array_equal(found, encodings.to_rgb(message)), name


def test_unknown_encodings_are_counted_in_the_error() -> None:
    warnings: list[str] = []
    decode = images.CountingDecoder(warnings.append)
    texts = []
    for encoding in ('purple8', 'purple8', '32FC1', 'purple8', *map(str, range(150))):
        with pytest.raises(UnsupportedImageError) as caught:
            decode(as_image(replace(colour_chart.raw(CHART, 'rgb8'), encoding=encoding)))
        texts.append(str(caught.value).partition(', got ')[2])
    assert texts[:4] == [f"'{name}'; images of '{name}' refused so far: {count}"
                         for name, count in (('purple8', 1), ('purple8', 2), ('32FC1', 1),
                                             ('purple8', 3))]
    assert texts[-1] == "'149'; images of others refused so far: 52"
    assert warnings == []


def test_files_that_are_not_read_are_counted_in_the_error() -> None:
    decode = images.CountingDecoder([].append)
    for number in (1, 2):
        with pytest.raises(UnsupportedImageError, match=(
                fr"got TIFF \(format 'tiff'\); .*; images of TIFF refused so far: {number}$")):
            decode(CompressedImage(format='tiff', data=b'II*\0' + bytes(50)))


def test_generic_encodings_are_mapped_and_unknown_ones_counted(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    mapper = start(mode='replay')
    sent = []
    for index in range(4):
        message = as_image(colour_chart.raw(orbit.rgb[index], '8UC3'))
        message.header = raw_image(orbit.rgb[index], stamp_of(index)).header
        sent.append(message)
    camera.send(*sent)
    status = peer.until_settled(4)
    assert (status.frames_processed, status.frames_failed) == (4, 0)
    peer.until(lambda: len(clouds) == 3, 'three keyframes')
    assert stamps(clouds) == [stamp_of(index) for index in range(3)]
    for index, cloud in enumerate(clouds):
        points = points_of(cloud)
        found = np.isfinite(points['x'])
        assert np.array_equal(colours_of(points)[found], orbit.rgb[index][found])
    for message in sent:
        message.encoding = 'purple8'
    camera.send(*sent[:3])
    text = peer.until_settled(7).last_error
    assert text.endswith("yuyv, got 'purple8'; images of 'purple8' refused so far: 3")
    assert all(f' {encoding},' in text for encoding in ('8UC3', 'bgr8', 'mono16', 'nv12'))
    lines = re.findall(r'.*encoding: .*', mapper.log)
    assert len(lines) == 2
    assert 'encoding: 8UC3 names no colours; the images are read as bgr8' in lines[0]
    assert 'frame refused: encoding: expected one of' in lines[1]
