# SPDX-License-Identifier: Apache-2.0
"""One part of the device check in a process of its own, which is killed at its time limit."""
from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from .check_rows import PartTime, Results, Row

# Of the text of an exception; the rest is in its trace.
FIRST_LINES = 3
PACKAGE = Path(__file__).parents[2]
# For a process that has sent all its rows to end, before it is killed.
ENDING_SEC = 5.0


@dataclass(frozen=True)
class CheckSettings:
    """What a part is given: the device, 'cpu' or 'cuda', and the folder of recordings, if any.

    `quick` leaves out the long cases and runs fewer frames.
    """

    device: str
    recordings: Path | None = None
    quick: bool = False


Emit = Callable[[Row], None]


@dataclass(frozen=True)
class Part:
    """A part of the check: `run` is importable, and emits rows; `limits_sec` is by device."""

    name: str
    run: Callable[[CheckSettings, Emit], None]
    limits_sec: dict[str, float]


def run_parts(parts: Sequence[Part], settings: CheckSettings, results: Results,
              observe: Callable[[Row], object] = lambda _: None) -> None:
    """Run each part; what becomes of one does not reach the others.

    Time that the parts before left unused is added to a part's limit. `observe` is called with
    each row after it was written.
    """
    def take(row: Row) -> None:
        results.add(row)
        observe(row)

    deadline = time.monotonic()
    for part in parts:
        began = time.monotonic()
        deadline = max(deadline, began) + part.limits_sec[settings.device]
        _run_part(part, settings, deadline, take)
        results.finish(part.name, PartTime(time.monotonic() - began, deadline - began))


def _run_part(part: Part, settings: CheckSettings, deadline: float, take: Emit) -> None:
    limit = deadline - time.monotonic()
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(part, settings, sender))
    rows, ended = 0, False
    process.start()
    # The child has the only end left: when it dies, `recv` finds the end of the file.
    sender.close()
    try:
        while not ended:
            ready = wait([receiver, process.sentinel], max(0.0, deadline - time.monotonic()))
            if not ready:
                take(Row(part.name, 'time limit', 'failed', detail=(
                    f'still running after {limit:.0f} s')))
                return
            try:
                # A process that has ended may have left rows.
                row = receiver.recv() if receiver in ready or receiver.poll() else None
            except EOFError:
                break
            if row is None:
                ended = receiver in ready
                break
            rows += 1
            take(row)
        process.join(min(ENDING_SEC, max(0.0, deadline - time.monotonic())))
        if not ended:
            take(Row(part.name, 'process', 'failed',
                     detail=f'ended by {_ending(process.exitcode)}'))
        elif not rows:
            take(Row(part.name, 'process', 'failed', detail='there was no result'))
    finally:
        # The compiler's workers, too, which are in the child's session.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.is_alive():
            process.kill()
        process.join()
        receiver.close()


def _ending(code: int | None) -> str:
    if code is None:
        return 'closing its pipe'
    return f'signal {signal.Signals(-code).name}' if code < 0 else f'exit status {code}'


def _child(part: Part, settings: CheckSettings, sender: Connection) -> None:
    os.setsid()
    try:
        part.run(settings, sender.send)
    # Whatever a part raises is its row.
    except BaseException as error:
        sender.send(failure(part.name, 'part', error))
    sender.send(None)


def failure(part: str, name: str, error: BaseException) -> Row:
    """Return the row of an exception, with the place in this package that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [item for item in frames if PACKAGE in Path(item.filename).parents] or frames
    place = ''.join(f' ({Path(item.filename).name}:{item.lineno})' for item in own[-1:])
    text = ' '.join(str(error).split('\n')[:FIRST_LINES])
    return Row(part, name, 'failed', detail=f'{type(error).__name__}: {text}{place}',
               trace=''.join(traceback.format_exception(error)))
