# SPDX-License-Identifier: Apache-2.0
"""The report of a mapped building: its table, and what it fails to show."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spann3r_ros.evaluation.building_scores import BuildingScores
from spann3r_ros.evaluation.measures.grids import GridScore, PlacedGrid, score_grid, seen_cells

from .building_bag import ODOMETRY_RATE, BuildingRecording
from .demo import DemoRun

# The part of the building that the grid is compared in: metres from the camera, heights, cells.
GRID_REACH_M, GRID_HEIGHTS_M, CELL_M = 5.0, (0.15, 1.8), 0.05
MOST_SCALE_ERROR, LEAST_IOU = 0.05, 0.8
MISSING = 'missing'


@dataclass(frozen=True)
class MappedBuilding:
    """A run through the node: its counts, last status and grid, and its scores."""

    run: DemoRun
    status: Mapping[str, Any]
    grid: PlacedGrid | None
    scores: BuildingScores


def judge_grid(grid: PlacedGrid | None, recording: BuildingRecording) -> GridScore | None:
    """Return the score of a grid; None without one."""
    if grid is None:
        return None
    building = recording.building()
    plan = building.plan
    cells = plan.grid(CELL_M, *GRID_HEIGHTS_M)
    poses = recording.walk(building).poses[::ODOMETRY_RATE]
    camera = recording.network_camera
    half_angle = math.atan(camera.width / 2 / camera.fx)
    return score_grid(grid, cells, CELL_M,
                      seen_cells(cells, CELL_M, poses, half_angle, GRID_REACH_M))


def report_rows(network: str, after: MappedBuilding, before: MappedBuilding | None,
                grid: GridScore | None) -> list[tuple[str, str]]:
    """Return the table; `network` is what the depth comes from."""
    status, scores, earlier = after.status, after.scores, before and before.scores

    def number(name: str) -> str:
        return str(status.get(name, MISSING))

    def both(text: Callable[[BuildingScores], str]) -> str:
        return f'{text(earlier) if earlier else MISSING} / {text(scores)}'
    fragments, unconnected = number('fragments'), number('fragments_unconnected')
    accepted, rejected = number('loops_accepted'), number('loops_rejected')
    metric = status.get('metric', False)
    return [
        ('network', network),
        ('images processed / skipped / failed', f'{after.run.processed} / {after.run.skipped} / '
                                                f'{after.run.failed} of {after.run.images}'),
        ('seconds', f'{after.run.wall_sec:.0f}'),
        ('path', f'{scores.path_length:.1f} m'),
        ('fragments / not connected', f'{fragments} / {unconnected}'),
        ('loops accepted / rejected', f'{accepted} / {rejected}'),
        ('loop constraints in the map / true', f'{len(scores.loops)} / {scores.true_loops}'),
        ('without / with loops: ATE', both(lambda one: f'{one.trajectory_error:.2f} m')),
        ('wall doubling, 95 % of points', both(lambda one: f'{one.walls.most:.2f} m')),
        ('points at doubled walls', both(lambda one: f'{one.walls.doubled:.0%}')),
        ('scale source', number('scale_source')),
        ('scale error', f'{scores.scale_error:+.1%}' if metric else f'{MISSING}: not metric'),
        ('grid: IoU of free cells', MISSING if grid is None else f'{grid.iou:.2f}'),
        ('grid: walls found / obstacles true', MISSING if grid is None else
         f'{grid.walls_found:.0%} / {grid.obstacles_true:.0%}'),
    ]


def find_faults(after: MappedBuilding, grid: GridScore | None) -> list[str]:
    """Return why the run has not shown what it should."""
    found = []
    if not after.scores.true_loops:
        found.append('no true loop')
    wrong = len(after.scores.loops) - after.scores.true_loops
    if wrong:
        found.append(f'{wrong} loop constraints are false')
    if not after.status.get('metric', False):
        found.append('the map is not metric')
    elif abs(after.scores.scale_error) > MOST_SCALE_ERROR:
        found.append(f'the scale is off by {after.scores.scale_error:+.1%}')
    if grid is None:
        found.append('no grid')
    elif grid.iou < LEAST_IOU:
        found.append(f'the IoU of the grid is {grid.iou:.2f}')
    return found
