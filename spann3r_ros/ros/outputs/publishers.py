# SPDX-License-Identifier: Apache-2.0
"""The publishers of the mapper node; a message without subscribers is not even built."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.messages import to_nanoseconds
from spann3r_ros.core.transforms import (
    rounding_warning,
    similarity_scale,
)
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.msg import MapperStatus
from spann3r_ros.pipeline.frame_roles import FrameRoles
from spann3r_ros.pipeline.node_settings import Settings
from spann3r_ros.pipeline.odometer import Motion
from spann3r_ros.ros import conversions

from .latched_views import LatchedGrid, LatchedViews

STREAM_DEPTH = 5
# What `qos_overrides.` parameters may change.
STREAM_POLICIES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
LATCHED_POLICIES = (*STREAM_POLICIES, QoSPolicyKind.DURABILITY)


class MapPublishers:
    """Created at configure, silent until the node is active, destroyed at cleanup.

    All methods but `publish_status` are called on the worker thread; odometry is published by the
    thread that `FrameRoles` runs on. Map, path and graph are
    latched and throttled. `refresh` publishes them later if the throttle or a missing subscriber
    prevented it. `failed` is called, on any thread, if that fails.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, roles: FrameRoles,
                 failed: Callable[[Exception], None]) -> None:
        self._node = node
        self._roles = roles
        roles.moved = self._publish_odometry
        self._solved = settings.node.pose_source == 'images'
        self._map_frame = settings.node.map_frame
        self._odom_frame = settings.node.odom_frame
        self._max_cloud_bytes = settings.node.max_cloud_bytes
        self._min_confidence = settings.mapper.voxel_map.min_confidence
        self._managed: list[LifecyclePublisher] = []
        self._points = self._stream(PointCloud2, '~/points')
        self._confidence = self._stream(Image, '~/confidence')
        self._depth = self._stream(Image, '~/depth/image_rect')
        self._depth_info = self._stream(CameraInfo, '~/depth/camera_info')
        self._depth_points = self._stream(PointCloud2, '~/depth/points')
        # Deprecated, to be removed in the next release.
        self._former_depth = self._stream(Image, '~/depth')
        self._warned_of_former_depth = False
        self._pose = self._stream(PoseWithCovarianceStamped, '~/pose')
        self._odometry = self._stream(Odometry, '~/odometry')
        self._views = LatchedViews(
            self._latched(PointCloud2, '~/map_points'), self._latched(Path, '~/path'),
            self._latched(MarkerArray, '~/graph'), settings.node.map_publish_period_sec,
            self._max_cloud_bytes, failed)
        grid = self._latched(OccupancyGrid, '~/map')
        self._grid_topic = grid.topic_name
        self._grid = LatchedGrid(grid, self._views.executor, settings.mapper.grid.period_sec,
                                 failed, self._log_grid)
        # Not managed by the lifecycle: an inactive node publishes its status too.
        self._status = node.create_publisher(
            MapperStatus, '~/status', QoSProfile(depth=10),
            qos_overriding_options=QoSOverridingOptions(STREAM_POLICIES))
        self._places: Mapping[int, np.ndarray] = {}
        self._unlocated: frozenset[int] = frozenset()
        self._voxel_size = 0.0
        self._warned_of_rounding = False
        self._stamp_ns = 0
        self._pose_stamp_ns = -1

    def configure(self, settings: Settings) -> None:
        """Use other periods of map, path and grid, and another size of clouds.

        Map and grid are then published once more, because their cells may be selected otherwise.
        """
        config = settings.node
        self._max_cloud_bytes = config.max_cloud_bytes
        self._min_confidence = settings.mapper.voxel_map.min_confidence
        self._views.configure(config.map_publish_period_sec, config.max_cloud_bytes)
        self._grid.configure(settings.mapper.grid.period_sec)
        self._change()

    def publish(self, update: MapUpdate, mapper: Mapper) -> None:
        """Publish the results of one frame."""
        self._places, self._unlocated = update.places, update.unlocated
        self._roles.take_places(update.places, update.located)
        self._voxel_size = mapper.voxel_size
        for keyframe in update.keyframes:
            self._publish_keyframe(keyframe)
        if update.live_pose is not None:
            self._publish_pose(update.live_pose)
        if update.keyframes or update.moved:
            self._change()
            self.refresh(mapper)

    def refresh(self, mapper: Mapper, force: bool = False) -> None:
        """Publish map, path and grid if they changed, are due and have subscribers.

        With `force`, they are published if they changed.
        """
        if self._pose.is_activated:
            self._roles.send_waiting()
        stamp_ns = self._stamp_ns or self._now_ns()
        if stamp_ns:
            header = conversions.to_header(stamp_ns, self._map_frame)
            self._views.refresh(mapper, header, force)
            self._grid.refresh(mapper, header, force)

    def pause(self, mapper: Mapper) -> None:
        """Publish the last state of the map; drop the poses that wait for TF."""
        self.refresh(mapper, force=True)
        self._roles.clear_waiting()

    def begin(self, mapper: Mapper) -> None:
        """Publish a new map and path, empty or loaded; the odometry does not jump."""
        self._roles.restart(mapper.is_located)
        self._pose_stamp_ns = -1
        self._voxel_size, self._warned_of_rounding = mapper.voxel_size, False
        self._change()
        self.refresh(mapper, force=True)

    def follow_jump(self, stamp_ns: int) -> None:
        """Continue at a stamp to which the images have jumped: map and path get this one."""
        self._stamp_ns, self._pose_stamp_ns = stamp_ns, -1
        self._roles.follow_jump()
        self._change()

    @property
    def grid_missing(self) -> str:
        """Return why the last try to publish the grid did not, or an empty text."""
        return self._grid.missing

    def publish_status(self, build: Callable[[], MapperStatus]) -> None:
        """Publish the status that `build` returns, whether the node is active or not.

        `build` is called only for a subscriber. Before the first frame the status has the node's
        time. While that is zero, before the clock of a simulation starts, none is published.
        """
        if not self._status.get_subscription_count():
            return
        status = build()
        stamp_ns = to_nanoseconds(status.header.stamp) or self._now_ns()
        if stamp_ns:
            status.header.stamp = conversions.to_stamp(stamp_ns)
            self._status.publish(status)

    def destroy(self) -> None:
        """Destroy every publisher."""
        self._views.destroy()
        for publisher in self._managed:
            self._node.destroy_lifecycle_publisher(publisher)
        self._node.destroy_publisher(self._status)

    def _publish_keyframe(self, keyframe: Keyframe) -> None:
        self._stamp_ns = keyframe.stamp_ns
        place = self._places[keyframe.fragment_id]
        map_header = conversions.to_header(keyframe.stamp_ns, self._map_frame)
        image_header = conversions.to_header(keyframe.stamp_ns, keyframe.frame_id)
        if _has_subscribers(self._points) and keyframe.fragment_id not in self._unlocated:
            self._points.publish(conversions.keyframe_cloud(
                keyframe, place, map_header, self._max_cloud_bytes))
            self._warn_of_rounding(keyframe, place)
        if _has_subscribers(self._confidence):
            self._confidence.publish(
                conversions.to_float_image(keyframe.confidence, image_header))
        if keyframe.pose is None:
            return
        self._publish_pose(keyframe.pose)
        depths = [one for one in (self._depth, self._former_depth) if _has_subscribers(one)]
        if depths:
            depth = conversions.to_float_image(
                keyframe.depth * np.float32(similarity_scale(place)), image_header)
            for publisher in depths:
                publisher.publish(depth)
            self._warn_of_former_depth(self._former_depth in depths)
        if _has_subscribers(self._depth_points):
            self._depth_points.publish(conversions.camera_cloud(
                keyframe, similarity_scale(place), self._min_confidence, image_header,
                self._max_cloud_bytes))
        if _has_subscribers(self._depth_info):
            self._depth_info.publish(
                conversions.to_camera_info(keyframe.intrinsics, image_header))

    def _change(self) -> None:
        self._views.change()
        self._grid.change()

    def _log_grid(self, missing: str) -> None:
        if missing:
            self._node.get_logger().info(f'{self._grid_topic} is not published: {missing}')
        else:
            self._node.get_logger().info(f'{self._grid_topic} is published')

    def _warn_of_former_depth(self, is_used: bool) -> None:
        if is_used and not self._warned_of_former_depth:
            self._warned_of_former_depth = True
            self._node.get_logger().warning(
                f'the topic {self._former_depth.topic_name} is deprecated: subscribe to '
                f'{self._depth.topic_name}, which has its camera_info beside it')

    def _warn_of_rounding(self, keyframe: Keyframe, place: np.ndarray) -> None:
        """Write a warning to the log, once for a map, if its clouds are too coarse."""
        pose = keyframe.pose_in(place)
        if pose is None or self._warned_of_rounding or not self._voxel_size:
            return
        warning = rounding_warning(pose.world_from_camera[:3, 3], self._voxel_size)
        if warning:
            self._node.get_logger().warning(warning)
        self._warned_of_rounding = bool(warning)

    def _publish_pose(self, located: FragmentPose) -> None:
        pose = located.in_map(self._places[located.fragment_id])
        # The pose of a keyframe follows the live pose of the same frame. One pose is published
        # for each stamp.
        if pose.stamp_ns <= self._pose_stamp_ns or not self._pose.is_activated:
            return
        self._pose_stamp_ns = pose.stamp_ns
        if _has_subscribers(self._pose) and located.fragment_id not in self._unlocated:
            self._pose.publish(conversions.to_pose_with_covariance(pose, self._map_frame))
        # A pose that was received from TF is not published again as an own measurement.
        if not self._solved:
            return
        self._roles.take(located)

    def _publish_odometry(self, motion: Motion) -> None:
        if _has_subscribers(self._odometry):
            self._odometry.publish(conversions.to_odometry(motion, self._odom_frame))

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _stream(self, kind: type, topic: str) -> LifecyclePublisher:
        return self._create(kind, topic, QoSProfile(depth=STREAM_DEPTH), STREAM_POLICIES)

    def _latched(self, kind: type, topic: str) -> LifecyclePublisher:
        return self._create(
            kind, topic, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
            LATCHED_POLICIES)

    def _create(self, kind: type, topic: str, qos: QoSProfile,
                policies: Sequence[QoSPolicyKind]) -> LifecyclePublisher:
        publisher = self._node.create_lifecycle_publisher(
            kind, topic, qos, qos_overriding_options=QoSOverridingOptions(policies))
        self._managed.append(publisher)
        return publisher


def _has_subscribers(publisher: LifecyclePublisher) -> bool:
    return publisher.is_activated and publisher.get_subscription_count() > 0
