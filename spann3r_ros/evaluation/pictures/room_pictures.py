# SPDX-License-Identifier: Apache-2.0
"""Predicted rooms beside the true ones, seen from above a corner."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.evaluation.held_out.held_out_rooms import Sequence
from spann3r_ros.evaluation.measures import metrics
from spann3r_ros.evaluation.recorded_runs import RecordedRun

from .map_picture import (
    BACKGROUND,
    DOTS_PER_INCH,
    LABEL_SIZE,
    TEXT,
    Content,
    below_cut,
    bounds,
    inches,
    show,
    write_figure,
)
from .splat import View, orbit_view

PANEL_WIDTH, PANEL_HEIGHT = 640, 460  # pixels
MOST_POINTS = 400_000


@dataclass(frozen=True)
class RoomPicture:
    """One sequence to draw, its title and its run."""

    title: str
    sequence: Sequence
    run: RecordedRun


def draw_rooms(target: Path, rooms: list[RoomPicture]) -> None:
    """Write a PNG with a row for each room: the prediction, at true scale, and the truth."""
    figure = Figure(figsize=(inches(2 * PANEL_WIDTH), inches(len(rooms) * PANEL_HEIGHT)),
                    dpi=DOTS_PER_INCH, facecolor=np.array(BACKGROUND) / 255)
    FigureCanvasAgg(figure)
    for row, room in enumerate(rooms):
        predicted, truth = contents(room)
        view = corner_view(truth)
        for column, (content, label) in enumerate(((predicted, 'predicted'), (truth, 'true'))):
            axes = figure.add_axes((column / 2, 1.0 - (row + 1) / len(rooms), 0.5, 1 / len(rooms)))
            draw_room(axes, view, content, f'{room.title}, {label}')
    target.parent.mkdir(parents=True, exist_ok=True)
    write_figure(target, figure)


def draw_room(axes: Axes, view: View, content: Content, title: str) -> None:
    """Draw one panel."""
    show(axes, view, content, shaded=True)
    axes.text(16, 28, title, color=TEXT, size=LABEL_SIZE, weight='bold')


def contents(room: RoomPicture) -> tuple[Content, Content]:
    """Return prediction and truth, z up, in metres, without the ceiling."""
    sequence = room.sequence
    points = np.stack([item.points for item in room.run.pointmaps])
    scale = metrics.fit_scale(points, sequence.points)
    solved, _ = room.run.poses
    true_path = to_map(sequence.poses[:, :3, 3])
    both = []
    for cloud, path in ((scale * points, scale * solved[:, :3, 3]),
                        (sequence.points, sequence.poses[:, :3, 3])):
        rows = metrics.subsample(np.concatenate(
            [to_map(cloud.reshape(-1, 3)), sequence.images.reshape(-1, 3)], axis=1), MOST_POINTS)
        rows = rows[below_cut(rows[:, :3], true_path)]
        both.append(Content(rows[:, :3], rows[:, 3:].astype(np.uint8), to_map(path),
                            true_path, np.zeros((0, 3)), 'm'))
    return both[0], both[1]


def corner_view(content: Content) -> View:
    """Return the view of a room from above a corner."""
    low, high = bounds(content)
    return orbit_view(0.5 * (low + high), 0.5 * float(np.linalg.norm(high - low)), -60.0, 48.0,
                      PANEL_WIDTH, PANEL_HEIGHT)


def to_map(points: np.ndarray) -> np.ndarray:
    """Return points [n, 3] of a level camera's optical frame in axes with z up."""
    return points.astype(float) @ MAP_FROM_OPTICAL[:3, :3].T
