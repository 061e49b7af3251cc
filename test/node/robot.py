# SPDX-License-Identifier: Apache-2.0
"""A robot that carries the camera and broadcasts its transforms; a listener that looks them up."""
from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import numpy as np
from geometry_msgs.msg import TransformStamped
from harness import OPTICAL_FRAME, Orbit, Peer, stamp_of, to_ns
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from tf2_msgs.msg import TFMessage

from spann3r_ros.core.transforms import (
    MAP_FROM_OPTICAL,
    invert,
    quaternion_to_matrix,
    to_rigid,
)
from spann3r_ros.pipeline.transform_tree import TransformTree
from spann3r_ros.ros.conversions import to_stamped_transform, to_transform

ODOM_FROM_WORLD = np.eye(4)
ODOM_FROM_WORLD[:3, :3] = Rotation.from_euler('z', 70, degrees=True).as_matrix()
ODOM_FROM_WORLD[:2, 3] = 3.0, -2.0


def base_from_optical(pitch_deg: float = 0.0) -> np.ndarray:
    """Return a camera on a robot: 1.2 m up, looking ahead and down by the pitch."""
    mounted = MAP_FROM_OPTICAL.copy()
    tilt = Rotation.from_euler('x', -pitch_deg, degrees=True).as_matrix()
    mounted[:3, :3] = mounted[:3, :3] @ tilt
    mounted[:3, 3] = 0.1, 0.05, 1.2
    return mounted


def to_matrix(message: TransformStamped) -> np.ndarray:
    """Return a transform as `parent_from_child` [4, 4]."""
    turn, place = message.transform.rotation, message.transform.translation
    return to_rigid(quaternion_to_matrix([turn.x, turn.y, turn.z, turn.w]),
                    np.array([place.x, place.y, place.z]))


class Listener:
    """Hears TF from its creation on, with the rules of tf2: ten seconds, no extrapolation."""

    def __init__(self, peer: Peer) -> None:
        self._tree = TransformTree(keep_sec=10.0)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for topic, qos in (('/tf', QoSProfile(depth=100)), ('/tf_static', latched)):
            peer.node.create_subscription(
                TFMessage, topic,
                lambda message, static=topic == '/tf_static': self._take(message, static), qos)

    def _take(self, message: TFMessage, static: bool) -> None:
        for one in message.transforms:
            self._tree.take(to_stamped_transform(one), static)

    def lookup(self, target: str, source: str, stamp_ns: int,
               patience_sec: float = 0.0) -> np.ndarray | None:
        """Return `target_from_source` [4, 4], or None if it is not known in time."""
        end = time.monotonic() + patience_sec
        while (found := self._tree.lookup(target, source, stamp_ns)) is None:
            if time.monotonic() > end:
                return None
            time.sleep(0.002)
        return found


class Robot:
    """Broadcasts the transforms of a robot, and receives all transforms on /tf."""

    def __init__(self, peer: Peer, orbit: Orbit) -> None:
        self._peer = peer
        self._orbit = orbit
        self._moving = peer.publisher(TFMessage, '/tf')
        self._static = peer.publisher(TFMessage, '/tf_static', latched=True)
        self._received = peer.listen(TFMessage, '/tf')
        self._still: list[TransformStamped] = []
        self._own: set[tuple[str, str]] = set()
        self.mounted = base_from_optical()

    def mount_camera(self, parent: str = 'base_link') -> None:
        self._still = [to_transform(self.mounted, 0, parent, OPTICAL_FRAME)]
        self._static.publish(TFMessage(transforms=self._still))

    @property
    def first_pose(self) -> np.ndarray:
        """Return where the camera is in a map that begins now: the base is its origin."""
        return self.mounted if self._still else MAP_FROM_OPTICAL

    def place(self, index: int) -> TransformStamped:
        """Return where the wheels have carried the robot."""
        pose = self._orbit.poses[index % len(self._orbit.poses)]
        return to_transform(ODOM_FROM_WORLD @ pose @ invert(self.mounted), stamp_of(index),
                            'odom', 'base_link')

    def drive(self, *indices: int) -> None:
        """Tell where the wheels have carried the robot."""
        self._own.add(('odom', 'base_link'))
        for index in indices:
            self.publish(self.place(index))

    @contextmanager
    def driving(self, period_sec: float = 0.02) -> Iterator[None]:
        """Tell by the present time that the wheels do not move, again and again."""
        self._own.add(('odom', 'base_link'))
        stopping = Event()

        def run() -> None:
            while not stopping.wait(period_sec):
                self.publish(to_transform(ODOM_FROM_WORLD, time.time_ns(), 'odom', 'base_link'))
        thread = Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def localise(self, *indices: int) -> None:
        """Tell, at those stamps, where the odometry's origin is in the map: the scene's world."""
        self._own.add(('map', 'odom'))
        for index in indices:
            self.publish(to_transform(invert(ODOM_FROM_WORLD), stamp_of(index), 'map', 'odom'))

    def publish(self, transform: TransformStamped) -> None:
        self._moving.publish(TFMessage(transforms=[transform]))

    def begin(self) -> None:
        """Wait until the mapper has discovered the robot, then activate it."""
        assert self._peer.change_state('configure')
        self._peer.until(lambda: self._moving.get_subscription_count() > 1
                         and self._static.get_subscription_count(), 'the mapper to listen to TF')
        self.mount_camera()
        self.settle()
        assert self._peer.change_state('activate')

    def settle(self) -> None:
        """Let the mapper take what was published: it answers calls in between."""
        for _ in range(3):
            self._peer.state()

    def foreign_transforms(self) -> list[TransformStamped]:
        """Return the transforms on /tf that are not the robot's own."""
        return [one for message in list(self._received) for one in message.transforms
                if (one.header.frame_id, one.child_frame_id) not in self._own]

    def edges_at(self, stamp_ns: int) -> set[tuple[str, str]]:
        """Return the edges that were published at a stamp, by any node."""
        return {(one.header.frame_id, one.child_frame_id)
                for message in list(self._received) for one in message.transforms
                if to_ns(one.header.stamp) == stamp_ns}

    def edges(self) -> set[tuple[str, str]]:
        return {(one.header.frame_id, one.child_frame_id) for one in self.foreign_transforms()}

    def parents(self) -> dict[str, set[str]]:
        """Return every parent that anybody gave a frame."""
        parents = defaultdict(set)
        for one in [*self._still, *(one for message in list(self._received)
                                    for one in message.transforms)]:
            parents[one.child_frame_id].add(one.header.frame_id)
        return parents

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Return `target_from_source` [4, 4] by everything that TF carries."""
        tree = TransformTree(keep_sec=600.0)
        for one in self._still:
            tree.take(to_stamped_transform(one), static=True)
        for message in list(self._received):
            for one in message.transforms:
                tree.take(to_stamped_transform(one))
        found = tree.lookup(target, source, stamp_ns)
        assert found is not None, f'TF has no transform {target} -> {source} at {stamp_ns}'
        return found
