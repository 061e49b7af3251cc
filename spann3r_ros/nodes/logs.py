# SPDX-License-Identifier: Apache-2.0
"""Python's logging, as the layers below use it, into the ROS log."""
from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger


class RosLogHandler(logging.Handler):
    """Hands every record to a ROS logger at the nearest severity."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        text = self.format(record)
        # A ROS logger ties each line of code that calls it to one severity.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def forward_logging(logger: RcutilsLogger) -> None:
    """Send what this package logs from now on to a ROS logger, which filters by its own level."""
    package = logging.getLogger('spann3r_ros')
    package.handlers = [RosLogHandler(logger)]
    package.setLevel(logging.DEBUG)
    package.propagate = False
