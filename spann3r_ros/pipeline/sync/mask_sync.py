# SPDX-License-Identifier: Apache-2.0
"""Joins images with the masks of the pixels that may enter the map."""
from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from spann3r_ros.core.types import Frame

from .bounds import QueueBounds, frame_bytes
from .history import History
from .outlet import Outlet
from .wait_clock import WaitClock

MODES = ('none', 'latest', 'exact')
UNMASKED = 'there is no mask for the image'


class LatestMaskSync:
    """Gives every frame the latest mask and passes it on, in order; drops frames before the first.

    Live (`clock` is None), that is the mask that came last. In a replay it is the mask with the
    newest stamp that is not after the frame's. So the result does not depend on the order of the
    messages. A frame waits until a mask of its stamp or later came, but at most for `timeout_sec`.
    After a timeout the next frames do not wait until another mask comes.
    """

    def __init__(self, outlet: Outlet, bounds: QueueBounds, timeout_sec: float,
                 clock: WaitClock | None) -> None:
        self._outlet = outlet
        self._bounds = bounds
        self._timeout_sec = timeout_sec
        self._clock = clock
        self._masks: History[np.ndarray] = History(bounds, lambda mask: mask.nbytes)
        self._waiting: deque[Frame] = deque()
        # How many masks had come when a wait for one more ended by the timeout.
        self._received_at_timeout = -1

    def __len__(self) -> int:
        """Return the number of waiting frames."""
        return len(self._waiting)

    def take_frame(self, frame: Frame) -> None:
        """Pass a frame on with its mask, now or later, or drop it."""
        self._waiting.append(frame)
        self.match()

    def take_mask(self, stamp_ns: int, mask: np.ndarray) -> None:
        """Use a mask, bool [height, width], for the frames that wait or come later.

        It becomes read-only, so that a camera model may fit it once for all of them.
        """
        mask.setflags(write=False)
        self._masks.take(stamp_ns, mask)
        self.match()

    def match(self) -> None:
        """Pass on the next frame if its mask is known, or if it has waited long enough."""
        if not self._waiting or self._must_wait(self._waiting[0]):
            return
        self._finish_first()
        if self._waiting:
            self._outlet.match_soon()

    def begin_again(self, stamp_ns: int) -> None:
        """Forget the masks of the old time, after a jump back to a stamp."""
        if self._clock is not None:
            self._masks.begin_again(stamp_ns)

    def drain(self) -> None:
        """Finish all frames with the masks received so far, because no more will come."""
        while self._waiting:
            self._finish_first()

    def drop_waiting(self) -> None:
        """Drop all frames that wait for a mask."""
        for _ in self._waiting:
            self._outlet.drop()
        self._waiting.clear()

    def _must_wait(self, frame: Frame) -> bool:
        if self._clock is None or self._masks.reaches(frame.stamp_ns):
            return False
        if self._clock.now() - frame.stamp_ns * 1e-9 > self._timeout_sec:
            self._received_at_timeout = self._masks.received
        return (self._received_at_timeout != self._masks.received
                and not self._bounds.exceeded(len(self._waiting),
                                              sum(map(frame_bytes, self._waiting))))

    def _finish_first(self) -> None:
        frame = self._waiting.popleft()
        found = (self._masks.last() if self._clock is None
                 else self._masks.newest_until(frame.stamp_ns))
        if found is None:
            self._outlet.refuse(f'{UNMASKED}: none came before it')
        else:
            self._outlet.pass_on(replace(frame, mask=found[1]))


class ExactMaskSync:
    """Gives every frame the mask of its own stamp and passes it on, in order of arrival.

    A frame waits for its mask. It is dropped when a later frame got its mask, or when more frames
    wait than the bounds allow. No frame is passed on without a mask.
    """

    def __init__(self, outlet: Outlet, bounds: QueueBounds) -> None:
        self._outlet = outlet
        self._bounds = bounds
        self._frames: dict[int, Frame] = {}
        self._masks: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Return the number of waiting frames."""
        return len(self._frames)

    def take_frame(self, frame: Frame) -> None:
        """Pass a frame on with its mask, now or later."""
        self._frames[frame.stamp_ns] = frame
        self._join(frame.stamp_ns)

    def take_mask(self, stamp_ns: int, mask: np.ndarray) -> None:
        """Use a mask, bool [height, width], for the frame of its stamp."""
        self._masks[stamp_ns] = mask
        self._join(stamp_ns)

    def match(self) -> None:
        """Do nothing: frames and masks are joined when they come."""

    def begin_again(self, stamp_ns: int) -> None:
        """Do nothing: a mask is found by its stamp alone."""

    def drain(self) -> None:
        """Drop all frames, because no more masks will come."""
        while self._frames:
            self._drop_oldest('none came')

    def drop_waiting(self) -> None:
        """Drop all frames that wait for a mask."""
        for _ in self._frames:
            self._outlet.drop()
        self._frames.clear()

    def _join(self, stamp_ns: int) -> None:
        if stamp_ns in self._frames and stamp_ns in self._masks:
            while next(iter(self._frames)) != stamp_ns:
                self._drop_oldest('a later image has one')
            mask = self._masks.pop(stamp_ns)
            self._outlet.pass_on(replace(self._frames.pop(stamp_ns), mask=mask))
        while self._bounds.exceeded(len(self._frames), sum(map(frame_bytes,
                                                               self._frames.values()))):
            self._drop_oldest(f'{len(self._frames)} images wait')
        while self._bounds.exceeded(len(self._masks),
                                    sum(mask.nbytes for mask in self._masks.values())):
            del self._masks[next(iter(self._masks))]

    def _drop_oldest(self, reason: str) -> None:
        del self._frames[next(iter(self._frames))]
        self._outlet.refuse(f'{UNMASKED}: {reason}')


MaskSync = LatestMaskSync | ExactMaskSync
