# SPDX-License-Identifier: Apache-2.0
"""The node's place in the tree of coordinate frames."""
from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from tf2_ros import TransformBroadcaster

from spann3r_ros.mapping.types import StampedPose

from .conversions import to_transform

WARNING_PERIOD_SEC = 10.0


class CameraBroadcaster:
    """Broadcasts the transform from the map frame to the camera's optical frame."""

    def __init__(self, node: LifecycleNode, map_frame: str) -> None:
        self._node = node
        self._map_frame = map_frame
        self._broadcaster = TransformBroadcaster(node)

    def send(self, pose: StampedPose) -> None:
        """Broadcast a camera pose, unless the frames' names make it no transform; then warn."""
        if pose.frame_id in ('', self._map_frame):
            self._node.get_logger().warning(
                f'no transform: the images are in frame {pose.frame_id!r} of map frame '
                f'{self._map_frame!r}; set the parameter optical_frame',
                throttle_duration_sec=WARNING_PERIOD_SEC)
            return
        self._broadcaster.sendTransform(to_transform(pose, self._map_frame))

    def destroy(self) -> None:
        """Take the publisher away from the node."""
        self._node.destroy_publisher(self._broadcaster.pub_tf)
