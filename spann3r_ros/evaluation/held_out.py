# SPDX-License-Identifier: Apache-2.0
"""The held-out evaluation: unseen rooms, unseen textures, streaming inference.

Predictions and truth are compared in the first camera's optical frame after fitting one global
scale (least squares about the origin over all points) and nothing else. Distances are divided by
the mean of the room's two horizontal sides. Poses come from the pointmaps by PnP with the true
intrinsics, as they would on a robot with a CameraInfo.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from spann3r_ros.evaluation import metrics, trajectories
from spann3r_ros.evaluation.held_out_rooms import (
    HeldOutConfig,
    Sequence,
    TrivialAnswers,
    draw_sequences,
    familiar_rooms,
    unseen_rooms,
)
from spann3r_ros.mapping.config import PoseConfig
from spann3r_ros.mapping.pose import PoseError, solve_pose
from spann3r_ros.mapping.types import FrameError, Pointmap, Reconstructor


@dataclass(frozen=True)
class PointScores:
    """Errors of pointmaps: distances in mean room sides, `point` in mean true distances."""

    accuracy: float
    completion: float
    point: float


@dataclass(frozen=True)
class PoseScores:
    """Errors of solved poses: median angle, RMS position in mean room sides, share unsolved."""

    rotation_deg: float
    position: float
    unsolved: float


@dataclass(frozen=True)
class TurnResult:
    """Scores of one kind of sequence, averaged over rooms, beside the trivial answers'.

    `posed_depth` is told the true poses: a yardstick, no competitor.
    """

    turn: str
    network: PointScores
    network_poses: PoseScores
    plane: PointScores
    median: PointScores
    posed_depth: PointScores


def evaluate_held_out(reconstructor: Reconstructor, config: HeldOutConfig | None = None,
                      progress: Callable[[], object] = lambda: None) -> list[TurnResult]:
    """Run every held-out sequence through a reconstructor and score it beside the baselines.

    `progress` is called after each sequence. ValueError if the input is not square.
    """
    config = config or HeldOutConfig()
    height, width = reconstructor.input_size
    if height != width:
        raise ValueError(f'reconstructor: expected a square input, got {height}x{width}')
    unseen, familiar = unseen_rooms(config, height), familiar_rooms(config, height)
    results = []
    for turn in config.turns:
        trivial = TrivialAnswers(familiar, config.training_rooms, turn)
        points: dict[str, list[PointScores]] = {}
        poses: list[PoseScores] = []
        for sequence in draw_sequences(unseen, config.rooms, turn):
            pointmaps = stream(reconstructor, sequence.images)
            poses.append(score_poses(pointmaps, sequence))
            answers = {'network': np.stack([item.points for item in pointmaps]),
                       **trivial.of(sequence)}
            for name, answer in answers.items():
                points.setdefault(name, []).append(score_points(answer, sequence, config))
            progress()
        results.append(TurnResult(turn.name, network_poses=mean_scores(poses),
                                  **{name: mean_scores(rows) for name, rows in points.items()}))
    return results


def stream(reconstructor: Reconstructor, images: np.ndarray) -> list[Pointmap]:
    """Return the refined pointmap of every image [frames, h, w, 3], in order."""
    reconstructor.reset()
    steps = [reconstructor.step(image, provisional=False).refined for image in images]
    pointmaps = [item for item in [*steps, reconstructor.flush()] if item is not None]
    if len(pointmaps) != len(images):
        raise FrameError(f'reconstructor: expected {len(images)} pointmaps, '
                         f'got {len(pointmaps)}')
    return pointmaps


def score_points(predicted: np.ndarray, sequence: Sequence, config: HeldOutConfig) -> PointScores:
    """Return the errors of pointmaps [frames, h, w, 3] after fitting one scale.

    Distances are taken at a seeded choice of points, to the nearest of all points.
    """
    truth = sequence.points.reshape(-1, 3)
    scaled = predicted.reshape(-1, 3) * metrics.fit_scale(predicted, truth)
    accuracy = metrics.accuracy(metrics.subsample(scaled, config.query_points), truth)
    completion = metrics.completion(scaled, metrics.subsample(truth, config.query_points))
    return PointScores(accuracy.mean / sequence.mean_side, completion.mean / sequence.mean_side,
                       metrics.point_error(scaled, truth))


def score_poses(pointmaps: list[Pointmap], sequence: Sequence) -> PoseScores:
    """Return the errors of the poses solved from pointmaps; the first frame is the origin."""
    predicted = np.stack([item.points for item in pointmaps])
    scale = metrics.fit_scale(predicted, sequence.points)
    solved, truth = [], []
    for pointmap, pose in zip(pointmaps[1:], sequence.poses[1:], strict=True):
        try:
            solved.append(solve_pose(pointmap, sequence.intrinsics,
                                     PoseConfig()).fragment_from_camera)
        except PoseError:
            continue
        truth.append(pose)
    unsolved = 1.0 - len(solved) / (len(pointmaps) - 1)
    if not solved:
        return PoseScores(float('nan'), float('nan'), unsolved)
    found = np.stack(solved)
    offsets = scale * found[:, :3, 3] - np.stack(truth)[:, :3, 3]
    return PoseScores(float(np.median(trajectories.rotation_errors_deg(found, np.stack(truth)))),
                      trajectories.root_mean_square(offsets) / sequence.mean_side, unsolved)


def mean_scores(rows: list) -> PointScores | PoseScores:
    """Return the field-wise mean of scores of one kind."""
    kind = type(rows[0])
    return kind(*(float(np.mean([getattr(row, item.name) for row in rows]))
                  for item in fields(kind)))
