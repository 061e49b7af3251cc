# SPDX-License-Identifier: Apache-2.0
"""The edges of the transform tree that the node broadcasts (REP-105), and its odometry."""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import RLock

import numpy as np

from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import FragmentPose

from .node_settings import NodeConfig
from .odometer import Motion, Odometer
from .transform_tree import StampedTransform, TransformTree

# Most poses that wait for the camera's mount, and most that wait for the robot's odometry.
MAX_WAITING = 50
# `auto` only goes from a role to one after it.
ROLES = ('camera', 'base', 'odom')
# The node's clock and the stamps of the images are the same time if a pose is at most this old.
# tf2 keeps 10 s: transforms of now would remove those of the images.
SAME_TIME_NS = 10_000_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Edge:
    """A transform [4, 4] of the tree: the pose of the child's frame in the parent's."""

    parent: str
    child: str
    parent_from_child: np.ndarray


@dataclass(frozen=True)
class _Placed:
    """A pose of the camera in its fragment, and in `odom`."""

    pose: FragmentPose
    motion: Motion


class FrameRoles:
    """Turns camera poses into odometry, and into the edges that `publish_tf` selects; thread-safe.

    A pose waits until the camera's mount on the robot is known at its stamp. Then `moved` is
    called with its motion. With the role `odom` its edge waits for the robot's odometry too.
    `broadcast` is called with the edges of a pose and their stamp. An edge is not broadcast if its
    child has another parent, if it has another publisher, or if it would close a loop; `warn` is
    then called with the reason. `restore` is called with a static transform of another node that
    a broadcast may have replaced in the buffers of others. `now_ns` returns the node's time.
    """

    def __init__(self, config: NodeConfig, tree: TransformTree,
                 broadcast: Callable[[list[Edge], int], None],
                 warn: Callable[[str], None],
                 restore: Callable[[StampedTransform], None] = lambda _: None,
                 now_ns: Callable[[], int] = lambda: 0) -> None:
        self._config = config
        self._tree = tree
        self._broadcast = broadcast
        self._warn = warn
        self._restore = restore
        self._now_ns = now_ns
        self.moved: Callable[[Motion], None] = lambda _: None
        self._odometer = Odometer()
        self._lock = RLock()
        # Poses that wait for the camera's mount, and those that wait for the robot's odometry.
        self._unmounted: deque[FragmentPose] = deque(maxlen=MAX_WAITING)
        self._placed: deque[_Placed] = deque(maxlen=MAX_WAITING)
        self._role = config.publish_tf
        self._has_base = False
        # The last pose that was broadcast, and the camera's pose in the `odom` of the broadcast.
        self._anchor: tuple[FragmentPose, np.ndarray] | None = None
        self._anchor_ns = -1
        self._map_from_odom = np.eye(4)
        self._is_broadcasting = False
        # Whether the camera's place in the map is known: without it there is no map -> odom.
        self._is_located = True
        self._sent_optical = False
        self._same_time = False
        self._repeated_ns = 0
        # The newest broadcast edge below `odom`, and the time from which it is held.
        self._held: tuple[Edge, int] | None = None
        self._is_paused = False

    def take_places(self, places: Mapping[int, np.ndarray], is_located: bool = True) -> None:
        """Take `map_from_fragment` [4, 4] of new and of moved fragments, by fragment id.

        `is_located`: whether the camera's place in the map is known. Otherwise there is no
        `map -> odom`.
        """
        with self._lock:
            self._is_located = is_located
            self._odometer.take_places(places)
            if self._anchor is not None and self._anchor[0].fragment_id in places:
                self._map_from_odom = self._connect(*self._anchor)

    def take(self, pose: FragmentPose) -> None:
        """Follow a camera pose, and broadcast its edges, as soon as TF has what they need."""
        with self._lock:
            self._same_time = abs(self._now_ns() - pose.stamp_ns) <= SAME_TIME_NS
            self._queue(self._unmounted, pose, self._config.base_frame, pose.frame_id)
            self.send_waiting()

    def send_waiting(self) -> None:
        """Follow and broadcast the waiting poses whose transforms have come."""
        with self._lock:
            self._follow_mounted()
            for _ in range(len(self._placed)):
                placed = self._placed.popleft()
                if not self._send(placed):
                    self._placed.append(placed)

    def configure(self, config: NodeConfig) -> None:
        """Hold the last pose as long as these settings say; nothing else may differ."""
        with self._lock:
            self._config = config

    def pause(self, paused: bool) -> None:
        """Note whether a user has paused the mapping; `odom` -> camera or base is then held."""
        with self._lock:
            if self._is_paused and not paused:
                self.hold_anew()
            self._is_paused = paused

    def hold_anew(self) -> None:
        """Hold the last pose from now on, because images are taken again."""
        with self._lock:
            if self._held is not None:
                self._held = (self._held[0], self._now_ns())

    def repeat(self, tolerance_sec: float) -> None:
        """Broadcast again what the last pose gave, for those who look up the present.

        `map -> odom` is valid until the present time plus a tolerance. The edge below `odom`, if
        it is this node's own, has the present time: the next pose is to be seen at once. It is
        held for `odom_hold_sec` after its pose, as long as the mapping is paused, and for
        `odom_hold_sec` after the pause.
        """
        with self._lock:
            self.send_waiting()
            clock_ns = self._now_ns()
            # tf2 refuses a second transform of one stamp. In a simulation the clock may pause, and
            # the stamps of images are those of the clock's ticks.
            now_ns = clock_ns + 1
            stamp_ns = now_ns + round(tolerance_sec * 1e9)
            if not self._is_broadcasting or not clock_ns or stamp_ns == self._repeated_ns:
                return
            if not self._same_time:
                if not self._repeated_ns:
                    self._warn('map -> odom is not repeated, because the images are not stamped '
                               "by the node's clock; set use_sim_time if a player publishes "
                               '/clock')
                self._repeated_ns = stamp_ns
                return
            self._repeated_ns = stamp_ns
            self._is_broadcasting = self._try_broadcast(
                self._above(self._map_from_odom), stamp_ns)
            if self._is_broadcasting:
                self._hold(now_ns)

    def _hold(self, now_ns: int) -> None:
        hold_ns = round(self._config.odom_hold_sec * 1e9)
        if self._held is None or not hold_ns:
            return
        edge, since_ns = self._held
        # The clock has jumped back, or the image was stamped a little ahead of it.
        since_ns = min(since_ns, now_ns)
        self._held = (edge, since_ns)
        if self._is_paused or now_ns - since_ns <= hold_ns:
            self._try_broadcast([edge], now_ns)
            return
        self._held = None
        self._warn(f'no pose for {self._config.odom_hold_sec:g} s (odom_hold_sec): {edge.parent} '
                   f'-> {edge.child} is not repeated until the next one')

    def restart(self, is_located: bool = True) -> None:
        """Drop the waiting poses, because another map begins; odometry goes on where it is.

        `is_located` as for `take_places`.
        """
        with self._lock:
            self._is_located = is_located
            self.clear_waiting()
            self._odometer.restart()
            self._anchor, self._anchor_ns = None, -1

    def follow_jump(self) -> None:
        """Drop the waiting poses, because time has gone back; the next pose is the newest."""
        with self._lock:
            self.clear_waiting()
            self._anchor_ns = -1

    def clear_waiting(self) -> None:
        """Drop the waiting poses."""
        with self._lock:
            self._unmounted.clear()
            self._placed.clear()

    def _queue(self, queue: deque, item: FragmentPose | _Placed, parent: str, child: str) -> None:
        if len(queue) == MAX_WAITING:
            self._warn(f'{MAX_WAITING} poses wait for {parent} -> {child} on TF at their stamps: '
                       'the oldest is dropped')
        queue.append(item)

    def _follow_mounted(self) -> None:
        """Follow, in order, the poses for which the camera's mount is known or not expected."""
        while self._unmounted:
            pose = self._unmounted[0]
            optical_from_base = self._mount(pose)
            if optical_from_base is None and self._expects_mount(pose):
                if not any(self._mount(later) is not None for later in self._unmounted):
                    return
                self._warn(f'TF has no {self._config.base_frame} -> {pose.frame_id} at the stamp '
                           'of a pose, but at a later one: the pose is not broadcast')
                self._unmounted.popleft()
                continue
            if optical_from_base is not None and self._awaits_start(pose):
                return
            self._unmounted.popleft()
            self._follow(pose, optical_from_base)

    def _mount(self, pose: FragmentPose) -> np.ndarray | None:
        """Return `optical_from_base` [4, 4] at the stamp of a pose; None if it is not known."""
        return self._tree.lookup(pose.frame_id, self._config.base_frame, pose.stamp_ns)

    def _expects_mount(self, pose: FragmentPose) -> bool:
        """Return whether the camera is on a robot, so that its mount must be waited for.

        That does not change back: odometry does not return from the base to the camera.
        """
        return self._has_base or self._tree.awaits(
            pose.frame_id, self._config.base_frame, pose.stamp_ns)

    def _awaits_start(self, pose: FragmentPose) -> bool:
        """Return whether odometry begins at this pose, and the robot's own is yet to reach it."""
        odom_frame = self._config.odom_frame
        return (not self._odometer.has_begun and len(self._unmounted) < MAX_WAITING
                and self._tree.lookup(odom_frame, pose.frame_id, pose.stamp_ns) is None
                and self._tree.awaits(odom_frame, pose.frame_id, pose.stamp_ns))

    def _follow(self, pose: FragmentPose, optical_from_base: np.ndarray | None) -> None:
        """Move the odometry to a pose, and queue its edges."""
        if optical_from_base is None:
            child_frame, optical_from_base = pose.frame_id, np.eye(4)
        else:
            child_frame, self._has_base = self._config.base_frame, True
            if not self._odometer.has_begun:
                start = self._tree.lookup_nearest(
                    self._config.odom_frame, pose.frame_id, pose.stamp_ns)
                if start is not None:
                    self._odometer.begin_at(start)
        motion = self._odometer.move(pose, child_frame, optical_from_base)
        self.moved(motion)
        self._note_parent(pose.frame_id)
        if self._config.publish_tf == 'auto':
            self._reconsider()
        if self._role != 'none':
            self._queue(self._placed, _Placed(pose, motion), self._config.odom_frame,
                        self._config.base_frame)

    def _note_parent(self, optical_frame: str) -> None:
        """Restore the camera's static parent in the buffers of others, if it came late.

        A moving transform to a frame makes tf2 forget a static one to the same frame. Another
        node may have received one of the camera's broadcasts after the robot's transform.
        """
        if self._sent_optical and self._tree.parents_of(optical_frame):
            self._sent_optical = False
            edge = self._tree.static_edge(optical_frame)
            if edge is not None:
                self._restore(edge)

    def _reconsider(self) -> None:
        """Change the role that `auto` means, if TF shows more of the robot than before."""
        names = self._config
        if not self._has_base:
            role = 'camera'
            reason = f'TF does not connect {names.base_frame} with this camera'
        elif self._tree.lookup(names.odom_frame, names.base_frame, None) is None:
            role, reason = 'base', f'TF has no frame {names.odom_frame}'
        else:
            role, reason = 'odom', 'the robot has odometry'
        if self._role == 'auto' or ROLES.index(role) > ROLES.index(self._role):
            logger.info('publish_tf: %s, since %s', role, reason)
            self._role, self._is_broadcasting = role, False

    def _send(self, placed: _Placed) -> bool:
        """Broadcast the edges of a pose; return whether it is settled, sent or not."""
        names, pose, motion = self._config, placed.pose, placed.motion
        if pose.frame_id.removeprefix('/') in ('', names.map_frame, names.odom_frame):
            self._is_broadcasting = False
            self._warn(f'the images are in frame {pose.frame_id!r}, which is not one of a camera; '
                       'set the parameter optical_frame')
            return True
        if self._role != 'camera' and motion.child_frame != names.base_frame:
            self._warn(f'TF does not connect {names.base_frame} with {pose.frame_id}')
            return True
        if self._role == 'camera' and self._tree.knows(names.odom_frame):
            # The robot would seem to be where the camera began.
            self._is_broadcasting = False
            self._warn(f'another node uses the frame {names.odom_frame}, and TF does not connect '
                       f'{names.base_frame} with {pose.frame_id}: publish the mount of the '
                       'camera, or set odom_frame to a frame of its own')
            return True
        if self._role == 'odom':
            odom_from_camera = self._tree.lookup(names.odom_frame, pose.frame_id, pose.stamp_ns)
            if odom_from_camera is None:
                return False
            below = []
        else:
            odom_from_camera = motion.odom_from_camera
            below = [Edge(names.odom_frame, pose.frame_id, odom_from_camera)
                     if self._role == 'camera'
                     else Edge(names.odom_frame, names.base_frame, motion.odom_from_child)]
        map_from_odom = self._connect(pose, odom_from_camera)
        if pose.stamp_ns > self._anchor_ns:
            self._anchor, self._anchor_ns = (pose, odom_from_camera), pose.stamp_ns
            self._map_from_odom = map_from_odom
            self._held = (below[0], pose.stamp_ns) if below else None
        self._is_broadcasting = self._try_broadcast(
            [*self._above(map_from_odom), *below], pose.stamp_ns)
        self._sent_optical |= self._is_broadcasting and self._role == 'camera'
        return True

    def _above(self, map_from_odom: np.ndarray) -> list[Edge]:
        """Return the edge above `odom`; none while the camera's place in the map is unknown."""
        if not self._is_located:
            return []
        return [Edge(self._config.map_frame, self._config.odom_frame, map_from_odom)]

    def _connect(self, pose: FragmentPose, odom_from_camera: np.ndarray) -> np.ndarray:
        """Return `map_from_odom` [4, 4] by a pose of the camera in both."""
        return self._odometer.in_map(pose).world_from_camera @ invert(odom_from_camera)

    def _try_broadcast(self, edges: list[Edge], stamp_ns: int) -> bool:
        """Broadcast edges, or warn and return false if one of them must not be."""
        edges = [self._inverted(edge) for edge in edges]
        for fault in filter(None, map(self._fault, edges)):
            self._warn(fault)
            return False
        for edge in edges:
            self._tree.announce(edge.parent, edge.child, stamp_ns)
        if edges:
            self._broadcast(edges, stamp_ns)
        return True

    def _inverted(self, edge: Edge) -> Edge:
        if not self._config.invert_tf:
            return edge
        return Edge(edge.child, edge.parent, invert(edge.parent_from_child))

    def _fault(self, edge: Edge) -> str:
        """Return the reason why an edge must not be broadcast, or an empty text."""
        others = self._tree.parents_of(edge.child) - {edge.parent}
        if others:
            return (f'{edge.child} has the parent {min(others)} already: no transform '
                    f'{edge.parent} -> {edge.child}')
        if self._tree.is_foreign(edge.parent, edge.child):
            return (f'another node publishes {edge.parent} -> {edge.child}: this one does not. '
                    'Its map has other coordinates than that of a localisation: give it a name of '
                    'its own (map_frame) below odom (invert_tf), or the poses of the localisation '
                    '(pose_source: tf), or set publish_tf to none; or stop the other node and '
                    'configure again')
        if edge.child in self._tree.ancestors_of(edge.parent):
            return f'{edge.parent} is below {edge.child} already: no transform between them'
        return ''
