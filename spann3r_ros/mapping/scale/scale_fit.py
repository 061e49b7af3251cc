# SPDX-License-Identifier: Apache-2.0
"""A measured scale of one fragment, from its measurements in order."""
from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from spann3r_ros.mapping.storage.saved_tree import SavedNode

# The newest measurements that give the scale of a fragment.
MAX_MEASUREMENTS = 150
# A scale has changed if the newest part of the way differs from all before by so many standard
# deviations of the difference and by this much in its logarithm.
CHANGED_SIGMAS = 3.5
MIN_CHANGE = 0.05
# It drifts if it has changed steadily by so many standard deviations of the change, and by this
# much in its logarithm, from the first measurement to the last.
DRIFT_SIGMAS = 3.5
MIN_DRIFT = 0.05
# A drift is looked for in all measurements, and in the newest ones that cover this many times
# what those of a change cover.
DRIFT_WINDOW = 3.0
# A larger difference is one of the source: wheels that slip double the odometry, and they may do
# so for a third of the way of each pair.
MAX_CHANGE = 0.2
MAX_AUTOCORRELATION = 0.9
# Fewer residuals say nothing about their correlation.
MIN_RESIDUALS = 5
# Tukey's biweight is zero for residuals of so many standard deviations.
OUTLIER_SIGMAS = 3.0
# The median length of a normal number of variance one.
CHI1_MEDIAN = 0.674
FIT_ROUNDS = 12
# The scatter of the residuals corrects their standard deviations by a factor in this range.
EXCESS = 1.0, math.inf
# A drift is judged by the scatter that is there. More of it than expected comes from slip.
DRIFT_EXCESS = 0.3, 1.0


@dataclass(frozen=True)
class ScaleFit:
    """The logarithm of metres per unit of a fragment, and its variance.

    The variance has no part that the source has in common everywhere, such as a wrong radius of
    the wheels.
    """

    log_scale: float
    variance: float

    def combined(self, other: ScaleFit) -> ScaleFit:
        """Return the weighted mean of two independent values."""
        if self.variance == 0.0 or other.variance == 0.0:
            return min(self, other, key=lambda one: one.variance)
        weights = 1.0 / self.variance, 1.0 / other.variance
        total = sum(weights)
        return ScaleFit((weights[0] * self.log_scale + weights[1] * other.log_scale) / total,
                        1.0 / total)


@dataclass(frozen=True)
class ScaleDrift:
    """A scale that changes steadily: what it is at the end, and by how much it has changed."""

    end: ScaleFit
    change: ScaleFit


def read_fit(node: SavedNode) -> ScaleFit:
    """Return the scale of a node; raise ValueError if it is wrong."""
    return ScaleFit(node.number('log_scale'), node.number('variance', 0.0))


class Measurement(Protocol):
    """One measurement; `extent` is how much it covers: metres of way, or keyframes."""

    @property
    def extent(self) -> float:
        """Return how much the measurement covers."""


One = TypeVar('One', bound=Measurement)
Fit = Callable[[Sequence[One]], ScaleFit | None]
FitDrift = Callable[[Sequence[One]], ScaleDrift | None]


class ScaleSeries(Generic[One]):
    """The measurements of one fragment's scale, in order.

    A change is looked for in the newest ones that cover `recent` or more. The methods are given a
    function that returns the scale by some of them, or None.
    """

    def __init__(self, recent: float) -> None:
        self._recent = recent
        self._measurements: deque[One] = deque(maxlen=MAX_MEASUREMENTS)

    def add(self, measurement: One) -> None:
        """Take the next measurement."""
        self._measurements.append(measurement)

    def fit(self, fit: Fit[One]) -> ScaleFit | None:
        """Return the scale by all measurements; None if they do not give one."""
        return fit(list(self._measurements))

    def change(self, fit: Fit[One]) -> ScaleFit | None:
        """Return the scale by the newest measurements if it differs from that by those before."""
        measurements, covered, first = list(self._measurements), 0.0, len(self._measurements)
        while first and covered < self._recent:
            first -= 1
            covered += measurements[first].extent
        if sum(one.extent for one in measurements[:first]) < self._recent:
            return None
        before, newest = fit(measurements[:first]), fit(measurements[first:])
        if before is None or newest is None:
            return None
        difference = abs(newest.log_scale - before.log_scale)
        least = CHANGED_SIGMAS * math.sqrt(newest.variance + before.variance)
        return newest if max(MIN_CHANGE, least) < difference < MAX_CHANGE else None

    def drift(self, fit: FitDrift[One]) -> ScaleFit | None:
        """Return the scale at the end of the newest measurements if it has changed steadily."""
        measurements = list(self._measurements)
        covered = np.cumsum([one.extent for one in reversed(measurements)])
        for window in (math.inf, DRIFT_WINDOW * self._recent):
            newest = measurements[-1 - int(np.searchsorted(covered, window)):]
            if sum(one.extent for one in newest) < 2.0 * self._recent:
                continue
            found = fit(newest)
            if found is not None and max(
                    MIN_DRIFT, DRIFT_SIGMAS * math.sqrt(found.change.variance)) < abs(
                    found.change.log_scale) < MAX_CHANGE:
                return found.end
        return None

    def tree(self, tree_of: Callable[[One], dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the measurements for a saved map."""
        return [tree_of(one) for one in self._measurements]


@dataclass(frozen=True)
class RobustFit:
    """A weighted least-squares fit: `unknowns` [m], `covariance` [m, m], and `weights` [n]."""

    unknowns: np.ndarray
    covariance: np.ndarray
    weights: np.ndarray


def fit_robustly(values: np.ndarray, design: np.ndarray, start: np.ndarray,
                 variances_of: Callable[[np.ndarray], np.ndarray],
                 prior_of: Callable[[np.ndarray], np.ndarray] | None = None,
                 excess_range: tuple[float, float] = EXCESS) -> RobustFit | None:
    """Return the unknowns [m] with which `design` [n, m] gives the values [n], in order.

    `variances_of` returns the variances [n] of the values by the unknowns, `prior_of` the
    information [m, m] by which these are near zero. Values far from most others have no weight.
    None if the first unknown does not stay above zero where `start` has it above.
    """
    unknowns, is_positive = start, start[0] > 0.0
    prior = np.zeros((len(start), len(start)))
    for _ in range(FIT_ROUNDS):
        variances = variances_of(unknowns)
        residuals = (values - design @ unknowns) / np.sqrt(variances)
        excess = float(np.clip(np.median(np.abs(residuals)) / CHI1_MEDIAN, *excess_range))
        weights = np.clip(1.0 - (residuals / (OUTLIER_SIGMAS * excess))**2, 0.0, None)**2
        scaled = (weights / (variances * excess**2))[:, None] * design
        if prior_of is not None:
            prior = prior_of(unknowns)
        before, unknowns = unknowns, np.linalg.solve(scaled.T @ design + prior, scaled.T @ values)
        if is_positive and unknowns[0] <= 0.0:
            return None
        if abs(unknowns[0] - before[0]) < 1e-6 * abs(before[0]):
            break
    # Neighbours that agree are no independent measurements; what the prior adds is known already.
    information = scaled.T @ design / inflation(residuals[weights > 0.0]) + prior
    return RobustFit(unknowns, np.linalg.inv(information), weights)


def distance_to_end(extents: np.ndarray) -> np.ndarray:
    """Return how far the middle of each measurement [n] is from the end, as a share of all."""
    ends = np.cumsum(extents)
    return (ends[-1] - ends + 0.5 * extents) / ends[-1]


def inflation(residuals: np.ndarray) -> float:
    """Return the factor by which the variance of a mean grows because neighbours [n] agree."""
    power = float((residuals**2).mean()) if len(residuals) else 0.0
    if len(residuals) < MIN_RESIDUALS or power == 0.0:
        return 1.0
    shared = float((residuals[1:] * residuals[:-1]).mean()) / power
    shared = min(max(shared, 0.0), MAX_AUTOCORRELATION)
    return (1.0 + shared) / (1.0 - shared)
