# SPDX-License-Identifier: Apache-2.0
"""A camera's pose from rendered pointmaps, and whether its covariance is that of its errors."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic import SyntheticScene, orbit_trajectory, square_camera

from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.core.types import Pointmap
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.tracking.pnp import PoseError, PoseSolution, select_points, solve_pose

CAMERA = square_camera(64)
PATCH = 16


@pytest.fixture(scope='module')
def seen() -> tuple[np.ndarray, Pointmap]:
    """Return a pose and its pointmap in the camera's own frame."""
    pose = orbit_trajectory(12)[2]
    points = SyntheticScene().render(pose, CAMERA)[1].astype(np.float32)
    return pose, Pointmap(points, np.full(points.shape[:2], 0.9, np.float32))


def spoilt(pointmap: Pointmap, deviation: float, seed: int) -> Pointmap:
    """Displace every patch as a whole, like the errors of a network."""
    cells = CAMERA.width // PATCH
    shift = np.random.default_rng(seed).normal(size=(cells, cells, 3)) * deviation
    shift = shift.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    return replace(pointmap, points=(pointmap.points + shift).astype(np.float32))


def error_of(solution: PoseSolution, pose: np.ndarray) -> np.ndarray:
    """Return the error [6] in place and rotation, along the fragment's axes."""
    found = solution.fragment_from_camera
    turn = Rotation.from_matrix(found[:3, :3] @ pose[:3, :3].T).as_rotvec()
    return np.concatenate([found[:3, 3] - pose[:3, 3], turn])


def test_pose_of_points_in_another_frame_is_found(seen: tuple[np.ndarray, Pointmap]) -> None:
    pose, pointmap = seen
    moved = replace(pointmap, points=transform_points(pose, pointmap.points))
    solution = solve_pose(moved, CAMERA, PoseConfig())
    np.testing.assert_allclose(solution.fragment_from_camera, pose, atol=1e-3)


def test_pose_needs_enough_points(seen: tuple[np.ndarray, Pointmap]) -> None:
    confidence = np.zeros((64, 64), np.float32)
    confidence[0, :5] = 0.9
    with pytest.raises(PoseError, match='12 usable points, got 5'):
        solve_pose(replace(seen[1], confidence=confidence), CAMERA,
                   PoseConfig(best_fraction=1.0))


def test_points_on_one_line_determine_no_pose() -> None:
    points = np.zeros((8, 8, 3), np.float32)
    points[..., 2] = 1.0 + np.arange(64).reshape(8, 8)
    with pytest.raises(PoseError, match='one line'):
        solve_pose(Pointmap(points, np.full((8, 8), 0.9, np.float32)), CAMERA, PoseConfig())


def test_disagreeing_points_are_reported_not_solved() -> None:
    rng = np.random.default_rng(0)
    cloud = Pointmap(rng.normal(size=(64, 64, 3)).astype(np.float32) + [0, 0, 5],
                     np.full((64, 64), 0.9, np.float32))
    with pytest.raises(PoseError):
        solve_pose(cloud, CAMERA, PoseConfig())


def test_selection_takes_the_most_confident_and_no_nan() -> None:
    confidence = np.linspace(0.0, 0.9, 100, dtype=np.float32).reshape(10, 10)
    points = np.ones((10, 10, 3), np.float32)
    points[9, 9] = np.nan
    chosen = select_points(Pointmap(points, confidence), PoseConfig(best_fraction=0.2))
    assert 99 not in chosen
    assert chosen.min() >= 78
    assert len(chosen) >= 19


@pytest.mark.parametrize('deviation', [0.02, 0.05])
def test_covariance_is_as_large_as_the_errors(
        seen: tuple[np.ndarray, Pointmap], deviation: float) -> None:
    pose, pointmap = seen
    moved = replace(pointmap, points=transform_points(pose, pointmap.points))
    config = PoseConfig(best_fraction=1.0, max_reprojection=0.2)
    errors, variances = [], []
    for seed in range(60):
        solution = solve_pose(spoilt(moved, deviation, seed), CAMERA, config)
        errors.append(error_of(solution, pose))
        variances.append(np.diag(solution.covariance))
    ratio = np.mean(np.square(errors), axis=0) / np.mean(variances, axis=0)
    assert ratio.min() > 0.5
    assert ratio.max() < 2.0


def test_fewer_inliers_give_a_larger_covariance(seen: tuple[np.ndarray, Pointmap]) -> None:
    config = PoseConfig(best_fraction=1.0)
    pointmap = spoilt(seen[1], 0.005, 0)
    full = solve_pose(pointmap, CAMERA, config)
    confidence = pointmap.confidence.copy()
    confidence[:, :32] = 0.0
    half = solve_pose(replace(pointmap, confidence=confidence), CAMERA, config)
    wrong = pointmap.points.copy()
    wrong[:, :20] += 1.0
    with_outliers = solve_pose(replace(pointmap, points=wrong), CAMERA, config)
    assert full.inlier_share == pytest.approx(1.0, abs=0.05)
    assert with_outliers.inlier_share == pytest.approx(44 / 64, abs=0.05)
    for weaker in (half, with_outliers):
        assert (np.diag(weaker.covariance) > 1.2 * np.diag(full.covariance)).all()


def test_covariance_is_along_the_fragment_s_axes(seen: tuple[np.ndarray, Pointmap]) -> None:
    pose, pointmap = seen
    own = solve_pose(pointmap, CAMERA, PoseConfig())
    moved = replace(pointmap, points=transform_points(pose, pointmap.points))
    there = solve_pose(moved, CAMERA, PoseConfig())
    rotation = np.kron(np.eye(2), pose[:3, :3])
    np.testing.assert_allclose(there.covariance, rotation @ own.covariance @ rotation.T,
                               rtol=0.02, atol=1e-3 * np.abs(own.covariance).max())
    assert (np.linalg.eigvalsh(there.covariance) > 0.0).all()
    assert invert(there.fragment_from_camera) @ pose == pytest.approx(np.eye(4), abs=1e-3)
