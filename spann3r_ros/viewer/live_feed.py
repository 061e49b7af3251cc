# SPDX-License-Identifier: Apache-2.0
"""Feeds a live view from a mapper of this process, without making the mapper wait."""
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.mapping.fragments.graph_view import ACCEPTED
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MappingStatus, MapUpdate
from spann3r_ros.pipeline.worker import WorkerReport

from .live_server import DEFAULT_HALF, Camera, LiveServer
from .map_scene import MapScene, small_jpeg

PERIOD_SEC = 0.5
# Preparing the points takes at most this share of the time.
SHARE = 0.05
IMAGE_PX = 320

logger = logging.getLogger(__name__)


class LiveFeed:
    """Passes map, path and camera of a mapper to a server at most twice a second.

    `deliver` and `observe` are called on the mapper's thread. They take snapshots, and only while
    a page is open; another thread encodes them. Snapshots that come meanwhile are left out.
    """

    def __init__(self, server: LiveServer, mapper: Mapper) -> None:
        self._server, self._mapper = server, mapper
        self._executor = ThreadPoolExecutor(1, 'live_feed')
        self._running: Future | None = None
        self._due_sec = self._map_due_sec = 0.0
        self._changed = False
        self._keyframe: Keyframe | None = None
        self._pose: np.ndarray | None = None

    def deliver(self, update: MapUpdate) -> None:
        """Note the results of a frame."""
        if update.keyframes:
            self._keyframe = update.keyframes[-1]
        if update.live_pose is not None:
            place = update.places[update.live_pose.fragment_id]
            self._pose = update.live_pose.in_map(place).world_from_camera
        if not update.located:
            self._pose = None
        self._changed |= bool(update.keyframes or update.moved)

    def observe(self, report: WorkerReport, status: MappingStatus) -> None:
        """Show what has changed, if it is due."""
        busy = self._running is not None and not self._running.done()
        if not busy and monotonic() >= self._due_sec and self._server.is_watched:
            self._show(report, status, self._changed and monotonic() >= self._map_due_sec)

    def finish(self, report: WorkerReport, status: MappingStatus) -> None:
        """Show the last state of the map, before this method returns."""
        if self._running is not None:
            self._running.result()
        self._show(report, status, with_map=True)
        self._running.result()
        self._server.end()

    def close(self) -> None:
        """End the thread and the server; an open page gets the last state first."""
        self._executor.shutdown()
        self._server.close()

    def _show(self, report: WorkerReport, status: MappingStatus, with_map: bool) -> None:
        self._due_sec = monotonic() + PERIOD_SEC
        build = None
        if with_map:
            self._changed = False
            snapshot, graph, scale = self._mapper.snapshot(), self._mapper.graph(), status.scale

            def build() -> MapScene:
                return MapScene(snapshot.cloud(), graph.cameras, graph.fragment_ids,
                                graph.edges[ACCEPTED], (),
                                scale.value if scale.metric else math.nan)
        accounts = report.accounts
        counts = [('state', status.phase), ('images', f'{accounts.received:,}'),
                  ('processed', f'{accounts.processed:,}'), ('voxels', f'{status.voxels:,}'),
                  ('fragments', str(status.fragments)), ('loops', str(status.loops_accepted))]
        self._running = self._executor.submit(self._encode, build, self._keyframe, self._pose,
                                              counts)

    def _encode(self, build: Callable[[], MapScene] | None, keyframe: Keyframe | None,
                pose: np.ndarray | None, counts: Sequence[tuple[str, str]]) -> None:
        try:
            self._server.show_counts(counts)
            if keyframe is not None:
                self._server.show_camera(to_camera(pose, keyframe.rgb(), keyframe.intrinsics))
            if build is not None:
                began_sec = monotonic()
                self._server.show_map(build())
                took_sec = monotonic() - began_sec
                self._map_due_sec = monotonic() + took_sec / SHARE
        # The mapper goes on without the view.
        except Exception:
            logger.exception('the live view was not updated')


def to_camera(pose: np.ndarray | None, rgb: np.ndarray, intrinsics: Intrinsics | None) -> Camera:
    """Return a camera [4, 4] with its image, uint8 [h, w, 3], reduced."""
    half = DEFAULT_HALF
    if intrinsics is not None:
        half = (intrinsics.width / (2 * intrinsics.fx), intrinsics.height / (2 * intrinsics.fy))
    return Camera(pose, small_jpeg(rgb, IMAGE_PX), half)
