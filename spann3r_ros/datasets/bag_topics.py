# SPDX-License-Identifier: Apache-2.0
"""The choice of a bag's image topic, and why there is none."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from .rosbag2.bag_files import BagError
from .rosbag2.bag_storage import BagTopic

IMAGE, COMPRESSED_IMAGE = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
COMPRESSED = '/compressed'
MASK = '/mask'
DEPTH = '/depth'
DEPTH_ENCODINGS = ('16UC1', '32FC1')
# Types of video, and the transport (the plugin of image_transport) that decodes them.
VIDEO = {'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': 'ffmpeg',
         'foxglove_msgs/msg/CompressedVideo': 'foxglove',
         'theora_image_transport/msg/Packet': 'theora'}


def base_topic(topic: str) -> str:
    """Return an image topic without the suffix of its compressed transport."""
    return topic.removesuffix(COMPRESSED)


def info_topic(topic: str) -> str:
    """Return the topic on which the calibration of an image topic is expected."""
    return base_topic(topic).rpartition('/')[0] + '/camera_info'


def choose_images(topics: Sequence[BagTopic], name: str,
                  encoding_of: Callable[[BagTopic], str]) -> BagTopic:
    """Return the named image topic, or the only camera's; else BagError.

    Without a name depth images and masks beside images are no candidates, and raw images come
    before compressed ones of the same camera. `encoding_of` reads the encoding of a topic's first
    image; it is called without a name only. If a named topic has no images, its compressed
    transport is meant. The error lists the image topics with their counts.
    """
    images = [one for one in topics if one.msgtype in (IMAGE, COMPRESSED_IMAGE)]
    recorded = [one for one in images if one.msgcount]
    if name:
        for topic in (name, name + COMPRESSED):
            named = [one for one in recorded if one.topic == topic]
            if len(named) == 1:
                return named[0]
        raise BagError(f'topic: expected images on {name}; image topics: {_list(images)}')
    if not recorded:
        raise BagError(f'topic: expected images, the bag has none{_reason(topics)}')
    depth = {one for one in recorded if _is_depth(encoding_of(one))}
    coloured = [one for one in recorded if one not in depth]
    if not coloured:
        raise BagError('topic: expected colour images, the bag has depth images only, which are '
                       f'none: {_list(recorded, depth)}')
    places = {one.topic.rpartition('/')[0] for one in coloured if not one.topic.endswith(MASK)}
    cameras = {}
    for one in coloured:
        if one.topic.endswith(MASK) and one.topic.removesuffix(MASK) in places:
            continue
        camera = base_topic(one.topic)
        if camera not in cameras or one.msgtype == IMAGE:
            cameras[camera] = one
    if len(cameras) != 1:
        raise BagError('topic: expected one image topic, or the name of one (--topic); image '
                       f'topics: {_list(recorded, depth)}')
    return next(iter(cameras.values()))


def _list(images: Sequence[BagTopic], depth: set[BagTopic] = frozenset()) -> str:
    return ', '.join(f'{one.topic} ({one.msgtype.rpartition("/")[2]}, '
                     f'{"depth, " if one in depth else ""}{one.msgcount})'
                     for one in images) or 'none'


def _is_depth(encoding: str) -> bool:
    """Return whether an Image's encoding or a CompressedImage's format is that of depth."""
    return encoding.startswith(DEPTH_ENCODINGS) or 'compressedDepth' in encoding


def _reason(topics: Sequence[BagTopic]) -> str:
    """Return what a bag without images has instead, and what to do."""
    if not any(one.msgcount for one in topics):
        return ': it has no messages'
    for one in topics:
        transport = VIDEO.get(one.msgtype)
        if transport and one.msgcount:
            base = one.topic.removesuffix(f'/{transport}')
            return (f' but video: {one.topic} ({one.msgtype}, {one.msgcount}); play the bag '
                    'beside `ros2 run image_transport republish --ros-args -p '
                    f'in_transport:={transport} -p out_transport:=raw -r '
                    f'in/{transport}:={one.topic} -r out:={base}` and record {base}')
    return ''
