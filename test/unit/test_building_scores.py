# SPDX-License-Identifier: Apache-2.0
"""Measures of a map against the plan of a building, on spoilt copies of the truth."""
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.evaluation.measures.grids import PlacedGrid, score_grid, seen_cells
from spann3r_ros.evaluation.measures.trajectories import scale_error
from spann3r_ros.evaluation.measures.walls import wall_doubling
from spann3r_ros.rooms.buildings.building import draw_building
from spann3r_ros.rooms.buildings.building_views import on_floor
from spann3r_ros.rooms.buildings.floor_plan import FREE, FloorPlan
from spann3r_ros.rooms.buildings.robot_walk import drive

RESOLUTION = 0.05


@pytest.fixture(scope='module')
def plan() -> FloorPlan:
    return draw_building(5).plan


def wall_points(plan: FloorPlan, noise: float, count: int = 60_000) -> np.ndarray:
    """Return points [n, 3] on the insides of all walls."""
    rng = np.random.default_rng(0)
    parts = []
    for space in plan.spaces:
        for axis in (0, 1):
            for side in (0, 1):
                points = rng.uniform((*space[0], 0.0), (*space[1], plan.size[2]),
                                     (count // (4 * len(plan.spaces)), 3))
                points[:, axis] = space[side, axis]
                parts.append(points)
    points = np.concatenate(parts)
    return points + noise * rng.standard_normal(points.shape)


def test_walls_of_the_truth_are_not_doubled(plan: FloorPlan) -> None:
    found = wall_doubling(wall_points(plan, 0.0), plan)
    assert (found.median, found.most, found.doubled) == (0.0, 0.0, 0.0)
    assert found.patches > 100
    assert wall_doubling(wall_points(plan, 0.015), plan).most == 0.0


@pytest.mark.parametrize('shift', [0.08, 0.2, 0.3])
def test_doubled_walls_are_as_far_apart_as_their_copies(plan: FloorPlan, shift: float) -> None:
    points = wall_points(plan, 0.01)
    both = np.concatenate([points, points + (shift, shift, 0.0)])
    found = wall_doubling(both, plan)
    # Copies of walls at high x and y may lie behind the middle of the wall: those are single.
    assert found.most == pytest.approx(shift, abs=0.03)
    assert found.doubled > 0.3


def test_a_moved_map_is_not_doubled(plan: FloorPlan) -> None:
    assert wall_doubling(wall_points(plan, 0.01) + (0.05, 0.05, 0.0), plan).most == 0.0


def test_without_points_at_walls_nothing_is_judged(plan: FloorPlan) -> None:
    found = wall_doubling(np.zeros((10, 3)), plan)
    assert found.patches == 0 and np.isnan(found.most)


def test_seen_cells_end_at_walls(plan: FloorPlan) -> None:
    grid = plan.grid(RESOLUTION)
    low, high = plan.spaces[0]
    pose = [[low[0] + 0.5, (low[1] + high[1]) / 2, 0.0]]
    seen = seen_cells(grid, RESOLUTION, pose, np.radians(45), 20.0)
    column = int((low[0] + 3.0) / RESOLUTION)
    inside = slice(int(low[1] / RESOLUTION) + 1, int(high[1] / RESOLUTION) - 1)
    assert seen[inside, column].all()
    assert not seen[:, int(low[0] / RESOLUTION):int((low[0] + 0.4) / RESOLUTION)].any()
    assert not seen[0].any() and not seen[-1].any()
    near = seen_cells(grid, RESOLUTION, pose, np.radians(45), 2.0)
    assert 0 < near.sum() < seen.sum() and not near[:, column].any()


def test_the_plan_itself_has_the_full_score(plan: FloorPlan) -> None:
    grid = plan.grid(RESOLUTION)
    everything = np.ones(grid.shape, bool)
    found = score_grid(PlacedGrid(grid, RESOLUTION, np.eye(4)), grid, RESOLUTION, everything)
    assert (found.iou, found.walls_found, found.obstacles_true) == (1.0, 1.0, 1.0)


def test_a_grid_of_another_frame_and_unit_has_the_same_score(plan: FloorPlan) -> None:
    truth = plan.grid(RESOLUTION)
    unit, turn = 2.5, on_floor([[4.0, 1.5, 0.7]])[0]
    grid_from_world = np.diag([1 / unit] * 3 + [1.0]) @ np.linalg.inv(turn)
    # Cells of the turned grid that cover the plan, half as large as those of the plan.
    size, corner = 800, np.array([10.0, 10.0])
    cell = 0.5 * RESOLUTION / unit
    world_from_grid = np.linalg.inv(grid_from_world)
    shifted = np.eye(4)
    shifted[:2, 3] = -corner * cell * size / 20
    world_from_grid = world_from_grid @ shifted
    middles = (np.indices((size, size))[::-1].reshape(2, -1) + 0.5) * cell
    world = world_from_grid @ np.stack([*middles, 0 * middles[0], 0 * middles[0] + 1])
    column, row = np.floor(world[:2] / RESOLUTION).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < truth.shape[1]) & (row < truth.shape[0])
    cells = np.full(size * size, -1, np.int8)
    cells[inside] = truth[row[inside], column[inside]]
    grid = PlacedGrid(cells.reshape(size, size), cell, world_from_grid)
    seen = np.ones(truth.shape, bool)
    found = score_grid(grid, truth, RESOLUTION, seen)
    assert found.iou > 0.9 and found.walls_found > 0.85


def test_errors_of_a_grid_lower_its_score(plan: FloorPlan) -> None:
    truth, seen = plan.grid(RESOLUTION), None
    seen = np.ones(truth.shape, bool)
    unknown = truth.copy()
    unknown[:, :truth.shape[1] // 2] = -1
    half = score_grid(PlacedGrid(unknown, RESOLUTION, np.eye(4)), truth, RESOLUTION, seen)
    assert 0.4 < half.iou < 0.6 and half.obstacles_true == 1.0 and half.walls_found < 0.7
    # What is free outside of what can be known counts against the grid.
    half_seen = seen.copy()
    half_seen[:, truth.shape[1] // 2:] = False
    leaked = score_grid(PlacedGrid(truth, RESOLUTION, np.eye(4)), truth, RESOLUTION, half_seen)
    assert 0.4 < leaked.iou < 0.6
    shift = np.eye(4)
    shift[:2, 3] = 0.5
    assert score_grid(PlacedGrid(truth, RESOLUTION, shift), truth, RESOLUTION, seen).iou < 0.8
    with pytest.raises(ValueError, match='expected one shape'):
        score_grid(PlacedGrid(truth, RESOLUTION, np.eye(4)), truth, RESOLUTION, seen[1:])
    assert (truth == FREE).any()


def test_scale_error_is_that_of_the_path() -> None:
    walk = drive(draw_building(5).way, 100, 0.0, np.random.default_rng(0))
    truth = on_floor(walk.poses)
    turned = on_floor([[1.0, 2.0, 0.6]])[0] @ truth
    turned[:, :3, 3] *= 1.07
    assert scale_error(turned, truth) == pytest.approx(0.07, abs=1e-9)
    turned[:, :3, 3] += 0.1 * np.random.default_rng(0).standard_normal((100, 3))
    assert scale_error(turned, truth) == pytest.approx(0.07, abs=0.005)
