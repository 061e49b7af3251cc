# SPDX-License-Identifier: Apache-2.0
"""Both ways of every row of benchmarks/ros_packages.py give the same message."""
from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import ros_packages


@pytest.mark.parametrize('row', ros_packages.rows((0, 1, 1000)), ids=lambda row: row.label)
def test_both_ways_give_the_same(row: ros_packages.Row) -> None:
    ros_packages.compare(row)


def test_different_results_are_refused() -> None:
    cloud, *_, matrix = ros_packages.rows((5,))
    other = ros_packages.cloud_row(6)
    with pytest.raises(AssertionError, match='the messages differ'):
        ros_packages.compare(replace(cloud, package=other.package))
    with pytest.raises(AssertionError, match='the results differ'):
        ros_packages.compare(replace(matrix, package=lambda: 2.0 * matrix.own()))


def test_times_are_of_both_ways() -> None:
    own, package = ros_packages.measure(ros_packages.cloud_row(10), seconds=0.0)
    assert own > 0.0 and package > 0.0
