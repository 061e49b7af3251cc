# SPDX-License-Identifier: Apache-2.0
"""The picture of a building's map: before and after correction, and its grid, on the true plan."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spann3r_ros.evaluation.building_scores import BuildingScores
from spann3r_ros.evaluation.measures.metrics import subsample
from spann3r_ros.rooms.buildings.floor_plan import FREE, FloorPlan

from .map_picture import (
    BACKGROUND,
    DOTS_PER_INCH,
    FAINT,
    PATH,
    TEXT,
    TRUE_PATH,
    inches,
    spacing,
    write_figure,
)
from .splat import splat, top_view

PANEL_WIDTH, HEADER = 760, 70  # pixels
MARGIN_M = 0.8
# Points above and below are not drawn, metres.
BAND_M = (-0.3, 1.9)
MOST_POINTS = 400_000


def draw_building_map(target: Path, plan: FloorPlan, true_path: np.ndarray,
                      maps: Sequence[tuple[str, BuildingScores | None]],
                      grid: np.ndarray | None, resolution: float) -> None:
    """Write a PNG with a panel for each map by its title, and one for the grid.

    `true_path` [n, 3] are camera centres. `grid`, int8 [rows, columns], is in the world, its first
    corner at the origin. What is None has an empty panel.
    """
    low, high = -np.full(2, MARGIN_M), plan.size[:2] + MARGIN_M
    panels = len(maps) + 1
    height = round(PANEL_WIDTH * (high - low)[1] / (high - low)[0])
    figure = Figure(figsize=(inches(panels * PANEL_WIDTH), inches(height + HEADER)),
                    dpi=DOTS_PER_INCH, facecolor=np.array(BACKGROUND) / 255)
    FigureCanvasAgg(figure)
    share = height / (height + HEADER)
    for index, (title, scores) in enumerate([*maps, ('~/map', None)]):
        axes = figure.add_axes((index / panels, 0.0, 1 / panels, share))
        axes.set_axis_off()
        is_grid = index == len(maps)
        if is_grid and grid is not None:
            _show_grid(axes, grid, resolution)
        elif scores is not None:
            _show_points(axes, scores, low, high, height)
            title += f' · ATE {scores.trajectory_error:.2f} m'
        else:
            title += ' · missing'
        _show_plan(axes, plan)
        axes.plot(*true_path[:, :2].T, color=TRUE_PATH, lw=1.5)
        if scores is not None:
            axes.plot(*scores.path[:, :2].T, color=PATH, lw=1.5)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        figure.text((index + 0.03) / panels, share + 0.6 * (1 - share), title, color=TEXT, size=13)
        figure.text((index + 0.03) / panels, share + 0.25 * (1 - share), color=FAINT, size=10,
                    s='dashed: true walls and furniture · green: true path · orange: estimated')
    write_figure(target, figure)


def _show_points(axes: Axes, scores: BuildingScores, low: np.ndarray, high: np.ndarray,
                 height: int) -> None:
    chosen = (scores.points[:, 2] > BAND_M[0]) & (scores.points[:, 2] < BAND_M[1])
    rows = subsample(np.flatnonzero(chosen), MOST_POINTS)
    points, colors = scores.points[rows], scores.colors[rows]
    view = top_view(low, high, PANEL_WIDTH, height)
    size = view.pixels_per_unit(points.mean(axis=0)) * spacing(points)
    axes.imshow(splat(view, points, colors, size, BACKGROUND, False), interpolation='nearest',
                extent=(low[0], high[0], low[1], high[1]))


def _show_grid(axes: Axes, grid: np.ndarray, resolution: float) -> None:
    image = np.full((*grid.shape, 3), 60, np.uint8)
    known = grid >= 0
    image[known] = (230 - 2 * grid[known].astype(int))[:, None]
    rows, columns = grid.shape
    axes.imshow(image, origin='lower', interpolation='nearest',
                extent=(0.0, columns * resolution, 0.0, rows * resolution))


def _show_plan(axes: Axes, plan: FloorPlan) -> None:
    grid = plan.grid(0.05)
    rows, columns = grid.shape
    axes.contour((np.arange(columns) + 0.5) * 0.05, (np.arange(rows) + 0.5) * 0.05, grid == FREE,
                 levels=[0.5], colors=[TEXT], linewidths=0.8, linestyles='dashed')
    pieces = [Rectangle(low[:2], *(high - low)[:2]) for low, high in plan.furniture]
    axes.add_collection(PatchCollection(pieces, facecolor='none', edgecolor=FAINT, lw=0.5))
