# SPDX-License-Identifier: Apache-2.0
"""Every frame gets its mask or is dropped; none is passed on without a mask."""
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.core.types import Frame
from spann3r_ros.pipeline.sync.bounds import QueueBounds
from spann3r_ros.pipeline.sync.mask_sync import ExactMaskSync, LatestMaskSync
from spann3r_ros.pipeline.sync.outlet import Outlet
from spann3r_ros.pipeline.sync.wait_clock import WaitClock

SECOND_NS = 10**9


class Matched:
    """A synchroniser and the frames that it passed on: (stamp, label of the mask)."""

    def __init__(self, mode: str, capacity: int = 3, most_bytes: int = 10**9,
                 replay: bool = False, in_seconds: bool = False) -> None:
        self.out: list[tuple[int, int | None]] = []
        self.dropped = 0
        self.reasons: list[str] = []
        self.clock = WaitClock(replay=True)
        self._unit_ns = SECOND_NS if in_seconds else 1
        bounds = QueueBounds(capacity, most_bytes)
        outlet = Outlet(self._take, self._drop, lambda error: self.reasons.append(str(error)),
                        pytest.fail, self._match_soon)
        self.matcher = (ExactMaskSync(outlet, bounds) if mode == 'exact' else
                        LatestMaskSync(outlet, bounds, 1.0, self.clock if replay else None))
        self._calls = 0

    def image(self, *stamps: float) -> None:
        for stamp in stamps:
            self.clock.note_image(round(stamp * self._unit_ns))
            self.matcher.take_frame(Frame(round(stamp * self._unit_ns), 'camera',
                                          np.zeros((2, 2, 3), np.uint8)))
            self._match()

    def mask(self, *stamps: int) -> None:
        for stamp in stamps:
            self.matcher.take_mask(stamp * self._unit_ns, np.full((2, 2), stamp))
            self._match()

    def drop_waiting(self) -> None:
        self.matcher.drop_waiting()

    def _match(self) -> None:
        while self._calls:
            self._calls -= 1
            self.matcher.match()

    def _match_soon(self) -> None:
        self._calls += 1

    def _take(self, frame: Frame) -> None:
        self.out.append((frame.stamp_ns / self._unit_ns, int(frame.mask[0, 0])))

    def _drop(self) -> None:
        self.dropped += 1


def test_the_latest_mask_is_that_of_all_further_frames() -> None:
    matched = Matched('latest')
    matched.image(1)
    matched.mask(7)
    matched.image(2, 3)
    matched.mask(8)
    matched.image(4)
    assert matched.out == [(2, 7), (3, 7), (4, 8)]
    assert matched.dropped == 1


@pytest.mark.parametrize('mask_first', [False, True])
def test_frames_get_their_exact_masks_in_any_order_of_arrival(mask_first: bool) -> None:
    matched = Matched('exact')
    for stamp in (1, 2, 3):
        for take in (matched.mask, matched.image) if mask_first else (matched.image, matched.mask):
            take(stamp)
    assert matched.out == [(1, 1), (2, 2), (3, 3)]
    assert matched.dropped == 0


def test_a_frame_is_dropped_when_a_later_one_has_its_mask() -> None:
    matched = Matched('exact')
    matched.image(1, 2, 3)
    matched.mask(2)
    assert (matched.out, matched.dropped) == ([(2, 2)], 1)
    matched.mask(1, 3)
    assert (matched.out, matched.dropped) == ([(2, 2), (3, 3)], 1)


def test_waiting_is_bounded_and_ends() -> None:
    matched = Matched('exact', capacity=3)
    matched.image(*range(10))
    assert matched.dropped == 7
    matched.mask(*range(100, 110))
    matched.mask(9)
    assert matched.out == [(9, 9)]
    assert matched.dropped == 9
    matched.image(10)
    matched.drop_waiting()
    assert matched.dropped == 10


def test_waiting_is_bounded_by_bytes() -> None:
    matched = Matched('exact', capacity=100, most_bytes=30)  # an image has 12, a mask 32
    matched.image(1, 2, 3)
    assert matched.dropped == 1
    matched.mask(8, 9)
    matched.image(8, 9)
    assert matched.out == [(9, 9)]


def test_latest_mask_of_a_replay_is_chosen_by_stamp_in_any_order_of_messages() -> None:
    masks, images, expected = (2, 5, 9), range(1, 9), [(stamp, 2) for stamp in (2, 3, 4)] + [
        (stamp, 5) for stamp in (5, 6, 7, 8)]
    for order in ([*((matched_mask, 'mask') for matched_mask in masks),
                   *((stamp, 'image') for stamp in images)],
                  [*((stamp, 'image') for stamp in images),
                   *((stamp, 'mask') for stamp in masks)]):
        matched = Matched('latest', capacity=20, replay=True)
        for stamp, kind in order:
            getattr(matched, kind)(stamp)
        assert (matched.out, matched.dropped) == (expected, 1)
        assert 'no mask for the image: none came before it' in matched.reasons[0]


def test_latest_mask_that_does_not_come_is_waited_for_once() -> None:
    matched = Matched('latest', capacity=20, replay=True, in_seconds=True)
    matched.mask(1)
    matched.image(2.0, 2.5, 3.0)
    assert (matched.out, len(matched.matcher)) == ([], 3)
    matched.image(3.1)
    assert matched.out == [(stamp, 1) for stamp in (2.0, 2.5, 3.0, 3.1)]
    matched.image(3.2)
    assert matched.out[-1] == (3.2, 1)
    matched.mask(4)  # with another mask, images wait again
    matched.image(4.5)
    assert matched.out[-1] == (3.2, 1)
    matched.matcher.drain()
    assert matched.out[-1] == (4.5, 4)
    assert not matched.dropped


def test_masks_of_the_old_time_are_forgotten_after_a_jump_back() -> None:
    matched = Matched('latest', capacity=20, replay=True, in_seconds=True)
    matched.mask(10, 20)
    matched.matcher.begin_again(5 * SECOND_NS)
    matched.clock.begin_again(5 * SECOND_NS)
    matched.image(5.0)
    assert len(matched.matcher) == 1
    matched.mask(5)
    assert matched.out == [(5.0, 5)]


def test_end_of_a_recording_drops_images_without_their_exact_mask() -> None:
    matched = Matched('exact')
    matched.image(1, 2)
    matched.matcher.drain()
    assert matched.dropped == 2
    assert 'none came' in matched.reasons[0]


def test_of_masks_with_one_stamp_the_last_is_used() -> None:
    matched = Matched('latest', replay=True)
    for label in (3, 4):
        matched.matcher.take_mask(7, np.full((2, 2), label))
    matched.image(7)
    assert matched.out == [(7, 4)]
