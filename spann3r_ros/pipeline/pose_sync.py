# SPDX-License-Identifier: Apache-2.0
"""Images and the camera poses that TF has for their stamps."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

import numpy as np

from spann3r_ros.core.types import Frame, FrameError

SOURCES = ('images', 'tf')


class PoseMatcher:
    """Gives every frame its camera's pose and hands it on, in order of arrival.

    `pose_of` says where a frame's camera is, or None. A frame waits for its pose; it is dropped
    when the next one has its pose already, after `patience_sec` in which no frame went on, or
    when more than `capacity` wait; `warn` is told why. A frame never goes on without a pose.
    Since handing on may block, each look does so once at most; `again` asks for the next look.
    """

    def __init__(self, pose_of: Callable[[Frame], np.ndarray | None], capacity: int,
                 patience_sec: float, hand_on: Callable[[Frame], None],
                 drop: Callable[[], None], warn: Callable[[Exception], None],
                 again: Callable[[], None],
                 clock: Callable[[], float] = monotonic) -> None:
        self._pose_of = pose_of
        self._capacity = capacity
        self._patience_sec = patience_sec
        self._hand_on = hand_on
        self._drop = drop
        self._warn = warn
        self._again = again
        self._clock = clock
        self._waiting: deque[tuple[float, Frame]] = deque()
        self._handed_on_sec = float('-inf')

    def take_frame(self, frame: Frame) -> None:
        """Hand the frame on, with its pose, now or later."""
        self._waiting.append((self._clock(), frame))
        self.match()

    def match(self) -> None:
        """Hand on the next frame whose pose has come, and drop those that waited in vain."""
        while self._waiting:
            if self._hand_on_first():
                if self._waiting:
                    self._again()
                return
            if len(self._waiting) > 1 and self._pose_of(self._waiting[1][1]) is not None:
                self._drop_first('a later image has one already')
            elif len(self._waiting) > self._capacity:
                self._drop_first(f'{self._capacity} images wait')
            elif self._clock() - max(self._waiting[0][0],
                                     self._handed_on_sec) > self._patience_sec:
                self._drop_first(f'none came within {self._patience_sec:g} s')
            else:
                return

    def drop_waiting(self) -> None:
        """Drop all frames that wait for a pose."""
        while self._waiting:
            self._waiting.popleft()
            self._drop()

    def _hand_on_first(self) -> bool:
        _, frame = self._waiting[0]
        pose = self._pose_of(frame)
        if pose is None:
            return False
        self._waiting.popleft()
        self._hand_on(replace(frame, world_from_camera=pose))
        self._handed_on_sec = self._clock()
        return True

    def _drop_first(self, reason: str) -> None:
        _, frame = self._waiting.popleft()
        self._drop()
        self._warn(FrameError(f'TF has no pose of {frame.frame_id!r} in the map frame at the '
                              f'stamp of the image: {reason}'))
