# SPDX-License-Identifier: Apache-2.0
"""Forwards the logging of the other layers, by Python's logging module, to the ROS log."""
from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger

# A warning may occur in every frame. Each line of code logs one at most this often.
WARNING_PERIOD_SEC = 2.0


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


def forward_logging(logger: RcutilsLogger) -> None:
    """Send the log records of this package to a ROS logger, which filters by its own level."""
    package = logging.getLogger('spann3r_ros')
    package.handlers = [RosLogHandler(logger)]
    package.setLevel(logging.DEBUG)
    package.propagate = False
