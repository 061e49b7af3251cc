# SPDX-License-Identifier: Apache-2.0
"""Keeps an image whose stamp is elsewhere aside until others agree with it."""
from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise

from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.pipeline.image_clock import FIRST_STEP_NS, USUAL_STEPS, ImageClock, Relation

from .bounds import QueueBounds, frame_bytes
from .outlet import Outlet

# So many images in a row, each a usual step after the one before, are believed to have jumped.
AGREEING_IMAGES = 3
# At the end of a recording no more come: so many are enough.
AGREEING_AT_END = 2

logger = logging.getLogger(__name__)


class TimeGate:
    """Passes images on whose stamps follow the ones before; refuses those out of order.

    An image whose stamp is back or ahead by more than a usual step is kept aside. It is used, with
    those after it, when `AGREEING_IMAGES` of them follow one another. If the stamps go on as
    before instead, it is refused. So one wild stamp costs one image. A jump costs none here, but
    the images are passed on together: a slot that does not block drops all but the newest.
    `jumped` is called, before the first of the images is passed on, with its stamp and with
    whether the map is new, when time has gone back, or when the stamp of the only image before was
    the wild one. If not `may_jump`, stamps that are back are
    refused, unless `is_alone` returns true: that of the only image may be the wild one. A clock
    that `is_new` accepts every stamp. Only stamps matter, not the time at which an image comes.
    """

    def __init__(self, clock: ImageClock, may_jump: bool, is_alone: Callable[[], bool],
                 jumped: Callable[[int, bool], None], bounds: QueueBounds,
                 outlet: Outlet) -> None:
        self._clock = clock
        self.may_jump = may_jump
        self._is_alone = is_alone
        self._jumped = jumped
        self._bounds = bounds
        self._outlet = outlet
        self._aside: list[Frame] = []
        # The stamps of the images aside, also of those that were too many to keep.
        self._stamps: list[int] = []

    def __len__(self) -> int:
        """Return the number of images aside."""
        return len(self._aside)

    def take_frame(self, frame: Frame) -> None:
        """Pass an image on, refuse it, or keep it aside."""
        clock, stamp_ns = self._clock, frame.stamp_ns
        if clock.is_new:
            if clock.newest_ns is not None and stamp_ns <= clock.newest_ns:
                self._jumped(stamp_ns, True)
            clock.begin(stamp_ns)
            self._outlet.pass_on(frame)
            return
        relation = clock.relation(stamp_ns)
        if relation is Relation.NEXT:
            self._refuse_aside('the next image has the former time')
            clock.advance(stamp_ns)
            self._outlet.pass_on(frame)
        elif relation is Relation.LATE:
            self._outlet.fail(clock.late(stamp_ns))
        elif relation is Relation.BACK and not self._may_go_back():
            self._outlet.fail(clock.back(stamp_ns))
        else:
            self._keep(frame)

    def match(self) -> None:
        """Do nothing: only further images decide."""

    def drain(self, ended: bool = False) -> None:
        """Settle the images aside; if the recording has `ended`, a single one may be ahead."""
        if len(self._stamps) >= AGREEING_AT_END or (
                ended and self._stamps and self._stamps[0] > self._clock.newest_ns):
            self._believe()
        self._refuse_aside('the recording ends there')

    def drop_waiting(self) -> None:
        """Drop the images aside."""
        for _ in self._aside:
            self._outlet.drop()
        self._forget()

    def _keep(self, frame: Frame) -> None:
        stamp_ns = frame.stamp_ns
        if self._stamps:
            newest_ns = self._stamps[-1]
            if self._clock.relation(stamp_ns, newest_ns) is Relation.LATE:
                self._outlet.fail(self._clock.late(stamp_ns, newest_ns))
                return
            if not self._agrees(stamp_ns):
                self._refuse_aside('the next image has another time')
        self._stamps.append(stamp_ns)
        self._aside.append(frame)
        while self._bounds.exceeded(len(self._aside), sum(map(frame_bytes, self._aside))):
            del self._aside[0]
            self._outlet.refuse('an image whose stamp is elsewhere waits for the next ones, and '
                                'there is no room for more (max_waiting_bytes)')
        if len(self._stamps) >= AGREEING_IMAGES:
            self._believe()

    def _agrees(self, stamp_ns: int) -> bool:
        """Return whether a stamp follows those aside.

        With a long time between all images, each of them is ahead of the one before.
        """
        relation = self._clock.relation(stamp_ns, self._stamps[-1])
        ahead_ns = self._stamps[0] - self._clock.newest_ns
        return relation is Relation.NEXT or (
            relation is Relation.AHEAD
            and stamp_ns - self._stamps[-1] <= max(FIRST_STEP_NS, USUAL_STEPS * ahead_ns))

    def _may_go_back(self) -> bool:
        return self.may_jump or self._is_alone()

    def _believe(self) -> None:
        """Use the images aside: they are the present."""
        frames, stamps = self._aside, self._stamps
        self._forget()
        goes_back = stamps[0] <= self._clock.newest_ns
        # It may have been allowed when they came.
        if goes_back and not self._may_go_back():
            for frame in frames:
                self._outlet.fail(self._clock.back(frame.stamp_ns))
            return
        if goes_back or self._has_odd_first(stamps):
            self._jumped(stamps[0], False)
        else:
            logger.info('no images for %.1f s', (stamps[0] - self._clock.newest_ns) * 1e-9)
        self._clock.jump(stamps[0])
        for stamp_ns in stamps[1:]:
            self._clock.advance(stamp_ns)
        for frame in frames:
            self._outlet.pass_on(frame)

    def _has_odd_first(self, stamps: list[int]) -> bool:
        """Return whether the only image so far is much older than these, which are the present.

        In the map of a slow camera, the first step is one of the usual ones.
        """
        steps = [after - before for before, after in pairwise(stamps)]
        return bool(steps) and self._is_alone() and (
            stamps[0] - self._clock.newest_ns > USUAL_STEPS * max(steps))

    def _refuse_aside(self, reason: str) -> None:
        """Refuse the images aside, all with one text: a log counts it."""
        if not self._stamps:
            return
        newest_ns, first_ns = self._clock.newest_ns, self._stamps[0]
        count = len(self._stamps)
        which = 'this image is' if count == 1 else f'{count} images in a row are'
        error = FrameError(
            f'stamp: expected one soon after {newest_ns} ns, got {first_ns} ns '
            f'({(first_ns - newest_ns) * 1e-9:+.3f} s); {which} left out, because {reason}')
        frames = self._aside
        self._forget()
        for _ in frames:
            self._outlet.fail(error)

    def _forget(self) -> None:
        self._aside, self._stamps = [], []
