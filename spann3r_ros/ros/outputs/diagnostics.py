# SPDX-License-Identifier: Apache-2.0
"""The state of the node for robot monitors, on /diagnostics."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import monotonic

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from spann3r_ros.mapping.mapping_status import MappingStatus
from spann3r_ros.pipeline.node_settings import DiagnosticsConfig
from spann3r_ros.pipeline.slot import Accounts
from spann3r_ros.pipeline.worker import WorkerReport

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
# Rates and shares are measured over this time, or a little more.
WINDOW_SEC = 5.0


@dataclass(frozen=True)
class Health:
    """The result of the newest settled frame: a level of DiagnosticStatus and a message."""

    level: bytes = OK
    message: str = ''


class Diagnostics:
    """Publishes three statuses: the incoming images, the load, the map.

    It does not depend on the lifecycle: an inactive node publishes its state too. Not thread-safe.
    """

    def __init__(self, node: LifecycleNode, config: DiagnosticsConfig) -> None:
        self._node = node
        self._config = config
        self._publisher = node.create_publisher(
            DiagnosticArray, '/diagnostics', QoSProfile(depth=10))
        self._window: deque[tuple[float, Accounts]] = deque()
        self._last_image_sec = monotonic()
        self._state = ''

    def configure(self, config: DiagnosticsConfig) -> None:
        """Use other thresholds."""
        self._config = config

    def note(self, state: str, accounts: Accounts) -> None:
        """Record state and accounts, at least once a second, whether anybody listens or not."""
        now = monotonic()
        fresh = not self._window or accounts.received != self._window[-1][1].received
        if fresh or state != self._state:
            self._last_image_sec = now
        self._state = state
        self._window.append((now, accounts))
        while len(self._window) > 2 and now - self._window[1][0] > WINDOW_SEC:
            self._window.popleft()

    @property
    def has_subscribers(self) -> bool:
        """Return whether anybody listens."""
        return self._publisher.get_subscription_count() > 0

    def publish(self, report: WorkerReport, mapping: MappingStatus, health: Health) -> None:
        """Publish the three statuses; `note` comes first."""
        now = self._node.get_clock().now()
        # Zero is simulated time that has not started: no message can be stamped with it.
        if not now.nanoseconds:
            return
        message = DiagnosticArray(status=[
            self._status('input', self._input(), state=self._state,
                         received=report.accounts.received, rate_hz=self._rate()),
            self._status('load', self._load(), processed=report.accounts.processed,
                         skipped=report.accounts.skipped, dropped=report.accounts.dropped,
                         failed=report.accounts.failed,
                         latency_p95_sec=report.latency.p95_sec),
            self._status('map', _of_map(health, mapping), fragment=mapping.fragment_id,
                         keyframes=mapping.keyframes, blind=report.accounts.blind,
                         voxels=mapping.voxels, memory_tokens=mapping.memory.status.tokens,
                         resets=mapping.memory.resets, metric=mapping.scale.metric,
                         grid=mapping.grid_reason or 'published',
                         localisation=mapping.localisation,
                         back_end_failures=mapping.back_end_failures)])
        message.header.stamp = now.to_msg()
        self._publisher.publish(message)

    def destroy(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)

    def _input(self) -> Health:
        silent_sec = monotonic() - self._last_image_sec
        if self._state != 'active':
            return Health(OK, self._state)
        if silent_sec > self._config.stale_after_sec:
            return Health(WARN, f'no image for {silent_sec:.1f} s')
        return Health(OK, 'images are received')

    def _rate(self) -> float:
        (start, first), (end, last) = self._window[0], self._window[-1]
        return (last.received - first.received) / (end - start) if end > start else 0.0

    def _load(self) -> Health:
        first, last = self._window[0][1], self._window[-1][1]
        received, dropped = last.received - first.received, last.dropped - first.dropped
        share = dropped / received if received else 0.0
        if share > self._config.max_dropped_share:
            return Health(WARN, f'{share:.0%} of the images are dropped')
        return Health(OK, f'{share:.0%} of the images are dropped')

    def _status(self, name: str, health: Health, **values: object) -> DiagnosticStatus:
        pairs = [KeyValue(key=key, value=_text(value)) for key, value in values.items()]
        return DiagnosticStatus(level=health.level, message=health.message, values=pairs,
                                name=f'{self._node.get_fully_qualified_name()}: {name}',
                                hardware_id=self._node.get_fully_qualified_name())


def _of_map(health: Health, mapping: MappingStatus) -> Health:
    """Return the health of the map: images that show nothing do not fail, but add nothing.

    What fails in the back end costs no frame, but the map lacks it.
    """
    if health.level == OK and mapping.blind_reason:
        return Health(WARN, f'{mapping.blind_reason}; such images are skipped')
    if health.level == OK and mapping.back_end_reason:
        return Health(WARN, f'the back end failed: {mapping.back_end_reason}')
    if health.level == OK and mapping.localisation == 'searching':
        return Health(WARN, 'the place of the camera in the map is searched for: '
                            f'{mapping.localisation_reason}')
    return health if health.message else Health(OK, mapping.phase)


def _text(value: object) -> str:
    return f'{value:.3g}' if isinstance(value, float) else str(value)
