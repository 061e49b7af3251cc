# SPDX-License-Identifier: Apache-2.0
"""Errors of depth images after one scale, and those of two answers without a network."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A frame with fewer pixels of known depth is not scored.
LEAST_PIXELS = 50
DELTA = 1.25


@dataclass(frozen=True)
class ScaledErrors:
    """Means over frames: of |depth - truth| / truth, and the share within a factor of 1.25."""

    abs_rel: float
    delta: float


@dataclass(frozen=True)
class DepthScores:
    """Errors after one scale for the sequence and after one for each frame: median ratios.

    `log_correlation` is the mean over `correlated` frames of the correlation of the logarithms;
    None if no frame has one. `not_positive` is the mean share of pixels whose depth is not above
    0: these count as depth 0, which is a relative error of 1, and are in no correlation.
    """

    sequence_scale: ScaledErrors
    frame_scale: ScaledErrors
    log_correlation: float | None
    correlated: int
    not_positive: float


@dataclass(frozen=True)
class DepthComparison:
    """Scores of a network's depth images and of two trivial answers on the same `frames`.

    `lacking` frames have no estimate, further `unknown` ones too little true depth; no mean
    contains them. `constant`: every depth is equal. `mean_image`: the mean over the frames of each
    pixel's true log depth, which no network knows. The scores are None without a frame.
    """

    frames: int
    lacking: int
    unknown: int
    network: DepthScores | None
    constant: DepthScores | None
    mean_image: DepthScores | None


def compare_depth(estimates: Sequence[np.ndarray | None], truth: np.ndarray) -> DepthComparison:
    """Compare depth images [n] of [h, w] in any unit, None where lacking, with truth [n, h, w].

    True depth is 0 where it is unknown.
    """
    given = [index for index, depth in enumerate(estimates) if depth is not None]
    scored = [index for index in given if (truth[index] > 0.0).sum() >= LEAST_PIXELS]
    lacking, unknown = len(estimates) - len(given), len(given) - len(scored)
    if not scored:
        return DepthComparison(0, lacking, unknown, None, None, None)
    true = truth[scored]
    images = (np.stack([estimates[index] for index in scored]), np.ones_like(true),
              np.broadcast_to(mean_image(true), true.shape))
    return DepthComparison(len(scored), lacking, unknown,
                           *(score_depth(image, true) for image in images))


def mean_image(truth: np.ndarray) -> np.ndarray:
    """Return the mean depth [h, w], of logarithms, over images [n, h, w]; 0 where never known."""
    known = truth > 0.0
    total = np.log(np.where(known, truth, 1.0)).sum(axis=0, dtype=np.float64)
    count = known.sum(axis=0)
    return np.where(count > 0, np.exp(total / np.maximum(count, 1)), 0.0)


def score_depth(predicted: np.ndarray, truth: np.ndarray) -> DepthScores:
    """Return the errors of depth images [n, h, w]; every true one has a pixel above 0."""
    rows = [_known(*pair) for pair in zip(predicted, truth, strict=True)]
    whole = median_scale(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    scales = {'sequence': [whole] * len(rows), 'frame': [median_scale(*row) for row in rows]}
    errors = {name: np.mean([_errors(scale * depth, true)
                             for scale, (depth, true) in zip(values, rows, strict=True)], axis=0)
              for name, values in scales.items()}
    correlations = [value for row in rows if (value := log_correlation(*row)) is not None]
    return DepthScores(
        ScaledErrors(*errors['sequence'].tolist()), ScaledErrors(*errors['frame'].tolist()),
        float(np.mean(correlations)) if correlations else None, len(correlations),
        float(np.mean([(depth <= 0.0).mean() for depth, _ in rows])))


def median_scale(depth: np.ndarray, truth: np.ndarray) -> float:
    """Return the median of truth / depth over the depths [n] above 0; 1 if there is none."""
    positive = depth > 0.0
    return float(np.median(truth[positive] / depth[positive])) if positive.any() else 1.0


def log_correlation(depth: np.ndarray, truth: np.ndarray) -> float | None:
    """Return the correlation of the logarithms of the depths [n] above 0; None if not defined."""
    positive = depth > 0.0
    if positive.sum() < 2:
        return None
    logs = np.log([depth[positive], truth[positive]])
    # Equal depths differ by rounding at most.
    if (np.ptp(logs, axis=1) < 1e-6).any():
        return None
    return float(np.corrcoef(logs)[0, 1])


def _known(depth: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and true depths where the true one is known; 0 where there is no depth."""
    known = truth > 0.0
    # float32, because a long video has billions of pixels.
    depth = np.nan_to_num(depth[known].astype(np.float32), posinf=0.0, neginf=0.0)
    return np.maximum(depth, 0.0), truth[known].astype(np.float32)


def _errors(depth: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    near = (depth < DELTA * truth) & (truth < DELTA * depth)
    return float((np.abs(depth - truth) / truth).mean(dtype=np.float64)), float(near.mean())
