# SPDX-License-Identifier: Apache-2.0
"""The slot counts every frame, in any order of calls."""
from __future__ import annotations

import random
from collections import deque
from concurrent.futures import CancelledError
from threading import Thread

import numpy as np
import pytest

from spann3r_ros.core.types import Frame
from spann3r_ros.pipeline.slot import Accounts, FrameSlot, Outcome, Timing

DEADLINE_SEC = 300.0


def frame(stamp_ns: int = 0) -> Frame:
    return Frame(stamp_ns, 'camera', np.zeros((1, 1, 3), np.uint8))


def opened(blocking: bool) -> FrameSlot:
    slot = FrameSlot(blocking)
    slot.open()
    return slot


def test_live_slot_keeps_the_newest_and_counts_the_replaced() -> None:
    slot = opened(blocking=False)
    for stamp_ns in range(5):
        slot.put(frame(stamp_ns))
    assert slot.accounts() == Accounts(received=5, dropped=4, waiting=1)
    work = slot.take()
    assert work.frame.stamp_ns == 4
    assert slot.accounts() == Accounts(received=5, dropped=4, waiting=1)
    slot.settle(Outcome.PROCESSED)
    assert slot.accounts() == Accounts(received=5, dropped=4, processed=1)


def test_replay_slot_blocks_until_the_frame_is_taken() -> None:
    slot = opened(blocking=True)
    slot.put(frame(0))
    second = Thread(target=slot.put, args=(frame(1),))
    second.start()
    while slot.accounts().received < 2:
        assert second.is_alive()
    assert slot.accounts() == Accounts(received=2, waiting=2)
    assert slot.take().frame.stamp_ns == 0
    second.join(DEADLINE_SEC)
    assert not second.is_alive()
    assert slot.take().frame.stamp_ns == 1


def test_close_drops_the_waiting_frame_and_releases_a_blocked_put() -> None:
    slot = opened(blocking=True)
    slot.put(frame(0))
    blocked = Thread(target=slot.put, args=(frame(1),))
    blocked.start()
    while slot.accounts().received < 2:
        assert blocked.is_alive()
    slot.close()
    blocked.join(DEADLINE_SEC)
    assert not blocked.is_alive()
    slot.put(frame(2))
    assert slot.accounts() == Accounts(received=3, dropped=3)


def test_refused_frames_are_received_and_ended_at_once() -> None:
    slot = opened(blocking=False)
    slot.refuse(Outcome.FAILED)
    slot.refuse(Outcome.SKIPPED)
    assert slot.accounts() == Accounts(received=2, failed=1, skipped=1)


def test_commands_follow_the_frame_that_waited_before_them() -> None:
    slot = opened(blocking=False)
    slot.put(frame(7))
    future = slot.submit(lambda: 'done')
    work = slot.take()
    assert work.frame.stamp_ns == 7
    assert not future.done()
    for command in work.commands:
        command.run()
    assert future.result(DEADLINE_SEC) == 'done'


def test_stop_cancels_commands_and_refuses_new_ones() -> None:
    slot = opened(blocking=False)
    future = slot.submit(lambda: None)
    slot.stop()
    assert slot.take() is None
    with pytest.raises(CancelledError):
        future.result(DEADLINE_SEC)
    with pytest.raises(RuntimeError, match='stopped'):
        slot.submit(lambda: None)


@pytest.mark.parametrize('blocking', [False, True])
def test_accounts_balance_at_any_time_under_contention(blocking: bool) -> None:
    slot = opened(blocking)
    frames = 300

    def produce(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(frames):
            if chance.random() < 0.2:
                slot.refuse(Outcome.FAILED)
            else:
                slot.put(frame())

    def consume() -> None:
        chance = random.Random(9)
        while (work := slot.take()) is not None:
            if work.frame is not None:
                slot.settle(chance.choice((Outcome.PROCESSED, Outcome.SKIPPED)))

    producers = [Thread(target=produce, args=(seed,)) for seed in range(2)]
    consumer = Thread(target=consume)
    for thread in (consumer, *producers):
        thread.start()
    while any(thread.is_alive() for thread in producers):
        accounts = slot.accounts()
        assert accounts.balanced, accounts
        assert accounts.waiting >= 0
    while slot.accounts().waiting:
        assert consumer.is_alive()
    slot.stop()
    consumer.join(DEADLINE_SEC)
    accounts = slot.accounts()
    assert accounts.received == 2 * frames and accounts.balanced and not accounts.waiting
    assert (accounts.dropped == 0) == blocking


def test_unbalanced_accounts_are_detected() -> None:
    assert not Accounts(received=2, processed=1).balanced


def test_timing_summarises_the_window() -> None:
    timing = Timing.of(deque(float(value) for value in range(1, 101)))
    assert (timing.last_sec, timing.mean_sec) == (100.0, 50.5)
    assert (timing.p95_sec, timing.max_sec) == (95.0, 100.0)
    assert np.isnan(Timing.of(deque()).mean_sec)
