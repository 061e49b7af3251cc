# SPDX-License-Identifier: Apache-2.0
"""Fills a transform tree from /tf and /tf_static on a separate thread."""
from __future__ import annotations

import traceback
from collections.abc import Callable
from threading import Event, Lock, Thread

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription
from tf2_msgs.msg import TFMessage

from spann3r_ros.pipeline.transform_tree import TransformTree
from spann3r_ros.ros.conversions import to_stamped_transform

# An executor needs more than half a millisecond for each message. All that came within this time
# is taken at once.
PERIOD_SEC = 0.02
WARNING_PERIOD_SEC = 10.0
# Ten times the depth of tf2.
DEPTH = 1000
STATIC_DEPTH = 100


class TfReader:
    """Fills a tree from /tf and /tf_static, whenever it is called, on any thread."""

    def __init__(self, node: Node, tree: TransformTree) -> None:
        self._node = node
        self._tree = tree
        self._lock = Lock()
        latched = QoSProfile(depth=STATIC_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = node.create_subscription(TFMessage, '/tf_static', _never_called, latched)
        self._moving = node.create_subscription(
            TFMessage, '/tf', _never_called, QoSProfile(depth=DEPTH))
        self._ended = False

    def take_static(self) -> None:
        """Take the static transforms that have come."""
        self._take(self._static, static=True)

    def take_all(self) -> None:
        """Take the transforms that have come."""
        self._take(self._static, static=True)
        self._take(self._moving, static=False)

    def destroy(self) -> None:
        """Destroy the subscriptions."""
        with self._lock:
            self._ended = True
            self._node.destroy_subscription(self._static)
            self._node.destroy_subscription(self._moving)

    def _take(self, subscription: Subscription, static: bool) -> None:
        with self._lock:
            if self._ended:
                return
            # A malformed transform must not end the thread, nor a look-up: it is logged.
            try:
                with subscription.handle:
                    # The call of rclpy's executors and of its `wait_for_message`.
                    while (taken := subscription.handle.take_message(
                            TFMessage, False)) is not None:
                        for transform in taken[0].transforms:
                            self._tree.take(to_stamped_transform(transform), static)
            except Exception:
                self._node.get_logger().error(f'transform rejected: {traceback.format_exc()}',
                                              throttle_duration_sec=WARNING_PERIOD_SEC)


class ListeningThread:
    """Calls a function on a separate thread, and has a separate node for its subscriptions.

    As in tf2's C++ listener, transforms are received while an image blocks the main executor for
    as long as the network takes. Transforms lost during that time would be replaced by
    interpolation without a warning. The node lives as long as the main one, because a destroyed
    node leaves memory behind in the middleware, each time the main node is configured.
    """

    def __init__(self, node: Node) -> None:
        name = f'{node.get_name()}_tf_listener'
        # The name is set for this node only; remappings of topics and namespace apply to both.
        self._node = rclpy.create_node(
            name, context=node.context, namespace=node.get_namespace(),
            cli_args=['--ros-args', '-r', f'__node:={name}'], enable_rosout=False,
            start_parameter_services=False)
        self._lock = Lock()
        self._function: Callable[[], None] | None = None
        self._stopping = Event()
        self._thread = Thread(target=self._run, name='tf_listener')
        self._thread.start()

    def read(self, tree: TransformTree) -> TfReader:
        """Return a reader that fills a tree."""
        return TfReader(self._node, tree)

    def repeat(self, function: Callable[[], None] | None) -> None:
        """Call a function every `PERIOD_SEC`; None: no longer, not even once after this call."""
        with self._lock:
            self._function = function

    def stop(self) -> None:
        """End the thread and destroy its node."""
        self._stopping.set()
        self._thread.join()
        self._node.destroy_node()

    def _run(self) -> None:
        while not self._stopping.wait(PERIOD_SEC) and self._node.context.ok():
            try:
                with self._lock:
                    if self._function is not None:
                        self._function()
            # Whatever fails in a call, the next one may succeed.
            except Exception:
                self._node.get_logger().error(f'TF: {traceback.format_exc()}',
                                              throttle_duration_sec=WARNING_PERIOD_SEC)


def _never_called(_: TFMessage) -> None:
    """The node has no executor: `TfReader` takes the messages."""
