# SPDX-License-Identifier: Apache-2.0
"""A saved map of a generated building against the truth: path, scale, walls, loops."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.storage.map_directory import CLOUD, NAME, TRAJECTORY, read_map
from spann3r_ros.mapping.storage.saved_tree import SavedNode
from spann3r_ros.mapping.storage.saved_values import read_similarity
from spann3r_ros.rooms.buildings.floor_plan import FloorPlan

from .measures.trajectories import (
    Similarity,
    check_pose_pairs,
    fit_similarity,
    mean_rotation,
    root_mean_square,
    scale_error,
)
from .measures.walls import WallDoubling, wall_doubling

# A loop is true if it places the second fragment at most this far from where it is, in metres.
TRUE_LOOP_M = 0.75
LEAST_POSES = 3


@dataclass(frozen=True)
class LoopScore:
    """A loop constraint between two fragments, and the mean error of the poses it implies."""

    first: int
    second: int
    error_m: float

    @property
    def is_true(self) -> bool:
        """Return whether the loop is where it should be."""
        return self.error_m <= TRUE_LOOP_M


@dataclass(frozen=True)
class BuildingScores:
    """A map in the world of the truth, into which one similarity of its path takes it.

    `points` [n, 3] and `colors` [n, 3] are the cloud, `path` [m, 3] the camera centres.
    `alignment` is the similarity, `scale_error` the share by which the path is too long without
    it. `trajectory_error` is the RMS error of camera centres in metres on `path_length` metres.
    """

    alignment: Similarity
    points: np.ndarray
    colors: np.ndarray
    path: np.ndarray
    path_length: float
    trajectory_error: float
    scale_error: float
    walls: WallDoubling
    loops: tuple[LoopScore, ...]

    @property
    def true_loops(self) -> int:
        """Return how many loops are true."""
        return sum(one.is_true for one in self.loops)


def score_building(folder: Path, truth: Sequence[StampedPose], plan: FloorPlan) -> BuildingScores:
    """Return the scores of the map saved in a folder; poses are associated by their stamps.

    ValueError for a map with fewer than three poses of the truth, or one that cannot be read.
    """
    cloud: VoxelCloud = read_ply(folder / NAME / CLOUD)
    true_poses = {pose.stamp_ns: pose.world_from_camera for pose in truth}
    pairs = [(pose.world_from_camera, true_poses[pose.stamp_ns])
             for pose in read_tum(folder / NAME / TRAJECTORY) if pose.stamp_ns in true_poses]
    if len(pairs) < LEAST_POSES:
        raise ValueError(f'trajectory: expected {LEAST_POSES} or more poses at stamps of the '
                         f'truth, got {len(pairs)}')
    estimate, true = (np.stack(poses) for poses in zip(*pairs, strict=True))
    alignment = fit_similarity(estimate[:, :3, 3], true[:, :3, 3])
    path = alignment.apply(estimate[:, :3, 3])
    points = alignment.apply(cloud.points.astype(float))
    steps = np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1)
    return BuildingScores(
        alignment, points, cloud.colors, path, float(steps.sum()),
        root_mean_square(path - true[:, :3, 3]), scale_error(estimate, true),
        wall_doubling(points, plan), tuple(score_loops(read_map(folder), true_poses)))


def score_loops(saved: SavedNode, truth: dict[int, np.ndarray]) -> list[LoopScore]:
    """Return the loop constraints of a saved map; `truth` are poses [4, 4] by stamp.

    The first fragment is aligned to the truth by its own poses; the constraint then places the
    poses of the second one.
    """
    atlas = saved.node('state').node('atlas')
    paths = {one.integer('id'): _path(one, truth) for one in atlas.nodes('fragments')}
    found = []
    for one in atlas.nodes('constraints'):
        first, second = one.integer('first'), one.integer('second')
        if one.text('kind') != 'loop' or not (len(paths[first][0]) and len(paths[second][0])):
            continue
        aligned = align_poses(*paths[first])
        poses, true = paths[second]
        moved = read_similarity(one, 'first_from_second') @ poses
        error = aligned.apply(moved[:, :3, 3]) - true[:, :3, 3]
        found.append(LoopScore(first, second, float(np.linalg.norm(error, axis=1).mean())))
    return found


def align_poses(estimate: np.ndarray, truth: np.ndarray) -> Similarity:
    """Return the similarity of poses [n, 4, 4] to true ones, also for a straight path.

    Its rotation is the mean over all orientations, its scale the ratio of the spreads of the
    camera centres, 1 for a camera that stays.
    """
    estimate, truth = check_pose_pairs(estimate, truth)
    rotation = mean_rotation(estimate, truth)
    middle, true_middle = estimate[:, :3, 3].mean(axis=0), truth[:, :3, 3].mean(axis=0)
    spread = root_mean_square(estimate[:, :3, 3] - middle)
    true_spread = root_mean_square(truth[:, :3, 3] - true_middle)
    scale = true_spread / spread if spread > 0.0 and true_spread > 0.0 else 1.0
    return Similarity(scale, rotation, true_middle - scale * rotation @ middle)


def _path(fragment: SavedNode, truth: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the poses [n, 4, 4] of a fragment that have a truth, and the true ones."""
    path = fragment.node('path')
    stamps = path.array('stamps', np.int64, (None,)).tolist()
    poses = path.array('transforms', np.float64, (len(stamps), 4, 4))
    known = [index for index, stamp in enumerate(stamps) if stamp in truth]
    return poses[known], np.array([truth[stamps[index]] for index in known]).reshape(-1, 4, 4)
