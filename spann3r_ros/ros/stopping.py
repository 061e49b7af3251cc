# SPDX-License-Identifier: Apache-2.0
"""Signals that end the node in order: the image in progress is finished, the map published."""
from __future__ import annotations

import signal
from threading import Event
from time import monotonic
from types import FrameType

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

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop
