# SPDX-License-Identifier: Apache-2.0
"""Ablation of the parts of the memory: scores with and without each, on the same rooms."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spann3r_ros.core.network import Network
from spann3r_ros.evaluation.recorded_runs import run_recording, to_frames
from spann3r_ros.networks.kind import NetworkKind

from .held_out_rooms import ASPECT, HeldOutConfig, draw_sequences, unseen_rooms
from .room_scores import WITHOUT_LIVE_POSES, score_points, score_poses

EVERYTHING = 'everything'
COLUMNS = ('accuracy', 'completion', 'point', 'trajectory')


@dataclass(frozen=True)
class MeanOfRooms:
    """A mean over rooms and its standard error; NaN for too few rooms."""

    mean: float
    error: float


@dataclass(frozen=True)
class Ablated:
    """Scores of one kind of sequence with one memory, in the order of COLUMNS.

    `differences` are means over rooms of the score without a part minus the score with all parts.
    """

    turn: str
    memory: str
    scores: tuple[MeanOfRooms, ...]
    differences: tuple[MeanOfRooms, ...]


def ablated_settings(kind: NetworkKind, settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a network's settings by name: unchanged, then without each part of its memory.

    ValueError for a kind of network without ablations.
    """
    if not kind.ablations:
        raise ValueError(f'ablate: expected a network with ablations, got {kind.name!r}')
    return {EVERYTHING: settings, **{name: replace(settings, **changes)
                                     for name, changes in kind.ablations.items()}}


def ablate(networks: Mapping[str, Network], config: HeldOutConfig,
           observe: Callable[[], object] = lambda: None) -> list[Ablated]:
    """Run the same sequences through each network and compare with the first of them.

    `observe` is called after every sequence.
    """
    names = list(networks)
    unseen = unseen_rooms(config, networks[names[0]].input_size(ASPECT))
    state = unseen.state()
    results = []
    for turn in config.turns:
        unseen.restore(state)
        rows = {name: [] for name in names}
        for sequence in draw_sequences(unseen, config.rooms, turn):
            for name, network in networks.items():
                run = run_recording(network, to_frames(sequence.images, sequence.intrinsics),
                                    WITHOUT_LIVE_POSES)
                points = np.stack([item.points for item in run.pointmaps])
                scores = score_points(points, sequence, config)
                path = score_poses(run, sequence)
                rows[name].append((scores.accuracy, scores.completion, scores.point,
                                   path.trajectory))
                observe()
        results += compare(turn.name, {name: np.array(values) for name, values in rows.items()})
    return results


def compare(turn: str, scores: Mapping[str, np.ndarray]) -> list[Ablated]:
    """Return the summary of scores [rooms, columns] of each memory, compared with the first."""
    whole = next(iter(scores.values()))
    return [Ablated(turn, name, summarise(values), summarise(values - whole))
            for name, values in scores.items()]


def summarise(values: np.ndarray) -> tuple[MeanOfRooms, ...]:
    """Return the estimate of each column of [rooms, columns]; NaN entries are left out."""
    return tuple(estimate(column[~np.isnan(column)]) for column in values.T)


def estimate(values: np.ndarray) -> MeanOfRooms:
    """Return mean and standard error of values [n]."""
    missing = float('nan')
    mean = float(values.mean()) if len(values) else missing
    return MeanOfRooms(mean, float(values.std(ddof=1) / np.sqrt(len(values)))
                       if len(values) > 1 else missing)
