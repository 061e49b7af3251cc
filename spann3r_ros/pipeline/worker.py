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

from .slot import WINDOW, Accounts, FrameSlot, Outcome, Timing

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
    thread. From construction to `stop` only this thread may use the objects that `process` uses;
    other threads use them by `call`.
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

    def refuse_earlier(self, update: MapUpdate) -> None:
        """Count and report the earlier frames that an update refuses; on the worker thread."""
        self._slot.revise(len(update.refused))
        for frame, error in update.refused:
            self._report(self._reporter.frame_failed, frame, error)

    def _run(self) -> None:
        try:
            while (work := self._slot.take()) is not None:
                if work.frame is not None:
                    self._handle(work.frame, work.received_sec)
                for command in work.commands:
                    command.run()
        finally:
            # If a defect ends the thread, callers get an error instead of waiting for ever.
            self._slot.stop()

    def _handle(self, frame: Frame, received_sec: float) -> None:
        try:
            update = self._process(frame)
        # An unexpected error fails its frame and is reported; the next frame may work.
        except Exception as error:
            self._slot.settle(Outcome.FAILED)
            self._report(self._reporter.frame_failed, frame, error)
        else:
            self._report(self._reporter.deliver, update)
            self._slot.settle(Outcome.SKIPPED if update.skipped else Outcome.PROCESSED)
            self.refuse_earlier(update)
            if not update.skipped:
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
