# SPDX-License-Identifier: Apache-2.0
"""A node that shows the mapper's topics in a browser: map, path, camera and image as they grow.

It is a process of its own. While a page is open, it keeps the newest message of each topic, and
looks at them twice a second. Without a page it has no subscription.
"""
from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Path
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import quaternion_to_matrix
from spann3r_ros.core.types import FrameError
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.msg import MapperStatus
from spann3r_ros.viewer.live_feed import to_camera
from spann3r_ros.viewer.live_server import PORT, LiveServer, PortError
from spann3r_ros.viewer.map_scene import MapScene

from . import conversions
from .inputs.images import to_rgb
from .inputs.subscriptions import COMPRESSED

PERIOD_SEC = 0.5
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class LiveViewNode(Node):
    """Passes the newest messages of a mapper to a page; topics are relative to the namespace."""

    def __init__(self, **options: object) -> None:
        """Take the options of a node; raise PortError for a port that cannot be used."""
        super().__init__('live_view', **options)
        self.declare_parameter('port', PORT)
        self._newest: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._followed: dict[str, Subscription] = {}
        try:
            self.server = LiveServer(self.get_parameter('port').value)
        except PortError:
            self.destroy_node()
            raise
        self.create_timer(PERIOD_SEC, self._look)
        self.get_logger().info(f'live view: {self.server.url}')

    def destroy_node(self) -> None:
        """End the server, then the node."""
        if hasattr(self, 'server'):
            self.server.end()
            self.server.close()
        super().destroy_node()

    def _keep(self, kind: type, name: str, topic: str, profile: QoSProfile) -> None:
        self._followed[name] = self.create_subscription(
            kind, topic, lambda message: self._newest.update({name: message}), profile)

    def _follow(self) -> None:
        """Subscribe to what the page shows; to the images once another node publishes them."""
        if not self._followed:
            for kind, name, profile in (
                    (PointCloud2, 'map_points', LATCHED), (Path, 'path', LATCHED),
                    (PoseWithCovarianceStamped, 'pose', NEWEST), (MapperStatus, 'status', NEWEST)):
                self._keep(kind, name, f'mapper/{name}', profile)
        topic = self.resolve_topic_name('image').removesuffix(COMPRESSED)
        for kind, name in ((CompressedImage, topic + COMPRESSED), (Image, topic)):
            if 'image' not in self._followed and self.count_publishers(name):
                self._keep(kind, 'image', name, NEWEST)

    def _look(self) -> None:
        if not self.server.is_watched:
            for one in self._followed.values():
                self.destroy_subscription(one)
            self._followed.clear()
            return
        self._follow()
        for names, show in ((('map_points', 'path'), self._show_map),
                            (('image', 'pose'), self._show_camera),
                            (('status',), self._show_status)):
            found = [self._newest.get(name) for name in names]
            if any(one is not self._shown.get(name)
                   for one, name in zip(found, names, strict=True)):
                self._shown.update(zip(names, found, strict=True))
                show(*found)

    def _show_map(self, cloud: PointCloud2 | None, path: Path | None) -> None:
        points = VoxelCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8),
                            np.zeros(0, np.float32))
        if cloud is not None:
            points = conversions.from_cloud(cloud)
        places = [] if path is None else [one.pose.position for one in path.poses]
        positions = np.array([(one.x, one.y, one.z) for one in places]).reshape(-1, 3)
        self.server.show_map(MapScene(points, positions, np.zeros(len(positions), int),
                                      np.zeros((0, 2, 3)), ()))

    def _show_camera(self, image: Image | CompressedImage | None,
                     pose: PoseWithCovarianceStamped | None) -> None:
        if image is None:
            return
        try:
            rgb = to_rgb(image)
        except FrameError as error:
            self.get_logger().warning(f'an image is not shown: {error}', once=True)
            return
        self.server.show_camera(to_camera(None if pose is None else to_matrix(pose), rgb,
                                          field_of_view(rgb)))

    def _show_status(self, status: MapperStatus) -> None:
        self.server.show_counts([
            ('state', status.phase), ('images', f'{status.frames_received:,}'),
            ('processed', f'{status.frames_processed:,}'),
            ('dropped', f'{status.frames_dropped:,}'), ('voxels', f'{status.voxels:,}'),
            ('fragments', str(status.fragments)), ('loops', str(status.loops_accepted))])


def field_of_view(rgb: np.ndarray) -> Intrinsics:
    """Return intrinsics to draw a camera with: square pixels, 60 degrees across."""
    height, width = rgb.shape[:2]
    focal = width / (2 * np.tan(np.radians(30.0)))
    return Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def to_matrix(pose: PoseWithCovarianceStamped) -> np.ndarray:
    """Return a pose as a rigid transform [4, 4]."""
    place, turn = pose.pose.pose.position, pose.pose.pose.orientation
    matrix = np.eye(4)
    matrix[:3, :3] = quaternion_to_matrix((turn.x, turn.y, turn.z, turn.w))
    matrix[:3, 3] = place.x, place.y, place.z
    return matrix


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until a signal; return the exit status."""
    rclpy.init(args=args)
    try:
        node = LiveViewNode()
        try:
            rclpy.spin(node)
        finally:
            node.destroy_node()
    except PortError as error:
        sys.stderr.write(f'live_view: {error}\n')
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
