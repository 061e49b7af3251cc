# SPDX-License-Identifier: Apache-2.0
"""The node's transform tree, which is filled from TF, and the broadcasts of its own edges."""
from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic

from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from spann3r_ros.pipeline.frame_roles import Edge, FrameRoles
from spann3r_ros.pipeline.node_settings import NodeConfig
from spann3r_ros.pipeline.transform_tree import StampedTransform, TransformTree
from spann3r_ros.ros.conversions import from_stamped_transform, to_transform
from spann3r_ros.ros.logs import Repetitions

from .listener import ListeningThread

# One text is not written to the log again sooner. The texts differ by the names of frames.
WARNING_PERIOD_SEC = 600.0
CACHE_SEC = 30.0
# While images wait for the network, transforms that are newer by up to this much arrive.
REPLAY_CACHE_SEC = 600.0
BROADCAST_DEPTH = 100
# How long a restored static transform of another node is offered to late subscribers. It must not
# outlive a change of the original.
RESTORED_SEC = 5.0


class TfBridge:
    """Connects a transform tree with /tf and /tf_static, in both directions.

    `tree` and `roles` may be used on any thread. A look-up first takes what has come. Beside that
    the transforms are taken continuously while the node is active, unless it needs none: then the
    last ones wait in the middleware, and cost almost nothing.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig, listening: ListeningThread,
                 report: Callable[[str], None]) -> None:
        self._node = node
        self._report = report
        self._repetitions = Repetitions(WARNING_PERIOD_SEC)
        replay = config.mode == 'replay'
        self.tree = TransformTree(REPLAY_CACHE_SEC if replay else CACHE_SEC)
        self.roles = FrameRoles(config, self.tree, self._broadcast, self._warn, self._restore,
                                lambda: node.get_clock().now().nanoseconds)
        needs_none = config.publish_tf == 'none' and config.pose_source == 'images'
        self._may_repeat = not (replay or needs_none)
        self.configure(config)
        self._due_ns = 0
        self._restorer: Publisher | None = None
        self._restored_sec = 0.0
        self._restoring = Lock()
        # A replay looks transforms up long after they have come.
        self._takes_always = replay
        self._takes_while_active = not needs_none
        self._active = False
        self._changed: Callable[[], None] | None = None
        self._wanted: Callable[[], bool] = lambda: False
        self._guard_condition = node.create_guard_condition(self._run_changed)
        self._listening = listening
        self._publisher = node.create_publisher(TFMessage, '/tf', QoSProfile(
            depth=BROADCAST_DEPTH))
        self._reader = listening.read(self.tree)
        self.tree.refresh = self._reader.take_all
        listening.repeat(self._run)

    def configure(self, config: NodeConfig) -> None:
        """Repeat transforms with the tolerance and the periods of these settings."""
        self._tolerance_sec = config.transform_tolerance_sec
        self._period_ns = round(config.tf_publish_period_sec * 1e9)
        self.roles.configure(config)

    def begin(self, changed: Callable[[], None], wanted: Callable[[], bool]) -> None:
        """Follow TF for an active node, and repeat `map -> odom` if the settings want it.

        `changed` is called on the executor's thread after new transforms, if `wanted` returns
        true.
        """
        self._changed, self._wanted = changed, wanted

        def trigger_if_wanted() -> None:
            # Each call costs the executor almost a millisecond.
            if wanted():
                self._guard_condition.trigger()
        self.tree.changed = trigger_if_wanted
        self.roles.hold_anew()
        self._active = True

    def end(self) -> None:
        """Broadcast nothing by itself, and call nothing, until the next `begin`."""
        # What the thread does at this moment is done then.
        self._listening.repeat(None)
        self._active = False
        self._changed, self._wanted = None, lambda: False
        self.tree.changed = _ignore
        self._end_restoring()
        self._listening.repeat(self._run)

    def call_soon(self) -> None:
        """Call the function given to `begin`, after the calls that the executor has now."""
        self._guard_condition.trigger()

    def is_published(self) -> bool:
        """Return whether another node publishes transforms, or ever did."""
        topics = ('/tf', '/tf_static')
        own = 1 + (self._restorer is not None)
        others = sum(self._node.count_publishers(topic) for topic in topics) - own
        return others > 0 or self.tree.has_any()

    def destroy(self) -> None:
        """Destroy subscriptions and publisher."""
        self.end()
        self._listening.repeat(None)
        self.tree.refresh = _ignore
        self._reader.destroy()
        self._node.destroy_guard_condition(self._guard_condition)
        self._node.destroy_publisher(self._publisher)

    def _run_changed(self) -> None:
        if self._changed is not None:
            self._changed()

    def _run(self) -> None:
        """Take transforms and repeat `map -> odom`, on the listening thread."""
        if self._takes_always or (self._active and (self._takes_while_active or self._wanted())):
            self._reader.take_all()
        else:
            self._reader.take_static()
        if not (self._active and self._may_repeat and self._period_ns):
            return
        now_ns = self._node.get_clock().now().nanoseconds
        late_ns = now_ns - self._due_ns
        # The clock of a simulation may jump back.
        if -self._period_ns <= late_ns < 0:
            return
        on_time = 0 <= late_ns < self._period_ns
        self._due_ns = self._period_ns + (self._due_ns if on_time else now_ns)
        self.roles.repeat(self._tolerance_sec)
        if monotonic() > self._restored_sec + RESTORED_SEC:
            self._end_restoring()

    def _restore(self, transform: StampedTransform) -> None:
        """Publish a static transform of another node once more, unchanged."""
        with self._restoring:
            if self._restorer is None:
                self._restorer = self._node.create_publisher(TFMessage, '/tf_static', QoSProfile(
                    depth=BROADCAST_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL))
            self._restored_sec = monotonic()
            self._restorer.publish(TFMessage(transforms=[from_stamped_transform(transform)]))

    def _end_restoring(self) -> None:
        with self._restoring:
            if self._restorer is not None:
                self._node.destroy_publisher(self._restorer)
                self._restorer = None

    def _broadcast(self, edges: list[Edge], stamp_ns: int) -> None:
        self._publisher.publish(TFMessage(transforms=[
            to_transform(edge.parent_from_child, stamp_ns, edge.parent, edge.child)
            for edge in edges]))

    def _warn(self, reason: str) -> None:
        if self._repetitions.count(reason, monotonic()) is not None:
            self._report(reason)


def _ignore() -> None:
    pass
