# SPDX-License-Identifier: Apache-2.0
"""The demo of a building: a short one through the live node, the judgement, the placed grid."""
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import DEADLINE_SEC
from nav_msgs.msg import OccupancyGrid

from spann3r_ros.evaluation.building_scores import BuildingScores, LoopScore
from spann3r_ros.evaluation.measures.grids import GridScore
from spann3r_ros.evaluation.measures.trajectories import Similarity
from spann3r_ros.evaluation.measures.walls import WallDoubling
from spann3r_ros.tools.building_bag import BuildingRecording
from spann3r_ros.tools.building_report import (
    MappedBuilding,
    find_faults,
    judge_grid,
    report_rows,
)
from spann3r_ros.tools.demo import DemoRun
from spann3r_ros.tools.demo_long import declared, place_grid

STILL = Similarity(1.0, np.eye(3), np.zeros(3))
GOOD_GRID = GridScore(0.9, 0.95, 0.95)


def mapped(loops: tuple[LoopScore, ...] = (LoopScore(0, 5, 0.1),), scale: float = 0.01,
           **status: object) -> MappedBuilding:
    run = DemoRun('bag', 60, 60, 50, 10, 0, 0, 1000, 0, 0, 0, 5.0, [], [], True, '')
    nothing = np.zeros((0, 3))
    scores = BuildingScores(STILL, nothing, nothing, nothing, 40.0, 0.1, scale,
                            WallDoubling(0.0, 0.02, 0.01, 0.05, 100), loops)
    return MappedBuilding(run, {'metric': True, 'fragments': 3, **status}, None, scores)


def test_short_demo_through_the_node_reports_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'spann3r_ros.tools.demo_long', '--frames', '12', '--output',
         str(tmp_path / 'out'), '--patience-sec', str(DEADLINE_SEC)],
        capture_output=True, text=True, timeout=3 * DEADLINE_SEC,
        env={**os.environ, 'OMP_NUM_THREADS': '1'})
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    rows = report['rows']
    assert rows['network'] == 'simulated: true depth with errors of 3% (smooth) and 0.5% (noise)'
    assert rows['images processed / skipped / failed'].endswith('of 12')
    # The robot has come nowhere a second time.
    assert done.returncode == 1 and 'no true loop' in report['faults'], done.stderr
    assert 'FAILED: no true loop' in done.stdout
    assert (tmp_path / 'out' / 'building.png').stat().st_size > 20_000


def test_a_good_map_has_no_fault() -> None:
    assert find_faults(mapped(), GOOD_GRID) == []


@pytest.mark.parametrize(('spoilt', 'grid', 'fault'), [
    ({'loops': ()}, GOOD_GRID, 'no true loop'),
    ({'loops': (LoopScore(0, 5, 0.1), LoopScore(1, 6, 3.0))}, GOOD_GRID,
     '1 loop constraints are false'),
    ({'metric': False}, GOOD_GRID, 'the map is not metric'),
    ({'scale': -0.06}, GOOD_GRID, 'the scale is off by -6.0%'),
    ({}, None, 'no grid'),
    ({}, replace(GOOD_GRID, iou=0.79), 'the IoU of the grid is 0.79'),
])
def test_each_fault_is_named(spoilt: dict[str, Any], grid: GridScore | None, fault: str) -> None:
    assert find_faults(mapped(**spoilt), grid) == [fault]


def test_table_names_what_the_node_lacks() -> None:
    rows = dict(report_rows('none', mapped(metric=False), None, None))
    assert rows['loops accepted / rejected'] == 'missing / missing'
    assert rows['scale error'] == 'missing: not metric'
    assert rows['grid: IoU of free cells'] == 'missing'
    assert rows['without / with loops: ATE'] == 'missing / 0.10 m'
    whole = dict(report_rows('none', mapped(loops_accepted=4, loops_rejected=1), mapped(),
                         GOOD_GRID))
    assert whole['loops accepted / rejected'] == '4 / 1'
    assert whole['scale error'] == '+1.0%'
    assert whole['grid: IoU of free cells'] == '0.90'
    assert declared({'max_rate': 1.0, 'no.such': 2}) == ({'max_rate': 1.0}, ['no.such'])


def test_grid_of_the_node_is_compared_where_it_lies() -> None:
    """The plan itself as a message, in a map that is turned against the building."""
    recording = BuildingRecording(frames=120)
    cells = recording.building().plan.grid(0.05, 0.15, 1.8)
    message = OccupancyGrid()
    message.info.resolution = 0.05
    message.info.height, message.info.width = cells.shape
    message.data = cells.reshape(-1).tolist()
    yaw = 0.4
    message.info.origin.position.x, message.info.origin.position.y = 3.0, -2.0
    message.info.origin.orientation.z = math.sin(yaw / 2)
    message.info.origin.orientation.w = math.cos(yaw / 2)
    turn = np.array([[math.cos(yaw), math.sin(yaw), 0.0], [-math.sin(yaw), math.cos(yaw), 0.0],
                     [0.0, 0.0, 1.0]])
    alignment = Similarity(1.0, turn, -turn @ [3.0, -2.0, 0.0])
    placed = place_grid(message, alignment)
    assert np.allclose(placed.world_from_grid, np.eye(4), atol=1e-6)
    everything = judge_grid(placed, recording)
    # Two rooms are not entered: what is free there can be known through the doors alone.
    assert 0.6 < everything.iou < 1.0 and everything.walls_found > 0.99
    assert judge_grid(None, recording) is None
