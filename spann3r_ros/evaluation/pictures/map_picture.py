# SPDX-License-Identifier: Apache-2.0
"""The picture of a run: the map from above and from a corner, the path, the truth."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spann3r_ros.core.files import write_files
from spann3r_ros.core.types import StampedPose
from spann3r_ros.datasets.bag_truth import Truth
from spann3r_ros.evaluation.bag_comparison import Comparison, move_poses
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.viewer.map_scene import ceiling, scene_bounds
from spann3r_ros.viewer.point_buffer import spacing

from .splat import View, orbit_view, splat, top_view

BACKGROUND = (16, 18, 24)
TEXT, FAINT = '#e8eaf0', '#8a90a0'
PATH, TRUE_PATH = '#ffb000', '#38e0c0'
PANEL_WIDTH, PANEL_HEIGHT, HEADER_HEIGHT = 900, 740, 100  # pixels
DOTS_PER_INCH = 100
TITLE_SIZE, LABEL_SIZE = 15, 11


@dataclass(frozen=True)
class Content:
    """The content of a picture, in one z-up world; paths are camera centres [n, 3]."""

    points: np.ndarray
    colors: np.ndarray
    path: np.ndarray
    true_path: np.ndarray
    outline: np.ndarray
    unit: str


def draw_map(target: Path, cloud: VoxelCloud, trajectory: Sequence[StampedPose],
             truth: Truth | None, comparison: Comparison | None) -> None:
    """Write a PNG of the map; with truth, in the truth's world after the alignment."""
    draw_views(target, select_content(cloud, trajectory, truth, comparison), draw_orbit,
               f'{len(cloud):,} voxels, {len(trajectory)} poses', caption(comparison))


def draw_views(target: Path, content: Content, draw_right: Callable[[Axes, Content], None],
               title: str, note: str) -> None:
    """Write a PNG with the view from above to the left, and another to the right."""
    height = PANEL_HEIGHT + HEADER_HEIGHT
    figure = Figure(figsize=(inches(2 * PANEL_WIDTH), inches(height)),
                    dpi=DOTS_PER_INCH, facecolor=np.array(BACKGROUND) / 255)
    FigureCanvasAgg(figure)
    share = PANEL_HEIGHT / height
    draw_top(figure.add_axes((0.0, 0.0, 0.5, share)), content)
    draw_right(figure.add_axes((0.5, 0.0, 0.5, share)), content)
    figure.text(0.02, 0.955, title, color=TEXT, size=TITLE_SIZE, va='center', weight='bold')
    figure.text(0.02, 0.918, note, color=FAINT, size=LABEL_SIZE, va='center')
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='upper right', ncols=len(handles), frameon=False,
                  labelcolor=TEXT, fontsize=LABEL_SIZE, bbox_to_anchor=(0.985, 0.975))
    write_figure(target, figure)


def write_figure(target: Path, figure: Figure) -> None:
    """Replace a file by a figure, in the format that the file's suffix names (none: PNG)."""
    write_files({target: partial(figure.savefig, format=target.suffix.removeprefix('.') or 'png')})


def inches(pixels: int) -> float:
    """Return the length of a figure's side that makes so many pixels.

    Matplotlib 3.6 cuts the product of length and resolution, 459.99... for 4.6 inches.
    """
    return math.nextafter(pixels / DOTS_PER_INCH, math.inf)


def caption(comparison: Comparison | None) -> str:
    """Return the line below the title."""
    if comparison is None:
        return 'scale is arbitrary; no ground truth in the bag; without the ceiling'
    text = f'ATE {comparison.trajectory_error:.2f} m on {comparison.path_length:.1f} m'
    if comparison.accuracy is not None:
        text += (f' · accuracy {comparison.accuracy.mean:.2f} m'
                 f' · completion {comparison.completion.mean:.2f} m')
    return text + ' · aligned to the truth by one similarity · without the ceiling'


def select_content(cloud: VoxelCloud, trajectory: Sequence[StampedPose], truth: Truth | None,
                   comparison: Comparison | None) -> Content:
    """Return the content, in the truth's world if there is a comparison."""
    poses = np.array([pose.world_from_camera for pose in trajectory]).reshape(-1, 4, 4)
    points = cloud.points.astype(float)
    nothing = np.zeros((0, 3))
    if truth is None or comparison is None:
        path, true_path, outline, unit = poses[:, :3, 3], nothing, nothing, 'map units'
    else:
        points = comparison.alignment.apply(points)
        path = move_poses(comparison.alignment, poses)[:, :3, 3]
        true_path = np.array([pose.world_from_camera[:3, 3] for pose in truth.poses])
        outline, unit = truth.outline, 'm'
    keep = below_cut(points, path)
    return Content(points[keep], cloud.colors[keep], path, true_path, outline, unit)


def below_cut(points: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Return which points are below the ceiling, bool [n]."""
    return points[:, 2] < ceiling(points, path)


def bounds(content: Content) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest corner [3] of the content, without outliers."""
    return scene_bounds(content.points, np.concatenate([content.path, content.true_path,
                                                        content.outline]))


def draw_top(axes: Axes, content: Content) -> None:
    """Draw the map from straight above, with a scale bar."""
    low, high = bounds(content)
    margin = 0.06 * (high - low)[:2].max()
    view = top_view(low[:2] - margin, high[:2] + margin, PANEL_WIDTH, PANEL_HEIGHT)
    show(axes, view, content, shaded=False)
    scale = view.pixels_from_world[0, 0]
    length = 10.0 ** np.floor(np.log10(0.3 * PANEL_WIDTH / scale))
    axes.plot([30, 30 + length * scale], [PANEL_HEIGHT - 30] * 2, color=TEXT, lw=3)
    # One of the map units is a map unit.
    unit = content.unit.removesuffix('s') if length == 1.0 else content.unit
    axes.text(30, PANEL_HEIGHT - 42, f'{length:g} {unit}', color=TEXT, size=LABEL_SIZE)


def draw_orbit(axes: Axes, content: Content, azimuth_deg: float = -60.0,
               elevation_deg: float = 48.0) -> None:
    """Draw the map from outside, by default from above a corner."""
    low, high = bounds(content)
    middle, extent = 0.5 * (low + high), high - low
    view = orbit_view(middle, 0.5 * np.linalg.norm(extent), azimuth_deg, elevation_deg,
                      PANEL_WIDTH, PANEL_HEIGHT)
    show(axes, view, content, shaded=True)


def show(axes: Axes, view: View, content: Content, shaded: bool) -> None:
    """Draw points and lines in one view."""
    axes.set_axis_off()
    size = view.pixels_per_unit(content.points.mean(axis=0)) * spacing(content.points)
    axes.imshow(splat(view, content.points, content.colors, size, BACKGROUND, shaded),
                extent=(0, view.width, view.height, 0), interpolation='nearest')
    if len(content.outline):
        corners = view.project(np.concatenate([content.outline, content.outline[:1]]))
        axes.plot(*corners[:, :2].T, color=TEXT, lw=1.5, ls=(0, (6, 4)), label='true walls')
    for line, color, label in ((content.true_path, TRUE_PATH, 'true path'),
                               (content.path, PATH, 'estimated path')):
        if len(line):
            seen = view.project(line)
            axes.plot(*seen[:, :2].T, color='black', lw=5, alpha=0.5, solid_capstyle='round')
            axes.plot(*seen[:, :2].T, color=color, lw=2.5, label=label)
            axes.plot(*seen[0, :2], 'o', color=color, ms=8, mec='black')
    axes.set_xlim(0, view.width)
    axes.set_ylim(view.height, 0)
