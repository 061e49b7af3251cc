# SPDX-License-Identifier: Apache-2.0
"""Scores of a video: depth of pairs and keyframes, the map, the path."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.network import Network
from spann3r_ros.core.types import finite_points
from spann3r_ros.evaluation.held_out.baselines import pixel_rays
from spann3r_ros.evaluation.measures import metrics, trajectories
from spann3r_ros.evaluation.measures.alignment import align_by_points
from spann3r_ros.evaluation.measures.metrics import NearestDistances
from spann3r_ros.evaluation.measures.trajectories import PathErrors, Similarity
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.mapper_config import VoxelMapConfig

from .depth_scores import DepthComparison, compare_depth
from .rgbd_runs import MapperRun, pair_depths, run_mapper
from .true_views import TrueViews, Video, load_views

LEAST_POSES, LEAST_PAIRS = 3, 50
FIT_POINTS, QUERY_POINTS = 50_000, 20_000
# How often `observe` of `evaluate_video` is called for a frame: pairs, and for each of two runs
# reading, mapping and fusing.
STEPS_PER_FRAME = 7


@dataclass(frozen=True)
class MapScores:
    """Distances in metres between a cloud and the true one, after one similarity.

    `alignment` is fitted to corresponding points: those of the cloud's keyframes and the true
    ones of the same pixels. `point_error` is the mean distance between these.
    """

    points: int
    point_error: float
    accuracy: NearestDistances
    completion: NearestDistances
    alignment: Similarity


@dataclass(frozen=True)
class PathScores:
    """Errors of the path of the frames with a pose, in metres, steps between consecutive ones.

    `errors` are after one similarity of the camera centres, None if fewer than three frames have
    a pose or the estimated camera never moves. `still` are those of a camera that never moves,
    None under two poses.
    """

    poses: int
    errors: PathErrors | None
    still: PathErrors | None


@dataclass(frozen=True)
class RunScores:
    """Scores of one mapper run.

    `map` and `flat_map` (a plane in front of a camera that stands still, aligned in the same way)
    are None if the map has too few points to be aligned. `focal_ratio` is the focal length that
    the mapper used for the last keyframe, over the true one; None without a keyframe.
    `mean_depth` is the true one in metres, of the pixels that the network sees.
    """

    calibrated: bool
    keyframes: int
    failed: int
    fragments: int
    recoveries: int
    coverage: float
    mean_depth: float
    known_share: float
    focal_ratio: float | None
    depth: DepthComparison
    map: MapScores | None
    flat_map: MapScores | None
    path: PathScores


@dataclass(frozen=True)
class VideoScores:
    """Scores of one video: `pairs` of images `pair_gap` frames apart, and the mapper's runs."""

    name: str
    frames: int
    seconds: float
    path_length: float
    pair_gap: int
    pairs: DepthComparison
    runs: tuple[RunScores, ...]


@dataclass(frozen=True)
class VideoResult:
    """Scores, and what a picture needs: run, true views and true cloud, with calibration.

    `images` are the names of the image files.
    """

    scores: VideoScores
    images: tuple[str, ...]
    run: MapperRun
    views: TrueViews
    truth: VoxelCloud


def evaluate_video(network: Network, video: Video, pair_gap: int,
                   observe: Callable[[], object] = lambda: None) -> VideoResult:
    """Score a network on a video, mapped with and without calibration.

    `observe` is called `STEPS_PER_FRAME` times for a frame, `pair_gap` times less. ValueError for
    a gap that is not within the video; DatasetError for bad files or without any depth.
    """
    camera = video.intrinsics
    size = network.input_size(camera.width / camera.height)
    runs, first = [], None
    for calibrated in (True, False):
        views = load_views(video, size, calibrated, observe)
        if calibrated:
            depths = pair_depths(network, views.images, pair_gap, observe)
            pairs = compare_depth(depths, views.depth[:len(depths)])
        run = run_mapper(network, video, calibrated, observe)
        truth = views.fuse(observe)
        runs.append(score_run(run, views, truth))
        first = first or (run, views, truth)
    centres = first[1].poses[:, :3, 3]
    stamps = video.stamps_ns
    scores = VideoScores(video.sequence.name, len(video), (stamps[-1] - stamps[0]) / 1e9,
                         float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum()),
                         pair_gap, pairs, tuple(runs))
    names = tuple(view.color.name for view in video.sequence.views)
    return VideoResult(scores, names, *first)


def score_run(run: MapperRun, views: TrueViews, truth: VoxelCloud) -> RunScores:
    """Return the scores of a run against the views as that run sees them, and their cloud."""
    used = run.keyframes[-1].intrinsics.fx / views.intrinsics.fx if run.keyframes else None
    return RunScores(
        run.calibrated, len(run.keyframes), run.failed,
        len({one.fragment_id for one in run.keyframes}), run.recoveries, run.coverage,
        views.mean_depth, float((views.depth > 0.0).mean()), used,
        compare_depth(run.depths(), views.depth),
        score_map(run.cloud.points, *matched_points(run, views), truth),
        score_flat_map(views, truth), score_path(*run.poses, views.poses))


def matched_points(run: MapperRun, views: TrueViews) -> tuple[np.ndarray, np.ndarray]:
    """Return points [n, 3] of the keyframes that enter the map, and true ones of their pixels.

    They are a seeded selection, of each keyframe as many as the others.
    """
    least = VoxelMapConfig().min_confidence
    found, true = [np.zeros((0, 3))], [np.zeros((0, 3))]
    for number, keyframe in zip(run.numbers, run.keyframes, strict=True):
        if keyframe.world_from_camera is None:
            continue
        points = keyframe.pointmap.points
        used = select_pixels((views.depth[number] > 0.0) & finite_points(points)
                             & (keyframe.pointmap.confidence >= least), run.frames)
        found.append(points[used])
        true.append(views.world_points(number)[used])
    return np.concatenate(found), np.concatenate(true)


def select_pixels(usable: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of some pixels of `usable` bool [h, w], for one of `frames`."""
    rows, columns = np.nonzero(usable)
    chosen = metrics.subsample(np.arange(len(rows)), max(FIT_POINTS // frames, LEAST_PAIRS))
    return rows[chosen], columns[chosen]


def score_map(points: np.ndarray, matched: np.ndarray, true: np.ndarray,
              truth: VoxelCloud) -> MapScores | None:
    """Return the distances of a cloud [n, 3] after the similarity from `matched` to `true` [m, 3].

    None without enough corresponding points at different places. Distances are from a seeded
    selection of points to the nearest of all points.
    """
    if len(matched) < LEAST_PAIRS or not len(points) or not np.ptp(matched, axis=0).any():
        return None
    alignment = align_by_points(matched, true)
    moved = alignment.apply(points.astype(np.float64))
    return MapScores(
        len(points), float(np.linalg.norm(alignment.apply(matched) - true, axis=1).mean()),
        metrics.accuracy(metrics.subsample(moved, QUERY_POINTS), truth.points),
        metrics.completion(moved, metrics.subsample(truth.points, QUERY_POINTS)), alignment)


def score_flat_map(views: TrueViews, truth: VoxelCloud) -> MapScores | None:
    """Return the scores of a plane in front of a camera that never moves."""
    plane = pixel_rays(views.intrinsics.matrix, *views.depth.shape[1:])
    used = [select_pixels(depth > 0.0, len(views.depth)) for depth in views.depth]
    true = [views.world_points(number)[one] for number, one in enumerate(used)]
    return score_map(plane.reshape(-1, 3), np.concatenate([plane[one] for one in used]),
                     np.concatenate(true), truth)


def score_path(found: np.ndarray, numbers: list[int], truth: np.ndarray) -> PathScores:
    """Return the errors of poses [m, 4, 4] of frames `numbers`; `truth` [n, 4, 4] has all."""
    if len(numbers) < 2:
        return PathScores(len(numbers), None, None)
    true = truth[numbers]
    centres, steps = true[:, :3, 3], trajectories.motion(true, 1)
    angles = trajectories.rotation_angles_deg(steps[:, :3, :3])
    still = PathErrors(float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum()),
                       trajectories.root_mean_square(centres - centres.mean(axis=0)),
                       trajectories.root_mean_square(steps[:, :3, 3]),
                       float(np.sqrt((angles ** 2).mean())))
    errors = None
    if len(numbers) >= LEAST_POSES and np.ptp(found[:, :3, 3], axis=0).any():
        errors = trajectories.path_errors(found, true)
    return PathScores(len(numbers), errors, still)
