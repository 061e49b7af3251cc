# SPDX-License-Identifier: Apache-2.0
"""Occupancy grids against the plan of a building."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from spann3r_ros.rooms.buildings.floor_plan import FREE, OCCUPIED, UNKNOWN

# Values of a grid from here on are obstacles, and below the first one free, as in Nav2's defaults.
FREE_BELOW, OCCUPIED_FROM = 25, 65
RAY_STEP_CELLS = 0.5
BESIDE = np.ones((3, 3), bool)


@dataclass(frozen=True)
class PlacedGrid:
    """An occupancy grid: int8 [rows, columns], -1 unknown, 0 free to 100 occupied.

    `world_from_grid` [4, 4] is a similarity; the grid's own frame has its origin at the lower
    corner of cell (0, 0), x along a row, and its lengths are in the unit of `resolution`.
    """

    cells: np.ndarray
    resolution: float
    world_from_grid: np.ndarray

    def sample(self, shape: tuple[int, int], resolution: float) -> np.ndarray:
        """Return its values at the middles of other cells [rows, columns]; unknown outside.

        These have their first corner at the origin of the world.
        """
        y, x = (np.indices(shape) + 0.5) * resolution
        points = np.stack([x, y, np.zeros_like(x), np.ones_like(x)], axis=-1)
        own = points @ np.linalg.inv(self.world_from_grid).T
        column, row = (np.floor(own[..., axis] / self.resolution).astype(int) for axis in (0, 1))
        rows, columns = self.cells.shape
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        found = np.full(shape, UNKNOWN, np.int8)
        found[inside] = self.cells[row[inside], column[inside]]
        return found


@dataclass(frozen=True)
class GridScore:
    """A grid against the plan, over the cells that the cameras could see.

    `iou` is the intersection of the free cells of both, divided by their union. `walls_found` is
    the share of the plan's obstacles with an obstacle within one cell, `obstacles_true` the share
    of the grid's obstacles with one of the plan within one cell.
    """

    iou: float
    walls_found: float
    obstacles_true: float


def score_grid(grid: PlacedGrid, plan: np.ndarray, resolution: float,
               seen: np.ndarray) -> GridScore:
    """Return how a grid agrees with a plan int8 [rows, columns] of cells of a size in metres.

    `seen`, bool [rows, columns], are the cells that can be known. A cell that is free in the grid
    and not in the plan counts wherever it is, and so does a free one that nothing can have shown.
    ValueError for shapes that do not match.
    """
    if plan.shape != seen.shape:
        raise ValueError(f'plan and seen: expected one shape, got {plan.shape} and {seen.shape}')
    cells = grid.sample(plan.shape, resolution)
    free = (cells >= 0) & (cells < FREE_BELOW)
    true_free = (plan == FREE) & seen
    # What lies behind the edge of what is seen may have been seen by a hair.
    allowed = (plan == FREE) & binary_dilation(seen, BESIDE, iterations=2)
    wrong = free & ~allowed
    union = true_free | wrong
    solid, true_solid = cells >= OCCUPIED_FROM, (plan == OCCUPIED) & binary_dilation(seen, BESIDE)
    return GridScore(
        _share(free & true_free, union),
        _share(true_solid & binary_dilation(solid, BESIDE), true_solid),
        _share(solid & binary_dilation(plan == OCCUPIED, BESIDE), solid))


def seen_cells(plan: np.ndarray, resolution: float, poses: np.ndarray, half_angle: float,
               reach: float) -> np.ndarray:
    """Return the cells of a plan [rows, columns] that cameras see up to a distance, bool.

    `poses` [n, 3] are x, y in metres and yaw in radians; a camera sees `half_angle` radians to
    both sides. A ray ends in the first cell that is not free; this one is seen too.
    """
    rows, columns = plan.shape
    rays = max(2, int(np.ceil(2 * half_angle * reach / resolution)))
    angles = np.linspace(-half_angle, half_angle, rays)
    step = RAY_STEP_CELLS * resolution
    distances = np.arange(0.0, reach, step)
    seen = np.zeros(plan.shape, bool)
    blocked = plan != FREE
    for x, y, yaw in np.asarray(poses, float):
        directions = np.stack([np.cos(yaw + angles), np.sin(yaw + angles)], axis=1)
        places = np.array([x, y]) + distances[None, :, None] * directions[:, None]
        column, row = (np.floor(places[..., axis] / resolution).astype(int) for axis in (0, 1))
        column, row = column.clip(0, columns - 1), row.clip(0, rows - 1)
        before = np.cumsum(blocked[row, column], axis=1) - blocked[row, column]
        reached = before == 0
        seen[row[reached], column[reached]] = True
    return seen


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else float('nan')
