# SPDX-License-Identifier: Apache-2.0
"""The pose graph: places of fragments that fit the constraints between them best.

A node is a fragment's `map_from_fragment` X. The cost is

    sum of  e_k^T C_k^-1 e_k  over the constraints  +  sum of  (log scale of X - p)^2 / v

with the residual e_k of `core.similarity.residuals` and the priors (p, v) of scales. It is
minimised by Levenberg-Marquardt on sparse normal equations.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array, csc_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import SuperLU, splu

from spann3r_ros.core.similarity import (
    SCALE,
    SIZE,
    invert_similarities,
    residuals,
    similarities_of,
    similarity_scales,
)
from spann3r_ros.mapping.fragments.constraint import Constraint

MAX_ITERATIONS = 100
LEAST_DAMPING, FIRST_DAMPING, MOST_DAMPING = 1e-12, 1e-6, 1e9
DAMPING_FACTOR = 10.0
# The standard deviations are those of each number if all others are held.
CONVERGED = 1e-7


@dataclass(frozen=True)
class ScalePrior:
    """A measured natural logarithm of the scale of a fragment's place, and its variance."""

    fragment: int
    log_scale: float
    variance: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.log_scale) and 0.0 < self.variance < math.inf):
            raise ValueError('scale prior: expected a finite logarithm and a variance above zero, '
                             f'got {self.log_scale} and {self.variance}')


@dataclass(frozen=True)
class PoseGraph:
    """Fragments with their places `map_from_fragment` [4, 4], by id, and what is known of them.

    All constraints have a covariance. The `fixed` fragment keeps its position and rotation, and,
    unless there are priors of scales, its scale. A group of fragments that no constraint connects
    with it follows the fragment before its oldest one, as if both were one body.
    """

    places: Mapping[int, np.ndarray]
    constraints: Sequence[Constraint]
    fixed: int
    priors: Sequence[ScalePrior] = ()

    def __post_init__(self) -> None:
        named = {self.fixed, *(one.fragment for one in self.priors)}
        for one in self.constraints:
            named |= {one.first, one.second}
        unknown = named - set(self.places)
        if unknown:
            raise ValueError(f'pose graph: expected fragments of {sorted(self.places)}, got '
                             f'{sorted(unknown)}')

    def without(self, excluded: np.ndarray) -> PoseGraph:
        """Return the graph without some constraints, bool [n]."""
        return replace(self, constraints=[one for one, out in zip(self.constraints, excluded,
                                                                  strict=True) if not out])


@dataclass(frozen=True)
class Solution:
    """Places of all fragments by id, the cost there, and the iterations it took.

    `normal` is the factorised Hessian of half the cost, in the columns of `columns` int [n, 7]:
    one row for each fragment in ascending order of ids, -1 where nothing is estimated.
    """

    places: Mapping[int, np.ndarray]
    cost: float
    iterations: int
    normal: SuperLU
    columns: np.ndarray


def minimise(graph: PoseGraph, converged: float = CONVERGED) -> Solution:
    """Return the places that fit a graph best, from its present places on.

    The search ends when no number would move by more than a share `converged` of its standard
    deviation. Raises ValueError if the places do not converge within `MAX_ITERATIONS`.
    """
    system = _System(graph)
    places, damping = system.places, FIRST_DAMPING
    hessian, gradient, cost = system.linearised(places)
    for iteration in range(MAX_ITERATIONS):
        diagonal = hessian.diagonal()
        step = _solve(hessian, diagonal * damping, -gradient)
        moved = system.moved(places, step)
        found = system.cost(moved)
        if np.abs(step * np.sqrt(diagonal)).max(initial=0.0) < converged:
            return Solution(dict(zip(system.ids, places, strict=True)), cost, iteration,
                            factorised(hessian), system.columns)
        if found <= cost:
            places, damping = moved, max(damping / DAMPING_FACTOR, LEAST_DAMPING)
            hessian, gradient, cost = system.linearised(places)
        else:
            damping *= DAMPING_FACTOR
            if damping > MOST_DAMPING:
                break
    raise ValueError(f'pose graph: no minimum after {MAX_ITERATIONS} iterations, cost {cost}')


def groups(fragments: Iterable[int], constraints: Sequence[Constraint]) -> dict[int, int]:
    """Return a number for each fragment, by id; those that constraints connect have the same."""
    ids = sorted(fragments)
    index = {one: number for number, one in enumerate(ids)}
    first = [index[one.first] for one in constraints]
    second = [index[one.second] for one in constraints]
    edges = coo_array((np.ones(len(first)), (first, second)), (len(ids), len(ids)))
    return dict(zip(ids, connected_components(edges, directed=False)[1].tolist(), strict=True))


def factorised(hessian: csc_array) -> SuperLU:
    """Return the factors of a symmetric positive definite matrix."""
    return splu(hessian, permc_spec='MMD_AT_PLUS_A', diag_pivot_thresh=0.0,
                options={'SymmetricMode': True})


class _System:
    """The normal equations of a graph."""

    def __init__(self, graph: PoseGraph) -> None:
        self.ids = sorted(graph.places)
        index = {one: number for number, one in enumerate(self.ids)}
        self.places = np.array([graph.places[one] for one in self.ids], float)
        constraints = [*graph.constraints, *_attachments(graph)]
        self._first = np.array([index[one.first] for one in constraints], int)
        self._second = np.array([index[one.second] for one in constraints], int)
        self._measured = np.array([one.first_from_second for one in constraints]).reshape(-1, 4, 4)
        covariances = np.array([one.covariance for one in constraints]).reshape(-1, SIZE, SIZE)
        self._roots = np.linalg.inv(np.linalg.cholesky(covariances))
        self._prior_nodes = np.array([index[one.fragment] for one in graph.priors], int)
        self._priors = np.array([one.log_scale for one in graph.priors])
        self._prior_weights = np.array([1.0 / one.variance for one in graph.priors])
        self.columns = _columns(len(self.ids), index[graph.fixed], bool(graph.priors))
        self._size = int(self.columns.max()) + 1
        self._place_blocks()

    def linearised(self, places: np.ndarray) -> tuple[csc_array, np.ndarray, float]:
        """Return Hessian and gradient of half the cost, and the cost, at places [n, 4, 4]."""
        errors, to_first, to_second = residuals(
            self._measured, places[self._first], places[self._second])
        errors = (self._roots @ errors[..., None])[..., 0]
        jacobians = self._roots @ np.concatenate([to_first, to_second], axis=2)  # [m, 7, 14]
        transposed = np.swapaxes(jacobians, 1, 2)
        misses = self._misses(places)
        values = np.concatenate([(transposed @ jacobians).ravel(), self._prior_weights])
        hessian = coo_array((values[self._used], (self._rows, self._others)),
                            (self._size, self._size)).tocsc()
        slopes = np.concatenate([(transposed @ errors[..., None]).ravel(),
                                 self._prior_weights * misses])
        known = self._targets >= 0
        gradient = np.bincount(self._targets[known], slopes[known], self._size)
        return hessian, gradient, float((errors**2).sum() + self._prior_weights @ misses**2)

    def cost(self, places: np.ndarray) -> float:
        """Return the cost at places [n, 4, 4]."""
        errors = residuals(self._measured, places[self._first], places[self._second])[0]
        errors = (self._roots @ errors[..., None])[..., 0]
        return float((errors**2).sum() + self._prior_weights @ self._misses(places)**2)

    def moved(self, places: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return places [n, 4, 4] after a step of all columns."""
        steps = np.where(self.columns >= 0, step[self.columns], 0.0)
        return places @ similarities_of(steps)

    def _misses(self, places: np.ndarray) -> np.ndarray:
        return np.log(similarity_scales(places[self._prior_nodes])) - self._priors

    def _place_blocks(self) -> None:
        """Find the rows and columns of all entries of the Hessian, which stay the same."""
        scales = self.columns[self._prior_nodes, SCALE]
        both = np.concatenate([self.columns[self._first], self.columns[self._second]], axis=1)
        rows = np.concatenate([np.repeat(both, 2 * SIZE, axis=1).ravel(), scales])
        others = np.concatenate([np.tile(both, (1, 2 * SIZE)).ravel(), scales])
        self._used = (rows >= 0) & (others >= 0)
        self._rows, self._others = rows[self._used], others[self._used]
        self._targets = np.concatenate([both.ravel(), scales])


def _columns(nodes: int, fixed: int, has_priors: bool) -> np.ndarray:
    """Return the column of each unknown, int [n, 7]; -1 for what is fixed."""
    unknown = np.ones((nodes, SIZE), bool)
    unknown[fixed] = False
    unknown[fixed, SCALE] = has_priors
    columns = np.full((nodes, SIZE), -1)
    columns[unknown] = np.arange(unknown.sum())
    return columns


def _attachments(graph: PoseGraph) -> list[Constraint]:
    """Return constraints that hold groups of fragments to the fragments before them.

    Each is the only connection of its group, so its residual is zero at the minimum.
    """
    numbers = groups(graph.places, graph.constraints)
    held, attachments = {numbers[graph.fixed]}, []
    ids = sorted(graph.places)
    for position, one in enumerate(ids):
        if numbers[one] in held:
            continue
        held.add(numbers[one])
        other = ids[position - 1] if position else graph.fixed
        relative = invert_similarities(graph.places[other]) @ graph.places[one]
        attachments.append(Constraint('attachment', other, one, relative, np.eye(SIZE)))
    return attachments


def _solve(hessian: csc_array, damping: np.ndarray, right: np.ndarray) -> np.ndarray:
    if not len(right):
        return right
    count = len(damping)
    diagonal = csc_array((damping, (np.arange(count), np.arange(count))), (count, count))
    return factorised(csc_array(hessian + diagonal)).solve(right)
