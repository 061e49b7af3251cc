# SPDX-License-Identifier: Apache-2.0
"""Comparison of clouds: results recorded from Open3D, and cases with known results."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spann3r_ros.evaluation.measures.clouds import register, score_clouds

RECORDED = Path(__file__).with_name('open3d_recorded.json')


def surface(count: int, seed: int) -> np.ndarray:
    """Return points on a floor with a wall and a ball, by a generator of fixed output."""
    index = np.arange(1, count + 1)
    u, v = (np.modf(index * step + seed * 0.137)[0] for step in (0.754877666, 0.569840291))
    floor = np.stack((2.0 * u, 2.0 * v, np.zeros(count)), axis=1)
    wall = np.stack((2.0 * u, np.full(count, 2.0), v), axis=1)
    angle, height = 2.0 * np.pi * u, 2.0 * v - 1.0
    ring = np.sqrt(1.0 - height ** 2)
    ball = np.stack((np.cos(angle) * ring, np.sin(angle) * ring, height), axis=1)
    return np.concatenate((floor, wall, 0.4 * ball + [0.8, 0.9, 0.5]))


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Return a prediction that is rotated, shifted and noisy, and its truth."""
    rough = surface(700, 1)
    rough += 0.01 * np.sin(np.arange(rough.size).reshape(rough.shape) * 12.9898)
    turn = Rotation.from_euler('xyz', [0.5, -0.8, 1.0], degrees=True).as_matrix()
    return rough @ turn.T + [0.02, -0.01, 0.015], surface(1000, 2)


def far_clouds() -> tuple[np.ndarray, np.ndarray]:
    """Return the same, rotated so far that thirty iterations do not suffice."""
    predicted, truth = clouds()
    turn = Rotation.from_euler('z', 14.0, degrees=True).as_matrix()
    return predicted @ turn.T, truth


def moved(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ transform[:3, :3].T + transform[:3, 3]


def test_registration_and_scores_are_those_of_open3d() -> None:
    recorded = json.loads(RECORDED.read_text())
    predicted, truth = clouds()
    transform = register(predicted, truth, 0.1)
    np.testing.assert_allclose(transform, recorded['transformation'], atol=1e-9)
    scores = score_clouds(moved(transform, predicted), truth)
    for name in ('accuracy', 'completion', 'normals'):
        found = getattr(scores, name)
        # Of two neighbours at the same distance the libraries may choose different ones.
        np.testing.assert_allclose([found.mean, found.median], recorded[name], rtol=1e-5)
    assert scores.chamfer == pytest.approx(
        (recorded['accuracy'][0] + recorded['completion'][0]) / 2)


def test_registration_ends_after_as_many_rounds_as_that_of_open3d() -> None:
    recorded = json.loads(RECORDED.read_text())
    np.testing.assert_allclose(register(*far_clouds(), 0.1), recorded['far_transformation'],
                               atol=1e-9)


def test_registration_undoes_a_small_motion() -> None:
    truth = surface(2000, 3)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler('z', 1.0, degrees=True).as_matrix()
    motion[:3, 3] = [0.01, 0.005, -0.01]
    found = register(moved(motion, truth), truth, 0.1)
    np.testing.assert_allclose(found @ motion, np.eye(4), atol=2e-3)


def test_registration_of_clouds_out_of_reach_moves_nothing() -> None:
    truth = surface(100, 1)
    np.testing.assert_array_equal(register(truth + 10.0, truth, 0.1), np.eye(4))


def test_parallel_planes_agree_in_normals_and_differ_in_distance() -> None:
    floor = surface(500, 4)[:500]
    scores = score_clouds(floor + [0.0, 0.0, 0.03], floor)
    assert (scores.accuracy.mean, scores.completion.median) == pytest.approx((0.03, 0.03))
    assert scores.normals.mean == pytest.approx(1.0)


def test_upright_wall_over_a_floor_has_no_normals_in_common() -> None:
    points = surface(500, 4)
    scores = score_clouds(points[:500], points[500:1000])
    assert scores.normals.mean == pytest.approx(0.0, abs=1e-9)


def test_cloud_that_is_not_finite_is_refused() -> None:
    truth = surface(50, 1)
    with pytest.raises(ValueError, match='expected finite'):
        score_clouds(np.full((3, 3), np.nan), truth)
