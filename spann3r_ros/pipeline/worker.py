# SPDX-License-Identifier: Apache-2.0
"""The one thread that owns the model and the map."""
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
        """Publish what a frame yielded; the frame is not settled yet."""

    def frame_settled(self) -> None:
        """Take note that the accounts changed."""

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        """Report a frame the mapper could not use."""

    def report_failed(self, error: Exception) -> None:
        """Take note that one of the methods above raised; the map has the frame's results."""


@dataclass(frozen=True)
class WorkerReport:
    """Accounts and timing of one instant, and the newest processed frame's stamp."""

    accounts: Accounts
    latency: Timing
    inference: Timing
    stamp_ns: int


class Worker:
    """Take frames from the slot, give them to `process`, hand the result to the reporter.

    `settled` is called before the reporter learns that a frame is settled. An exception of
    `process` ends its frame, one of the reporter is reported: never the thread.
    From construction to `stop` the thread is the only one that may touch what `process` owns;
    everyone else goes through `call`.
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
        """End the thread after the frame in work; the slot takes nothing any more."""
        self._slot.stop()
        self._thread.join()

    def report(self) -> WorkerReport:
        """Return accounts and timing; may be called from any thread."""
        with self._timing_lock:
            return WorkerReport(self._slot.accounts(), Timing.of(self._latencies),
                                Timing.of(self._inferences), self._stamp_ns)

    def _run(self) -> None:
        try:
            while (work := self._slot.take()) is not None:
                if work.frame is not None:
                    self._handle(work.frame, work.received_sec)
                for command in work.commands:
                    command.run()
        finally:
            # Should the thread ever end by a defect, callers get an error, not an endless wait.
            self._slot.stop()

    def _handle(self, frame: Frame, received_sec: float) -> None:
        try:
            update = self._process(frame)
        # An unexpected error costs its frame and is reported loudly; the next frame may be fine.
        except Exception as error:
            self._slot.settle(Outcome.FAILED)
            self._report(self._reporter.frame_failed, frame, error)
        else:
            self._report(self._reporter.deliver, update)
            self._slot.settle(Outcome.SKIPPED if update.skipped else Outcome.PROCESSED)
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
