# SPDX-License-Identifier: Apache-2.0
"""The slot between the image callback and the worker, and the accounts of all frames."""
from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from enum import Enum
from threading import Condition
from time import monotonic
from typing import Any

from spann3r_ros.core.types import Frame

WINDOW = 1000


class Outcome(Enum):
    """The result of a frame; the value is the name of its count in `Accounts`."""

    PROCESSED = 'processed'
    SKIPPED = 'skipped'
    DROPPED = 'dropped'
    FAILED = 'failed'


@dataclass(frozen=True)
class Accounts:
    """The numbers of frames at one time; `blind` are those of the skipped that show nothing."""

    received: int = 0
    processed: int = 0
    skipped: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0
    blind: int = 0

    @property
    def balanced(self) -> bool:
        """Return whether every received frame has exactly one outcome, or is waiting."""
        return self.received == (self.processed + self.skipped + self.dropped + self.failed
                                 + self.waiting)


@dataclass(frozen=True)
class Timing:
    """Seconds over the last `WINDOW` processed frames; NaN before the first."""

    last_sec: float = math.nan
    mean_sec: float = math.nan
    p95_sec: float = math.nan
    max_sec: float = math.nan

    @classmethod
    def of(cls, values: deque[float]) -> Timing:
        """Return the summary of durations, oldest first; p95 is the nearest-rank percentile."""
        if not values:
            return cls()
        ranked = sorted(values)
        return cls(values[-1], math.fsum(ranked) / len(ranked),
                   ranked[math.ceil(0.95 * len(ranked)) - 1], ranked[-1])


@dataclass(frozen=True)
class Command:
    """A call that runs on the worker thread; `future` receives its result or its exception."""

    function: Callable[[], Any]
    future: Future

    def run(self) -> None:
        """Call the function and settle the future."""
        try:
            self.future.set_result(self.function())
        except Exception as error:
            self.future.set_exception(error)

    def cancel(self, reason: str) -> None:
        """Give the future an error if it has neither a result nor an error."""
        if not self.future.done():
            self.future.set_exception(CancelledError(reason))


@dataclass(frozen=True)
class Work:
    """What the worker takes at one time: the waiting frame, and commands to run after it."""

    frame: Frame | None
    received_sec: float
    commands: tuple[Command, ...]


class FrameSlot:
    """Holds one frame that waits for the worker; all counts change under one lock.

    Live (`blocking=False`): a newer frame replaces the waiting one, which counts as dropped.
    Replay (`blocking=True`): `put` waits until the slot is free, and no frame is dropped. A closed
    slot accepts no frames: the waiting one, and those put later, count as dropped. Commands are
    accepted, whether the slot is open or closed, until `stop`.
    """

    def __init__(self, blocking: bool) -> None:
        self._blocking = blocking
        self._changed = Condition()
        self._accounts = Accounts()
        self._frame: Frame | None = None
        self._received_sec = 0.0
        self._commands: list[Command] = []
        self._open = False
        self._stop_reason = ''

    def open(self) -> None:
        """Accept frames from now on."""
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Drop the waiting frame, release a blocked `put` and accept no more frames."""
        with self._changed:
            self._open = False
            self._drop_waiting()
            self._changed.notify_all()

    def stop(self, reason: str = 'the worker has stopped') -> None:
        """Close for ever: the worker ends, and commands that did not run are cancelled.

        The error of these commands, and of those submitted later, has the first reason given.
        """
        self.close()
        with self._changed:
            self._stop_reason = self._stop_reason or reason
            for command in self._commands:
                command.cancel(self._stop_reason)
            self._commands.clear()
            self._changed.notify_all()

    def put(self, frame: Frame) -> None:
        """Pass a frame to the worker; in replay mode wait until the slot is free or closed."""
        received_sec = monotonic()
        with self._changed:
            self._count(received=1, waiting=1)
            if self._blocking:
                self._changed.wait_for(lambda: self._frame is None or not self._open)
            self._drop_waiting()
            if not self._open:
                self._count(waiting=-1, dropped=1)
                return
            self._frame, self._received_sec = frame, received_sec
            self._changed.notify_all()

    def refuse(self, outcome: Outcome) -> None:
        """Count a received frame that is not put into the slot."""
        with self._changed:
            self._count(received=1, **{outcome.value: 1})

    def settle(self, outcome: Outcome, blind: bool = False) -> None:
        """Count the result of the frame that `take` returned, and whether it shows nothing."""
        with self._changed:
            self._count(waiting=-1, blind=int(blind), **{outcome.value: 1})

    def revoke(self, frames: int) -> None:
        """Count frames that were settled as processed as failed."""
        with self._changed:
            self._count(processed=-frames, failed=frames)

    def discard(self) -> None:
        """Drop the waiting frame, if any."""
        with self._changed:
            self._drop_waiting()
            self._changed.notify_all()

    def submit(self, function: Callable[[], Any]) -> Future:
        """Queue a call for the worker, after the waiting frame; return its future."""
        command = Command(function, Future())
        with self._changed:
            if self._stop_reason:
                raise RuntimeError(self._stop_reason)
            self._commands.append(command)
            self._changed.notify_all()
        return command.future

    def take(self) -> Work | None:
        """Wait for a frame or commands and return them; return None after `stop`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._frame is not None or self._commands or self._stop_reason)
            if self._stop_reason:
                return None
            work = Work(self._frame, self._received_sec, tuple(self._commands))
            self._frame = None
            self._commands.clear()
            self._changed.notify_all()
            return work

    def accounts(self) -> Accounts:
        """Return the current counts; they always balance."""
        with self._changed:
            return self._accounts

    def _drop_waiting(self) -> None:
        if self._frame is not None:
            self._frame = None
            self._count(waiting=-1, dropped=1)

    def _count(self, **changes: int) -> None:
        self._accounts = replace(self._accounts, **{
            name: getattr(self._accounts, name) + change for name, change in changes.items()})
