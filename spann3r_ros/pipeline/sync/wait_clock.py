# SPDX-License-Identifier: Apache-2.0
"""The clock by which waiting times are measured."""
from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from spann3r_ros.core.types import Frame


class WaitClock:
    """Measures waiting times in wall time; in a replay in image time.

    Image time is the stamp of the newest image. A replay never uses wall time, so its result does
    not depend on the speed of the machine or of the player.
    """

    def __init__(self, replay: bool, wall: Callable[[], float] = monotonic) -> None:
        self._replay = replay
        self._wall = wall
        self._newest_sec = float('-inf')

    def note_image(self, stamp_ns: int) -> None:
        """Record the stamp of an image that arrived."""
        self._newest_sec = max(self._newest_sec, stamp_ns * 1e-9)

    def begin_again(self, stamp_ns: int) -> None:
        """Continue at a stamp to which the time of the images has jumped back."""
        self._newest_sec = stamp_ns * 1e-9

    def now(self) -> float:
        """Return the time in seconds, from an arbitrary origin."""
        return self._newest_sec if self._replay else self._wall()

    def time_of(self, frame: Frame) -> float:
        """Return when an image that is processed now arrived; in a replay its stamp."""
        return frame.stamp_ns * 1e-9 if self._replay else self._wall()
