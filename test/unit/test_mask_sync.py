# SPDX-License-Identifier: Apache-2.0
"""Every frame gets its mask or is dropped; none is passed on without a mask."""
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.core.types import Frame
from spann3r_ros.pipeline.sync.bounds import QueueBounds
from spann3r_ros.pipeline.sync.mask_sync import MaskSync


class Matched:
    """A synchroniser and the frames that it passed on: (stamp, label of the mask)."""

    def __init__(self, mode: str, capacity: int = 3, most_bytes: int = 10**9) -> None:
        self.out: list[tuple[int, int | None]] = []
        self.dropped = 0
        self._matcher = MaskSync(mode, QueueBounds(capacity, most_bytes), self._take, self._drop)

    def image(self, *stamps: int) -> None:
        for stamp in stamps:
            self._matcher.take_frame(Frame(stamp, 'camera', np.zeros((2, 2, 3), np.uint8)))

    def mask(self, *stamps: int) -> None:
        for stamp in stamps:
            self._matcher.take_mask(stamp, np.full((2, 2), stamp))

    def close(self) -> None:
        self._matcher.drop_waiting()

    def _take(self, frame: Frame) -> None:
        self.out.append((frame.stamp_ns, None if frame.mask is None else int(frame.mask[0, 0])))

    def _drop(self) -> None:
        self.dropped += 1


def test_without_masks_frames_pass() -> None:
    matched = Matched('none')
    matched.image(1, 2)
    assert (matched.out, matched.dropped) == ([(1, None), (2, None)], 0)


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
    matched.close()
    assert matched.dropped == 10


def test_waiting_is_bounded_by_bytes() -> None:
    matched = Matched('exact', capacity=100, most_bytes=30)  # an image has 12, a mask 32
    matched.image(1, 2, 3)
    assert matched.dropped == 1
    matched.mask(8, 9)
    matched.image(8, 9)
    assert matched.out == [(9, 9)]
