# SPDX-License-Identifier: Apache-2.0
"""The paper's evaluation on recorded sequences (Wang and Agapito, 2024, section 4).

Predictions are shifted in depth and scaled by medians in the first view's frame, moved to the
world by its true pose, registered rigidly to the truth, and compared point by point.
"""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spann3r_ros.core.network import Network
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.core.types import FrameError, Pointmap
from spann3r_ros.datasets.rgbd import DatasetError, PosedView, RgbdSequence
from spann3r_ros.evaluation.measures import trajectories
from spann3r_ros.evaluation.measures.alignment import align_by_medians
from spann3r_ros.evaluation.measures.clouds import CloudScores, register, score_clouds
from spann3r_ros.evaluation.measures.solved_poses import solve_poses
from spann3r_ros.evaluation.measures.trajectories import PathErrors
from spann3r_ros.mapping.memory_manager import MemoryManager
from spann3r_ros.networks.arrangement import all_pairs, arrange, choose_order

# Pairs of points farther apart are left out of the registration: 10 cm.
REGISTRATION_REACH_M = 0.1
DTU_FEW_VIEW_NEIGHBOURS = 5


@dataclass(frozen=True)
class Selection:
    """The views of a sequence that are used: every n-th image from the first on.

    Images are counted by position, not by the numbers in their names; `backwards` reverses them.
    """

    every: int
    backwards: bool = False

    def of(self, sequence: RgbdSequence) -> RgbdSequence:
        """Return the selected views; DatasetError for fewer than two."""
        indices = [index for index, view in enumerate(sequence.views)
                   if view.position % self.every == 0]
        if len(indices) < 2:
            raise DatasetError(f'{sequence.name}: expected two views or more, every '
                               f'{self.every}th of {len(sequence.views)} is {len(indices)}')
        return sequence.select(indices[::-1] if self.backwards else indices)


SELECTIONS = {'7scenes': Selection(20), 'nrgbd': Selection(40),
              'dtu': Selection(5, backwards=True), 'tum': Selection(1)}


@dataclass(frozen=True)
class Prediction:
    """Pointmaps of a sequence: `order[i]` is the view of row i of `points` and `confidence`.

    `seconds` is the time spent in the network, images and points in host memory.
    """

    points: np.ndarray
    confidence: np.ndarray
    order: tuple[int, ...]
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Return the views divided by the time of the network alone."""
        return len(self.order) / self.seconds


@dataclass(frozen=True)
class SceneScores:
    """Scores of one sequence; distances in its unit."""

    scene: str
    frames: int
    clouds: CloudScores
    frames_per_second: float


@dataclass(frozen=True)
class PathScores:
    """Errors of the solved poses of one sequence in metres, steps between consecutive ones."""

    scene: str
    frames: int
    solved: int
    errors: PathErrors
    frames_per_second: float


def few_views(sequence: RgbdSequence) -> list[RgbdSequence]:
    """Return one sequence per listed reference view: itself and its first five neighbours."""
    if not sequence.neighbours:
        raise DatasetError(f'{sequence.name}: expected a pair.txt that lists neighbours')
    for view, others in sequence.neighbours.items():
        if not others:
            raise DatasetError(f'{sequence.name}: expected neighbours of view {view} in pair.txt, '
                               f'got none')
    return [sequence.select(sequence.find([view, *others[:DTU_FEW_VIEW_NEIGHBOURS]]))
            for view, others in sequence.neighbours.items()]


def load_views(sequence: RgbdSequence, size: tuple[int, int]) -> list[PosedView]:
    """Read all views at the network's input size (height, width)."""
    return [sequence.load(index, size) for index in range(len(sequence.views))]


def predict(network: Network, views: Sequence[PosedView], offline: bool = False) -> Prediction:
    """Run the network on views in their order or, with `offline`, in the order that it chooses.

    Every pointmap is used, also those that a mapper would reject. FrameError if the network did
    not estimate all views.
    """
    images = np.stack([view.image for view in views])
    memory = MemoryManager(network)
    started = time.perf_counter()
    order = range(len(views))
    if offline:
        arrangement = arrange(network, images)
        order = list(choose_order(arrangement, all_pairs(arrangement, len(views))))
    estimates = [estimate for index in order for estimate in memory.step(images[index], index)]
    estimates += memory.flush()
    seconds = time.perf_counter() - started
    if len(estimates) != len(views):
        raise FrameError(f'network: expected {len(views)} pointmaps, got {len(estimates)}')
    return Prediction(np.stack([item.pointmap.points for item in estimates]),
                      np.stack([item.pointmap.confidence for item in estimates]),
                      tuple(item.image_id for item in estimates), seconds)


def score_scene(sequence: RgbdSequence, views: Sequence[PosedView],
                prediction: Prediction) -> SceneScores:
    """Align a prediction to the truth and compare both; DatasetError without any depth."""
    used = [views[index] for index in prediction.order]
    valid = np.stack([view.valid for view in used])
    if not valid.any():
        raise DatasetError(f'{sequence.name}: expected depth, got none in any view')
    world_from_first = used[0].world_from_camera
    truth = np.stack([view.world_points for view in used])
    alignment = align_by_medians(
        prediction.points, transform_points(invert(world_from_first), truth), valid)
    predicted = transform_points(world_from_first, alignment.apply(prediction.points))[valid]
    truth = truth[valid]
    motion = register(predicted, truth, REGISTRATION_REACH_M * sequence.unit_per_metre)
    return SceneScores(sequence.name, len(used),
                       score_clouds(transform_points(motion, predicted), truth),
                       prediction.frames_per_second)


def score_path(sequence: RgbdSequence, views: Sequence[PosedView],
               prediction: Prediction) -> PathScores:
    """Solve the views' poses with their intrinsics and compare them with the true ones.

    DatasetError if fewer than three are solved, or the true camera does not move.
    """
    used = [views[index] for index in prediction.order]
    pointmaps = list(map(Pointmap, prediction.points, prediction.confidence))
    estimate, solved = solve_poses(pointmaps, [view.intrinsics for view in used])
    if len(solved) < 3:
        raise DatasetError(f'{sequence.name}: expected three poses or more to be solved, '
                           f'got {len(solved)} of {len(views)}')
    truth = np.stack([used[row].world_from_camera for row in solved])
    along = np.argsort([prediction.order[row] for row in solved])  # steps are between neighbours
    try:
        errors = trajectories.path_errors(estimate[along], truth[along])
    except ValueError as error:
        raise DatasetError(f'{sequence.name}: {error}') from error
    return PathScores(sequence.name, len(views), len(solved), errors,
                      prediction.frames_per_second)


def read_tuples(path: Path, sequences: dict[str, RgbdSequence]) -> list[RgbdSequence]:
    """Return the few-view sequences a file lists: a name, then the numbers of its views, a line.

    Names are those of `sequences`, or SCENE/seq-NN for 7-Scenes.
    """
    chosen = []
    for line in path.read_text().splitlines():
        words = line.split()
        if not words:
            continue
        name = words[0].replace('/seq-', '')
        if name not in sequences:
            raise DatasetError(f'{path}: expected one of {sorted(sequences)}, got {words[0]!r}')
        try:
            numbers = [int(word) for word in words[1:]]
        except ValueError as error:
            raise DatasetError(f'{path}: expected numbers of views, got {line!r}') from error
        if len(numbers) < 2:
            raise DatasetError(f'{path}: expected two views or more, got {line!r}')
        chosen.append(sequences[name].select(sequences[name].find(numbers)))
    return chosen
