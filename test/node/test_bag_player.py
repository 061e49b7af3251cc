# SPDX-License-Identifier: Apache-2.0
"""The bag player in its own process: no image is lost, and its window is never exceeded."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import DEADLINE_SEC, Mapper, Orbit, Peer, stamp_of, to_ns
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bags import compressed_bag, raw_bag
from spann3r_ros.datasets.bag_writer import BagWriter
from spann3r_ros.datasets.bags import BagError, CameraBag, TopicNames
from spann3r_ros.tools.bag_player import PlayOptions

Start = Callable[..., Mapper]


def play(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'spann3r_ros.tools.bag_player', '--quiet', *map(str, arguments)],
        capture_output=True, text=True, timeout=DEADLINE_SEC)


@pytest.mark.parametrize(('write', 'kind', 'topic'), [
    (raw_bag, Image, '/camera/image_raw'),
    (compressed_bag, CompressedImage, '/camera/image_raw/compressed'),
])
def test_every_image_arrives_as_recorded(
        write: Callable[..., Path], kind: type, topic: str, peer: Peer, orbit: Orbit,
        tmp_path: Path) -> None:
    bag = write(tmp_path / 'bag', orbit, 20)
    images, infos = peer.listen(kind, topic), peer.listen(CameraInfo, '/camera/camera_info')
    done = play('--bag', bag, '--rate', '10')
    assert done.returncode == 0, done.stderr
    peer.until(lambda: len(images) == 20, 'all images')
    assert [to_ns(image.header.stamp) for image in images] == [stamp_of(i) for i in range(20)]
    with CameraBag(bag) as recording:
        recorded = [deserialize_message(bytes(data), kind)
                    for one, _, data in recording.raw() if one.topic == topic]
    assert images == recorded
    if kind is CompressedImage:
        peer.until(lambda: len(infos) == 20, 'all calibrations')


def test_window_bounds_the_open_images(
        peer: Peer, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 12)
    statuses = peer.statuses()
    start({'delay_sec': 0.02}, mode='replay')
    peer.until(lambda: statuses, 'a first status')
    done = play('--bag', bag, '--rate', '0', '--window', '2')
    assert done.returncode == 0, done.stderr
    last = peer.until_settled(12)
    assert last.frames_processed == 12
    waiting = [status.frames_waiting for status in statuses]
    assert 0 < max(waiting) <= 2


def test_a_second_bag_continues_the_count(
        peer: Peer, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 4)
    start(mode='replay')
    for total in (4, 8):
        done = play('--bag', bag, '--rate', '0', '--window', '1')
        assert done.returncode == 0, done.stderr
        peer.until_settled(total)


@pytest.mark.usefixtures('domain')
def test_no_subscriber_is_an_error(orbit: Orbit, tmp_path: Path) -> None:
    done = play('--bag', raw_bag(tmp_path / 'bag', orbit, 2), '--patience-sec', '0.3')
    assert done.returncode == 1
    assert 'no subscriber of /camera/image_raw for 0.3 s' in done.stderr


def test_several_image_topics_are_listed(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as writer:
        for topic in ('/left', '/right'):
            writer.write_image(topic, 1, b'')
    with pytest.raises(BagError, match=r'/left \(CompressedImage, 1\), /right \(Compr'):
        CameraBag(tmp_path / 'bag')
    with pytest.raises(BagError, match=r'images on /top; .*: /left'):
        CameraBag(tmp_path / 'bag', TopicNames('/top'))
    with CameraBag(tmp_path / 'bag', TopicNames('/right')) as bag:
        assert (bag.image.topic, bag.count) == ('/right', 1)


def test_a_folder_that_is_no_bag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='cannot read'):
        CameraBag(tmp_path)


def test_an_image_topic_without_images_is_refused(orbit: Orbit, tmp_path: Path) -> None:
    with pytest.raises(BagError, match='expected one image topic'):
        CameraBag(raw_bag(tmp_path / 'bag', orbit, 0))


@pytest.mark.parametrize('values', [{'rate': -1.0}, {'rate': float('nan')}, {'window': -1},
                                    {'window': 0, 'rate': 0.0}])
def test_bad_options_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f'{next(iter(values))}: expected'):
        PlayOptions(**values)
