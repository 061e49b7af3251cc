# SPDX-License-Identifier: Apache-2.0
"""The time of one camera's images: which stamp follows, which is late, which is elsewhere."""
from __future__ import annotations

from collections import deque
from enum import Enum

from spann3r_ros.core.types import FrameError

# A stamp that is older by this or more, or newer by more, is that of another time: a bag that
# started again, or a clock that was set. Both limits are one: after a wrong stamp that was less
# ahead, the right ones are out of order, and do not jump back.
JUMP_NS = 10**9
# A camera that takes an image a minute has longer steps. So many times the longest of the last
# ones are usual, if that is more.
USUAL_STEPS = 3
RECENT_STEPS = 10
# While no step is known the second image may come so long after the first one.
FIRST_STEP_NS = 10 * 10**9
# What happens after a jump back, and where the time of an image comes from.
TIME_JUMPS = ('fragment', 'reset', 'refuse')
STAMP_SOURCES = ('header', 'receipt')


class Jump(Enum):
    """What a jump back of the stamps does to the map."""

    NOTHING = 'the map has no image of the old time, or is replaced'
    FRAGMENT = 'a fragment of the map begins'
    LOADED = 'a fragment of the loaded map begins, whatever `time_jump` is'
    RESET = 'a new map begins'

    @property
    def begins_fragment(self) -> bool:
        """Return whether the map goes on with a fragment."""
        return self in (Jump.FRAGMENT, Jump.LOADED)


JUMPED = {
    Jump.FRAGMENT: 'the stamps of the images jumped back: a fragment begins where the camera was '
                   'last; if it is elsewhere, as in a bag that is played again, set time_jump: '
                   'reset',
    Jump.LOADED: 'the first image after the load had a wild stamp: a fragment of the loaded map '
                 'begins where the camera was last',
    Jump.RESET: 'the stamps of the images jumped back: a new map begins'}


class Relation(Enum):
    """How a stamp relates to those before it."""

    NEXT = 'follows them by a usual step'
    LATE = 'is a little before the newest'
    BACK = 'is before the newest, by a usual step or more'
    AHEAD = 'is after the newest, by more than a usual step'


class ImageClock:
    """Keeps the newest stamp of one camera's images, and which steps between them are usual.

    It `is_new` until a map has its first image since it began or was loaded. It `is_alone` while
    no other stamp agrees with that of the first image.
    """

    def __init__(self) -> None:
        self.newest_ns: int | None = None
        self.is_new = True
        self.is_alone = False
        self._steps_ns: deque[int] = deque(maxlen=RECENT_STEPS)
        self._loaded_ns: int | None = None

    def begin_again(self, loaded_ns: int | None = None) -> None:
        """Accept any next stamp, because another map begins or was loaded.

        `loaded_ns` is the last stamp of a loaded map: if the next one follows it, it is one of the
        same camera, and not alone.
        """
        self.is_new, self._loaded_ns = True, loaded_ns

    def relation(self, stamp_ns: int, newest_ns: int | None = None) -> Relation:
        """Return how a stamp relates to the newest one, or to another one."""
        newest_ns = self.newest_ns if newest_ns is None else newest_ns
        if newest_ns is None:
            return Relation.NEXT
        usual_ns = max(JUMP_NS, USUAL_STEPS * max(self._steps_ns, default=0))
        if stamp_ns <= newest_ns:
            # The only step may be that to a wild stamp.
            limit_ns = JUMP_NS if self.is_alone else usual_ns
            return Relation.BACK if stamp_ns <= newest_ns - limit_ns else Relation.LATE
        limit_ns = usual_ns if self._steps_ns else FIRST_STEP_NS
        return Relation.NEXT if stamp_ns - newest_ns <= limit_ns else Relation.AHEAD

    def begin(self, stamp_ns: int) -> None:
        """Take the first stamp of a map, or of one that was loaded."""
        loaded_ns, self._loaded_ns = self._loaded_ns, None
        self.is_new, self.is_alone = False, True
        self._steps_ns.clear()
        if loaded_ns is not None and self.relation(stamp_ns, loaded_ns) is Relation.NEXT:
            self.jump(loaded_ns)
            self.advance(stamp_ns)
        else:
            self.newest_ns = stamp_ns

    def advance(self, stamp_ns: int) -> None:
        """Take a stamp that follows."""
        step_ns = stamp_ns - self.newest_ns
        self.is_alone = self.is_alone and not self._steps_ns and step_ns > JUMP_NS
        self._steps_ns.append(step_ns)
        self.newest_ns = stamp_ns

    def jump(self, stamp_ns: int) -> None:
        """Go on at a stamp of another time."""
        self.newest_ns, self.is_alone = stamp_ns, False
        self._steps_ns.clear()

    def pass_over(self, stamp_ns: int) -> bool:
        """Take the stamp of an image that is skipped, if it follows; return whether it does."""
        follows = not self.is_new and self.relation(stamp_ns) is Relation.NEXT
        if follows:
            self.advance(stamp_ns)
        return follows

    def back(self, stamp_ns: int) -> FrameError:
        """Return the error of an image that is refused because its time has gone back."""
        back_sec = (self.newest_ns - stamp_ns) * 1e-9
        return FrameError(f'{self._expected(stamp_ns, self.newest_ns)}: the stamps went back by '
                          f'{back_sec:.3f} s, which time_jump: refuse does not allow')

    def late(self, stamp_ns: int, newest_ns: int | None = None) -> FrameError:
        """Return the error of an image that is refused because of its stamp."""
        newest_ns = self.newest_ns if newest_ns is None else newest_ns
        got = self._expected(stamp_ns, newest_ns)
        if stamp_ns == newest_ns == 0:
            return FrameError('stamp: expected the time of the image, got 0 once more: the driver '
                              'sets no time; set stamp_source: receipt')
        if stamp_ns == newest_ns:
            return FrameError(f'{got}: two images have one stamp')
        return FrameError(f'{got}: an image out of order; is the topic best effort over a '
                          'network, or does it have two publishers?')

    @staticmethod
    def _expected(stamp_ns: int, newest_ns: int) -> str:
        return f'stamp: expected one after {newest_ns} ns, got {stamp_ns} ns'
