# SPDX-License-Identifier: Apache-2.0
"""Pose graphs of a camera that walks in a circle again and again, with known truth."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.similarity import carry_covariance, similarities_of
from spann3r_ros.core.transforms import to_rigid
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.loops.pose_graph import PoseGraph

# Standard deviations of a join and of a loop: translation, rotation, log scale.
JOIN = np.diag([0.05] * 3 + [0.01] * 3 + [0.02]) ** 2
LOOP = np.diag([0.02] * 3 + [0.005] * 3 + [0.01]) ** 2


@dataclass(frozen=True)
class Walk:
    """A graph whose places are those that the joins alone give, and the true places."""

    graph: PoseGraph
    truth: dict[int, np.ndarray]

    def errors(self, places: dict[int, np.ndarray]) -> np.ndarray:
        """Return how far the fragments' origins are from the truth, in metres [n]."""
        return np.array([np.linalg.norm(places[one][:3, 3] - true[:3, 3])
                         for one, true in self.truth.items()])


def true_places(count: int, lap: int, radius: float = 8.0) -> dict[int, np.ndarray]:
    """Return places of fragments on a circle, `lap` of them a round; their units differ."""
    found = {}
    for index in range(count):
        angle = 2.0 * np.pi * index / lap
        place = to_rigid(np.array([0.0, 0.0, angle]), radius * np.array(
            [np.sin(angle), 1.0 - np.cos(angle), 0.05 * np.sin(3.0 * angle)]))
        place[:3, :3] *= 1.0 + 0.3 * np.sin(0.7 * index)
        found[index] = place
    return found


def measured(rng: np.random.Generator, kind: str, truth: dict[int, np.ndarray], first: int,
             second: int, covariance: np.ndarray) -> Constraint:
    """Return a measured constraint, whose error has its covariance."""
    true = np.linalg.inv(truth[first]) @ truth[second]
    # The error is given for a fragment of the unit of the map.
    scale = np.cbrt(np.linalg.det(truth[second][:3, :3]))
    own = carry_covariance(np.diag([1.0 / scale] * 3 + [1.0]), covariance)
    error = similarities_of(rng.multivariate_normal(np.zeros(7), own))
    return Constraint(kind, first, second, true @ np.linalg.inv(error), own)


def walk(count: int = 60, lap: int = 20, every: int = 5, seed: int = 0,
         bias: float = 0.0) -> Walk:
    """Return a walk with a loop at every n-th fragment that is a round or more after the first.

    `bias` is a turn that each join has too much, in radians.
    """
    rng, truth = np.random.default_rng(seed), true_places(count, lap)
    joins, loops, places = [], [], {0: truth[0]}
    for index in range(1, count):
        join = measured(rng, 'overlap', truth, index - 1, index, JOIN)
        turned = join.first_from_second @ similarities_of([0.0, 0.0, 0.0, 0.0, 0.0, bias, 0.0])
        joins.append(Constraint('overlap', index - 1, index, turned, join.covariance))
        places[index] = places[index - 1] @ turned
    for index in range(lap, count, every):
        loops.append(measured(rng, 'loop', truth, index - lap, index, LOOP))
    return Walk(PoseGraph(places, [*joins, *loops], 0), truth)


def false_loop(first: int, second: int, seed: int = 0) -> Constraint:
    """Return a loop between two fragments that says that they are at the same place."""
    error = 0.05 * np.random.default_rng(seed).normal(size=7)
    return Constraint('loop', first, second, similarities_of(error), LOOP)

