# SPDX-License-Identifier: Apache-2.0
"""The time of one camera's images: which stamp follows, which is late, which is elsewhere."""
from __future__ import annotations

from enum import Enum

from spann3r_ros.core.types import FrameError

# A stamp that is older by this or more is that of another time: a bag that started again, or a
# clock that was set back. A stamp that is older by less belongs to an image out of order.
JUMP_NS = 10**9
# A stamp that is newer by more than this is not believed at once, and neither is a jump back.
AHEAD_NS = 10 * 10**9
# A camera that takes an image a minute has longer steps: so many times the last one are usual.
USUAL_STEPS = 3
# What happens after a jump back, and where the time of an image comes from.
TIME_JUMPS = ('fragment', 'reset', 'refuse')
STAMP_SOURCES = ('header', 'receipt')
JUMPED = {
    'fragment': 'the stamps of the images jumped back: a fragment begins where the camera was '
                'last; if it is elsewhere, as in a bag that is played again, set time_jump: reset',
    'reset': 'the stamps of the images jumped back: a new map begins'}


class Relation(Enum):
    """How a stamp relates to those before it."""

    NEXT = 'follows them by a usual step'
    LATE = 'is a little before the newest'
    BACK = 'is before the newest, by `JUMP_NS` or more'
    AHEAD = 'is after the newest, by more than a usual step'


class ImageClock:
    """Keeps the newest stamp of one camera's images; `is_new` until a map has its first image."""

    def __init__(self) -> None:
        self.newest_ns: int | None = None
        self._step_ns = 0
        self.is_new = True

    def begin_again(self) -> None:
        """Accept any next stamp, because another map begins or was loaded."""
        self.is_new = True

    def relation(self, stamp_ns: int, newest_ns: int | None = None) -> Relation:
        """Return how a stamp relates to the newest one, or to another one."""
        newest_ns = self.newest_ns if newest_ns is None else newest_ns
        if newest_ns is None:
            return Relation.NEXT
        if stamp_ns <= newest_ns:
            return Relation.BACK if stamp_ns <= newest_ns - JUMP_NS else Relation.LATE
        usual_ns = max(AHEAD_NS, USUAL_STEPS * self._step_ns)
        return Relation.NEXT if stamp_ns - newest_ns <= usual_ns else Relation.AHEAD

    def advance(self, stamp_ns: int) -> None:
        """Take a stamp that follows."""
        if self.newest_ns is not None:
            self._step_ns = max(0, stamp_ns - self.newest_ns)
        self.newest_ns, self.is_new = stamp_ns, False

    def jump(self, stamp_ns: int) -> None:
        """Go on at a stamp of another time."""
        self.newest_ns, self.is_new = stamp_ns, False

    def pass_over(self, stamp_ns: int) -> bool:
        """Take the stamp of an image that is skipped, if it follows; return whether it does."""
        follows = not self.is_new and self.relation(stamp_ns) is Relation.NEXT
        if follows:
            self.newest_ns = stamp_ns
        return follows

    def late(self, stamp_ns: int, newest_ns: int | None = None) -> FrameError:
        """Return the error of an image that is refused because of its stamp."""
        newest_ns = self.newest_ns if newest_ns is None else newest_ns
        got = f'stamp: expected one after {newest_ns} ns, got {stamp_ns} ns'
        if stamp_ns == newest_ns == 0:
            return FrameError('stamp: expected the time of the image, got 0 once more: the driver '
                              'sets no time; set stamp_source: receipt')
        if stamp_ns == newest_ns:
            return FrameError(f'{got}: two images have one stamp')
        return FrameError(f'{got}: an image out of order; is the topic best effort over a '
                          'network, or does it have two publishers?')
