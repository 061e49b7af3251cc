# SPDX-License-Identifier: Apache-2.0
"""Which loops the pose graph believes: each is tested against all that is believed besides it.

A loop is a switch, on or off. All loops are off at first. With the places at the minimum of the
graph so far, the residual e of a loop that is off has the covariance

    S = C + J H^-1 J^T

of its own covariance C and that of the two places, where J is its Jacobian and H the Hessian of
half the cost. It passes if e^T S^-1 e is below the chi-square quantile of seven degrees of
freedom. Loops that pass are switched on, and the graph is solved again. A loop that is on has
taken part in the places. Its residual r then has the covariance S = C - J H^-1 J^T, and r^T S^-1 r
equals the value e^T S^-1 e of the graph without it. The one that fails most is switched off, until
none fails. This is repeated, because loops that correct the drift let others pass.

The only connection between two groups of fragments cannot be tested. It is believed.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import gammaincinv

from spann3r_ros.core.similarity import SIZE, residuals
from spann3r_ros.mapping.fragments.constraint import Constraint

from .pose_graph import PoseGraph, Solution, groups, minimise

LOOP = 'loop'
# An eigenvalue of S, in units of C, below which others do not measure a direction of a loop.
UNTESTED = 1e-7
# A minimum for tests is found to this share of the standard deviations.
ROUGHLY = 1e-2
# A loop that has been tested is tested again while its value is above this share of the quantile,
# or that of its residual in units of its own covariance.
SUSPECT = 0.5
# Loops whose test is computed at once: each takes seven columns of the size of the graph.
AT_ONCE = 4


@dataclass(frozen=True)
class Judgement:
    """The best places by fragment id, and which constraints are believed, bool [n].

    Constraints that are no loops are always believed. `iterations` is the sum over all solutions.
    """

    places: dict[int, np.ndarray]
    accepted: np.ndarray
    iterations: int


def solve(graph: PoseGraph, probability: float) -> Judgement:
    """Return the places that fit best, and which loops pass the test of a probability.

    Loops that are `accepted` already are on from the start. If a loop contradicts one of them, all
    are judged anew.
    """
    is_loop = np.array([one.kind == LOOP for one in graph.constraints], bool)
    accepted = np.array([one.accepted is True for one in graph.constraints], bool) & is_loop
    rejected = np.array([one.accepted is False for one in graph.constraints], bool)
    judgement = _judge(graph, ~is_loop | accepted, probability)
    if accepted.any() and not (judgement.accepted | rejected).all():
        iterations = judgement.iterations
        judgement = _judge(graph, ~is_loop, probability)
        judgement = replace(judgement, iterations=judgement.iterations + iterations)
    return judgement


def _judge(graph: PoseGraph, on: np.ndarray, probability: float) -> Judgement:
    """Return the judgement that begins with some constraints switched on, bool [n]."""
    on, refused = on.copy(), np.zeros(len(on), bool)
    solution = minimise(graph.without(~on), ROUGHLY)
    iterations = solution.iterations
    while True:
        candidates = np.flatnonzero(~on & ~refused)
        added = candidates[_passing(graph, on, candidates, solution, probability)]
        if not len(added):
            solution = minimise(_moved(graph.without(~on), solution))
            return Judgement(dict(solution.places), on, iterations + solution.iterations)
        doubted = np.zeros(len(on), bool)
        doubted[added] = on[added] = True
        while True:
            solution = minimise(_moved(graph.without(~on), solution), ROUGHLY)
            iterations += solution.iterations
            tested = np.flatnonzero(on & (doubted | _is_suspect(graph, solution, probability)))
            excess = _excess(graph, tested, solution, probability, is_part=True)
            if not len(tested) or excess.max() <= 1.0:
                break
            worst = tested[excess.argmax()]
            on[worst], refused[worst] = False, True
            # Without it, the others fit better.
            doubted[tested] = excess > SUSPECT


def _is_suspect(graph: PoseGraph, solution: Solution, probability: float) -> np.ndarray:
    """Return which loops might fail the test, by their residuals alone, bool [n]."""
    loops = np.flatnonzero([one.kind == LOOP for one in graph.constraints])
    errors = whitened([graph.constraints[one] for one in loops], solution)[0]
    suspect = np.zeros(len(graph.constraints), bool)
    suspect[loops] = (errors**2).sum(axis=1) > SUSPECT * 2.0 * gammaincinv(0.5 * SIZE, probability)
    return suspect


def _passing(graph: PoseGraph, on: np.ndarray, candidates: np.ndarray, solution: Solution,
             probability: float) -> np.ndarray:
    """Return which candidates may be switched on: those that pass, and first connections."""
    numbers = groups(graph.places, graph.without(~on).constraints)
    passing = _excess(graph, candidates, solution, probability, is_part=False) <= 1.0
    connected = set()
    for place, index in enumerate(candidates):
        one = graph.constraints[index]
        pair = frozenset((numbers[one.first], numbers[one.second]))
        if len(pair) == 2:
            passing[place] = pair not in connected
            connected.add(pair)
    return passing


def _excess(graph: PoseGraph, which: np.ndarray, solution: Solution, probability: float,
            is_part: bool) -> np.ndarray:
    """Return the test values of constraints as shares of their quantiles [n].

    `is_part`: whether they are a part of the solved graph.
    """
    parts = [which[start:start + AT_ONCE] for start in range(0, len(which), AT_ONCE)]
    return np.concatenate([
        np.zeros(0), *(_excess_of([graph.constraints[one] for one in part], solution, probability,
                                  is_part) for part in parts)])


def _excess_of(constraints: Sequence[Constraint], solution: Solution, probability: float,
               is_part: bool) -> np.ndarray:
    errors, jacobians, columns = whitened(constraints, solution)
    spreads = _spreads(jacobians, columns, solution)
    values, vectors = np.linalg.eigh(np.eye(SIZE) + (-spreads if is_part else spreads))
    along = (np.swapaxes(vectors, 1, 2) @ errors[..., None])[..., 0]
    tested = values > UNTESTED
    squared = np.where(tested, along**2 / np.where(tested, values, 1.0), 0.0).sum(axis=1)
    freedom = tested.sum(axis=1)
    return squared / (2.0 * gammaincinv(0.5 * np.maximum(freedom, 1), probability))


def whitened(constraints: Sequence[Constraint],
             solution: Solution) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return residuals [n, 7], Jacobians [n, 7, 14], both in units of the constraints' errors.

    A unit is the inverse of the lower triangular root of the covariance. The third value are the
    columns of the Jacobians in the normal equations, int [n, 14]; -1 where nothing is estimated.
    """
    if not constraints:
        return np.zeros((0, SIZE)), np.zeros((0, SIZE, 2 * SIZE)), np.zeros((0, 2 * SIZE), int)
    ids = {one: index for index, one in enumerate(solution.places)}
    first = [ids[one.first] for one in constraints]
    second = [ids[one.second] for one in constraints]
    places = np.array(list(solution.places.values()))
    errors, to_first, to_second = residuals(
        np.array([one.first_from_second for one in constraints]), places[first], places[second])
    roots = np.linalg.inv(np.linalg.cholesky(np.array([one.covariance for one in constraints])))
    return ((roots @ errors[..., None])[..., 0],
            roots @ np.concatenate([to_first, to_second], axis=2),
            np.concatenate([solution.columns[first], solution.columns[second]], axis=1))


def _spreads(jacobians: np.ndarray, columns: np.ndarray, solution: Solution) -> np.ndarray:
    """Return J H^-1 J^T [n, 7, 7] of Jacobians [n, 7, 14] in columns [n, 14]."""
    known = columns >= 0
    count = len(jacobians)
    right = np.zeros((int(solution.columns.max()) + 1, count, SIZE))
    for index in range(count):
        right[columns[index, known[index]], index] = jacobians[index][:, known[index]].T
    solved = solution.normal.solve(right.reshape(len(right), -1)).reshape(right.shape)
    return np.array([
        jacobians[index][:, known[index]] @ solved[columns[index, known[index]], index]
        for index in range(count)])


def _moved(graph: PoseGraph, solution: Solution) -> PoseGraph:
    """Return a graph that begins at the places of a solution."""
    return PoseGraph(solution.places, graph.constraints, graph.fixed, graph.priors)
