# SPDX-License-Identifier: Apache-2.0
"""What each part of the memory is worth: the same rooms with and without it, room by room."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from spann3r_ros.core.network import Reconstructor
from spann3r_ros.evaluation.measures.solved_poses import map_along_path
from spann3r_ros.networks.spann3r.config import MemoryConfig

from .held_out_rooms import HeldOutConfig, draw_sequences, unseen_rooms
from .room_scores import score_points, score_poses, stream

EVERYTHING = 'everything'
COLUMNS = ('accuracy', 'completion', 'point', 'trajectory')


@dataclass(frozen=True)
class Estimate:
    """A mean over rooms and its standard error, NaN where too few rooms tell it."""

    mean: float
    error: float


@dataclass(frozen=True)
class Ablated:
    """Scores of one kind of sequence with one memory, in the order of COLUMNS.

    `differences` are means over rooms of what is added by leaving a part out, the errors theirs.
    """

    turn: str
    memory: str
    scores: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]


def ablated_memories(memory: MemoryConfig) -> dict[str, MemoryConfig]:
    """Return the memory as it is, then with each of its parts left out."""
    return {EVERYTHING: memory,
            'no long-term memory': replace(memory, long_term_tokens=0),
            'no attention threshold': replace(memory, attention_threshold=0.0),
            'no similarity test': replace(memory, similarity_threshold=1.0)}


def ablate(reconstructors: Mapping[str, Reconstructor], config: HeldOutConfig,
           observe: Callable[[], object] = lambda: None) -> list[Ablated]:
    """Run the same sequences through each reconstructor and compare with the first of them.

    `observe` is called after every sequence. ValueError if the input is not square.
    """
    names = list(reconstructors)
    height, width = reconstructors[names[0]].input_size
    if height != width:
        raise ValueError(f'reconstructor: expected a square input, got {height}x{width}')
    unseen = unseen_rooms(config, height)
    state = unseen.state()
    results = []
    for turn in config.turns:
        unseen.restore(state)
        rows = {name: [] for name in names}
        for sequence in draw_sequences(unseen, config.rooms, turn):
            for name, reconstructor in reconstructors.items():
                pointmaps = stream(reconstructor, sequence.images)
                points = np.stack([item.points for item in pointmaps])
                scores = score_points(points, sequence, config)
                keyframes = map_along_path(sequence.images, pointmaps, sequence.intrinsics)
                path = score_poses(pointmaps, keyframes, sequence)
                rows[name].append((scores.accuracy, scores.completion, scores.point,
                                   path.trajectory))
                observe()
        results += compare(turn.name, {name: np.array(values) for name, values in rows.items()})
    return results


def compare(turn: str, scores: Mapping[str, np.ndarray]) -> list[Ablated]:
    """Return the summary of scores [rooms, columns] of each memory beside the first one's."""
    whole = next(iter(scores.values()))
    return [Ablated(turn, name, summarise(values), summarise(values - whole))
            for name, values in scores.items()]


def summarise(values: np.ndarray) -> tuple[Estimate, ...]:
    """Return the estimate of each column of [rooms, columns]; NaN entries are left out."""
    return tuple(estimate(column[~np.isnan(column)]) for column in values.T)


def estimate(values: np.ndarray) -> Estimate:
    """Return mean and standard error of values [n]."""
    nothing = float('nan')
    mean = float(values.mean()) if len(values) else nothing
    return Estimate(mean, float(values.std(ddof=1) / np.sqrt(len(values)))
                    if len(values) > 1 else nothing)
