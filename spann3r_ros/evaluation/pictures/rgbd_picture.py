# SPDX-License-Identifier: Apache-2.0
"""The picture of a video: mapped and true cloud from the same places, and depth images."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spann3r_ros.evaluation.measures.metrics import subsample
from spann3r_ros.evaluation.rgbd.depth_scores import median_scale
from spann3r_ros.evaluation.rgbd.rgbd_scores import VideoResult
from spann3r_ros.viewer.map_scene import ceiling, spread

from .map_picture import (
    BACKGROUND,
    DOTS_PER_INCH,
    FAINT,
    LABEL_SIZE,
    TEXT,
    TITLE_SIZE,
    Content,
    bounds,
    inches,
    show,
    write_figure,
)
from .photo_picture import level_axes
from .splat import View, orbit_view, top_view

WIDTH, HEADER_HEIGHT, CLOUD_HEIGHT = 1600, 90, 560  # pixels
# The keyframes whose depth is drawn, at equal distances in time.
DEPTH_FRAMES = 6
LABEL_WIDTH, GAP = 110, 8
ROWS = ('image', 'estimated\ndepth', 'true depth\n\nblue: near\nred: far\nblack:\nunknown')
MOST_POINTS = 400_000


def draw_video(target: Path, result: VideoResult) -> None:
    """Write a PNG of a run with calibration; ValueError without an aligned map."""
    scores = result.scores.runs[0]
    if scores.map is None:
        raise ValueError(f'picture: expected a map that can be aligned to the truth, '
                         f'{result.scores.name} has none')
    side = (WIDTH - LABEL_WIDTH) // DEPTH_FRAMES
    aspect = result.views.depth.shape[1] / result.views.depth.shape[2]
    depth_height = round((side - GAP) * aspect) + GAP
    height = HEADER_HEIGHT + 2 * CLOUD_HEIGHT + 40 + len(ROWS) * depth_height
    figure = Figure(figsize=(inches(WIDTH), inches(height)), dpi=DOTS_PER_INCH,
                    facecolor=np.array(BACKGROUND) / 255)
    FigureCanvasAgg(figure)
    draw_header(figure, height, result)
    draw_clouds(figure, height, *contents(result))
    draw_depths(figure, height, result, side, depth_height)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_figure(target, figure)


def contents(result: VideoResult) -> tuple[Content, Content]:
    """Return map and truth in metres, z up, without the ceiling of the truth."""
    alignment = result.scores.runs[0].map.alignment
    axes = level_axes(result.views.poses)
    true_path = result.views.poses[:, :3, 3] @ axes.T
    found, _ = result.run.poses
    path, nothing = alignment.apply(found[:, :3, 3]) @ axes.T, np.zeros((0, 3))
    true_points = result.truth.points.astype(float) @ axes.T
    cut = ceiling(true_points, true_path)
    both = []
    for points, colors, own in (
            (alignment.apply(result.run.cloud.points.astype(float)) @ axes.T,
             result.run.cloud.colors, path), (true_points, result.truth.colors, nothing)):
        kept = subsample(np.flatnonzero(points[:, 2] < cut), MOST_POINTS)
        both.append(Content(points[kept], colors[kept], own, true_path, nothing, 'm'))
    return both[0], both[1]


def draw_header(figure: Figure, height: int, result: VideoResult) -> None:
    """Draw title and figures."""
    scores, run = result.scores, result.scores.runs[0]
    figure.text(0.012, 1 - 26 / height, f'{scores.name}: {scores.frames} images mapped with '
                f'calibration, beside the truth', color=TEXT, size=TITLE_SIZE, va='center',
                weight='bold')
    parts = [f'accuracy {run.map.accuracy.mean:.2f} m, completion {run.map.completion.mean:.2f} m '
             f'at a mean depth of {run.mean_depth:.1f} m']
    if run.path.errors:
        parts.append(f'ATE {run.path.errors.trajectory_error:.2f} m on '
                     f'{run.path.errors.path_length:.1f} m')
    if run.depth.network:
        parts.append(f'depth after one scale per image: AbsRel '
                     f'{run.depth.network.frame_scale.abs_rel:.2f}')
    parts.append('aligned by one similarity · without the ceiling · paths begin at the dots')
    figure.text(0.012, 1 - 60 / height, ' · '.join(parts), color=FAINT, size=LABEL_SIZE - 1,
                va='center')


def draw_clouds(figure: Figure, height: int, mapped: Content, truth: Content) -> None:
    """Draw map and truth from above a corner and from straight above."""
    low, high = bounds(truth)
    margin = 0.06 * (high - low)[:2].max()
    corner = orbit_view(0.5 * (low + high), 0.34 * float(np.linalg.norm(high - low)), -60.0, 48.0,
                        WIDTH // 2, CLOUD_HEIGHT)
    above = top_view(low[:2] - margin, high[:2] + margin, WIDTH // 2, CLOUD_HEIGHT)
    for row, (view, shaded) in enumerate(((corner, True), (above, False))):
        for column, (content, label) in enumerate(((mapped, 'map'), (truth, 'truth'))):
            axes = add_axes(figure, height, (column * WIDTH // 2, HEADER_HEIGHT
                                             + row * CLOUD_HEIGHT, WIDTH // 2, CLOUD_HEIGHT))
            show(axes, view, content, shaded)
            place = 'from above' if row else 'from a corner'
            axes.text(16, 26, f'{label}, {place}', color=TEXT, size=LABEL_SIZE + 2, weight='bold')
            if row:
                draw_scale(axes, view)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='upper right', ncols=len(handles), frameon=False,
                  labelcolor=TEXT, fontsize=LABEL_SIZE, bbox_to_anchor=(0.99, 1 - 8 / height))


def draw_scale(axes: Axes, view: View) -> None:
    """Draw a bar of one metre."""
    length = view.pixels_from_world[0, 0]
    axes.plot([20, 20 + length], [CLOUD_HEIGHT - 24] * 2, color=TEXT, lw=3)
    axes.text(20, CLOUD_HEIGHT - 34, '1 m', color=TEXT, size=LABEL_SIZE)


def draw_depths(figure: Figure, height: int, result: VideoResult, side: int,
                depth_height: int) -> None:
    """Draw some keyframes: the image, estimated and true depth in the same colours."""
    top = height - len(ROWS) * depth_height
    for row, label in enumerate(ROWS):
        figure.text(0.008, 1 - (top + (row + 0.5) * depth_height) / height,
                    label, color=TEXT, size=LABEL_SIZE, va='center')
    depths = result.run.depths()
    posed = [number for number, depth in enumerate(depths)
             if depth is not None and (result.views.depth[number] > 0.0).any()]
    for column, index in enumerate(spread(len(posed), DEPTH_FRAMES)):
        number = posed[index]
        truth = result.views.depth[number]
        known = truth > 0.0
        depth = np.nan_to_num(depths[number])
        depth = depth * median_scale(depth[known], truth[known])
        limits = np.quantile(truth[known], [0.02, 0.98])
        left = LABEL_WIDTH + column * side
        figure.text((left + 0.5 * (side - GAP)) / WIDTH, 1 - (top - 16) / height,
                    f'{result.images[number]} · {limits[0]:.1f} to {limits[1]:.1f} m', color=FAINT,
                    size=LABEL_SIZE - 1, va='center', ha='center')
        for row, image in enumerate((result.views.images[number], depth, truth)):
            axes = add_axes(figure, height, (left, top + row * depth_height, side - GAP,
                                             depth_height - GAP))
            axes.set_axis_off()
            if image.ndim == 2:
                image = np.ma.masked_where(image <= 0.0, image)
            axes.imshow(image, cmap='turbo', vmin=limits[0], vmax=limits[1], aspect='auto')


def add_axes(figure: Figure, height: int, box: tuple[int, int, int, int]) -> Axes:
    """Return axes at left, top, width and height in pixels of a figure `height` pixels high."""
    left, top, width, tall = box
    return figure.add_axes((left / WIDTH, 1 - (top + tall) / height, width / WIDTH,
                            tall / height))
