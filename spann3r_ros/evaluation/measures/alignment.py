# SPDX-License-Identifier: Apache-2.0
"""Alignment of a predicted sequence to the true one: by medians, or by corresponding points."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .trajectories import Similarity, fit_similarity

SCALE_BOUNDS = (1e-3, 1e3)
REWEIGHTINGS = 30
# Distances below this share of their median get no further weight.
LEAST_DISTANCE = 0.1


@dataclass(frozen=True)
class MedianFrame:
    """Median depth of a sequence, and the median distance from its median point."""

    depth: float
    scale: float

    def centre(self, points: np.ndarray) -> np.ndarray:
        """Return points [..., 3] with the median depth taken from z."""
        return points - np.array([0.0, 0.0, self.depth])


@dataclass(frozen=True)
class MedianAlignment:
    """The alignment of a predicted to a true sequence, both in the first camera's frame."""

    predicted: MedianFrame
    truth: MedianFrame

    @property
    def scale(self) -> float:
        """Return the factor from predicted to true lengths."""
        return self.truth.scale / float(np.clip(self.predicted.scale, *SCALE_BOUNDS))

    def centre_prediction(self, points: np.ndarray) -> np.ndarray:
        """Return predicted points [..., 3] in the frame of `truth.centre`."""
        return self.predicted.centre(points) * self.scale

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Return predicted points [..., 3] at the depth and scale of the truth."""
        return self.centre_prediction(points) + np.array([0.0, 0.0, self.truth.depth])


def align_by_medians(predicted: np.ndarray, truth: np.ndarray,
                     valid: np.ndarray) -> MedianAlignment:
    """Return the alignment of two sequences of points [..., 3], of pixels `valid` [...] bool.

    ValueError for shapes that do not match, and without a valid point.
    """
    if predicted.shape != truth.shape or predicted.shape != (*valid.shape, 3):
        raise ValueError('predicted, truth, valid: expected shapes [..., 3], [..., 3], [...], '
                         f'got {predicted.shape}, {truth.shape}, {valid.shape}')
    if not valid.any():
        raise ValueError('valid: expected at least one valid point, got none')
    return MedianAlignment(_measure(predicted[valid]), _measure(truth[valid]))


def _measure(points: np.ndarray) -> MedianFrame:
    depth = lower_median(points[:, 2])
    centred = points - np.array([0.0, 0.0, depth])
    middle = np.array([lower_median(axis) for axis in centred.T])
    return MedianFrame(depth, lower_median(np.linalg.norm(centred - middle, axis=1)))


def lower_median(values: np.ndarray) -> float:
    """Return the median of values [n]; for even n the lower one of the two middle values."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


def align_by_points(source: np.ndarray, target: np.ndarray) -> Similarity:
    """Return a similarity from source points [n, 3] to the corresponding target points.

    Distances count, not their squares: each pair is weighted by its inverse distance, again and
    again. The scale is the ratio of the weighted spreads about the means: unlike that of least
    squares, it does not shrink points that fit badly. ValueError for fewer than two different
    points.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    weights = np.ones(len(source))
    for _ in range(REWEIGHTINGS):
        rotation = fit_similarity(source, target, with_scale=False, weights=weights).rotation
        means, spreads = zip(*(_spread(points, weights) for points in (source, target)),
                             strict=True)
        scale = spreads[1] / spreads[0]
        found = Similarity(scale, rotation, means[1] - scale * rotation @ means[0])
        distances = np.linalg.norm(found.apply(source) - target, axis=1)
        # Rounding alone remains where all points fit.
        least = max(LEAST_DISTANCE * float(np.median(distances)), 1e-9 * spreads[1])
        weights = 1.0 / np.maximum(distances, least)
        weights /= weights.mean()
    return found


def _spread(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weighted mean [3] and the root of the weighted mean square distance from it."""
    mean = np.average(points, axis=0, weights=weights)
    return mean, float(np.sqrt(np.average(((points - mean) ** 2).sum(axis=1), weights=weights)))
