# SPDX-License-Identifier: Apache-2.0
"""Limiting the rate of frames by their stamps."""
from __future__ import annotations

SECOND_NS = 10**9


class RateLimiter:
    """Admits at most `max_rate` frames per second of image time; 0 admits all."""

    def __init__(self, max_rate: float) -> None:
        self._period_ns = round(SECOND_NS / max_rate) if max_rate else 0
        self._due_ns: int | None = None

    def admits(self, stamp_ns: int) -> bool:
        """Return whether a frame of this stamp may pass; if stamps jump back, begin again."""
        if not self._period_ns:
            return True
        due_ns = self._due_ns
        if due_ns is None or stamp_ns < due_ns - 2 * self._period_ns:
            due_ns = stamp_ns
        if stamp_ns < due_ns:
            return False
        # The next frame is due one period after this one was due, so that the mean rate is
        # `max_rate`. After a gap of more than a period, missed frames are not made up for.
        self._due_ns = max(due_ns, stamp_ns - self._period_ns) + self._period_ns
        return True
