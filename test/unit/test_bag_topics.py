# SPDX-License-Identifier: Apache-2.0
"""Which topic of a bag is mapped without a name, and what is said where there is none."""
from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from broken_bags import PlainBag, storage_file
from recorded_bags import IMAGE_TOPIC, stamp_of

from spann3r_ros.datasets.bags import BagError, CameraBag, TopicNames

DEPTH_TOPIC = '/camera/depth/image_rect_raw'


class CameraWithDepth(PlainBag):
    def depth(self, index: int, topic: str = DEPTH_TOPIC, encoding: str = '16UC1') -> None:
        kind = np.float32 if encoding == '32FC1' else np.uint16
        self._image(topic, stamp_of(index), encoding, np.ones((96, 96), kind))

    def compressed(self, index: int, topic: str, form: str) -> None:
        self._write(topic, stamp_of(index), 'sensor_msgs/msg/CompressedImage',
                    header=self._header(stamp_of(index), 'camera'), format=form,
                    data=np.zeros(4, np.uint8))


def chosen(path: Path) -> tuple[str, str, int]:
    with CameraBag(path) as bag:
        return bag.image.topic, bag.image.msgtype.rpartition('/')[2], bag.count


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_raw_colour_images_are_chosen_among_all_that_a_camera_records(
        storage: str, tmp_path: Path) -> None:
    with CameraWithDepth(tmp_path / 'bag', storage) as bag:
        for index in range(3):
            bag.depth(index)
            bag.depth(index, '/camera/aligned_depth', '32FC1')
            bag.compressed(index, f'{DEPTH_TOPIC}/compressedDepth', '16UC1; compressedDepth png')
            bag.compressed(index, f'{DEPTH_TOPIC}/compressed', '16UC1; png compressed ')
            bag.mask(index)
            bag.jpeg(index)
            if index:
                bag.raw(index)
    assert chosen(tmp_path / 'bag') == (IMAGE_TOPIC, 'Image', 2)


def test_compressed_images_are_chosen_where_there_are_no_raw_ones(tmp_path: Path) -> None:
    with CameraWithDepth(tmp_path / 'bag') as bag:
        bag.depth(0)
        bag.jpeg(0)
    assert chosen(tmp_path / 'bag') == (f'{IMAGE_TOPIC}/compressed', 'CompressedImage', 1)


def test_topic_named_mask_without_images_beside_it_is_a_camera(tmp_path: Path) -> None:
    with CameraWithDepth(tmp_path / 'bag') as bag:
        bag.raw(0, topic='/mask')
    assert chosen(tmp_path / 'bag') == ('/mask', 'Image', 1)


def test_depth_images_alone_are_refused_but_may_be_named(tmp_path: Path) -> None:
    with CameraWithDepth(tmp_path / 'bag') as bag:
        bag.depth(0)
        bag.depth(1)
    with pytest.raises(BagError, match=rf'expected colour images, the bag has depth images only, '
                                       rf'.*: {DEPTH_TOPIC} \(Image, depth, 2\)'):
        CameraBag(tmp_path / 'bag')
    with CameraBag(tmp_path / 'bag', TopicNames(DEPTH_TOPIC)) as bag:
        assert bag.count == 2


def test_two_cameras_are_listed_with_counts_and_the_option(tmp_path: Path) -> None:
    with CameraWithDepth(tmp_path / 'bag') as bag:
        for index in range(3):
            bag.raw(index, topic='/left/image')
            bag.depth(index)
        bag.raw(0, topic='/right/image')
    with pytest.raises(BagError, match=r'the name of one \(--topic\); image topics: '
                                       r'/left/image \(Image, 3\), .*\(Image, depth, 3\), '
                                       r'/right/image \(Image, 1\)'):
        CameraBag(tmp_path / 'bag')


@pytest.mark.parametrize(('kind', 'transport'), [
    ('ffmpeg_image_transport_msgs/msg/FFMPEGPacket', 'ffmpeg'),
    ('foxglove_msgs/msg/CompressedVideo', 'foxglove'),
    ('theora_image_transport/msg/Packet', 'theora')])
def test_video_is_refused_with_the_command_that_republishes_it(
        kind: str, transport: str, tmp_path: Path) -> None:
    topic = f'{IMAGE_TOPIC}/{transport}'
    with PlainBag(tmp_path / 'bag', 'sqlite3') as bag:
        bag.raw(0, topic=topic)
        bag.info(0)
    with closing(sqlite3.connect(storage_file(tmp_path / 'bag'))) as database:
        database.execute('UPDATE topics SET type = ? WHERE name = ?', [kind, topic])
        database.commit()
    with pytest.raises(BagError) as caught:
        CameraBag(tmp_path / 'bag')
    text = str(caught.value)
    assert f'but video: {topic} ({kind}, 1)' in text and '\n' not in text
    assert (f'`ros2 run image_transport republish --ros-args -p in_transport:={transport} '
            f'-p out_transport:=raw -r in/{transport}:={topic} -r out:={IMAGE_TOPIC}`') in text


def test_damaged_first_image_does_not_stop_the_choice(tmp_path: Path) -> None:
    with PlainBag(tmp_path / 'bag', 'sqlite3') as bag:
        bag.raw(0)
        bag.raw(1)
    with closing(sqlite3.connect(storage_file(tmp_path / 'bag'))) as database:
        database.execute("UPDATE messages SET data = x'0001' WHERE id = 1")
        database.commit()
    assert chosen(tmp_path / 'bag') == (IMAGE_TOPIC, 'Image', 2)
