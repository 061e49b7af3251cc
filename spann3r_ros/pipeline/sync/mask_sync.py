# SPDX-License-Identifier: Apache-2.0
"""Joins images with the masks of the pixels that may enter the map."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from spann3r_ros.core.types import Frame

from .bounds import QueueBounds, frame_bytes

MODES = ('none', 'latest', 'exact')


class MaskSync:
    """Gives every frame its mask and passes it on, in order of arrival.

    `latest`: all frames get the newest mask; frames before the first mask are dropped. `exact`: a
    frame waits for the mask of its own stamp; it is dropped when a later frame got its mask, or
    when more frames wait than the bounds allow. No frame is passed on without a mask.
    """

    def __init__(self, mode: str, bounds: QueueBounds, pass_on: Callable[[Frame], None],
                 drop: Callable[[], None]) -> None:
        self._mode = mode
        self._bounds = bounds
        self._pass_on = pass_on
        self._drop = drop
        self._frames: dict[int, Frame] = {}
        self._masks: dict[int, np.ndarray] = {}
        self._latest: np.ndarray | None = None

    def take_frame(self, frame: Frame) -> None:
        """Pass a frame on with its mask, now or later."""
        if self._mode == 'none':
            self._pass_on(frame)
        elif self._mode == 'exact':
            self._frames[frame.stamp_ns] = frame
            self._match(frame.stamp_ns)
        elif self._latest is None:
            self._drop()
        else:
            self._pass_on(replace(frame, mask=self._latest))

    def take_mask(self, stamp_ns: int, mask: np.ndarray) -> None:
        """Use a mask, bool [height, width], for the frames that wait or come later."""
        self._latest = mask
        if self._mode == 'exact':
            self._masks[stamp_ns] = mask
            self._match(stamp_ns)

    def drop_waiting(self) -> None:
        """Drop all frames that wait for a mask."""
        while self._frames:
            self._drop_oldest()

    def _match(self, stamp_ns: int) -> None:
        if stamp_ns in self._frames and stamp_ns in self._masks:
            while next(iter(self._frames)) != stamp_ns:
                self._drop_oldest()
            mask = self._masks.pop(stamp_ns)
            self._pass_on(replace(self._frames.pop(stamp_ns), mask=mask))
        while self._bounds.exceeded(len(self._frames), sum(map(frame_bytes,
                                                               self._frames.values()))):
            self._drop_oldest()
        while self._bounds.exceeded(len(self._masks),
                                    sum(mask.nbytes for mask in self._masks.values())):
            del self._masks[next(iter(self._masks))]

    def _drop_oldest(self) -> None:
        del self._frames[next(iter(self._frames))]
        self._drop()
