# SPDX-License-Identifier: Apache-2.0
"""Distances between predicted and true points.

The scale of a map is arbitrary, so callers first fit one global scale (`fit_scale`: least squares
about the origin over all points); nothing else is aligned here.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class NearestDistances:
    """Distances from each source point to its nearest target point, in the clouds' unit."""

    mean: float
    median: float


@dataclass(frozen=True)
class NormalConsistency:
    """Absolute cosines between the normals of source points and nearest target points."""

    mean: float
    median: float


def check_points(name: str, points: np.ndarray) -> np.ndarray:
    """Return the points as float64 [n, 3]; ValueError if empty, misshapen or not finite."""
    points = np.asarray(points, dtype=np.float64)
    if points.ndim < 2 or points.shape[-1] != 3 or points.size == 0:
        raise ValueError(f'{name}: expected points [..., 3], at least one, got {points.shape}')
    points = points.reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ValueError(f'{name}: expected finite points, got {points[~np.isfinite(points)][:1]}')
    return points


def check_pairs(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two corresponding float64 arrays [n, 3]; ValueError for different shapes."""
    predicted, truth = check_points('predicted', predicted), check_points('truth', truth)
    if predicted.shape != truth.shape:
        raise ValueError(f'predicted and truth: expected one point each per pixel, '
                         f'got {len(predicted)} and {len(truth)}')
    return predicted, truth


def fit_scale(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return s that minimises sum |s P - G|^2 over corresponding points; origin fixed."""
    predicted, truth = check_pairs(predicted, truth)
    energy = np.vdot(predicted, predicted)
    if energy == 0.0:
        raise ValueError('predicted: expected points away from the origin, got only zeros')
    return float(np.vdot(predicted, truth) / energy)


def point_error(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return mean |P - G| / mean |G| over corresponding points (relative, no unit)."""
    predicted, truth = check_pairs(predicted, truth)
    distances = np.linalg.norm(predicted - truth, axis=1)
    return float(distances.mean() / np.linalg.norm(truth, axis=1).mean())


def subsample(points: np.ndarray, max_points: int, seed: int = 0) -> np.ndarray:
    """Return at most `max_points` rows, selected at random with a seed."""
    if len(points) <= max_points:
        return points
    return points[np.random.default_rng(seed).choice(len(points), max_points, replace=False)]


def nearest_distances(source: np.ndarray, target: np.ndarray) -> NearestDistances:
    """Return mean and median distance of source points to their nearest target points."""
    # Balancing and compacting the tree costs more than it saves for a few thousand queries.
    tree = cKDTree(check_points('target', target), balanced_tree=False, compact_nodes=False)
    distances, _ = tree.query(check_points('source', source), workers=-1)
    return NearestDistances(float(distances.mean()), float(np.median(distances)))


def accuracy(predicted: np.ndarray, truth: np.ndarray) -> NearestDistances:
    """Return the distances of predicted points to the true ones."""
    return nearest_distances(predicted, truth)


def completion(predicted: np.ndarray, truth: np.ndarray) -> NearestDistances:
    """Return the distances of true points to the predicted ones."""
    return nearest_distances(truth, predicted)


def normal_consistency(source: np.ndarray, target: np.ndarray, source_normals: np.ndarray,
                       target_normals: np.ndarray) -> NormalConsistency:
    """Return the agreement of unoriented normals; one unit normal per point, arrays [n, 3]."""
    source, source_normals = check_pairs(source, source_normals)
    target, target_normals = check_pairs(target, target_normals)
    _, nearest = cKDTree(target).query(source, workers=-1)
    cosines = np.abs((source_normals * target_normals[nearest]).sum(axis=1))
    return NormalConsistency(float(cosines.mean()), float(np.median(cosines)))
