# SPDX-License-Identifier: Apache-2.0
"""Fills a transform tree from /tf and /tf_static on a separate thread."""
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
# Ten times the depth of tf2: Python needs about a millisecond for a message.
DEPTH = 1000
STATIC_DEPTH = 100


class ListeningThread:
    """Fills a tree from a separate node on a separate thread, as tf2 does in C++.

    An image may block the main executor for as long as the network takes. Transforms lost during
    that time would be replaced by interpolation without a warning. This node lives as long as the
    main one, because a destroyed node leaves memory behind in the middleware, each time the main
    node is configured.
    """

    def __init__(self, node: Node) -> None:
        name = f'{node.get_name()}_tf_listener'
        # The name is set for this node only; remappings of topics and namespace apply to both.
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
        """Fill a tree; return the subscriptions, which `unlisten` ends."""
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
        """Destroy the subscriptions that `listen` returned."""
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def stop(self) -> None:
        """End the thread and destroy its node."""
        self._stopping.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def _spin(self) -> None:
        while not self._stopping.is_set():
            try:
                self._executor.spin_once(timeout_sec=SPIN_SEC)
            except ExternalShutdownException:
                return  # the context was shut down: no more transforms are needed
            # A malformed transform must not end the thread: it is logged.
            except Exception:
                self._node.get_logger().error(f'transform rejected: {traceback.format_exc()}',
                                              throttle_duration_sec=WARNING_PERIOD_SEC)
