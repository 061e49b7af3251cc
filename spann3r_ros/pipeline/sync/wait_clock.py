# SPDX-License-Identifier: Apache-2.0
"""The time by which waits are counted."""
from __future__ import annotations

from collections.abc import Callable
from time import monotonic

# Silence in a replay that ends waits: nothing more will come while the player waits as well.
SILENCE_SEC = 2.0


class WaitClock:
    """Counts waits in wall time; in a replay in image time, so that its speed does not matter.

    In a replay it is the stamp of the newest image, and goes on with wall time only after
    `SILENCE_SEC` without a message.
    """

    def __init__(self, replay: bool, wall: Callable[[], float] = monotonic) -> None:
        self._replay = replay
        self._wall = wall
        self._newest_sec = 0.0
        self._heard_sec = wall()

    def hear(self, image_stamp_ns: int | None = None) -> None:
        """Take note of a message, and of an image's stamp."""
        self._heard_sec = self._wall()
        if image_stamp_ns is not None:
            self._newest_sec = image_stamp_ns * 1e-9

    def now(self) -> float:
        """Return the time in seconds; its origin means nothing."""
        if not self._replay:
            return self._wall()
        return self._newest_sec + max(0.0, self._wall() - self._heard_sec - SILENCE_SEC)
