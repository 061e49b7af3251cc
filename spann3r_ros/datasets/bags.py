# SPDX-License-Identifier: Apache-2.0
"""Reading one camera of a rosbag2 recording, with its TF, masks and odometry; needs no ROS."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_typestore

from spann3r_ros.core.messages import LEAD_NS

from .bag_topics import (
    COMPRESSED,
    COMPRESSED_IMAGE,
    DEPTH,
    IMAGE,
    MASK,
    base_topic,
    choose_images,
    info_topic,
)
from .rosbag2.bag_files import BagError
from .rosbag2.bag_storage import BagTopic, Recording, line

CAMERA_INFO, TF_MESSAGE = 'sensor_msgs/msg/CameraInfo', 'tf2_msgs/msg/TFMessage'
ODOMETRY = 'nav_msgs/msg/Odometry'
TF, TF_STATIC = '/tf', '/tf_static'

__all__ = ['CAMERA_INFO', 'COMPRESSED', 'COMPRESSED_IMAGE', 'IMAGE', 'TF_MESSAGE', 'BagError',
           'CameraBag', 'TopicNames', 'base_topic', 'info_topic']

Message = Any  # rosbags builds its message classes at run time


@dataclass(frozen=True)
class TopicNames:
    """The topics to read; empty: the only image topic, and the topics in its namespace.

    The calibration is expected in `camera_info` of the image's namespace, masks in `mask`, depth
    images in `depth`. Masks are read only with `masks`, depth images only with `depths`, odometry
    only with its topic's name.
    """

    image: str = ''
    camera_info: str = ''
    mask: str = ''
    odometry: str = ''
    masks: bool = False
    depth: str = ''
    depths: bool = False


class CameraBag:
    """An open bag and the topics of one camera; a context manager.

    A damaged bag is read as far as it can be; `warnings` say what it lacks. BagError for a bag of
    which nothing can be read, a missing topic, and several cameras of which none is named; its
    message lists the image topics with their counts.
    """

    def __init__(self, path: Path, names: TopicNames | None = None) -> None:
        names = names or TopicNames()
        self.path = path
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._recording = Recording(path)
        try:
            self.image = choose_images(self._recording.topics, names.image, self._encoding)
            chosen = list(self._choose(names))
            # To choose, the first image was read: the index may have promised more than there is.
            if not self.count:
                raise BagError(f'topic: expected images on {self.image.topic}, none can be read')
        except BagError as error:
            self._recording.close()
            raise BagError('; '.join([f'{error}; bag: {path}', *self._recording.defects])
                           ) from error
        self.connections = [one for one, _ in chosen]
        self._roles = {one.key: role for one, role in chosen}

    @property
    def count(self) -> int:
        """Return the number of images; that of a damaged file may fall while it is read."""
        return self._recording.count(self.image)

    @property
    def warnings(self) -> list[str]:
        """Return what the bag lacks, as far as it is known; more may come while it is read."""
        return self._recording.warnings(self.image)

    @property
    def is_compressed(self) -> bool:
        """Return whether the images are compressed ones."""
        return self.image.msgtype == COMPRESSED_IMAGE

    def has(self, *roles: str) -> bool:
        """Return whether the bag has messages of one of the roles."""
        return any(self.role(one) in roles and one.msgcount for one in self.connections)

    def role(self, topic: BagTopic) -> str:
        """Return the role of a topic that is read."""
        return self._roles[topic.key]

    def raw(self) -> Iterator[tuple[BagTopic, int, bytes]]:
        """Yield (topic, time of recording in ns, serialised message) in recorded order."""
        return self._recording.messages(self.connections)

    def leading(self, lead_ns: int = LEAD_NS) -> Iterator[tuple[BagTopic, int, bytes]]:
        """Yield as `raw` does, but images after all that was recorded up to `lead_ns` later.

        An image may need messages that were recorded after it.
        """
        images: deque[tuple[BagTopic, int, bytes]] = deque()
        for topic, time_ns, data in self.raw():
            while images and images[0][1] + lead_ns < time_ns:
                yield images.popleft()
            if self.role(topic) == 'image':
                images.append((topic, time_ns, bytes(data)))
            else:
                yield topic, time_ns, bytes(data)
        yield from images

    def messages(self, refuse: Callable[[str, BagError], None] | None = None
                 ) -> Iterator[tuple[str, int, Message]]:
        """Yield (role, time of recording in ns, message) in the order of `leading`.

        Roles are image, camera_info, mask, depth, tf, tf_static and odometry. For a malformed
        message `refuse` is called with the role and the error, and the next message follows;
        without `refuse` the error is raised.
        """
        for topic, time_ns, data in self.leading():
            role = self.role(topic)
            try:
                message = self._types.deserialize_cdr(data, topic.msgtype)
            # The deserialiser raises many types of exception for malformed bytes.
            except Exception as error:
                refused = BagError(
                    f'{topic.topic}: expected a {topic.msgtype}, cannot read the one recorded at '
                    f'{time_ns} ns: {line(error)}')
                if refuse is None:
                    raise refused from error
                refuse(role, refused)
            else:
                yield role, time_ns, message

    def __enter__(self) -> CameraBag:
        return self

    def __exit__(self, *_: object) -> None:
        self._recording.close()

    def _encoding(self, topic: BagTopic) -> str:
        """Return the encoding or format of the first image of a topic; empty if unreadable."""
        for _, _, data in self._recording.messages([topic]):
            try:
                message = self._types.deserialize_cdr(data, topic.msgtype)
            # The deserialiser raises many types of exception for malformed bytes.
            except Exception:
                break
            return message.encoding if topic.msgtype == IMAGE else message.format
        return ''

    def _choose(self, names: TopicNames) -> Iterator[tuple[BagTopic, str]]:
        """Yield the topics to read and their roles."""
        yield self.image, 'image'
        namespace = base_topic(self.image.topic).rpartition('/')[0]
        wanted = [('camera_info', names.camera_info, f'{namespace}/camera_info', (CAMERA_INFO,)),
                  ('tf', '', TF, (TF_MESSAGE,)), ('tf_static', '', TF_STATIC, (TF_MESSAGE,))]
        if names.masks:
            wanted.append(('mask', names.mask, f'{namespace}{MASK}', (IMAGE,)))
        if names.depths:
            wanted.append(('depth', names.depth, f'{namespace}{DEPTH}', (IMAGE,)))
        if names.odometry:
            wanted.append(('odometry', names.odometry, names.odometry, (ODOMETRY,)))
        for role, named, expected, kinds in wanted:
            found = [one for one in self._recording.topics
                     if one.topic == (named or expected) and one.msgtype in kinds]
            if named and not found:
                raise BagError(f'topic: expected {kinds[0]} on {named}, the bag has none')
            yield from ((one, role) for one in found)
