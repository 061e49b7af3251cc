# SPDX-License-Identifier: Apache-2.0
"""Joins images with the camera poses in TF at their stamps."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np

from spann3r_ros.core.types import Frame

from .bounds import QueueBounds, frame_bytes
from .outlet import Outlet
from .wait_clock import WaitClock

SOURCES = ('images', 'tf')


class PoseSync:
    """Gives every frame its camera's pose and passes it on, in order of arrival.

    `pose_of` returns the pose of a frame's camera, or None while it is unknown; `missing` names
    the transform that it lacks at every stamp, or is empty. A frame waits for
    its pose. It is dropped when a later frame has its pose already, when no frame was passed on
    for `timeout_sec`, or when more frames wait than the bounds allow. No frame is passed on
    without a pose. The outlet may block, so `match` passes on at most one frame and asks for
    another call if more are waiting.
    """

    def __init__(self, pose_of: Callable[[Frame], np.ndarray | None], bounds: QueueBounds,
                 timeout_sec: float, outlet: Outlet, clock: WaitClock,
                 missing: Callable[[Frame], str] = lambda _: '') -> None:
        self._pose_of = pose_of
        self._bounds = bounds
        self.timeout_sec = timeout_sec
        self._outlet = outlet
        self._clock = clock
        self._missing = missing
        self._waiting: deque[tuple[float, Frame]] = deque()
        self._passed_sec = float('-inf')

    def __len__(self) -> int:
        """Return the number of waiting frames."""
        return len(self._waiting)

    def take_frame(self, frame: Frame) -> None:
        """Pass a frame on with its pose, now or later."""
        self._waiting.append((self._clock.time_of(frame), frame))
        self.match()

    def match(self) -> None:
        """Pass on the next frame if its pose is known; drop frames that cannot get one."""
        while self._waiting:
            if self._pass_on_first():
                if self._waiting:
                    self._outlet.match_soon()
                return
            held = sum(frame_bytes(frame) for _, frame in self._waiting)
            if self._later_has_pose():
                self._drop_first('a later image has one already')
            elif self._bounds.exceeded(len(self._waiting), held):
                self._drop_first(f'{len(self._waiting)} images of {held} bytes wait')
            elif self._clock.now() - max(self._waiting[0][0],
                                         self._passed_sec) > self.timeout_sec:
                self._drop_first(f'none came within {self.timeout_sec:g} s')
            else:
                return

    def begin_again(self) -> None:
        """Measure waiting times anew, because the time of the images has jumped."""
        self._passed_sec = float('-inf')

    def drain(self) -> None:
        """Pass on all frames with a pose and drop the others, because no more poses will come."""
        while self._waiting:
            if not self._pass_on_first():
                self._drop_first('the recording has ended')

    def drop_waiting(self) -> None:
        """Drop all frames that wait for a pose."""
        while self._waiting:
            self._waiting.popleft()
            self._outlet.drop()

    def _pass_on_first(self) -> bool:
        _, frame = self._waiting[0]
        pose = self._pose_of(frame)
        if pose is None:
            return False
        self._waiting.popleft()
        self._outlet.pass_on(replace(frame, world_from_camera=pose))
        self._passed_sec = self._clock.time_of(frame)
        return True

    def _later_has_pose(self) -> bool:
        return any(self._pose_of(frame) is not None for _, frame in islice(self._waiting, 1, None))

    def _drop_first(self, reason: str) -> None:
        _, frame = self._waiting.popleft()
        missing = self._missing(frame)
        self._outlet.refuse(f'TF has no pose of {frame.frame_id!r} in the map frame at the '
                            f'stamp of the image: {reason}' + (f'. {missing}' if missing else ''))
