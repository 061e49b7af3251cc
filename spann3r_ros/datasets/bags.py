# SPDX-License-Identifier: Apache-2.0
"""Reading one camera of a rosbag2 recording, with its TF, masks and odometry; needs no ROS."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.typesys import Stores, get_typestore

from spann3r_ros.core.messages import LEAD_NS

IMAGE, COMPRESSED_IMAGE = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO, TF_MESSAGE = 'sensor_msgs/msg/CameraInfo', 'tf2_msgs/msg/TFMessage'
ODOMETRY = 'nav_msgs/msg/Odometry'
COMPRESSED = '/compressed'
TF, TF_STATIC = '/tf', '/tf_static'

Message = Any  # rosbags builds its message classes at run time


class BagError(ValueError):
    """A bag cannot be read, or lacks a topic; the message gives the reason."""


@dataclass(frozen=True)
class TopicNames:
    """The topics to read; empty: the only image topic, and the topics in its namespace.

    The calibration is expected in `camera_info` of the image's namespace, masks in `mask`. Masks
    are read only with `masks`, odometry only with its topic's name.
    """

    image: str = ''
    camera_info: str = ''
    mask: str = ''
    odometry: str = ''
    masks: bool = False


class CameraBag:
    """An open bag and the topics of one camera; a context manager.

    BagError for a missing or broken bag, a missing topic, and several image topics of which none
    is named; its message lists the image topics with their counts.
    """

    def __init__(self, path: Path, names: TopicNames | None = None) -> None:
        names = names or TopicNames()
        self.path = path
        self._types = get_typestore(Stores.ROS2_JAZZY)
        try:
            self._reader = Reader(path)
            self._reader.open()
        # The reader raises many types of exception for a broken file.
        except Exception as error:
            raise BagError(f'bag: cannot read {path}: {_line(error)} (a recording that '
                           'was cut off: try `ros2 bag reindex`, or `mcap recover`)') from error
        try:
            self._images = choose_images(self._reader.connections, names.image, path)
            self.image = self._images[0]
            chosen = list(self._choose(names))
        except BagError:
            self._reader.close()
            raise
        self.connections = [connection for connection, _ in chosen]
        self._roles = {connection.id: role for connection, role in chosen}

    @property
    def count(self) -> int:
        """Return the number of images."""
        return sum(one.msgcount for one in self._images)

    @property
    def is_compressed(self) -> bool:
        """Return whether the images are compressed ones."""
        return self.image.msgtype == COMPRESSED_IMAGE

    def has(self, *roles: str) -> bool:
        """Return whether the bag has messages of one of the roles."""
        return any(self.role(connection) in roles and connection.msgcount
                   for connection in self.connections)

    def role(self, connection: Connection) -> str:
        """Return the role of a connection that is read."""
        return self._roles[connection.id]

    def raw(self) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield (connection, time of recording in ns, serialised message) in recorded order."""
        try:
            yield from self._reader.messages(self.connections)
        # The reader raises many types of exception for a broken file.
        except Exception as error:
            raise BagError(f'bag: {self.path} ends early: {_line(error)}') from error

    def leading(self, lead_ns: int = LEAD_NS) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield as `raw` does, but images after all that was recorded up to `lead_ns` later.

        An image may need messages that were recorded after it. All messages before a broken
        place are yielded before BagError is raised.
        """
        images: deque[tuple[Connection, int, bytes]] = deque()
        try:
            for connection, time_ns, data in self.raw():
                while images and images[0][1] + lead_ns < time_ns:
                    yield images.popleft()
                if self.role(connection) == 'image':
                    images.append((connection, time_ns, bytes(data)))
                else:
                    yield connection, time_ns, bytes(data)
        except BagError:
            yield from images
            raise
        yield from images

    def messages(self, refuse: Callable[[str, BagError], None] | None = None
                 ) -> Iterator[tuple[str, Message]]:
        """Yield (role, message) in the order in which the player publishes them: `leading`.

        Roles are image, camera_info, mask, tf, tf_static and odometry. For a malformed message
        `refuse` is called with the role and the error, and the next message follows; without
        `refuse` the error is raised.
        """
        for connection, time_ns, data in self.leading():
            role = self.role(connection)
            try:
                message = self._types.deserialize_cdr(data, connection.msgtype)
            # The deserialiser raises many types of exception for malformed bytes.
            except Exception as error:
                refused = BagError(
                    f'{connection.topic}: expected a {connection.msgtype}, cannot read the one '
                    f'recorded at {time_ns} ns: {_line(error)}')
                if refuse is None:
                    raise refused from error
                refuse(role, refused)
            else:
                yield role, message

    def __enter__(self) -> CameraBag:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def _choose(self, names: TopicNames) -> Iterator[tuple[Connection, str]]:
        """Yield the connections to read and their roles."""
        yield from ((one, 'image') for one in self._images)
        namespace = base_topic(self.image.topic).rpartition('/')[0]
        wanted = [('camera_info', names.camera_info, f'{namespace}/camera_info', (CAMERA_INFO,)),
                  ('tf', '', TF, (TF_MESSAGE,)), ('tf_static', '', TF_STATIC, (TF_MESSAGE,))]
        if names.masks:
            wanted.append(('mask', names.mask, f'{namespace}/mask', (IMAGE,)))
        if names.odometry:
            wanted.append(('odometry', names.odometry, names.odometry, (ODOMETRY,)))
        for role, named, expected, kinds in wanted:
            found = [one for one in self._reader.connections
                     if one.topic == (named or expected) and one.msgtype in kinds]
            if named and not found:
                raise BagError(f'topic: expected {kinds[0]} on {named}, {self.path} has none')
            # A topic with several publishers has several connections.
            yield from ((one, role) for one in found)


def _line(error: Exception) -> str:
    """Return an error in one line, with its type where the text alone may say too little."""
    text = ' '.join(str(error).split())
    if text and isinstance(error, (ReaderError, OSError)):
        return text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def choose_images(connections: Sequence[Connection], topic: str, path: Path) -> list[Connection]:
    """Return the connections of the named image topic, or of the only one; else BagError."""
    images = [one for one in connections if one.msgtype in (IMAGE, COMPRESSED_IMAGE)]
    listing = ', '.join(f'{one.topic} ({one.msgtype.rpartition("/")[2]}, {one.msgcount})'
                        for one in images) or 'none'
    chosen = [one for one in images if one.topic == topic] if topic else images
    kinds = {(one.topic, one.msgtype) for one in chosen}
    if len(kinds) != 1 or not any(one.msgcount for one in chosen):
        wanted = f'images on {topic}' if topic else 'one image topic, or its name'
        raise BagError(f'topic: expected {wanted}; image topics in {path}: {listing}')
    return chosen


def base_topic(topic: str) -> str:
    """Return an image topic without the suffix of its compressed transport."""
    return topic.removesuffix(COMPRESSED)


def info_topic(topic: str) -> str:
    """Return the topic on which the calibration of an image topic is expected."""
    return base_topic(topic).rpartition('/')[0] + '/camera_info'
