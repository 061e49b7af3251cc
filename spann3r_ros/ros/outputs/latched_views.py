# SPDX-License-Identifier: Apache-2.0
"""Map, path, graph and grid: latched topics, whose messages are made on a separate thread."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

import numpy as np
from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import LifecyclePublisher
from std_msgs.msg import Header

from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.occupancy.occupancy_grid import UNKNOWN, Grid, GridView, NoFloorError
from spann3r_ros.ros import conversions

from .graph_markers import graph_markers

# Map and path grow, and so does the time to publish them. The pause between two messages is made
# longer, so that publishing takes at most this share of the time.
REFRESH_SHARE = 0.05


# Makes a message; None if there is nothing to publish.
Build = Callable[[], object | None]


class LatchedTopics:
    """Publishes views of the map, if they changed and are due, on the thread of an executor.

    The methods are called on the worker thread, where `_prepare` takes the snapshots. A change
    counts as published once its message was sent. `failed` is called with an exception on another
    thread.
    """

    def __init__(self, publishers: Sequence[LifecyclePublisher], executor: ThreadPoolExecutor,
                 period_sec: float, failed: Callable[[Exception], None]) -> None:
        self._executor, self._failed = executor, failed
        self._period_sec = self._rest_sec = period_sec
        self._running: Future | None = None
        self._version = 0  # of the map
        self._published = dict.fromkeys(publishers, 0)
        self._ended_sec = float('-inf')

    def change(self) -> None:
        """Record that the map has changed."""
        self._version += 1

    def refresh(self, mapper: Mapper, header: Header, force: bool = False) -> None:
        """Publish what changed, is due and has subscribers.

        With `force`, it is published if it changed, before this method returns.
        """
        due = self._due(force)
        builds = self._prepare(mapper, header, due) if due else {}
        if not builds:
            return
        self._running = self._executor.submit(self._publish, builds, self._version)
        if force:
            self._running.result()

    def _prepare(self, mapper: Mapper, header: Header,
                 due: Sequence[LifecyclePublisher]) -> dict[LifecyclePublisher, Build]:
        """Return what makes the messages of publishers, from snapshots of the map."""
        raise NotImplementedError

    def _set_period(self, period_sec: float) -> None:
        self._period_sec = self._rest_sec = period_sec

    def _due(self, force: bool) -> list[LifecyclePublisher]:
        if self._running is not None and not self._running.done():
            if not force:
                return []
            self._running.result()
        if not force and monotonic() - self._ended_sec < self._rest_sec:
            return []
        return [one for one, published in self._published.items()
                if one.is_activated and published != self._version
                and (force or one.get_subscription_count() > 0)]

    def _publish(self, builds: dict[LifecyclePublisher, Build], version: int) -> None:
        began_sec = monotonic()
        try:
            for publisher, build in builds.items():
                message = build()
                if message is not None:
                    publisher.publish(message)
                self._published[publisher] = version
        # The map stays unpublished and is tried again; the owner reports the error.
        except Exception as error:
            self._failed(error)
        self._ended_sec = monotonic()
        if self._period_sec:
            took_sec = self._ended_sec - began_sec
            self._rest_sec = max(self._period_sec, took_sec / REFRESH_SHARE)


class LatchedViews(LatchedTopics):
    """Publishes ~/map_points, ~/path and ~/graph."""

    def __init__(self, cloud: LifecyclePublisher, path: LifecyclePublisher,
                 graph: LifecyclePublisher, period_sec: float, max_cloud_bytes: int,
                 failed: Callable[[Exception], None]) -> None:
        self.executor = ThreadPoolExecutor(1, 'map_views')
        super().__init__((cloud, path, graph), self.executor, period_sec, failed)
        self._cloud, self._path, self._graph = cloud, path, graph
        self._max_cloud_bytes = max_cloud_bytes

    def configure(self, period_sec: float, max_cloud_bytes: int) -> None:
        """Use another period and another size of clouds."""
        self._set_period(period_sec)
        self._max_cloud_bytes = max_cloud_bytes

    def destroy(self) -> None:
        """End the thread after the message in progress."""
        self.executor.shutdown()

    def _prepare(self, mapper: Mapper, header: Header,
                 due: Sequence[LifecyclePublisher]) -> dict[LifecyclePublisher, Build]:
        builds: dict[LifecyclePublisher, Build] = {}
        if self._cloud in due:
            snapshot, most = mapper.snapshot(), self._max_cloud_bytes
            builds[self._cloud] = lambda: conversions.map_cloud(snapshot.cloud(), header, most)
        if self._path in due:
            path = mapper.path()
            builds[self._path] = lambda: conversions.serialized_path(path, header)
        if self._graph in due:
            graph, size = mapper.graph(), mapper.voxel_size
            builds[self._graph] = lambda: graph_markers(graph, size, header)
        return builds


class LatchedGrid(LatchedTopics):
    """Publishes ~/map; `changed` is called with the reason why not, or with an empty text.

    `missing` is what only a try to compute the grid finds, or empty. A grid that was sent is
    replaced by one unknown cell when the map has none any more. `changed` is called on the
    executor's thread or that of the worker.
    """

    def __init__(self, grid: LifecyclePublisher, executor: ThreadPoolExecutor, period_sec: float,
                 failed: Callable[[Exception], None], changed: Callable[[str], None]) -> None:
        super().__init__((grid,), executor, period_sec, failed)
        self._grid, self._changed = grid, changed
        self._view = GridView()
        self.missing = self._noted = ''
        self._is_sent = False

    def configure(self, period_sec: float) -> None:
        """Use another period."""
        self._set_period(period_sec)

    def _prepare(self, mapper: Mapper, header: Header,
                 due: Sequence[LifecyclePublisher]) -> dict[LifecyclePublisher, Build]:
        if mapper.grid_reason:
            self._note(mapper.grid_reason)
            if not self._is_sent:
                return {}
            self._is_sent = False
            blank = Grid(np.full((1, 1), UNKNOWN, np.int8),
                         mapper.grid_snapshot().config.cell_size, (0.0, 0.0, 0.0))
            return {self._grid: lambda: conversions.to_occupancy_grid(blank, header)}
        snapshot = mapper.grid_snapshot()

        def build() -> OccupancyGrid | None:
            try:
                grid = self._view(snapshot)
            except NoFloorError as error:
                self._note(str(error), str(error))
                return None
            self._note('')
            self._is_sent |= bool(grid.values.size)
            return conversions.to_occupancy_grid(grid, header) if grid.values.size else None
        return {self._grid: build}

    def _note(self, reason: str, missing: str = '') -> None:
        self.missing = missing
        if reason != self._noted:
            self._noted = reason
            self._changed(reason)
