# SPDX-License-Identifier: Apache-2.0
"""The time that images tell by their stamps: it goes forward, or has jumped back."""
from __future__ import annotations

from spann3r_ros.core.types import FrameError

# A stamp that is older by less is an image out of order, by more it is a bag that began again.
JUMP_NS = 10**9
CHOICES = ('reset', 'refuse')


class ImageClock:
    """Follows the stamps of one camera's images."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self.is_new = True

    def begin_again(self) -> None:
        """Follow the next stamp wherever it leads: another map begins, or has been loaded."""
        self.is_new = True

    def follow(self, stamp_ns: int, may_jump: bool) -> bool:
        """Take a stamp and say whether time has jumped back, by a second or more.

        A clock that `is_new` follows every step back, and says so.

        Raises FrameError, and goes on from where it was, for a stamp that is not new and not a
        jump either, and for a jump that it may not follow.
        """
        newest_ns = self._newest_ns
        back = newest_ns is not None and stamp_ns <= newest_ns
        jumped = back and (self.is_new or stamp_ns <= newest_ns - JUMP_NS)
        if back and not self.is_new and not (jumped and may_jump):
            raise FrameError(f'stamp: expected one after {newest_ns} ns, got {stamp_ns} ns')
        self._newest_ns, self.is_new = stamp_ns, False
        return jumped
