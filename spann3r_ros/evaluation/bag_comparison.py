# SPDX-License-Identifier: Apache-2.0
"""Errors of a map and a trajectory against a recording's ground truth."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from spann3r_ros.core.types import StampedPose
from spann3r_ros.datasets.bag_truth import Truth
from spann3r_ros.evaluation.measures.metrics import NearestDistances
from spann3r_ros.evaluation.measures.trajectories import Similarity
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud

from .measures import metrics, trajectories

QUERY_POINTS = 20_000
SCALE_POINTS = 5000
SCALE_STEPS = 25
LEAST_POSES = 3


class AlignmentError(ValueError):
    """The trajectory cannot be aligned to the truth."""


@dataclass(frozen=True)
class Comparison:
    """Errors in the truth's unit; the map's scale and origin are arbitrary, so it is aligned.

    `alignment` is one similarity for the whole map. Its rotation is the mean over all
    orientations, its translation aligns the mean camera centres, and its scale minimises the
    distance between map and true points (without true points: between camera centres).
    `trajectory_error` is the usual ATE: camera centres after a least-squares similarity of theirs.
    `rotation_deg` is the median over poses; accuracy and completion are None without true points.
    """

    alignment: Similarity
    poses: int
    path_length: float
    trajectory_error: float
    rotation_deg: float
    accuracy: NearestDistances | None
    completion: NearestDistances | None


def compare(cloud: VoxelCloud, trajectory: Sequence[StampedPose], truth: Truth) -> Comparison:
    """Return the errors of a map; poses are associated by equal stamps.

    AlignmentError if fewer than three stamps are shared, or the camera never moved.
    """
    true_poses = {pose.stamp_ns: pose.world_from_camera for pose in truth.poses}
    pairs = [(pose.world_from_camera, true_poses[pose.stamp_ns]) for pose in trajectory
             if pose.stamp_ns in true_poses]
    if len(pairs) < LEAST_POSES:
        raise AlignmentError(f'trajectory: expected {LEAST_POSES} or more poses at stamps of '
                             f'the truth, got {len(pairs)}')
    estimate, true = (np.stack(poses) for poses in zip(*pairs, strict=True))
    try:
        path_alignment = trajectories.fit_similarity(estimate[:, :3, 3], true[:, :3, 3])
    except ValueError as error:
        raise AlignmentError(str(error)) from error
    path_error = path_alignment.apply(estimate[:, :3, 3]) - true[:, :3, 3]
    alignment = align_map(cloud.points.astype(float), truth.points, estimate, true,
                          path_alignment.scale)
    aligned = move_poses(alignment, estimate)
    accuracy = completion = None
    if len(truth.points):
        points = alignment.apply(cloud.points.astype(float))
        accuracy = metrics.accuracy(metrics.subsample(points, QUERY_POINTS), truth.points)
        completion = metrics.completion(points, metrics.subsample(truth.points, QUERY_POINTS))
    steps = np.diff(true[:, :3, 3], axis=0)
    return Comparison(
        alignment, len(pairs), float(np.linalg.norm(steps, axis=1).sum()),
        trajectories.root_mean_square(path_error),
        float(np.median(trajectories.rotation_errors_deg(aligned, true))), accuracy, completion)


def align_map(points: np.ndarray, true_points: np.ndarray, estimate: np.ndarray,
              true: np.ndarray, path_scale: float) -> Similarity:
    """Return the similarity from the map's world to the truth's; see `Comparison`."""
    rotation = trajectories.mean_rotation(estimate, true)
    middle, true_middle = estimate[:, :3, 3].mean(axis=0), true[:, :3, 3].mean(axis=0)
    scale = path_scale
    if len(true_points):
        rays = metrics.subsample(points - middle, SCALE_POINTS) @ rotation.T
        scale = fit_surface_scale(
            rays, metrics.subsample(true_points - true_middle, SCALE_POINTS))
    return Similarity(scale, rotation, true_middle - scale * rotation @ middle)


def fit_surface_scale(points: np.ndarray, truth: np.ndarray) -> float:
    """Return s that minimises the distance of s * points [n, 3] to a surface, truth [m, 3].

    The distance is the sum of mean accuracy and mean completion. The search is within a factor of
    eight of the ratio of median distances from the origin, which alone depends on sampling.
    """
    def distance(log_scale: float) -> float:
        scaled = np.exp(log_scale) * points
        return metrics.accuracy(scaled, truth).mean + metrics.completion(scaled, truth).mean

    start = np.log(np.median(np.linalg.norm(truth, axis=1))
                   / np.median(np.linalg.norm(points, axis=1)))
    coarse = start + np.linspace(-1.0, 1.0, SCALE_STEPS) * np.log(8.0)
    best = coarse[np.argmin([distance(log_scale) for log_scale in coarse])]
    step = coarse[1] - coarse[0]
    found = minimize_scalar(distance, bounds=(best - step, best + step), method='bounded')
    return float(np.exp(found.x))


def move_poses(alignment: Similarity, poses: np.ndarray) -> np.ndarray:
    """Return poses [n, 4, 4] in the target world of an alignment."""
    moved = poses.copy()
    moved[:, :3, :3] = alignment.rotation @ poses[:, :3, :3]
    moved[:, :3, 3] = alignment.apply(poses[:, :3, 3])
    return moved
