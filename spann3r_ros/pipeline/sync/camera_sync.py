# SPDX-License-Identifier: Apache-2.0
"""Joins images with their camera's calibration and with the direction of gravity."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.types import Frame

from .bounds import QueueBounds, frame_bytes
from .history import History
from .outlet import Outlet
from .wait_clock import WaitClock

MAX_CALIBRATIONS = 1000


class Calibrations(History[Intrinsics | None]):
    """The received calibrations and their stamps; None for one of an uncalibrated camera."""

    def __init__(self, timeout_sec: float) -> None:
        super().__init__(QueueBounds(MAX_CALIBRATIONS, 0), lambda _: 0)
        self._timeout_ns = round(timeout_sec * 1e9)

    def find(self, stamp_ns: int, size: tuple[int, int]) -> Intrinsics | None:
        """Return the calibration of an image of a size (height, width), or None.

        It is the newest one not after the image, or else the first one after it. None if its stamp
        is farther from the image's than the timeout (0: no limit), or if its size is another one.
        """
        found = self.newest_until(stamp_ns) or self.first()
        if found is None or found[1] is None:
            return None
        stamp, intrinsics = found
        if self._timeout_ns and abs(stamp_ns - stamp) > self._timeout_ns:
            return None
        return intrinsics if (intrinsics.height, intrinsics.width) == size else None


@dataclass(frozen=True)
class Expected:
    """Whether there are calibrations, and whether there are transforms, to wait for.

    If `may_stop`, the messages may stop without a notice. Then the waits of a replay also end
    after a silence.
    """

    calibration: Callable[[], bool]
    transforms: Callable[[], bool]
    may_stop: bool = False


class CameraSync:
    """Gives every frame its calibration and the direction against gravity, and passes it on.

    In a `replay` an image waits until a calibration of its stamp or later was received, and until
    TF connects base and camera at its stamp, if these are expected, but at most for
    `timeout_sec`. So the result does not depend on the order of the messages. After a timeout the
    next images do not wait for a calibration until another one comes, or for transforms until they
    connect base and camera. Live, an image gets what was received before it. Only the first
    images wait for transforms, until these connect base and camera for the first time, or until
    one image has waited for `timeout_sec`. The outlet may block, so `match` passes on at most one
    frame and asks for another call if more are waiting.
    """

    def __init__(self, calibrations: Calibrations,
                 up_at: Callable[[str, int, bool], np.ndarray | None],
                 expected: Expected, timeout_sec: float, bounds: QueueBounds,
                 outlet: Outlet, clock: WaitClock, replay: bool) -> None:
        self._calibrations = calibrations
        self._up_at = up_at
        self._expected = expected
        self._timeout_sec = timeout_sec
        self._bounds = bounds
        self._outlet = outlet
        self._clock = clock
        self._replay = replay
        # Each frame with the time when it came.
        self._waiting: deque[tuple[float, Frame]] = deque()
        self._expects_calibration = self._expects_transforms = False
        self._transforms_settled = not (replay or timeout_sec)
        # How many calibrations had come when a wait for one more ended by the timeout.
        self._received_at_timeout = -1

    def __len__(self) -> int:
        """Return the number of waiting frames."""
        return len(self._waiting)

    def take_frame(self, frame: Frame) -> None:
        """Pass a frame on, now or later."""
        self._waiting.append((self._clock.time_of(frame), frame))
        self.match()

    def match(self) -> None:
        """Pass on the next frame if it has all that it needs, or has waited long enough."""
        if not self._waiting:
            return
        came_sec, frame = self._waiting[0]
        needs_calibration, needs_transforms = self._needs(frame)
        over = self._bounds.exceeded(
            len(self._waiting), sum(frame_bytes(frame) for _, frame in self._waiting))
        if needs_calibration or needs_transforms:
            if self._clock.now() - came_sec <= self._timeout_sec and not over:
                return
            if needs_calibration:
                self._received_at_timeout = self._calibrations.received
            self._transforms_settled |= needs_transforms
        self._waiting.popleft()
        self._outlet.pass_on(self._completed(frame))
        if self._waiting:
            self._outlet.match_soon()

    def drain(self) -> None:
        """Pass on all frames with the data received so far, because no more will come."""
        while self._waiting:
            self._outlet.pass_on(self._completed(self._waiting.popleft()[1]))

    def drop_waiting(self) -> None:
        """Drop all waiting frames."""
        for _ in self._waiting:
            self._outlet.drop()
        self._waiting.clear()

    def _needs(self, frame: Frame) -> tuple[bool, bool]:
        """Return whether a frame waits for its calibration, and whether for transforms."""
        # A player that has published everything may be gone before its messages are processed.
        if self._replay:
            self._expects_calibration |= self._expected.calibration()
        if self._replay or not self._transforms_settled:
            self._expects_transforms |= self._expected.transforms()
        calibration = (self._received_at_timeout != self._calibrations.received
                       and self._expects_calibration
                       and not self._calibrations.reaches(frame.stamp_ns))
        transforms = (not self._transforms_settled and self._expects_transforms
                      and self._up_at(frame.frame_id, frame.stamp_ns, False) is None)
        return calibration, transforms

    def _completed(self, frame: Frame) -> Frame:
        up = self._up_at(frame.frame_id, frame.stamp_ns, False)
        if up is None:
            up = self._up_at(frame.frame_id, frame.stamp_ns, True)
        else:
            self._transforms_settled = not self._replay
        return replace(frame, up=up, intrinsics=self._calibrations.find(
            frame.stamp_ns, frame.rgb.shape[:2]))
