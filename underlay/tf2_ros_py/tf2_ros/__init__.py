# SPDX-License-Identifier: Apache-2.0
"""Stand-in for the part of tf2_ros used here, for machines that lack the genuine package.

Names, errors and rules are those of the genuine one: broadcasters, buffer, listener.
"""
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from scipy.spatial.transform import Rotation, Slerp
from tf2_msgs.msg import TFMessage

Transforms = TransformStamped | Sequence[TransformStamped]
Motion = tuple[np.ndarray, Rotation]
STILL: Motion = (np.zeros(3), Rotation.identity())


class TransformException(Exception):  # noqa: N818 (the genuine names)
    """A transform cannot be told."""


class LookupException(TransformException):
    """A frame is not known."""


class ConnectivityException(TransformException):
    """Two frames are in different trees."""


class ExtrapolationException(TransformException):
    """A transform is known, but not for that time."""


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


@dataclass
class _Edge:
    """What is known of a frame in its parent, oldest first; one entry when static."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    motions: list[Motion] = field(default_factory=list)

    def add(self, stamp_ns: int, motion: Motion, keep_ns: int) -> None:
        if self.stamps and stamp_ns < self.stamps[-1] - keep_ns:
            return
        at = bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            self.motions[at] = motion
        else:
            self.stamps.insert(at, stamp_ns)
            self.motions.insert(at, motion)
        old = bisect_left(self.stamps, self.stamps[-1] - keep_ns)
        del self.stamps[:old], self.motions[:old]

    def at(self, stamp_ns: int) -> Motion:
        if self.static:
            return self.motions[-1]
        first, last = self.stamps[0], self.stamps[-1]
        if not first <= stamp_ns <= last:
            raise ExtrapolationException(
                f'lookup at {stamp_ns} ns would need extrapolation: known from {first} to {last}')
        after = bisect_left(self.stamps, stamp_ns)
        if self.stamps[after] == stamp_ns:
            return self.motions[after]
        (place, turn), (next_place, next_turn) = self.motions[after - 1:after + 1]
        share = (stamp_ns - self.stamps[after - 1]) / (
            self.stamps[after] - self.stamps[after - 1])
        between = Slerp([0.0, 1.0], Rotation.concatenate([turn, next_turn]))(share)
        return place + share * (next_place - place), between


class Buffer:
    """Tree of stamped transforms, of the last `cache_time`."""

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None) -> None:
        self._keep_ns = (cache_time or Duration(seconds=10)).nanoseconds
        self._edges: dict[str, _Edge] = {}
        self._lock = Lock()

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Take a transform that is valid at its stamp."""
        self._set(transform, static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Take a transform that is always valid."""
        self._set(transform, static=True)

    def clear(self) -> None:
        """Forget all transforms but the static ones."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def lookup_transform(self, target_frame: str, source_frame: str, time: Time | TimeMessage,
                         timeout: Duration | None = None) -> TransformStamped:
        """Return what takes points of the source frame to the target frame; time 0: the newest.

        Raises a TransformException. The stand-in does not wait: `timeout` must be left out.
        """
        if timeout is not None and timeout.nanoseconds:
            raise NotImplementedError('timeout: this stand-in does not wait')
        stamp_ns = (time.nanoseconds if isinstance(time, Time)
                    else time.sec * 10**9 + time.nanosec)
        with self._lock:
            stamp_ns, (place, turn) = self._lookup(target_frame, source_frame, stamp_ns)
        result = TransformStamped(child_frame_id=source_frame)
        result.header.frame_id = target_frame
        result.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
        translation, rotation = result.transform.translation, result.transform.rotation
        translation.x, translation.y, translation.z = map(float, place)
        rotation.x, rotation.y, rotation.z, rotation.w = map(float, turn.as_quat())
        return result

    def _set(self, transform: TransformStamped, static: bool) -> None:
        t, q = transform.transform.translation, transform.transform.rotation
        quaternion = np.array([q.x, q.y, q.z, q.w])
        child, parent = transform.child_frame_id, transform.header.frame_id
        numbers = np.array([t.x, t.y, t.z, *quaternion])
        if (not child or not parent or child == parent or not np.isfinite(numbers).all()
                or abs(np.linalg.norm(quaternion) - 1.0) > 1e-2):
            return
        stamp = transform.header.stamp
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or static or edge.static:
                edge = self._edges[child] = _Edge(parent, static)
            edge.parent = parent
            edge.add(stamp.sec * 10**9 + stamp.nanosec,
                     (numbers[:3], Rotation.from_quat(quaternion)), self._keep_ns)

    def _lookup(self, target: str, source: str, stamp_ns: int) -> tuple[int, Motion]:
        known = self._edges.keys() | {edge.parent for edge in self._edges.values()}
        for name in (target, source):
            if name not in known:
                raise LookupException(f'frame {name!r} does not exist')
        ups, downs = self._ancestors(source), self._ancestors(target)
        common = next((name for name in ups if name in downs), None)
        if common is None:
            raise ConnectivityException(f'{target!r} and {source!r} are not in the same tree')
        ups, downs = ups[:ups.index(common)], downs[:downs.index(common)]
        if stamp_ns == 0:
            moving = [self._edges[name].stamps[-1] for name in ups + downs
                      if not self._edges[name].static]
            stamp_ns = min(moving, default=0)
        (place, turn), (origin, heading) = self._climb(ups, stamp_ns), self._climb(downs, stamp_ns)
        back = heading.inv()
        return stamp_ns, (back.apply(place - origin), back * turn)

    def _ancestors(self, name: str) -> list[str]:
        chain = [name]
        while chain[-1] in self._edges:
            chain.append(self._edges[chain[-1]].parent)
            if chain.count(chain[-1]) > 1:
                raise LookupException(f'the tree has a loop at {chain[-1]!r}')
        return chain

    def _climb(self, names: list[str], stamp_ns: int) -> Motion:
        place, turn = STILL
        for name in names:
            step, rotation = self._edges[name].at(stamp_ns)
            place, turn = step + rotation.apply(place), rotation * turn
        return place, turn


class TransformListener:
    """Fills a buffer from /tf and /tf_static on the node's executor."""

    def __init__(self, buffer: Buffer, node: Node, *, qos: QoSProfile | None = None) -> None:
        self.node = node

        def take(message: TFMessage) -> None:
            for transform in message.transforms:
                buffer.set_transform(transform, 'default_authority')

        def take_static(message: TFMessage) -> None:
            for transform in message.transforms:
                buffer.set_transform_static(transform, 'default_authority')

        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tf_sub = node.create_subscription(
            TFMessage, '/tf', take, qos or QoSProfile(depth=100))
        self.tf_static_sub = node.create_subscription(
            TFMessage, '/tf_static', take_static, latched)

    def unregister(self) -> None:
        """Take the subscriptions away from the node."""
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)


__all__ = ['Buffer', 'ConnectivityException', 'ExtrapolationException', 'LookupException',
           'StaticTransformBroadcaster', 'TransformBroadcaster', 'TransformException',
           'TransformListener']
