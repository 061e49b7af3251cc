# SPDX-License-Identifier: Apache-2.0
"""Log lines about the camera: what the node waits for, why no image comes, when they are back."""
from __future__ import annotations

from time import monotonic

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.subscription import Subscription

KINDS = {'sensor_msgs/msg/Image': 'raw', 'sensor_msgs/msg/CompressedImage': 'compressed'}
# Most other image topics that a line names.
MOST_NAMED = 5


class CameraWatch:
    """Watches the image topic of an active node; `note` is called about once a second.

    Numbers of images may begin anywhere: `arrived` is the first one.
    """

    def __init__(self, node: Node, images: Subscription, arrived: int) -> None:
        self._node = node
        self._topic = images.topic_name
        self._kind = f'sensor_msgs/msg/{images.msg_type.__name__}'
        self._qos = images.qos_profile
        self._arrived = arrived
        self._last_sec = monotonic()
        self._has_come = False
        self._reason = ''
        node.get_logger().info(f'active: waiting for images on {self._topic} ({self._kind}, '
                               f'{describe_qos(self._qos)})')

    def note(self, arrived: int, is_busy: bool, silent_after_sec: float) -> None:
        """Take the number of images so far; while `is_busy`, nobody has to send one.

        In replay mode a player waits for the mapper.
        """
        silent_sec = monotonic() - self._last_sec
        if arrived != self._arrived:
            self._note_images(silent_sec)
        elif silent_sec > silent_after_sec and not is_busy:
            self._note_silence(silent_sec)
        if arrived != self._arrived or is_busy:
            self._last_sec = monotonic()
        self._arrived = arrived

    def _note_images(self, silent_sec: float) -> None:
        logger = self._node.get_logger()
        if not self._has_come:
            logger.info(f'images come on {self._topic} from {self._publishers_text()}')
        elif self._reason:
            logger.info(f'images on {self._topic} are back after {silent_sec:.0f} s')
        self._has_come, self._reason = True, ''

    def _note_silence(self, silent_sec: float) -> None:
        reason = self._why_silent()
        if reason != self._reason:
            self._reason = reason
            self._node.get_logger().warning(
                f'no image on {self._topic} for {silent_sec:.0f} s: {reason}')

    def _why_silent(self) -> str:
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        if not publishers:
            return f'nobody publishes it; {self._others_text()}'
        of_kind = [one for one in publishers if one.topic_type == self._kind]
        if not of_kind:
            return (f'{self._publishers_text()} publishes {publishers[0].topic_type} there, '
                    f'the node expects {self._kind}; {self._others_text()}')
        for one in of_kind:
            compatibility, why = qos_check_compatible(one.qos_profile, self._qos)
            if compatibility == QoSCompatibility.ERROR:
                return (f'the QoS of {_name(one)} ({describe_qos(one.qos_profile)}) is not '
                        f'compatible with that of the node ({describe_qos(self._qos)}): '
                        f'{" ".join(why.split())} Set qos_overrides.{self._topic}.subscription.*')
        if self._has_come:
            return f'{self._publishers_text()} is there, but sends no more'
        large = ('; raw images may be too large for the middleware: start the camera with the '
                 'Fast DDS profile of this package' if KINDS[self._kind] == 'raw' else '')
        return f'{self._publishers_text()} publishes it, but nothing comes{large}'

    def _publishers_text(self) -> str:
        names = sorted({_name(one) for one in
                        self._node.get_publishers_info_by_topic(self._topic)})
        return ', '.join(names) or 'an unknown node'

    def _others_text(self) -> str:
        """Return which other topics have images, and what to set for them."""
        own = self._node.get_fully_qualified_name() + '/'
        others = sorted(
            (topic, KINDS[kind]) for topic, kinds in self._node.get_topic_names_and_types()
            for kind in kinds if kind in KINDS and topic != self._topic
            and not topic.startswith(own) and self._node.count_publishers(topic))
        if not others:
            return 'no other topic has images'
        named = ', '.join(f'{topic} ({transport})' for topic, transport in others[:MOST_NAMED])
        more = f' and {len(others) - MOST_NAMED} more' if len(others) > MOST_NAMED else ''
        return f'images are on {named}{more}: remap image, and set image_transport'


def describe_qos(qos: QoSProfile) -> str:
    """Return reliability, durability and depth in words."""
    reliable = 'reliable' if qos.reliability == ReliabilityPolicy.RELIABLE else 'best effort'
    durability = qos.durability.name.lower().replace('_', ' ')
    return f'{reliable}, {durability}, depth {qos.depth}' if qos.depth else (
        f'{reliable}, {durability}')


def _name(endpoint: object) -> str:
    return f'{endpoint.node_namespace.rstrip("/")}/{endpoint.node_name}'
