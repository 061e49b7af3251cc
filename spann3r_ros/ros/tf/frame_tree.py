# SPDX-License-Identifier: Apache-2.0
"""The node's place in the tree of coordinate frames (REP-105), and what the tree says of it."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from tf2_ros import TransformBroadcaster, TransformException

from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import StampedPose
from spann3r_ros.pipeline.odometer import Odometer
from spann3r_ros.ros.conversions import to_matrix, to_transform
from spann3r_ros.ros.parameters import NodeConfig

from .tf_listening import ListeningThread, WatchedBuffer, nobody

WARNING_PERIOD_SEC = 10.0
CACHE_SEC = 30.0
# Images that wait for the network are that much older than the newest transforms.
REPLAY_CACHE_SEC = 600.0
# Poses that wait for the robot's odometry to reach their stamp.
MAX_WAITING = 50


@dataclass(frozen=True)
class Edge:
    """A transform [4, 4] of the tree: where the child's frame lies in the parent's."""

    parent: str
    child: str
    parent_from_child: np.ndarray


class FrameTree:
    """Listens to TF and broadcasts what the parameter publish_tf asks for.

    It never gives a frame a second parent: when the child of an edge has another one, the edge has
    another publisher, or it would close a loop, it says so and does not broadcast. What only asks
    may be called from any thread, as may `listen`; everything else belongs to the worker's.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig,
                 listening: ListeningThread) -> None:
        self._node = node
        self._config = config
        self.odometer = Odometer()
        replay = config.mode == 'replay'
        self._buffer = WatchedBuffer(Duration(
            seconds=REPLAY_CACHE_SEC if replay else CACHE_SEC))
        self._changed: Callable[[], None] = nobody
        self._wake = node.create_guard_condition(lambda: self._changed())
        self._buffer.changed = self._wake.trigger
        self._listener = listening.listen(self._buffer)
        self._broadcaster = TransformBroadcaster(node)
        self._waiting: deque[StampedPose] = deque(maxlen=MAX_WAITING)
        self._publish = config.publish_tf

    def listen(self, changed: Callable[[], None] = nobody) -> None:
        """Call a function, on the executor's thread, when TF has told something."""
        self._changed = changed

    def wake(self) -> None:
        """Call the function that listens soon, after what else waits for the executor."""
        self._wake.trigger()

    def camera_at(self, optical_frame: str, stamp_ns: int) -> np.ndarray | None:
        """Return a camera's pose `map_from_optical` [4, 4] at a stamp by the word of others."""
        return self._lookup(self._config.map_frame, optical_frame, stamp_ns)

    def up_in(self, optical_frame: str) -> np.ndarray | None:
        """Return the direction against gravity [3] if the robot's base is known; it is level."""
        optical_from_base = self.base_in(optical_frame)
        return None if optical_from_base is None else optical_from_base[:3, 2]

    def base_in(self, optical_frame: str) -> np.ndarray | None:
        """Return `optical_from_base` [4, 4] if the camera is known to be on the robot."""
        return self._lookup(optical_frame, self._config.base_frame, 0)

    def odometry_at(self, stamp_ns: int) -> np.ndarray | None:
        """Return the robot's own `odom_from_base` [4, 4] at a stamp; 0: the newest."""
        return self._lookup(self._config.odom_frame, self._config.base_frame, stamp_ns)

    def send(self, pose: StampedPose) -> None:
        """Broadcast where a camera is, and what waited for the robot's odometry."""
        if pose.frame_id in ('', self._config.map_frame):
            self._warn(f'the images are in frame {pose.frame_id!r} of map frame '
                       f'{self._config.map_frame!r}; set the parameter optical_frame')
            return
        if self._config.publish_tf == 'auto' and self._is_to_decide():
            self._publish = self._decide(pose)
        if self._publish == 'none':
            return
        if len(self._waiting) == MAX_WAITING:
            self._warn(f'{MAX_WAITING} poses wait until TF tells {self._config.odom_frame} -> '
                       f'{self._config.base_frame} at their stamps: the oldest is dropped')
        self._waiting.append(pose)
        self.send_waiting()

    def send_waiting(self) -> None:
        """Try again what could not be told yet."""
        for _ in range(len(self._waiting)):
            pose = self._waiting.popleft()
            edges = self._edges(pose)
            if edges is None:
                self._waiting.append(pose)
                continue
            edges = [self._inverted(edge) for edge in edges]
            faults = [fault for edge in edges if (fault := self._fault(edge))]
            if faults:
                self._warn(faults[0])
            else:
                self._broadcast([
                    to_transform(edge.parent_from_child, pose.stamp_ns, edge.parent, edge.child)
                    for edge in edges])

    def clear_waiting(self) -> None:
        """Forget poses of a map that is gone."""
        self._waiting.clear()

    def begin_again(self, stamp_ns: int) -> None:
        """Forget the moving transforms of another time: it has jumped back to a stamp."""
        self._buffer.begin_again(stamp_ns)

    def destroy(self) -> None:
        """Take subscriptions and publisher away from the node."""
        self._buffer.changed = nobody
        self._listener.unregister()
        self._node.destroy_guard_condition(self._wake)
        self._node.destroy_publisher(self._broadcaster.pub_tf)

    def _broadcast(self, transforms: list[TransformStamped]) -> None:
        for transform in transforms:
            self._buffer.announce(transform)
        self._broadcaster.sendTransform(transforms)

    def _is_to_decide(self) -> bool:
        """Say whether `auto` means nothing yet, or no more: the robot has odometry after all."""
        names = self._config
        return self._publish == 'auto' or (self._publish == 'base' and self._buffer.is_foreign(
            names.odom_frame, names.base_frame))

    def _decide(self, pose: StampedPose) -> str:
        """Return what `auto` means on this robot, as far as TF tells by now."""
        if self.base_in(pose.frame_id) is None:
            chosen, reason = 'camera', f'TF knows no {self._config.base_frame} with this camera'
        elif self.odometry_at(0) is None:
            chosen, reason = 'base', f'TF knows no {self._config.odom_frame}'
        else:
            chosen, reason = 'odom', 'the robot has odometry'
        self._node.get_logger().info(f'publish_tf: {chosen}, since {reason}')
        return chosen

    def _edges(self, pose: StampedPose) -> list[Edge] | None:
        """Return what to broadcast for a pose; None while something is missing."""
        names = self._config
        map_from_camera = pose.world_from_camera
        if self._publish == 'camera':
            return [Edge(names.map_frame, pose.frame_id, map_from_camera)]
        optical_from_base = self.base_in(pose.frame_id)
        if optical_from_base is None:
            self._warn(f'TF does not connect {names.base_frame} with {pose.frame_id}')
            return None
        map_from_base = map_from_camera @ optical_from_base
        if self._publish == 'base':
            odom_from_map = self.odometer.odom_from_map
            return [Edge(names.map_frame, names.odom_frame, invert(odom_from_map)),
                    Edge(names.odom_frame, names.base_frame, odom_from_map @ map_from_base)]
        odom_from_base = self.odometry_at(pose.stamp_ns)
        if odom_from_base is None:
            return None
        return [Edge(names.map_frame, names.odom_frame, map_from_base @ invert(odom_from_base))]

    def _inverted(self, edge: Edge) -> Edge:
        if not self._config.invert_tf:
            return edge
        return Edge(edge.child, edge.parent, invert(edge.parent_from_child))

    def _fault(self, edge: Edge) -> str:
        """Return why an edge must not be broadcast, or nothing."""
        others = self._buffer.parents_of(edge.child) - {edge.parent}
        if others:
            return (f'{edge.child} has the parent {min(others)} already: no transform '
                    f'{edge.parent} -> {edge.child}')
        if self._buffer.is_foreign(edge.parent, edge.child):
            return (f'somebody else publishes {edge.parent} -> {edge.child}: no transform between '
                    'them; set publish_tf to none, or stop the other and configure anew')
        if edge.child in self._buffer.ancestors_of(edge.parent):
            return f'{edge.parent} lies below {edge.child} already: no transform between them'
        return ''

    def _lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        try:
            return to_matrix(self._buffer.lookup_transform(
                target, source, Time(nanoseconds=stamp_ns)).transform)
        except TransformException:
            return None

    def _warn(self, reason: str) -> None:
        self._node.get_logger().warning(reason, throttle_duration_sec=WARNING_PERIOD_SEC)
