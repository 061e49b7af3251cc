# SPDX-License-Identifier: Apache-2.0
"""The node's transform tree, which is filled from TF, and the broadcasts of its own edges."""
from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from tf2_msgs.msg import TFMessage

from spann3r_ros.pipeline.frame_roles import Edge, FrameRoles
from spann3r_ros.pipeline.node_settings import NodeConfig
from spann3r_ros.pipeline.transform_tree import TransformTree
from spann3r_ros.ros.conversions import to_transform

from .listener import ListeningThread

WARNING_PERIOD_SEC = 10.0
CACHE_SEC = 30.0
# While images wait for the network, transforms that are newer by up to this much arrive.
REPLAY_CACHE_SEC = 600.0
BROADCAST_DEPTH = 100


class TfBridge:
    """Connects a transform tree with /tf and /tf_static, in both directions.

    `tree` may be used on any thread; `roles` is used on the worker's.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig,
                 listening: ListeningThread) -> None:
        self._node = node
        replay = config.mode == 'replay'
        self.tree = TransformTree(REPLAY_CACHE_SEC if replay else CACHE_SEC)
        self.roles = FrameRoles(config, self.tree, self._broadcast, self._warn)
        self._changed: Callable[[], None] | None = None
        self._guard_condition = node.create_guard_condition(self._run_changed)
        self._listening = listening
        self._publisher = node.create_publisher(TFMessage, '/tf', QoSProfile(
            depth=BROADCAST_DEPTH))
        self._subscriptions = listening.listen(self.tree)

    def listen(self, changed: Callable[[], None] | None = None,
               wanted: Callable[[], bool] = lambda: True) -> None:
        """Call `changed` on the executor's thread after new transforms, if `wanted` returns true.

        Without arguments, stop calling it.
        """
        self._changed = changed

        def trigger_if_wanted() -> None:
            # Each call costs the executor almost a millisecond.
            if wanted():
                self._guard_condition.trigger()
        self.tree.changed = trigger_if_wanted if changed else _ignore

    def call_soon(self) -> None:
        """Call the function given to `listen`, after the calls that the executor has now."""
        self._guard_condition.trigger()

    def is_published(self) -> bool:
        """Return whether another node publishes transforms, or ever did."""
        topics = ('/tf', '/tf_static')
        others = sum(self._node.count_publishers(topic) for topic in topics) - 1
        return others > 0 or self.tree.has_any()

    def destroy(self) -> None:
        """Destroy subscriptions and publisher."""
        self.tree.changed = _ignore
        self._listening.unlisten(self._subscriptions)
        self._node.destroy_guard_condition(self._guard_condition)
        self._node.destroy_publisher(self._publisher)

    def _run_changed(self) -> None:
        if self._changed is not None:
            self._changed()

    def _broadcast(self, edges: list[Edge], stamp_ns: int) -> None:
        self._publisher.publish(TFMessage(transforms=[
            to_transform(edge.parent_from_child, stamp_ns, edge.parent, edge.child)
            for edge in edges]))

    def _warn(self, reason: str) -> None:
        self._node.get_logger().warning(reason, throttle_duration_sec=WARNING_PERIOD_SEC)


def _ignore() -> None:
    pass
