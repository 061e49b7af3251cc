# SPDX-License-Identifier: Apache-2.0
"""Joins images with what gives the map its scale: odometry in TF, or depth images."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np

from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.pipeline.transform_tree import TransformTree

from .bounds import QueueBounds, frame_bytes
from .outlet import Outlet
from .wait_clock import WaitClock


class ScaleSync:
    """Passes every frame on, in order of arrival, with odometry or depth if it can get them.

    `source` is that of the settings; others than odometry, auto and depth need nothing. A frame
    waits until a later frame has what it lacks, until it has waited for `timeout_sec`, or until
    more frames wait than the bounds allow; then it goes on without. `auto` waits only while TF
    connects `odom_frame` with the camera. `report` is called, once, when a frame has waited in
    vain. The next frames do not wait until that frame could have what it lacked: late data delay
    one frame. The outlet may block, so `match` passes on at most one frame and asks for another
    call if more are waiting.
    """

    def __init__(self, source: str, odom_frame: str, tree: TransformTree, bounds: QueueBounds,
                 timeout_sec: float, outlet: Outlet, clock: WaitClock,
                 report: Callable[[str], None]) -> None:
        self._source = source
        self._odom_frame = odom_frame
        self._tree = tree
        self._bounds = bounds
        self.timeout_sec = timeout_sec
        self._outlet = outlet
        self._clock = clock
        self._report = report
        self._reported = False
        self._depths: dict[int, np.ndarray] = {}  # by stamp
        self._waiting: deque[tuple[float, Frame]] = deque()  # since when they wait
        self._lacking: Frame | None = None  # the frame that waited in vain last, without its image

    def __len__(self) -> int:
        """Return the number of waiting frames."""
        return len(self._waiting)

    @property
    def takes_depth(self) -> bool:
        """Return whether the scale comes from depth images."""
        return self._source == 'depth'

    def take_frame(self, frame: Frame) -> None:
        """Pass a frame on, now or later."""
        self._waiting.append((self._clock.time_of(frame), frame))
        self.match()

    def take_depth(self, stamp_ns: int, depth: np.ndarray) -> None:
        """Use a depth image, float32 [height, width] in metres, for the frame of its stamp."""
        self._depths.pop(stamp_ns, None)
        self._depths[stamp_ns] = depth
        while self._bounds.exceeded(len(self._depths),
                                    sum(one.nbytes for one in self._depths.values())):
            del self._depths[next(iter(self._depths))]
        self.match()

    def match(self) -> None:
        """Pass on the next frame if it has all that it can get, or has waited long enough."""
        if not self._waiting or self._must_wait(*self._waiting[0]):
            return
        self._pass_on_first()
        if self._waiting:
            self._outlet.match_soon()

    def begin_again(self) -> None:
        """Let frames wait again, because the time of the images has jumped."""
        self._lacking = None

    def drain(self) -> None:
        """Pass on all frames with what is known, because no more will come."""
        while self._waiting:
            self._pass_on_first()

    def drop_waiting(self) -> None:
        """Drop all waiting frames."""
        for _ in self._waiting:
            self._outlet.drop()
        self._waiting.clear()

    def _pass_on_first(self) -> None:
        _, frame = self._waiting.popleft()
        if self.takes_depth:
            depth = self._depths.pop(frame.stamp_ns, None)
            if depth is not None and depth.shape != frame.rgb.shape[:2]:
                self._outlet.warn(FrameError(
                    f'depth: expected the size of the image, {frame.rgb.shape[:2]}, got '
                    f'{depth.shape}: the depth image has to be registered to the image'))
                depth = None
            frame = replace(frame, depth=depth)
        elif self._source in ('odometry', 'auto'):
            frame = replace(frame, odometry=self._odometry(frame))
        self._outlet.pass_on(frame)

    def _odometry(self, frame: Frame) -> np.ndarray | None:
        return self._tree.lookup(self._odom_frame, frame.frame_id, frame.stamp_ns)

    def _lacks(self, frame: Frame) -> bool:
        """Return whether a frame lacks something that may still come."""
        if self.takes_depth:
            return frame.stamp_ns not in self._depths
        if self._source == 'odometry':
            return self._odometry(frame) is None
        return self._source == 'auto' and self._odometry(frame) is None and self._tree.awaits(
            self._odom_frame, frame.frame_id, frame.stamp_ns)

    def _must_wait(self, since_sec: float, frame: Frame) -> bool:
        """Return whether the first frame waits on; note if it has waited in vain."""
        if not self._lacks(frame):
            return False
        if self._lacking is not None and self._lacks(self._lacking):
            return False
        self._lacking = None
        if any(not self._lacks(later) for _, later in islice(self._waiting, 1, None)):
            return False
        if self._bounds.exceeded(len(self._waiting),
                                 sum(frame_bytes(one) for _, one in self._waiting)):
            return False
        if self._clock.now() - since_sec <= self.timeout_sec:
            return True
        self._lacking = replace(frame, rgb=np.zeros((0, 0, 3), np.uint8), mask=None)
        if not self._reported and self._source != 'auto':
            self._reported = True
            self._report(self._reason(frame))
        return False

    def _reason(self, frame: Frame) -> str:
        if self.takes_depth:
            return 'no scale: no depth image has the stamp of the image'
        missing = self._tree.missing_link(self._odom_frame, frame.frame_id)
        return (f'no scale: TF has no {self._odom_frame} -> {frame.frame_id} at the stamp of the '
                'image' + (f'. {missing}' if missing else ''))
