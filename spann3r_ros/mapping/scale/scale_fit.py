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
# A larger difference is one of the source: wheels that slip double the odometry.
MAX_CHANGE = 0.35
MAX_AUTOCORRELATION = 0.9
# Fewer residuals say nothing about their correlation.
MIN_RESIDUALS = 5


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

    def tree(self, tree_of: Callable[[One], dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the measurements for a saved map."""
        return [tree_of(one) for one in self._measurements]


def inflation(residuals: np.ndarray) -> float:
    """Return the factor by which the variance of a mean grows because neighbours [n] agree."""
    power = float((residuals**2).mean()) if len(residuals) else 0.0
    if len(residuals) < MIN_RESIDUALS or power == 0.0:
        return 1.0
    shared = float((residuals[1:] * residuals[:-1]).mean()) / power
    shared = min(max(shared, 0.0), MAX_AUTOCORRELATION)
    return (1.0 + shared) / (1.0 - shared)
