# SPDX-License-Identifier: Apache-2.0
"""The clock by which waiting times are measured."""
from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from spann3r_ros.core.types import Frame

# After so long without a message the player of a replay probably waits too, and wall time counts.
SILENCE_SEC = 2.0


class WaitClock:
    """Measures waiting times in wall time; in a replay in image time.

    Image time is the stamp of the newest image, so waits do not depend on the speed of the replay.
    With `busy`, image time continues with wall time after `SILENCE_SEC` without a message while
    `busy` returns false: more messages may never come. Without it wall time has no part.
    """

    def __init__(self, replay: bool, busy: Callable[[], bool] | None = None,
                 wall: Callable[[], float] = monotonic) -> None:
        self._replay = replay
        self._busy = busy
        self._wall = wall
        self._newest_sec = float('-inf')
        self._active_sec = wall() if busy else 0.0

    def note_activity(self) -> None:
        """Record that a message came, or that the caller was busy until now."""
        if self._busy:
            self._active_sec = self._wall()

    def note_image(self, stamp_ns: int) -> None:
        """Record the stamp of an image that arrived."""
        self._newest_sec = max(self._newest_sec, stamp_ns * 1e-9)
        self.note_activity()

    def begin_again(self, stamp_ns: int) -> None:
        """Continue at a stamp to which the time of the images has jumped back."""
        self._newest_sec = stamp_ns * 1e-9

    def now(self) -> float:
        """Return the time in seconds, from an arbitrary origin."""
        if not self._replay:
            return self._wall()
        if self._busy is None:
            return self._newest_sec
        if self._busy():
            self.note_activity()
        return self._newest_sec + max(0.0, self._wall() - self._active_sec - SILENCE_SEC)

    def time_of(self, frame: Frame) -> float:
        """Return when an image that is processed now arrived; in a replay its stamp."""
        return frame.stamp_ns * 1e-9 if self._replay else self._wall()
