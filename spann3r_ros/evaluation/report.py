# SPDX-License-Identifier: Apache-2.0
"""How a map and a trajectory compare with a recording's ground truth."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spann3r_ros.evaluation import metrics, trajectories
from spann3r_ros.evaluation.bag_truth import Truth
from spann3r_ros.evaluation.metrics import NearestDistances
from spann3r_ros.evaluation.trajectories import Similarity
from spann3r_ros.mapping.types import StampedPose
from spann3r_ros.mapping.voxel_map import VoxelCloud

QUERY_POINTS = 20_000
LEAST_POSES = 3


class AlignmentError(ValueError):
    """The trajectory cannot be laid over the truth."""


@dataclass(frozen=True)
class Comparison:
    """Errors in the truth's unit, after `alignment` took the map to the truth's world.

    The alignment is one similarity that takes the estimated camera centres to the true ones in
    the least-squares sense: the map's scale and origin are arbitrary. `rotation_deg` is the
    median over poses; accuracy and completion are None without true points.
    """

    alignment: Similarity
    poses: int
    path_length: float
    trajectory_error: float
    rotation_deg: float
    accuracy: NearestDistances | None
    completion: NearestDistances | None


def compare(cloud: VoxelCloud, trajectory: Sequence[StampedPose], truth: Truth) -> Comparison:
    """Return the errors of a map; poses belong together when their stamps are equal.

    AlignmentError if fewer than three stamps are shared: they fix no alignment.
    """
    true_poses = {pose.stamp_ns: pose.world_from_camera for pose in truth.poses}
    pairs = [(pose.world_from_camera, true_poses[pose.stamp_ns]) for pose in trajectory
             if pose.stamp_ns in true_poses]
    if len(pairs) < LEAST_POSES:
        raise AlignmentError(f'trajectory: expected {LEAST_POSES} or more poses at stamps of '
                             f'the truth, got {len(pairs)}')
    estimate, true = (np.stack(poses) for poses in zip(*pairs, strict=True))
    alignment = trajectories.fit_similarity(estimate[:, :3, 3], true[:, :3, 3])
    aligned = move_poses(alignment, estimate)
    accuracy = completion = None
    if len(truth.points):
        points = alignment.apply(cloud.points.astype(float))
        accuracy = metrics.accuracy(metrics.subsample(points, QUERY_POINTS), truth.points)
        completion = metrics.completion(points, metrics.subsample(truth.points, QUERY_POINTS))
    steps = np.diff(true[:, :3, 3], axis=0)
    return Comparison(
        alignment, len(pairs), float(np.linalg.norm(steps, axis=1).sum()),
        trajectories.root_mean_square(aligned[:, :3, 3] - true[:, :3, 3]),
        float(np.median(trajectories.rotation_errors_deg(aligned, true))), accuracy, completion)


def move_poses(alignment: Similarity, poses: np.ndarray) -> np.ndarray:
    """Return poses [n, 4, 4] as seen from the alignment's target world."""
    moved = poses.copy()
    moved[:, :3, :3] = alignment.rotation @ poses[:, :3, :3]
    moved[:, :3, 3] = alignment.apply(poses[:, :3, 3])
    return moved
