# SPDX-License-Identifier: Apache-2.0
"""The thread of the worker survives errors of frames and of the reporter."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from threading import Event, active_count

import numpy as np
import pytest

from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.mapping.mapping_status import FailedFrame, MapUpdate
from spann3r_ros.pipeline.slot import Accounts, FrameSlot
from spann3r_ros.pipeline.worker import Worker

DEADLINE_SEC = 300.0


class Reports:
    """Collects the reports of the worker; raises in selected methods."""

    def __init__(self, failing: str = '') -> None:
        self.failing = failing
        self.reports: list[str] = []
        self.errors: list[Exception] = []

    def _record(self, name: str) -> None:
        self.reports.append(name)
        if name == self.failing:
            raise RuntimeError(name)

    def deliver(self, update: MapUpdate) -> None:
        self._record('deliver')

    def frame_settled(self) -> None:
        self._record('frame_settled')

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        self.errors.append(error)
        self._record('frame_failed')

    def report_failed(self, error: Exception) -> None:
        self.errors.append(error)


class Rig:
    """A worker over a slot; `process` gets the frame's stamp."""

    def __init__(self, process: Callable[[int], MapUpdate], failing: str = '') -> None:
        self.slot = FrameSlot(blocking=True)
        self.slot.open()
        self.reports = Reports(failing)
        self.worker = Worker(lambda frame: process(frame.stamp_ns), self.slot, self.reports)

    def feed(self, *stamps: int) -> None:
        """Put frames and return when all are settled."""
        for stamp_ns in stamps:
            self.slot.put(Frame(stamp_ns, 'camera', np.zeros((1, 1, 3), np.uint8)))
        self.worker.call(lambda: None)


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(process: Callable[[int], MapUpdate], failing: str = '') -> Rig:
        rigs.append(Rig(process, failing))
        return rigs[-1]

    yield make
    for one in rigs:
        one.worker.stop()


def accept(stamp_ns: int) -> MapUpdate:
    return MapUpdate(skipped=stamp_ns % 2 == 1, inference_sec=0.25)


def test_processed_and_skipped_frames_are_counted_apart(rig: Callable[..., Rig]) -> None:
    one = rig(accept)
    one.feed(0, 1, 2)
    report = one.worker.report()
    assert report.accounts == Accounts(received=3, processed=2, skipped=1)
    assert report.stamp_ns == 2
    assert report.inference.mean_sec == 0.25
    assert 0.0 < report.latency.last_sec <= report.latency.max_sec


@pytest.mark.parametrize('error', [FrameError('bad'), MemoryError('full')])
def test_a_frame_that_fails_is_reported_and_the_next_one_processed(
        error: Exception, rig: Callable[..., Rig]) -> None:
    def process(stamp_ns: int) -> MapUpdate:
        if stamp_ns == 2:
            raise error
        return accept(stamp_ns)

    one = rig(process)
    one.feed(0, 2, 4)
    assert one.worker.report().accounts == Accounts(received=3, processed=2, failed=1)
    assert one.reports.errors == [error]


@pytest.mark.parametrize('failing', ['deliver', 'frame_settled', 'frame_failed'])
def test_a_failing_reporter_does_not_end_the_thread(
        failing: str, rig: Callable[..., Rig]) -> None:
    def process(stamp_ns: int) -> MapUpdate:
        if stamp_ns == 2:
            raise FrameError('bad')
        return accept(stamp_ns)

    one = rig(process, failing)
    one.feed(0, 2, 4)
    assert one.worker.report().accounts == Accounts(received=3, processed=2, failed=1)
    assert failing in {str(error) for error in one.reports.errors}


def test_results_are_delivered_before_the_frame_is_settled(rig: Callable[..., Rig]) -> None:
    one = rig(accept)
    waiting = []
    one.reports.deliver = lambda update: waiting.append(one.slot.accounts().waiting)
    one.feed(0)
    assert waiting == [1]


def test_call_returns_what_the_function_returns_or_raises(rig: Callable[..., Rig]) -> None:
    one = rig(accept)
    assert one.worker.call(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        one.worker.call(lambda: 1 // 0)
    assert one.worker.call(lambda: 43) == 43


def test_stop_finishes_the_frame_in_work_and_drops_the_waiting_one() -> None:
    before = active_count()
    started, release = Event(), Event()

    def process(stamp_ns: int) -> MapUpdate:
        started.set()
        assert release.wait(DEADLINE_SEC)
        return accept(stamp_ns)

    one = Rig(process)
    frame = Frame(0, 'camera', np.zeros((1, 1, 3), np.uint8))
    one.slot.put(frame)
    assert started.wait(DEADLINE_SEC)
    one.slot.put(frame)
    one.slot.close()
    release.set()
    one.worker.stop()
    assert one.worker.report().accounts == Accounts(received=2, processed=1, dropped=1)
    assert active_count() == before
    with pytest.raises(RuntimeError, match='stopped'):
        one.worker.call(lambda: None)


@pytest.mark.parametrize('place', ['process', 'deliver', 'frame_settled', 'command'])
def test_a_defect_that_ends_the_thread_leaves_no_caller_and_no_frame_waiting(
        place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr('threading.excepthook', lambda arguments: ended.append(arguments))
    started, release = Event(), Event()

    def end(*_: object) -> None:
        raise KeyboardInterrupt('a defect')

    def process(stamp_ns: int) -> MapUpdate:
        if stamp_ns == 0:
            started.set()
            assert release.wait(DEADLINE_SEC)
        elif place == 'process':
            end()
        return accept(stamp_ns)

    one = Rig(process)
    first, second = (Frame(stamp_ns, 'camera', np.zeros((1, 1, 3), np.uint8))
                     for stamp_ns in (0, 2))
    one.slot.put(first)
    assert started.wait(DEADLINE_SEC)
    one.slot.put(second)
    futures = [one.slot.submit(end if place == 'command' else lambda: None) for _ in range(2)]
    if place not in ('process', 'command'):
        setattr(one.reports, place, end)
    release.set()
    for future in futures:
        with pytest.raises(CancelledError, match='a defect'):
            future.result(DEADLINE_SEC)
    with pytest.raises(RuntimeError, match='a defect'):
        one.worker.call(lambda: None)
    one.worker.stop()
    assert [one.exc_type for one in ended] == [KeyboardInterrupt]
    accounts = one.worker.report().accounts
    assert (accounts.received, accounts.waiting) == (2, 0) and accounts.balanced


def test_earlier_frame_that_turns_out_to_be_unusable_counts_as_failed() -> None:
    earlier = Frame(1, 'camera', np.zeros((1, 1, 3), np.uint8))
    failed = {3: (FailedFrame(earlier, FrameError('no points')),)}
    rig = Rig(lambda stamp_ns: MapUpdate(failed=failed.get(stamp_ns, ())))
    rig.feed(1, 2, 3)
    rig.worker.stop()
    accounts = rig.slot.accounts()
    assert (accounts.processed, accounts.failed) == (2, 1) and accounts.balanced
    assert [str(error) for error in rig.reports.errors] == ['no points']
