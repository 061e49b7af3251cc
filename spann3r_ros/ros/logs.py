# SPDX-License-Identifier: Apache-2.0
"""Forwards the logging of the other layers, by Python's logging module, to the ROS log."""
from __future__ import annotations

import logging
import re
from collections import OrderedDict
from threading import Lock

from rclpy.impl.rcutils_logger import RcutilsLogger

# A warning may occur in every frame. Each line of code logs one at most this often.
WARNING_PERIOD_SEC = 2.0
# A refusal is logged at once, and then with its number of repetitions at most this often.
REPETITION_PERIOD_SEC = 30.0
MOST_KINDS = 100


class RosLogHandler(logging.Handler):
    """Passes records to a ROS logger at the nearest severity; leaves out repeated warnings."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger
        self._warned_sec: dict[tuple[str, int], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        if record.levelno == logging.WARNING and self._repeats(record):
            return
        text = self.format(record)
        # A ROS logger allows only one severity for each line of code that calls it.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)

    def _repeats(self, record: logging.LogRecord) -> bool:
        place = (record.pathname, record.lineno)
        before_sec = self._warned_sec.get(place, float('-inf'))
        if record.created - before_sec < WARNING_PERIOD_SEC:
            return True
        self._warned_sec[place] = record.created
        return False


class Repetitions:
    """Distinguishes a new kind of message from a repeated one; thread-safe.

    Messages that differ only in numbers are of one kind. A kind is shown again after `period_sec`.
    """

    def __init__(self, period_sec: float = REPETITION_PERIOD_SEC) -> None:
        self._period_sec = period_sec
        self._lock = Lock()
        self._kinds: OrderedDict[str, tuple[float, int]] = OrderedDict()  # last shown, and since

    def count(self, message: str, now_sec: float) -> int | None:
        """Return how often this kind came since it was shown last, or None: do not show it.

        0: it is new.
        """
        kind = re.sub(r'\d+', '0', message)
        with self._lock:
            shown_sec, repeated = self._kinds.pop(kind, (float('-inf'), -1))
            repeated += 1
            due = now_sec - shown_sec >= self._period_sec
            self._kinds[kind] = (now_sec, 0) if due else (shown_sec, repeated)
            if len(self._kinds) > MOST_KINDS:
                self._kinds.popitem(last=False)
        return repeated if due else None


def forward_logging(logger: RcutilsLogger) -> None:
    """Send the log records of this package to a ROS logger, which filters by its own level."""
    package = logging.getLogger('spann3r_ros')
    package.handlers = [RosLogHandler(logger)]
    package.setLevel(logging.DEBUG)
    package.propagate = False
