# SPDX-License-Identifier: Apache-2.0
"""Checks that the stamps of the images increase, and detects a jump back."""
from __future__ import annotations

from spann3r_ros.core.types import FrameError

# A stamp that is older by this or more means that a bag started again. A stamp that is older by
# less belongs to an image out of order.
JUMP_NS = 10**9
CHOICES = ('reset', 'refuse')


class ImageClock:
    """Keeps the newest stamp of one camera's images; `is_new` until a map has its first image."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self.is_new = True

    def begin_again(self) -> None:
        """Accept any next stamp, because another map begins or was loaded."""
        self.is_new = True

    def follow(self, stamp_ns: int, may_jump: bool) -> bool:
        """Accept a stamp and return whether the stamps jumped back, by `JUMP_NS` or more.

        A clock that `is_new` accepts every step back and reports it as a jump. Raises FrameError,
        and keeps the newest stamp, for a smaller step back, and for a jump if not `may_jump`.
        """
        newest_ns = self._newest_ns
        back = newest_ns is not None and stamp_ns <= newest_ns
        jumped = back and (self.is_new or stamp_ns <= newest_ns - JUMP_NS)
        if back and not self.is_new and not (jumped and may_jump):
            raise FrameError(f'stamp: expected one after {newest_ns} ns, got {stamp_ns} ns')
        self._newest_ns, self.is_new = stamp_ns, False
        return jumped
