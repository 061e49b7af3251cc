# SPDX-License-Identifier: Apache-2.0
"""The subscription to initialpose: where a user says that the robot is in the map."""
from __future__ import annotations

from collections.abc import Callable

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from spann3r_ros.mapping.relocalisation.hint import HintError

TOPIC = 'initialpose'
DEPTH = 1


class InitialPose:
    """Passes each pose in the frame of the map to `take`, and the fault of others to `refuse`."""

    def __init__(self, node: LifecycleNode, map_frame: str,
                 take: Callable[[PoseWithCovarianceStamped], None],
                 refuse: Callable[[str], None]) -> None:
        self._node, self._map_frame = node, map_frame
        self._take, self._refuse = take, refuse
        self._subscription = node.create_subscription(
            PoseWithCovarianceStamped, TOPIC, self._check, QoSProfile(depth=DEPTH))

    def destroy(self) -> None:
        """Destroy the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _check(self, message: PoseWithCovarianceStamped) -> None:
        frame = message.header.frame_id.removeprefix('/')
        if frame != self._map_frame:
            self._refuse(f'initialpose: expected a pose in the frame {self._map_frame}, got one '
                         f'in {frame!r}')
            return
        try:
            self._take(message)
        except HintError as error:
            self._refuse(str(error))
