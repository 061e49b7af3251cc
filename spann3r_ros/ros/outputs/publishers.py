# SPDX-License-Identifier: Apache-2.0
"""The publishers of the mapper node; a message without subscribers is not even built."""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import monotonic

import numpy as np
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from spann3r_ros.core.keyframe import Keyframe, depth_of
from spann3r_ros.core.messages import to_nanoseconds
from spann3r_ros.core.types import FragmentPose, StampedPose
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.msg import MapperStatus
from spann3r_ros.pipeline.frame_roles import FrameRoles
from spann3r_ros.pipeline.node_settings import Settings
from spann3r_ros.pipeline.odometer import Motion
from spann3r_ros.ros import conversions

STREAM_DEPTH = 5
# Map and path grow, and so does the time to publish them. The pause between two messages is made
# longer, so that publishing takes at most this share of the time.
REFRESH_SHARE = 0.05


class MapPublishers:
    """Created at configure, silent until the node is active, destroyed at cleanup.

    All methods but `publish_status` are called on the worker thread; odometry is published by the
    thread that `FrameRoles` runs on. The map and the path are
    latched and throttled. `refresh` publishes them later if the throttle or a missing subscriber
    prevented it.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, roles: FrameRoles) -> None:
        self._node = node
        self._roles = roles
        roles.moved = self._publish_odometry
        self._solved = settings.node.pose_source == 'images'
        self._map_frame = settings.node.map_frame
        self._odom_frame = settings.node.odom_frame
        self._max_cloud_bytes = settings.node.max_cloud_bytes
        self._period_sec = settings.node.map_publish_period_sec
        self._managed: list[LifecyclePublisher] = []
        self._points = self._stream(PointCloud2, '~/points')
        self._map_points = self._latched(PointCloud2, '~/map_points')
        self._confidence = self._stream(Image, '~/confidence')
        self._depth = self._stream(Image, '~/depth')
        self._depth_info = self._stream(CameraInfo, '~/depth/camera_info')
        self._pose = self._stream(PoseWithCovarianceStamped, '~/pose')
        self._odometry = self._stream(Odometry, '~/odometry')
        self._path = self._latched(Path, '~/path')
        # Not managed by the lifecycle: an inactive node publishes its status too.
        self._status = node.create_publisher(MapperStatus, '~/status', QoSProfile(depth=10))
        self._poses: deque[PoseStamped] = deque(maxlen=settings.mapper.path_max_size)
        self._stamp_ns = 0
        self._pose_stamp_ns = -1
        self._changed = {self._map_points: False, self._path: False}
        self._refreshed_sec = float('-inf')
        self._rest_sec = self._period_sec

    def publish(self, update: MapUpdate, voxel_map: VoxelMap) -> None:
        """Publish the results of one frame."""
        for keyframe in update.keyframes:
            self._publish_keyframe(keyframe)
        if update.live_pose is not None:
            self._publish_pose(update.live_pose)
        if update.keyframes:
            self.refresh(voxel_map)

    def refresh(self, voxel_map: VoxelMap, force: bool = False) -> None:
        """Publish map and path if they changed, are due and have subscribers.

        With `force`, they are published if they changed.
        """
        if self._pose.is_activated:
            self._roles.send_waiting()
        if not force and monotonic() - self._refreshed_sec < self._rest_sec:
            return
        stamp_ns = self._stamp_ns or self._now_ns()
        if not stamp_ns:
            return
        due = [one for one in (self._map_points, self._path) if self._is_due(one, force)]
        if not due:
            return
        began_sec = monotonic()
        header = conversions.to_header(stamp_ns, self._map_frame)
        if self._map_points in due:
            self._map_points.publish(conversions.map_cloud(
                voxel_map.arrays(), header, self._max_cloud_bytes))
        if self._path in due:
            self._path.publish(Path(header=header, poses=list(self._poses)))
        self._refreshed_sec = monotonic()
        if self._period_sec:
            took_sec = self._refreshed_sec - began_sec
            self._rest_sec = max(self._period_sec, took_sec / REFRESH_SHARE)

    def pause(self, voxel_map: VoxelMap) -> None:
        """Publish the last state of the map; drop the poses that wait for TF."""
        self.refresh(voxel_map, force=True)
        self._roles.clear_waiting()

    def begin(self, voxel_map: VoxelMap, trajectory: Sequence[StampedPose] = ()) -> None:
        """Publish a new map and path, empty or loaded; the odometry does not jump."""
        self._roles.restart()
        self._poses.clear()
        self._poses.extend(
            conversions.to_pose_stamped(pose, self._map_frame) for pose in trajectory)
        self._pose_stamp_ns = -1
        self._changed = dict.fromkeys(self._changed, True)
        self.refresh(voxel_map, force=True)

    def publish_status(self, status: MapperStatus) -> None:
        """Publish a status, whether the node is active or not.

        Before the first frame it has the node's time. While that is zero, before the clock of a
        simulation starts, no status is published.
        """
        stamp_ns = to_nanoseconds(status.header.stamp) or self._now_ns()
        if stamp_ns and self._status.get_subscription_count():
            status.header.stamp = conversions.to_stamp(stamp_ns)
            self._status.publish(status)

    def destroy(self) -> None:
        """Destroy every publisher."""
        for publisher in self._managed:
            self._node.destroy_lifecycle_publisher(publisher)
        self._node.destroy_publisher(self._status)

    def _publish_keyframe(self, keyframe: Keyframe) -> None:
        self._stamp_ns = keyframe.stamp_ns
        self._changed = dict.fromkeys(self._changed, True)
        map_header = conversions.to_header(keyframe.stamp_ns, self._map_frame)
        image_header = conversions.to_header(keyframe.stamp_ns, keyframe.frame_id)
        if _has_subscribers(self._points):
            self._points.publish(conversions.keyframe_cloud(
                keyframe, map_header, self._max_cloud_bytes))
        if _has_subscribers(self._confidence):
            self._confidence.publish(
                conversions.to_float_image(keyframe.pointmap.confidence, image_header))
        if keyframe.pose is None:
            return
        self._poses.append(conversions.to_pose_stamped(keyframe.pose, self._map_frame))
        self._publish_pose(keyframe.pose)
        if _has_subscribers(self._depth):
            self._depth.publish(conversions.to_float_image(depth_of(keyframe), image_header))
        if _has_subscribers(self._depth_info):
            self._depth_info.publish(
                conversions.to_camera_info(keyframe.intrinsics, image_header))

    def _publish_pose(self, pose: StampedPose) -> None:
        # The pose of a keyframe follows the live pose of the same frame. One pose is published
        # for each stamp.
        if pose.stamp_ns <= self._pose_stamp_ns or not self._pose.is_activated:
            return
        self._pose_stamp_ns = pose.stamp_ns
        if _has_subscribers(self._pose):
            self._pose.publish(conversions.to_pose_with_covariance(pose, self._map_frame))
        # A pose that was received from TF is not published again as an own measurement.
        if not self._solved:
            return
        self._roles.take_places({0: np.eye(4)})
        self._roles.take(FragmentPose(
            pose.stamp_ns, pose.frame_id, 0, pose.world_from_camera, pose.covariance))

    def _publish_odometry(self, motion: Motion) -> None:
        if _has_subscribers(self._odometry):
            self._odometry.publish(conversions.to_odometry(motion, self._odom_frame))

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _is_due(self, publisher: LifecyclePublisher, force: bool) -> bool:
        due = (publisher.is_activated and self._changed[publisher]
               and (force or _has_subscribers(publisher)))
        if due:
            self._changed[publisher] = False
        return due

    def _stream(self, kind: type, topic: str) -> LifecyclePublisher:
        return self._create(kind, topic, QoSProfile(depth=STREAM_DEPTH))

    def _latched(self, kind: type, topic: str) -> LifecyclePublisher:
        return self._create(
            kind, topic, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))

    def _create(self, kind: type, topic: str, qos: QoSProfile) -> LifecyclePublisher:
        publisher = self._node.create_lifecycle_publisher(kind, topic, qos)
        self._managed.append(publisher)
        return publisher


def _has_subscribers(publisher: LifecyclePublisher) -> bool:
    return publisher.is_activated and publisher.get_subscription_count() > 0
