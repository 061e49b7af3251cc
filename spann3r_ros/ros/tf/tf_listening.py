# SPDX-License-Identifier: Apache-2.0
"""Hearing TF, whatever the node's own executor is busy with, and remembering who said what."""
from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable
from threading import Event, Lock, Thread

import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import QoSProfile
from tf2_ros import Buffer, TransformListener

from spann3r_ros.ros.conversions import to_nanoseconds

# Own broadcasts come back within moments: so many are told from those of others.
MAX_OWN = 500
NEAR_NS = 5_000_000_000
SPIN_SEC = 0.1
WARNING_PERIOD_SEC = 10.0
logger = get_logger('mapper_tf_listener')
# Ten times what tf2 keeps: Python takes a message in about a millisecond.
DEPTH = 1000
# How far the length of a quaternion may be from one, as tf2 has it.
MAX_DENORMALISED = 0.005


class WatchedBuffer(Buffer):
    """A buffer that remembers who ever was a frame's parent, and by whose word.

    tf2 keeps the latest parent only, and does not know its publishers. `changed` is called, on the
    listener's thread, when something new is known.
    """

    def __init__(self, cache_time: Duration) -> None:
        super().__init__(cache_time)
        self.changed: Callable[[], None] = nobody
        self._parents: dict[str, set[str]] = {}
        self._own_edges: set[tuple[str, str]] = set()
        self._own: deque[tuple[str, str, int, int]] = deque(maxlen=MAX_OWN)
        self._foreign: set[tuple[str, str]] = set()
        self._recent: deque[TransformStamped] = deque(maxlen=DEPTH)
        self._watch_lock = Lock()

    def announce(self, transform: TransformStamped) -> None:
        """Take note of a transform that this node is about to broadcast."""
        with self._watch_lock:
            self._own_edges.add((transform.header.frame_id, transform.child_frame_id))
            self._own.append(_identity(transform))

    def is_foreign(self, parent: str, child: str) -> bool:
        """Say whether somebody else ever published this edge."""
        with self._watch_lock:
            return (parent, child) in self._foreign

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Take a transform that is valid at its stamp."""
        if not _is_sound(transform):
            return
        self._note(transform)
        with self._watch_lock:
            self._recent.append(transform)
        super().set_transform(transform, authority)
        self.changed()

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Take a transform that is always valid."""
        if not _is_sound(transform):
            return
        self._note(transform)
        super().set_transform_static(transform, authority)
        self.changed()

    def begin_again(self, stamp_ns: int) -> None:
        """Forget all moving transforms but those about a stamp: time has jumped back to it.

        Those of the new time often come before its first image, and tf2 may have refused them.
        """
        self.clear()
        with self._watch_lock:
            recent = list(self._recent)
        for transform in recent:
            if abs(to_nanoseconds(transform.header.stamp) - stamp_ns) < NEAR_NS:
                super().set_transform(transform, 'again')

    def parents_of(self, frame: str) -> set[str]:
        """Return the parents a frame was ever given."""
        with self._watch_lock:
            return set(self._parents.get(frame, ()))

    def ancestors_of(self, frame: str) -> set[str]:
        """Return all frames above a frame."""
        found: set[str] = set()
        ahead = self.parents_of(frame)
        while ahead:
            found |= ahead
            ahead = set().union(*map(self.parents_of, ahead)) - found
        return found

    def _note(self, transform: TransformStamped) -> None:
        with self._watch_lock:
            parent, child = transform.header.frame_id, transform.child_frame_id
            self._parents.setdefault(child, set()).add(parent)
            if (parent, child) not in self._own_edges or _identity(transform) not in self._own:
                self._foreign.add((parent, child))


def nobody() -> None:
    """Listen to nothing."""


def _is_sound(transform: TransformStamped) -> bool:
    """Say whether a transform is one that tf2 takes, and warn of any other, as tf2 does."""
    names = transform.header.frame_id, transform.child_frame_id
    move, turn = transform.transform.translation, transform.transform.rotation
    length = math.hypot(turn.x, turn.y, turn.z, turn.w)
    sound = (all(names) and names[0] != names[1] and transform.header.stamp.sec >= 0
             and all(map(math.isfinite, (move.x, move.y, move.z)))
             and abs(length - 1.0) < MAX_DENORMALISED)  # not NaN
    if not sound:
        logger.warning(f'TF: expected two frames, a stamp from 0 on, finite numbers and a unit '
                       f'quaternion, got {transform}', throttle_duration_sec=WARNING_PERIOD_SEC)
    return sound


def _identity(transform: TransformStamped) -> tuple[str, str, int, int]:
    stamp = transform.header.stamp
    return transform.header.frame_id, transform.child_frame_id, stamp.sec, stamp.nanosec


class ListeningThread:
    """Fills buffers from a node and a thread of its own, as tf2 does in C++.

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

    def listen(self, buffer: Buffer) -> TransformListener:
        """Fill a buffer until the listener that comes back is unregistered."""
        return TransformListener(buffer, self._node, qos=QoSProfile(depth=DEPTH))

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
            # Whatever is wrong with a transform costs this transform only; it is reported.
            except Exception:
                self._node.get_logger().error(f'transform refused: {traceback.format_exc()}',
                                              throttle_duration_sec=WARNING_PERIOD_SEC)
