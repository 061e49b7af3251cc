# SPDX-License-Identifier: Apache-2.0
"""Signals that end the node in order: the image in progress is finished, the map published."""
from __future__ import annotations

import signal
from threading import Event
from time import monotonic
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)
# `ros2 launch` forwards a signal that the terminal has already sent to the whole process group.
REPEAT_SEC = 1.0


def stop_on_signals() -> Event:
    """Return an event that the first SIGINT or SIGTERM sets.

    Further ones within `REPEAT_SEC` change nothing; a later one ends the process at once.
    """
    stop, first_sec = Event(), 0.0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal first_sec
        if not stop.is_set():
            first_sec = monotonic()
            stop.set()
        elif monotonic() - first_sec > REPEAT_SEC:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in NUMBERS:
        signal.signal(number, handle)
    return stop


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM from now on.

    The interpreter removes handlers before it has ended: a signal would still kill the process.
    """
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)
