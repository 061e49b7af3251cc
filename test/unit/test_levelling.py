# SPDX-License-Identifier: Apache-2.0
"""Live, the first images wait until TF can level the map; later ones never wait for it."""
from __future__ import annotations

import numpy as np

from spann3r_ros.core.types import Frame
from spann3r_ros.pipeline.sync.bounds import QueueBounds
from spann3r_ros.pipeline.sync.camera_sync import Calibrations, CameraSync, Expected, Timeouts
from spann3r_ros.pipeline.sync.map_calibration import MapCalibration
from spann3r_ros.pipeline.sync.outlet import Outlet
from spann3r_ros.pipeline.sync.wait_clock import WaitClock

FIRST_POSE = np.eye(4)


class Live:
    """A live synchroniser with a clock of its own, and what it passed on: (stamp, levelled)."""

    def __init__(self, timeout_sec: float = 0.5, publishes: bool = True,
                 capacity: int = 30) -> None:
        self.now_sec = 10.0
        self.known = False
        self.asked = 0
        self.out: list[tuple[int, bool]] = []
        self._calls = 0
        self.sync = CameraSync(
            Calibrations(0.0), MapCalibration(lambda *_: None),
            lambda *_: FIRST_POSE if self.known else None,
            Expected(lambda: False, lambda: publishes),
            False, Timeouts(2.0, timeout_sec), QueueBounds(capacity, 10**9),
            Outlet(lambda frame: self.out.append(
                (frame.stamp_ns, frame.first_pose is not None)),
                   lambda: None, lambda _: None, lambda _: None, self._match_soon),
            WaitClock(replay=False, wall=lambda: self.now_sec))

    def image(self, *stamps: int) -> None:
        for stamp in stamps:
            self.sync.take_frame(Frame(stamp, 'camera', np.zeros((2, 2, 3), np.uint8)))
            self._run()

    def match(self) -> None:
        self.sync.match()
        self._run()

    def _match_soon(self) -> None:
        self._calls += 1

    def _run(self) -> None:
        while self._calls:
            self._calls -= 1
            self.sync.match()


def test_the_first_images_wait_for_the_mount() -> None:
    live = Live()
    live.image(1, 2)
    assert live.out == [] and len(live.sync) == 2
    live.known = True
    live.match()
    assert live.out == [(1, True), (2, True)]
    # Known once, it is not waited for again.
    live.known = False
    live.image(3)
    assert live.out[-1] == (3, False)


def test_after_the_timeout_no_image_waits_any_more() -> None:
    live = Live()
    live.image(1)
    live.now_sec += 0.4
    live.image(2)
    assert live.out == []
    live.now_sec += 0.2
    live.match()
    assert live.out == [(1, False), (2, False)]
    live.image(3)
    live.known = True
    live.image(4)
    assert live.out[2:] == [(3, False), (4, True)]


def test_no_image_waits_without_another_publisher_of_tf_or_with_a_timeout_of_zero() -> None:
    for live in (Live(publishes=False), Live(timeout_sec=0.0)):
        live.image(1)
        assert live.out == [(1, False)]


def test_images_beyond_the_bounds_end_the_wait() -> None:
    live = Live(capacity=2)
    live.image(1, 2)
    assert live.out == []
    live.image(3)
    assert live.out == [(1, False), (2, False), (3, False)]
