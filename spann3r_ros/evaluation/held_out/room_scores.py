# SPDX-License-Identifier: Apache-2.0
"""The held-out evaluation: unseen rooms with unseen textures, streaming inference.

Predictions and truth are compared in the first camera's optical frame after fitting one global
scale (least squares about the origin over all points) and nothing else. Distances are divided by
the mean of the room's two horizontal sides. Poses are those of the mapper with the true
intrinsics, as on a robot with a CameraInfo.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from spann3r_ros.core.network import Network
from spann3r_ros.core.types import FrameError
from spann3r_ros.evaluation.measures import metrics, trajectories
from spann3r_ros.evaluation.measures.clouds import score_clouds
from spann3r_ros.evaluation.recorded_runs import (
    MappedFrame,
    RecordedRun,
    run_recording,
    to_frames,
)
from spann3r_ros.mapping.mapper_config import MapperConfig, VoxelMapConfig

from .held_out_rooms import (
    ASPECT,
    HeldOutConfig,
    Sequence,
    TrivialPredictions,
    Turn,
    draw_sequences,
    familiar_rooms,
    unseen_rooms,
)

PREDICTIONS = ('network', 'mapped', 'plane', 'median', 'posed_depth')
Observer = Callable[[Turn, Sequence, RecordedRun], object]
WITHOUT_LIVE_POSES = MapperConfig(live_pose=False, resampling='exact')

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PointScores:
    """Errors of pointmaps: distances in mean room sides, `point` in mean true distances."""

    accuracy: float
    completion: float
    point: float


@dataclass(frozen=True)
class PoseScores:
    """Errors of solved poses, after fitting the pointmaps' scale or one similarity.

    `rotation_deg` is the median angle, `position` RMS in mean room sides, `unsolved` a share.
    After a similarity: `trajectory` is the ATE as a share of the path's length, `step` and
    `step_deg` are RMS errors from frame to frame, the former as a share of the mean step. `nees`
    and `nees_median` are mean and median over frames of the normalised squared error of position
    and rotation, divided by six: one if the poses have the covariance that the mapper states. The
    scale is that of the similarity, the frame that of the first camera, where covariances begin.
    """

    rotation_deg: float
    position: float
    unsolved: float
    trajectory: float
    step: float
    step_deg: float
    nees: float
    nees_median: float


@dataclass(frozen=True)
class TurnResult:
    """Scores of one kind of sequence, averaged over rooms, with those of the baselines.

    Of the `rooms`, `failed` have no scores, as the network did not estimate every frame. Means of
    points are over the others; means of poses are over the `posed` rooms, in which two frames or
    more have a pose.

    `mapped` are the points of the mapper: along the solved path, on the rays of their pixels,
    above the least confidence. `uncertainty` is the standard error of the network's means;
    `normals` the mean agreement of its normals with the true ones. `posed_depth` uses the true
    poses and is a reference, not a baseline.
    """

    turn: str
    rooms: int
    failed: int
    posed: int
    network: PointScores
    uncertainty: PointScores
    normals: float
    network_poses: PoseScores
    mapped: PointScores
    plane: PointScores
    median: PointScores
    posed_depth: PointScores


def evaluate_held_out(network: Network, config: HeldOutConfig | None = None,
                      observe: Observer = lambda *_: None) -> list[TurnResult]:
    """Run every held-out sequence through the mapper and score it beside the baselines.

    `observe` is called with each sequence and its run.
    """
    config = config or HeldOutConfig()
    size = network.input_size(ASPECT)
    unseen, familiar = unseen_rooms(config, size), familiar_rooms(config, size)
    seeded = unseen.state(), familiar.state()
    results = []
    for turn in config.turns:
        for rooms, state in zip((unseen, familiar), seeded, strict=True):
            rooms.restore(state)
        baselines = TrivialPredictions(familiar, config.training_rooms, turn)
        points: dict[str, list[PointScores]] = {}
        poses: list[PoseScores] = []
        normals: list[float] = []
        failed = 0
        for sequence in draw_sequences(unseen, config.rooms, turn):
            try:
                run = run_recording(network, to_frames(sequence.images, sequence.intrinsics),
                                    WITHOUT_LIVE_POSES)
            except FrameError as error:
                logger.warning('%s: skipped a room: %s', turn.name, error)
                failed += 1
                continue
            poses.append(score_poses(run, sequence))
            points.setdefault('mapped', []).append(score_map(run.keyframes, sequence, config))
            pointmaps = {'network': np.stack([item.points for item in run.pointmaps]),
                         **baselines.of(sequence)}
            normals.append(score_normals(pointmaps['network'], sequence, config))
            for name, predicted in pointmaps.items():
                points.setdefault(name, []).append(score_points(predicted, sequence, config))
            observe(turn, sequence, run)
        posed = sum(not np.isnan(row.rotation_deg) for row in poses)
        results.append(TurnResult(
            turn.name, config.rooms, failed, posed,
            uncertainty=standard_error(points.get('network', [])),
            normals=float(np.mean(normals)) if normals else float('nan'),
            network_poses=mean_scores(poses, PoseScores),
            **{name: mean_scores(points.get(name, []), PointScores) for name in PREDICTIONS}))
    return results


def score_map(keyframes: list[MappedFrame], sequence: Sequence,
              config: HeldOutConfig) -> PointScores:
    """Return the errors of the points of keyframes, whose stamps are frame numbers.

    Keyframes without a pose and points below the map's least confidence are left out, so that they
    affect completion only. NaN without any point.
    """
    keyframes = [one for one in keyframes if one.world_from_camera is not None]
    least = VoxelMapConfig().min_confidence
    points = [np.where(one.pointmap.confidence[..., None] >= least, one.pointmap.points, np.nan)
              for one in keyframes]
    if not np.isfinite(points).any():
        return PointScores(*(float('nan') for _ in fields(PointScores)))
    return score_points(np.stack(points), sequence, config, [one.stamp_ns for one in keyframes])


def score_points(predicted: np.ndarray, sequence: Sequence, config: HeldOutConfig,
                 frames: list[int] | slice = slice(None)) -> PointScores:
    """Return the errors of pointmaps [frames, h, w, 3] after fitting one scale.

    `frames` are their frames in the sequence; points may be NaN. Distances are from a seeded
    selection of points to the nearest of all points.
    """
    points, true = predicted.reshape(-1, 3), sequence.points[frames].reshape(-1, 3)
    finite = np.isfinite(points).all(axis=1)
    points, true = points[finite], true[finite]
    scaled, truth = points * metrics.fit_scale(points, true), sequence.points.reshape(-1, 3)
    accuracy = metrics.accuracy(metrics.subsample(scaled, config.query_points), truth)
    completion = metrics.completion(scaled, metrics.subsample(truth, config.query_points))
    return PointScores(accuracy.mean / sequence.mean_side, completion.mean / sequence.mean_side,
                       metrics.point_error(scaled, true))


def score_normals(predicted: np.ndarray, sequence: Sequence, config: HeldOutConfig) -> float:
    """Return the mean agreement of normals, of seeded selections of both clouds' points."""
    clouds = [metrics.subsample(points, config.normal_points) for points in (
        predicted.reshape(-1, 3) * metrics.fit_scale(predicted, sequence.points),
        sequence.points.reshape(-1, 3))]
    return score_clouds(*clouds).normals.mean


def score_poses(run: RecordedRun, sequence: Sequence) -> PoseScores:
    """Return the errors of the keyframes' poses; the scale is that of the pointmaps."""
    pointmaps, keyframes = run.pointmaps, run.keyframes
    scale = metrics.fit_scale(np.stack([item.points for item in pointmaps]), sequence.points)
    posed = [one for one in keyframes if one.world_from_camera is not None]
    unsolved = 1.0 - (len(posed) - 1) / (len(pointmaps) - 1)
    missing = float('nan')
    if len(posed) < 2:
        return PoseScores(*(unsolved if item.name == 'unsolved' else missing
                            for item in fields(PoseScores)))
    found = np.stack([one.world_from_camera for one in posed])
    truth = sequence.poses[[one.stamp_ns for one in posed]]
    offsets = scale * found[1:, :3, 3] - truth[1:, :3, 3]
    errors = trajectories.path_errors(found, truth)
    covariances = np.stack([one.covariance for one in posed])
    nees = trajectories.normalised_errors_squared(
        found[1:], covariances[1:], truth[1:],
        trajectories.fit_similarity(found[:, :3, 3], truth[:, :3, 3]).scale)
    mean_step = errors.path_length / (len(posed) - 1)
    return PoseScores(
        float(np.median(trajectories.rotation_errors_deg(found[1:], truth[1:]))),
        trajectories.root_mean_square(offsets) / sequence.mean_side, unsolved,
        errors.trajectory_error / errors.path_length, errors.translation / mean_step,
        errors.rotation_deg, float(nees.mean()), float(np.median(nees)))


def mean_scores(rows: list, kind: type) -> PointScores | PoseScores:
    """Return the field-wise mean of scores of one kind; NaN values are left out.

    A mean of no value is NaN. The caller reports the number of rows.
    """
    columns = np.array([[getattr(row, item.name) for item in fields(kind)] for row in rows]
                       ).reshape(-1, len(fields(kind))).T
    return kind(*(float(column[~np.isnan(column)].mean()) if not np.isnan(column).all()
                  else float('nan') for column in columns))


def standard_error(rows: list[PointScores]) -> PointScores:
    """Return the field-wise standard error of the mean; NaN for a single row."""
    if len(rows) < 2:
        return PointScores(*(float('nan') for _ in fields(PointScores)))
    return PointScores(*(float(np.std([getattr(row, item.name) for row in rows], ddof=1)
                               / np.sqrt(len(rows))) for item in fields(PointScores)))
