# SPDX-License-Identifier: Apache-2.0
"""Error vectors of similarities, their Jacobians and covariances."""
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.core.similarity import (
    adjoints,
    carry_covariance,
    composed,
    error_vectors,
    invert_similarities,
    inverted,
    residuals,
    similarities_of,
    without_rounding,
)
from spann3r_ros.core.transforms import invert_similarity, is_similarity

STEP = 1e-6
DRAWS = 20_000


def drawn(seed: int, count: int, size: float = 1.0) -> np.ndarray:
    """Return similarities [n, 4, 4] that are up to `size` from the identity in every part."""
    return similarities_of(size * np.random.default_rng(seed).uniform(-1.0, 1.0, (count, 7)))


def slope(function: object, at: np.ndarray) -> np.ndarray:
    """Return the Jacobian [n, 7, 7] by central differences in a step [7] about zero."""
    columns = []
    for axis in range(7):
        step = STEP * np.eye(7)[axis]
        columns.append((function(step) - function(-step)) / (2.0 * STEP))
    assert at.shape == columns[0].shape
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize('size', [0.0, 1e-9, 1e-5, 0.3, 1.6])
def test_error_vectors_and_similarities_are_inverse(size: float) -> None:
    vectors = size * np.random.default_rng(3).uniform(-1.0, 1.0, (50, 7))
    matrices = similarities_of(vectors)
    assert all(is_similarity(one) for one in matrices)
    np.testing.assert_allclose(error_vectors(matrices), vectors, atol=1e-14, rtol=1e-9)
    assert np.array_equal(error_vectors(matrices[7]), error_vectors(matrices)[7])


def test_many_inverses_equal_single_ones() -> None:
    many = drawn(5, 30)
    for one, inverse in zip(many, invert_similarities(many), strict=True):
        np.testing.assert_allclose(inverse, invert_similarity(one), atol=1e-13)


@pytest.mark.parametrize('error', [0.0, 1e-7, 1e-4, 0.1, 0.9])
def test_jacobians_of_residuals_equal_finite_differences(error: float) -> None:
    first, measured = drawn(1, 40), drawn(2, 40)
    second = first @ measured @ drawn(3, 40, error)
    vectors, to_first, to_second = residuals(measured, first, second)
    np.testing.assert_allclose(vectors, error_vectors(
        np.linalg.inv(measured) @ np.linalg.inv(first) @ second), atol=1e-13)
    found = slope(lambda d: residuals(measured, first @ similarities_of(d), second)[0], vectors)
    np.testing.assert_allclose(to_first, found, atol=1e-7)
    found = slope(lambda d: residuals(measured, first, second @ similarities_of(d))[0], vectors)
    np.testing.assert_allclose(to_second, found, atol=1e-7)


def test_rounding_is_removed_and_nothing_else() -> None:
    exact = drawn(4, 20)
    rounded = exact.copy()
    rounded[:, :3, :3] += 1e-6 * np.random.default_rng(0).normal(size=(20, 3, 3))
    found = without_rounding(rounded)
    np.testing.assert_allclose(found, exact, atol=1e-5)
    turns = found[:, :3, :3] / np.cbrt(np.linalg.det(found[:, :3, :3]))[:, None, None]
    np.testing.assert_allclose(turns @ np.swapaxes(turns, 1, 2), np.tile(np.eye(3), (20, 1, 1)),
                               atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(found[:, :3, :3]),
                               np.linalg.det(rounded[:, :3, :3]), rtol=1e-12)


def test_adjoints_equal_finite_differences() -> None:
    frames = drawn(8, 40)
    found = slope(lambda d: error_vectors(
        frames @ similarities_of(d) @ np.linalg.inv(frames)), np.zeros((40, 7)))
    np.testing.assert_allclose(adjoints(frames), found, atol=1e-7)


def sampled(covariance: np.ndarray, seed: int) -> np.ndarray:
    errors = np.random.default_rng(seed).multivariate_normal(np.zeros(7), covariance, DRAWS)
    return similarities_of(errors)


def check_covariance(expected: np.ndarray, errors: np.ndarray) -> None:
    """Check that the sample covariance of similarities agrees, in units of its own deviations."""
    found = np.cov(error_vectors(errors).T)
    root = np.linalg.inv(np.linalg.cholesky(expected))
    np.testing.assert_allclose(root @ found @ root.T, np.eye(7), atol=0.05)


def test_covariances_follow_frames_products_and_inverses() -> None:
    rng = np.random.default_rng(9)
    spread = 1e-3 * rng.normal(size=(2, 7, 7))
    one, two = spread @ np.swapaxes(spread, 1, 2)
    first, second = drawn(6, 2)
    errors, others = sampled(one, 10), sampled(two, 11)
    check_covariance(carry_covariance(first, one), first @ errors @ np.linalg.inv(first))
    measured, covariance = composed(first, one, second, two)
    check_covariance(covariance, np.linalg.inv(measured) @ first @ errors @ second @ others)
    measured, covariance = inverted(first, one)
    check_covariance(covariance, np.linalg.inv(measured) @ np.linalg.inv(first @ errors))
