# SPDX-License-Identifier: Apache-2.0
"""Map, path and graph: latched topics, whose messages are made on a separate thread."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any

from rclpy.lifecycle import LifecyclePublisher
from std_msgs.msg import Header

from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.ros import conversions

from .graph_markers import graph_markers

# Map and path grow, and so does the time to publish them. The pause between two messages is made
# longer, so that publishing takes at most this share of the time.
REFRESH_SHARE = 0.05


class LatchedViews:
    """Publishes ~/map_points, ~/path and ~/graph from snapshots of the map.

    The methods are called on the worker thread, which only takes the snapshots. A change counts as
    published once its message was sent. `failed` is called with an exception on another thread.
    """

    def __init__(self, cloud: LifecyclePublisher, path: LifecyclePublisher,
                 graph: LifecyclePublisher, period_sec: float, max_cloud_bytes: int,
                 failed: Callable[[Exception], None]) -> None:
        self._cloud, self._path, self._graph = cloud, path, graph
        self.configure(period_sec, max_cloud_bytes)
        self._failed = failed
        self._executor = ThreadPoolExecutor(1, 'map_views')
        self._running: Future | None = None
        self._version = 0  # of the map
        self._published = {cloud: 0, path: 0, graph: 0}
        self._ended_sec = float('-inf')

    def configure(self, period_sec: float, max_cloud_bytes: int) -> None:
        """Use another period and another size of clouds."""
        self._period_sec = self._rest_sec = period_sec
        self._max_cloud_bytes = max_cloud_bytes

    def change(self) -> None:
        """Record that the map has changed."""
        self._version += 1

    def refresh(self, mapper: Mapper, header: Header, force: bool = False) -> None:
        """Publish map, path and graph if they changed, are due and have subscribers.

        With `force`, they are published if they changed, before this method returns.
        """
        due = self._due(force)
        if not due:
            return
        take = {self._cloud: mapper.snapshot, self._path: mapper.path, self._graph: mapper.graph}
        snapshots = {one: take[one]() for one in due}
        self._running = self._executor.submit(
            self._publish, snapshots, mapper.voxel_map.voxel_size, header, self._version)
        if force:
            self._running.result()

    def destroy(self) -> None:
        """End the thread after the message in progress."""
        self._executor.shutdown()

    def _due(self, force: bool) -> list[LifecyclePublisher]:
        if self._running is not None and not self._running.done():
            if not force:
                return []
            self._running.result()
        if not force and monotonic() - self._ended_sec < self._rest_sec:
            return []
        return [one for one in self._published
                if one.is_activated and self._published[one] != self._version
                and (force or one.get_subscription_count() > 0)]

    def _publish(self, snapshots: Mapping[LifecyclePublisher, Any], voxel_size: float,
                 header: Header, version: int) -> None:
        began_sec = monotonic()
        try:
            for publisher, snapshot in snapshots.items():
                if publisher is self._cloud:
                    message = conversions.map_cloud(snapshot.cloud(), header,
                                                    self._max_cloud_bytes)
                elif publisher is self._path:
                    message = conversions.serialized_path(snapshot, header)
                else:
                    message = graph_markers(snapshot, voxel_size, header)
                publisher.publish(message)
                self._published[publisher] = version
        # The map stays unpublished and is tried again; the owner reports the error.
        except Exception as error:
            self._failed(error)
        self._ended_sec = monotonic()
        if self._period_sec:
            took_sec = self._ended_sec - began_sec
            self._rest_sec = max(self._period_sec, took_sec / REFRESH_SHARE)
