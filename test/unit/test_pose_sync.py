# SPDX-License-Identifier: Apache-2.0
"""Every frame gets its pose from TF or is dropped with a reason."""
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.core.types import Frame
from spann3r_ros.pipeline.sync.bounds import QueueBounds
from spann3r_ros.pipeline.sync.outlet import Outlet
from spann3r_ros.pipeline.sync.pose_sync import PoseSync
from spann3r_ros.pipeline.sync.wait_clock import WaitClock


class Matched:
    """A synchroniser with a test clock, and the frames that it passed on or dropped."""

    def __init__(self, capacity: int = 3, most_bytes: int = 10**9) -> None:
        self.out: list[int] = []
        self.dropped = 0
        self.reasons: list[str] = []
        self.known: set[int] = set()
        self.now = 100.0
        self.matcher = PoseSync(
            lambda frame: np.eye(4) if frame.stamp_ns in self.known else None,
            QueueBounds(capacity, most_bytes), 0.5,
            Outlet(self._take, self._drop, lambda error: self.reasons.append(str(error)),
                   pytest.fail, self._match_soon), WaitClock(replay=False, wall=lambda: self.now))
        self.calls = 0

    def image(self, *stamps: int) -> None:
        for stamp in stamps:
            self.matcher.take_frame(Frame(stamp, 'camera', np.zeros((2, 2, 3), np.uint8)))

    def add_poses(self, *stamps: int) -> None:
        self.known.update(stamps)
        self.match()

    def match(self) -> None:
        """Match as often as the synchroniser requests it."""
        self.calls = 1
        while self.calls:
            self.calls -= 1
            self.matcher.match()

    def _match_soon(self) -> None:
        self.calls += 1

    def _take(self, frame: Frame) -> None:
        assert frame.world_from_camera is not None
        self.out.append(frame.stamp_ns)

    def _drop(self) -> None:
        self.dropped += 1


def test_frames_are_passed_on_in_order_as_their_poses_come() -> None:
    matched = Matched()
    matched.image(1, 2)
    assert matched.out == []
    matched.add_poses(1, 2, 3)
    matched.image(3)
    assert (matched.out, matched.dropped) == ([1, 2, 3], 0)


def test_one_match_passes_on_one_frame() -> None:
    matched = Matched()
    matched.image(1, 2, 3)
    matched.known.update((1, 2, 3))
    matched.calls = 0
    matched.matcher.match()
    assert (matched.out, matched.calls) == ([1], 1)


def test_a_frame_is_dropped_when_the_next_one_has_a_pose() -> None:
    matched = Matched()
    matched.image(1, 2, 3)
    matched.add_poses(2)
    assert (matched.out, matched.dropped) == ([2], 1)
    assert 'a later image has one' in matched.reasons[0]


def test_frames_time_out_but_not_while_others_are_passed_on() -> None:
    matched = Matched()
    matched.image(1, 2)
    matched.now += 0.4
    matched.add_poses(1)
    matched.now += 0.4
    matched.match()
    assert (matched.out, matched.dropped) == ([1], 0)
    matched.now += 0.2
    matched.match()
    assert (matched.out, matched.dropped) == ([1], 1)
    assert 'none came within 0.5 s' in matched.reasons[0]


def test_waiting_is_bounded_and_ends_silently() -> None:
    matched = Matched(capacity=3)
    matched.image(1, 2, 3, 4)
    assert (matched.dropped, len(matched.reasons)) == (1, 1)
    matched.matcher.drop_waiting()
    assert (matched.dropped, len(matched.reasons)) == (4, 1)


def test_waiting_is_bounded_by_bytes() -> None:
    matched = Matched(capacity=100, most_bytes=30)  # an image has 12
    matched.image(1, 2, 3)
    assert (matched.dropped, matched.reasons) == (1, [matched.reasons[0]])
    assert '3 images of 36 bytes wait' in matched.reasons[0]


def test_frames_without_a_pose_do_not_hold_back_later_ones() -> None:
    matched = Matched(capacity=10)
    matched.image(1, 2, 3, 4)
    matched.add_poses(4)
    assert (matched.out, matched.dropped) == ([4], 3)


def test_end_of_a_recording_drops_only_the_frames_without_a_pose() -> None:
    matched = Matched(capacity=10)
    matched.image(1, 2, 3, 4)
    matched.known.update((3, 4))
    matched.matcher.drain()
    assert (matched.out, matched.dropped, len(matched.matcher)) == ([3, 4], 2, 0)
    assert all('the recording has ended' in reason for reason in matched.reasons)


def test_waits_of_a_replay_are_measured_by_stamps_alone() -> None:
    clock = WaitClock(replay=True, wall=lambda: 1 / 0)
    clock.note_image(5 * 10**9)
    clock.note_image(3 * 10**9)  # late
    assert clock.now() == 5.0
    assert clock.time_of(Frame(4 * 10**9, 'camera', np.zeros((1, 1, 3), np.uint8))) == 4.0
    clock.begin_again(10**9)
    assert clock.now() == 1.0


def test_silence_ends_waits_only_if_messages_may_stop_and_nothing_is_processed() -> None:
    wall, busy = [100.0], [False]
    clock = WaitClock(replay=True, busy=lambda: busy[0], wall=lambda: wall[0])
    clock.note_image(5 * 10**9)
    wall[0] += 1.5
    assert clock.now() == 5.0
    wall[0] += 1.5
    assert clock.now() == 6.0
    busy[0] = True  # a step of the network takes long
    wall[0] += 10.0
    assert clock.now() == 5.0
    busy[0] = False
    wall[0] += 1.0
    assert clock.now() == 5.0
    wall[0] += 3.0
    clock.note_activity()  # the caller was blocked
    assert clock.now() == 5.0
