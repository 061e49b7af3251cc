# SPDX-License-Identifier: Apache-2.0
"""The rate limiter keeps its mean rate at any rate of the camera."""
from __future__ import annotations

import pytest

from spann3r_ros.pipeline.rate_limiter import RateLimiter

SECOND_NS = 10**9


@pytest.mark.parametrize(('camera_hz', 'max_rate', 'expected'), [
    (30.0, 0.0, 300), (30.0, 10.0, 100), (30.0, 20.0, 200), (30.0, 25.0, 250), (10.0, 25.0, 100)])
def test_ten_seconds_admit_the_asked_rate(
        camera_hz: float, max_rate: float, expected: int) -> None:
    limiter = RateLimiter(max_rate)
    frames = round(10 * camera_hz)
    admitted = sum(limiter.admits(round(index * SECOND_NS / camera_hz))
                   for index in range(frames))
    assert admitted == pytest.approx(expected, abs=2)


def test_a_gap_is_not_made_up_for_by_a_burst() -> None:
    limiter = RateLimiter(10.0)
    assert limiter.admits(0)
    after_gap = [limiter.admits(60 * SECOND_NS + index * SECOND_NS // 100) for index in range(10)]
    assert sum(after_gap) <= 2


def test_stamps_that_jump_back_begin_again() -> None:
    limiter = RateLimiter(10.0)
    assert limiter.admits(100 * SECOND_NS)
    assert limiter.admits(50 * SECOND_NS)
    assert not limiter.admits(50 * SECOND_NS + 1)
