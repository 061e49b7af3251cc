# SPDX-License-Identifier: Apache-2.0
"""Comparison of clouds: registration, distances in both directions, agreement of normals."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from . import metrics
from .metrics import NearestDistances, NormalConsistency, check_points
from .trajectories import fit_similarity

NORMAL_NEIGHBOURS = 30
ICP_ITERATIONS = 30
ICP_TOLERANCE = 1e-6
CHUNK = 200_000


@dataclass(frozen=True)
class CloudScores:
    """Distances in the clouds' unit; `normals` is the mean of both directions, as in the paper."""

    accuracy: NearestDistances
    completion: NearestDistances
    normals: NormalConsistency

    @property
    def chamfer(self) -> float:
        """Return the mean of mean accuracy and mean completion."""
        return (self.accuracy.mean + self.completion.mean) / 2


def score_clouds(predicted: np.ndarray, truth: np.ndarray) -> CloudScores:
    """Compare two clouds [n, 3] and [m, 3]; normals are estimated on both and have no sign."""
    normals, true_normals = estimate_normals(predicted), estimate_normals(truth)
    ways = [metrics.normal_consistency(predicted, truth, normals, true_normals),
            metrics.normal_consistency(truth, predicted, true_normals, normals)]
    return CloudScores(
        metrics.accuracy(predicted, truth), metrics.completion(predicted, truth),
        NormalConsistency(sum(way.mean for way in ways) / 2, sum(way.median for way in ways) / 2))


def estimate_normals(points: np.ndarray) -> np.ndarray:
    """Return each point's unit normal [n, 3]: the direction of least variance of 30 neighbours."""
    points = check_points('points', points)
    tree = cKDTree(points)
    neighbours = min(NORMAL_NEIGHBOURS, len(points))
    normals = np.empty_like(points)
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        _, index = tree.query(points[part], k=neighbours, workers=-1)
        near = points[index.reshape(-1, neighbours)]  # [chunk, neighbours, 3]
        near = near - near.mean(axis=1, keepdims=True)
        _, vectors = np.linalg.eigh(np.einsum('nki,nkj->nij', near, near))
        normals[part] = vectors[:, :, 0]
    return normals


def register(source: np.ndarray, target: np.ndarray, reach: float) -> np.ndarray:
    """Return the rigid `target_from_source` [4, 4] that point-to-point ICP finds from identity.

    Pairs farther apart than `reach` are left out. It ends after 30 iterations, or when neither the
    share of paired points nor their RMS distance changes by 1e-6 (Besl and McKay, 1992).
    """
    source, target = check_points('source', source), check_points('target', target)
    tree = cKDTree(target)
    motion, before = np.eye(4), None
    for _ in range(ICP_ITERATIONS):
        moved = source @ motion[:3, :3].T + motion[:3, 3]
        distance, index = tree.query(moved, distance_upper_bound=reach, workers=-1)
        paired = np.isfinite(distance)
        if paired.sum() < 3:
            return motion
        now = np.array([paired.mean(), np.sqrt((distance[paired] ** 2).mean())])
        if before is not None and (np.abs(now - before) < ICP_TOLERANCE).all():
            return motion
        before = now
        step = fit_similarity(moved[paired], target[index[paired]], with_scale=False)
        motion[:3] = np.column_stack((step.rotation @ motion[:3, :3],
                                      step.rotation @ motion[:3, 3] + step.translation))
    return motion
