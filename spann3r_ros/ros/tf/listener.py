# SPDX-License-Identifier: Apache-2.0
"""Feeds a transform tree from /tf and /tf_static on a thread of its own."""
from __future__ import annotations

import traceback
from threading import Event, Thread

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription
from tf2_msgs.msg import TFMessage

from spann3r_ros.pipeline.transform_tree import TransformTree
from spann3r_ros.ros.conversions import to_stamped_transform

SPIN_SEC = 0.1
WARNING_PERIOD_SEC = 10.0
# Ten times what tf2 keeps: Python takes a message in about a millisecond.
DEPTH = 1000
STATIC_DEPTH = 100


class ListeningThread:
    """Fills a tree from a node and a thread of its own, as tf2 does in C++.

    An image may hold the main executor for as long as the network takes: transforms that are lost
    meanwhile would be interpolated over, and nobody would know. It lives as long as the main node:
    what a node leaves behind in the middleware would add up over the configurations.
    """

    def __init__(self, node: Node) -> None:
        name = f'{node.get_name()}_tf_listener'
        # The name counts for this node only; remappings of topics and namespace hold for both.
        self._node = rclpy.create_node(
            name, context=node.context, namespace=node.get_namespace(),
            cli_args=['--ros-args', '-r', f'__node:={name}'], enable_rosout=False,
            start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self._node)
        self._stopping = Event()
        self._thread = Thread(target=self._spin, name='tf_listener')
        self._thread.start()

    def listen(self, tree: TransformTree) -> list[Subscription]:
        """Fill a tree until the subscriptions that come back are given to `unlisten`."""
        def take(message: TFMessage) -> None:
            for transform in message.transforms:
                tree.take(to_stamped_transform(transform))

        def take_static(message: TFMessage) -> None:
            for transform in message.transforms:
                tree.take(to_stamped_transform(transform), static=True)

        latched = QoSProfile(depth=STATIC_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return [self._node.create_subscription(TFMessage, '/tf', take, QoSProfile(depth=DEPTH)),
                self._node.create_subscription(TFMessage, '/tf_static', take_static, latched)]

    def unlisten(self, subscriptions: list[Subscription]) -> None:
        """Take subscriptions away again."""
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def stop(self) -> None:
        """End the thread and take its node away."""
        self._stopping.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def _spin(self) -> None:
        while not self._stopping.is_set():
            try:
                self._executor.spin_once(timeout_sec=SPIN_SEC)
            except ExternalShutdownException:
                return  # nobody will ask any more
            # Whatever is wrong with a transform costs this message only; it is reported.
            except Exception:
                self._node.get_logger().error(f'transform refused: {traceback.format_exc()}',
                                              throttle_duration_sec=WARNING_PERIOD_SEC)
