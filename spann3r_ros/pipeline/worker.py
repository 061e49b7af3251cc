# SPDX-License-Identifier: Apache-2.0
"""The worker thread, which runs the network and the mapper."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, Thread
from time import monotonic
from typing import Protocol, TypeVar

from spann3r_ros.core.types import Frame
from spann3r_ros.mapping.mapping_status import MapUpdate

from .slot import WINDOW, Accounts, FrameSlot, Outcome, Timing, Work

Result = TypeVar('Result')


class Reporter(Protocol):
    """What the worker reports to its owner, always on the worker thread."""

    def deliver(self, update: MapUpdate) -> None:
        """Handle the results of a frame; the frame is not counted in the accounts yet."""

    def frame_settled(self) -> None:
        """Handle a change of the accounts."""

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        """Handle a frame that the mapper could not use."""

    def report_failed(self, error: Exception) -> None:
        """Handle an exception of a method above; the results of the frame are in the map."""


@dataclass(frozen=True)
class WorkerReport:
    """Accounts and timing at one time, and the stamp of the newest processed frame."""

    accounts: Accounts
    latency: Timing
    inference: Timing
    stamp_ns: int


class Worker:
    """Takes frames from the slot, passes them to `process` and the results to the reporter.

    `settled` is called before `Reporter.frame_settled`. An exception of `process` fails its frame.
    An exception of the reporter is passed to `Reporter.report_failed`. None of them ends the
    thread. If another defect ends it, such as a SystemExit, no caller of `call` waits any longer:
    calls raise, and frames are dropped. From construction to `stop` only this thread may use the
    objects that `process` uses; other threads use them by `call`.
    """

    def __init__(self, process: Callable[[Frame], MapUpdate], slot: FrameSlot,
                 reporter: Reporter, settled: Callable[[], None] = lambda: None) -> None:
        self._process = process
        self._slot = slot
        self._reporter = reporter
        self._settled = settled
        self._timing_lock = Lock()
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._inferences: deque[float] = deque(maxlen=WINDOW)
        self._stamp_ns = 0
        self._thread = Thread(target=self._run, name='mapper_worker')
        self._thread.start()

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a function on the worker thread, after the waiting frame; return what it returns."""
        return self._slot.submit(function).result()

    def stop(self) -> None:
        """End the thread after the frame in progress; the slot accepts nothing afterwards."""
        self._slot.stop()
        self._thread.join()

    def report(self) -> WorkerReport:
        """Return accounts and timing; may be called from any thread."""
        with self._timing_lock:
            return WorkerReport(self._slot.accounts(), Timing.of(self._latencies),
                                Timing.of(self._inferences), self._stamp_ns)

    def deliver(self, update: MapUpdate, frame: Frame | None = None) -> None:
        """Pass an update to the reporter, with its failures; `frame` is not settled yet.

        It is called on the worker thread.
        """
        self._report(self._reporter.deliver, update)
        for failed in update.failed:
            self._report(self._reporter.frame_failed, failed.frame, failed.error)
        # A frame may turn out to be unusable after it has been counted.
        self._slot.revoke(sum(failed.frame is not frame and failed.is_counted
                              for failed in update.failed))

    def _run(self) -> None:
        work = Work(None, 0.0, ())
        try:
            while (work := self._slot.take()) is not None:
                if work.frame is not None:
                    self._handle(work.frame, work.received_sec)
                for command in work.commands:
                    command.run()
        # If a defect ends the thread, callers get an error instead of waiting for ever.
        except BaseException as error:
            reason = f'the worker ended with {error!r}'
            self._slot.stop(reason)
            for command in work.commands:
                command.cancel(reason)
            raise

    def _handle(self, frame: Frame, received_sec: float) -> None:
        try:
            update = self._process(frame)
        # An unexpected error fails its frame and is reported; the next frame may work.
        except BaseException as error:
            self._slot.settle(Outcome.FAILED)
            if not isinstance(error, Exception):
                raise
            self._report(self._reporter.frame_failed, frame, error)
        else:
            outcome = Outcome.SKIPPED if update.skipped else Outcome.PROCESSED
            try:
                self.deliver(update, frame)
            finally:
                self._slot.settle(outcome if update.error_of(frame) is None else Outcome.FAILED,
                                  update.blind)
            if outcome is Outcome.PROCESSED:
                self._note_timing(frame, update, monotonic() - received_sec)
        self._report(self._settled)
        self._report(self._reporter.frame_settled)

    def _report(self, method: Callable[..., None], *arguments: object) -> None:
        try:
            method(*arguments)
        except Exception as error:
            self._reporter.report_failed(error)

    def _note_timing(self, frame: Frame, update: MapUpdate, latency_sec: float) -> None:
        with self._timing_lock:
            self._latencies.append(latency_sec)
            self._inferences.append(update.inference_sec)
            self._stamp_ns = frame.stamp_ns
