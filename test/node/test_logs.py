# SPDX-License-Identifier: Apache-2.0
"""Log records of the mapping layer reach the ROS log, without repeated warnings."""
from __future__ import annotations

import logging

import pytest
from rclpy.logging import LoggingSeverity, get_logger

from spann3r_ros.ros.logs import (
    MOST_KINDS,
    REPETITION_PERIOD_SEC,
    WARNING_PERIOD_SEC,
    Repetitions,
    RosLogHandler,
)


def record(number: int, level: int, created_sec: float, line: int = 7) -> logging.LogRecord:
    item = logging.LogRecord('spann3r_ros', level, 'mapper.py', line, 'keyframe %d', (number,),
                             None)
    item.created = created_sec
    return item


def test_repeated_warnings_are_thinned_by_line_and_nothing_else_is(
        capfd: pytest.CaptureFixture[str]) -> None:
    logger = get_logger('thinned')
    logger.set_level(LoggingSeverity.DEBUG)
    handler = RosLogHandler(logger)
    for number in range(50):
        handler.emit(record(number, logging.WARNING, 0.1 * number))
        handler.emit(record(100 + number, logging.INFO, 0.1 * number))
        handler.emit(record(200 + number, logging.ERROR, 0.1 * number))
    handler.emit(record(300, logging.WARNING, 5.0, line=8))
    captured = capfd.readouterr()
    lines = (captured.out + captured.err).splitlines()
    warned = [int(line.split()[-1]) for line in lines if 'WARN' in line]
    assert warned == [0, round(10 * WARNING_PERIOD_SEC), round(20 * WARNING_PERIOD_SEC), 300]
    assert len(lines) == len(warned) + 100


def test_repetitions_are_counted_by_kind() -> None:
    repetitions = Repetitions()
    times = [repetitions.count(f'step: expected 30, got {number}', 0.1 * number)
             for number in range(20)]
    assert times == [0, *[None] * 19]
    assert repetitions.count('encoding: expected one of them', 2.0) == 0
    assert repetitions.count('step: expected 30, got 7', REPETITION_PERIOD_SEC) == 20
    assert repetitions.count('step: expected 30, got 7', REPETITION_PERIOD_SEC + 1.0) is None
    for number in range(MOST_KINDS):
        repetitions.count('x' * number, REPETITION_PERIOD_SEC + 2.0)
    assert repetitions.count('encoding: expected one of them', REPETITION_PERIOD_SEC + 2.0) == 0
