# SPDX-License-Identifier: Apache-2.0
"""The clock by which waiting times are measured."""
from __future__ import annotations

from collections.abc import Callable
from time import monotonic

# After so long without a message the player of a replay probably waits too, and wall time counts.
SILENCE_SEC = 2.0


class WaitClock:
    """Measures waiting times in wall time; in a replay in image time.

    Image time is the stamp of the newest image, so waits do not depend on the speed of the replay.
    After `SILENCE_SEC` without a message the clock continues with wall time.
    """

    def __init__(self, replay: bool, wall: Callable[[], float] = monotonic) -> None:
        self._replay = replay
        self._wall = wall
        self._newest_sec = 0.0
        self._message_sec = wall()

    def note_message(self, image_stamp_ns: int | None = None) -> None:
        """Record the arrival of a message, and the stamp if it is an image."""
        self._message_sec = self._wall()
        if image_stamp_ns is not None:
            self._newest_sec = image_stamp_ns * 1e-9

    def now(self) -> float:
        """Return the time in seconds, from an arbitrary origin."""
        if not self._replay:
            return self._wall()
        return self._newest_sec + max(0.0, self._wall() - self._message_sec - SILENCE_SEC)
