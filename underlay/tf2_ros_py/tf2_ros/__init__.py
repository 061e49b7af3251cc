# SPDX-License-Identifier: Apache-2.0
"""Stand-in for the broadcasters of tf2_ros, for machines whose ROS 2 lacks the genuine package."""
from __future__ import annotations

from collections.abc import Sequence

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

Transforms = TransformStamped | Sequence[TransformStamped]


def _as_list(transform: Transforms) -> list[TransformStamped]:
    return [transform] if isinstance(transform, TransformStamped) else list(transform)


class TransformBroadcaster:
    """Publishes transforms on /tf."""

    def __init__(self, node: Node, qos: QoSProfile | None = None) -> None:
        self.pub_tf = node.create_publisher(TFMessage, '/tf', qos or QoSProfile(depth=100))

    def sendTransform(self, transform: Transforms) -> None:  # noqa: N802 (the genuine name)
        """Publish one transform or several in one message."""
        self.pub_tf.publish(TFMessage(transforms=_as_list(transform)))


class StaticTransformBroadcaster:
    """Publishes transforms on /tf_static, all of them each time, for those who join later."""

    def __init__(self, node: Node, qos: QoSProfile | None = None) -> None:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.pub_tf = node.create_publisher(TFMessage, '/tf_static', qos or latched)
        self._sent: dict[str, TransformStamped] = {}

    def sendTransform(self, transform: Transforms) -> None:  # noqa: N802 (the genuine name)
        """Add or replace transforms by child frame and publish the whole set."""
        self._sent.update((one.child_frame_id, one) for one in _as_list(transform))
        self.pub_tf.publish(TFMessage(transforms=list(self._sent.values())))


__all__ = ['StaticTransformBroadcaster', 'TransformBroadcaster']
