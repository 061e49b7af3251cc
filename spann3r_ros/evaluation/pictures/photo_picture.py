# SPDX-License-Identifier: Apache-2.0
"""The picture of a run on photographs: cloud and path from above and from the side."""
from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from spann3r_ros.evaluation.measures.metrics import subsample
from spann3r_ros.evaluation.measures.trajectories import fit_similarity
from spann3r_ros.evaluation.photo_scores import PhotoRun, PhotoScores
from spann3r_ros.mapping.mapper_config import VoxelMapConfig

from .map_picture import Content, draw_orbit, draw_views

MOST_POINTS = 400_000
# From the right of the first camera's direction, slightly from above.
AZIMUTH_DEG, ELEVATION_DEG = -90.0, 12.0


def draw_photographs(target: Path, run: PhotoRun, scores: PhotoScores) -> None:
    """Write a PNG of the cloud, aligned to the true path; ValueError without a path."""
    if scores.path is None:
        raise ValueError(f'picture: expected three solved frames or more, got {scores.solved}')
    note = (f'ATE {scores.path.trajectory_error / scores.path.path_length:.3f} of the path · '
            f'aligned to the truth by one similarity')
    draw_views(target, photo_content(run),
               partial(draw_orbit, azimuth_deg=AZIMUTH_DEG, elevation_deg=ELEVATION_DEG),
               f'{scores.frames} photographs, {scores.solved} poses', note)


def photo_content(run: PhotoRun) -> Content:
    """Return the content in the truth's unit, z up, x in the first camera's direction."""
    truth = run.truth[:, :3, 3]
    found, frames = run.poses
    alignment = fit_similarity(found[:, :3, 3], truth[frames])
    pointmaps = [one.pointmap for one in run.keyframes]
    points = np.concatenate([item.points.reshape(-1, 3) for item in pointmaps])
    colors = np.concatenate([one.image.reshape(-1, 3) for one in run.keyframes])
    confidence = np.concatenate([item.confidence.ravel() for item in pointmaps])
    finite = np.isfinite(points).all(axis=1)
    # The threshold of the map, unless no point reaches it.
    confident = finite & (confidence >= VoxelMapConfig().min_confidence)
    kept = subsample(np.flatnonzero(confident if confident.any() else finite), MOST_POINTS)
    axes = level_axes(run.truth)
    return Content(alignment.apply(points[kept].astype(float)) @ axes.T,
                   colors[kept],
                   alignment.apply(found[:, :3, 3]) @ axes.T, truth @ axes.T,
                   np.zeros((0, 3)), '(unit of the true poses)')


def level_axes(poses: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] to axes whose z is the mean up of camera poses [n, 4, 4]."""
    up = -poses[:, :3, 1].mean(axis=0)
    up /= np.linalg.norm(up)
    ahead = poses[0, :3, 2] - poses[0, :3, 2] @ up * up
    ahead /= np.linalg.norm(ahead)
    return np.stack([ahead, np.cross(up, ahead), up])
