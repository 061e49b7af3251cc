# SPDX-License-Identifier: Apache-2.0
"""The edges of the transform tree that the node broadcasts (REP-105)."""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import StampedPose

from .node_settings import NodeConfig
from .odometer import Odometer
from .transform_tree import TransformTree

# Most poses that wait for the robot's odometry at their stamp.
MAX_WAITING = 50

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Edge:
    """A transform [4, 4] of the tree: the pose of the child's frame in the parent's."""

    parent: str
    child: str
    parent_from_child: np.ndarray


class FrameRoles:
    """Turns camera poses into the edges that the parameter publish_tf selects.

    An edge is not broadcast if its child has another parent, if it has another publisher, or if it
    would close a loop; `warn` is then called with the reason. `broadcast` is called with the edges
    of one pose and their stamp.
    """

    def __init__(self, config: NodeConfig, tree: TransformTree,
                 broadcast: Callable[[list[Edge], int], None],
                 warn: Callable[[str], None]) -> None:
        self._config = config
        self._tree = tree
        self._broadcast = broadcast
        self._warn = warn
        self.odometer = Odometer()
        self._waiting: deque[StampedPose] = deque(maxlen=MAX_WAITING)
        self._publish = config.publish_tf

    def base_in(self, optical_frame: str) -> np.ndarray | None:
        """Return `optical_from_base` [4, 4]; None if TF does not connect camera and robot."""
        return self._tree.lookup(optical_frame, self._config.base_frame, None)

    def odometry_at(self, stamp_ns: int | None) -> np.ndarray | None:
        """Return the robot's own `odom_from_base` [4, 4] at a stamp; None: the newest."""
        return self._tree.lookup(self._config.odom_frame, self._config.base_frame, stamp_ns)

    def send(self, pose: StampedPose) -> None:
        """Broadcast the edges for a camera pose, and those that wait for the robot's odometry."""
        if pose.frame_id in ('', self._config.map_frame):
            self._warn(f'the images are in frame {pose.frame_id!r} of map frame '
                       f'{self._config.map_frame!r}; set the parameter optical_frame')
            return
        if self._config.publish_tf == 'auto' and self._is_to_decide():
            self._publish = self._decide(pose)
        if self._publish == 'none':
            return
        if len(self._waiting) == MAX_WAITING:
            self._warn(f'{MAX_WAITING} poses wait for {self._config.odom_frame} -> '
                       f'{self._config.base_frame} on TF at their stamps: the oldest is dropped')
        self._waiting.append(pose)
        self.send_waiting()

    def send_waiting(self) -> None:
        """Broadcast the waiting poses whose odometry has come."""
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
                continue
            for edge in edges:
                self._tree.announce(edge.parent, edge.child, pose.stamp_ns)
            self._broadcast(edges, pose.stamp_ns)

    def clear_waiting(self) -> None:
        """Drop the waiting poses, because their map was replaced."""
        self._waiting.clear()

    def _is_to_decide(self) -> bool:
        """Return whether `auto` must be decided: for the first time, or again.

        It is decided again if the robot turns out to publish its own odometry.
        """
        names = self._config
        return self._publish == 'auto' or (self._publish == 'base' and self._tree.is_foreign(
            names.odom_frame, names.base_frame))

    def _decide(self, pose: StampedPose) -> str:
        """Return the role that `auto` means on this robot, by the transforms received so far."""
        if self.base_in(pose.frame_id) is None:
            chosen = 'camera'
            reason = f'TF does not connect {self._config.base_frame} with this camera'
        elif self.odometry_at(None) is None:
            chosen, reason = 'base', f'TF has no frame {self._config.odom_frame}'
        else:
            chosen, reason = 'odom', 'the robot has odometry'
        logger.info('publish_tf: %s, since %s', chosen, reason)
        return chosen

    def _edges(self, pose: StampedPose) -> list[Edge] | None:
        """Return the edges to broadcast for a pose; None while a transform is missing."""
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
        """Return the reason why an edge must not be broadcast, or an empty text."""
        others = self._tree.parents_of(edge.child) - {edge.parent}
        if others:
            return (f'{edge.child} has the parent {min(others)} already: no transform '
                    f'{edge.parent} -> {edge.child}')
        if self._tree.is_foreign(edge.parent, edge.child):
            return (f'another node publishes {edge.parent} -> {edge.child}: no transform between '
                    'them; set publish_tf to none, or stop the other node and configure again')
        if edge.child in self._tree.ancestors_of(edge.parent):
            return f'{edge.parent} is below {edge.child} already: no transform between them'
        return ''
