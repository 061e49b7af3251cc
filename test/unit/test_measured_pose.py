# SPDX-License-Identifier: Apache-2.0
"""Poses that a network measures: their covariance is that of their errors, or they are refused."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic import SyntheticScene, orbit_trajectory, square_camera

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.core.types import Pointmap
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.tracking.measured_pose import assess_pose
from spann3r_ros.mapping.tracking.pnp import PoseError, PoseSolution

CAMERA = square_camera(96)
PATCH = 16
POSES = orbit_trajectory(60)
POSE = invert(POSES[0]) @ POSES[7]
CONFIDENCE = np.full((96, 96), 0.9, np.float32)


@pytest.fixture(scope='module')
def local() -> np.ndarray:
    """Return the points [h, w, 3] that the camera at POSE sees, in its own frame."""
    return SyntheticScene().render(POSES[7], CAMERA)[1]


def assess(points: np.ndarray, pose: np.ndarray, local: np.ndarray | None) -> PoseSolution:
    return assess_pose(
        Estimate(1, 0, Pointmap(points, CONFIDENCE), reference_from_camera=pose,
                 local=None if local is None else Pointmap(local, CONFIDENCE)),
        CAMERA, PoseConfig())


def displaced(local: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """Return points in the fragment, each patch displaced as a whole by a share of its depth."""
    cells = CAMERA.width // PATCH
    shift = np.random.default_rng(seed).normal(size=(cells, cells, 3)) * deviation
    shift = shift.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    return transform_points(POSE, local + shift * local[..., 2:])


def best_pose(local: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the pose that moves local points to points with the least squared error."""
    start, end = local.reshape(-1, 3), points.reshape(-1, 3)
    rotation, _ = Rotation.align_vectors(end - end.mean(axis=0), start - start.mean(axis=0))
    pose = np.eye(4)
    pose[:3, :3] = rotation.as_matrix()
    pose[:3, 3] = end.mean(axis=0) - pose[:3, :3] @ start.mean(axis=0)
    return pose


def error_of(pose: np.ndarray) -> np.ndarray:
    turn = Rotation.from_matrix(pose[:3, :3] @ POSE[:3, :3].T).as_rotvec()
    return np.concatenate([pose[:3, 3] - POSE[:3, 3], turn])


@pytest.mark.parametrize('deviation', [0.01, 0.03])
@pytest.mark.parametrize('with_local', [True, False])
def test_covariance_of_a_measured_pose_is_as_large_as_its_errors(
        local: np.ndarray, with_local: bool, deviation: float) -> None:
    errors, covariances = [], []
    for seed in range(60):
        points = displaced(local, deviation, seed)
        pose = best_pose(local, points)
        errors.append(error_of(pose))
        covariances.append(assess(points, pose, local if with_local else None).covariance)
    squares = [error @ np.linalg.solve(covariance, error)
               for error, covariance in zip(errors, covariances, strict=True)]
    # The squared error in units of the covariance has the mean six, the number of its axes.
    assert 0.5 < np.mean(squares) / 6.0 < 2.0
    axes = np.kron(np.eye(2), POSE[:3, :3].T)
    variances = np.diag(axes @ np.mean(covariances, axis=0) @ axes.T)
    assert (variances > 0.5 * np.mean(np.square(errors @ axes.T), axis=0)).all()


@pytest.mark.parametrize('with_local', [True, False])
@pytest.mark.parametrize('axis', range(3))
def test_covariance_shows_that_a_pose_disagrees_with_its_points(
        local: np.ndarray, axis: int, with_local: bool) -> None:
    offset = 0.05
    pose = POSE.copy()
    pose[:3, 3] += offset * POSE[:3, axis]
    solution = assess(transform_points(POSE, local), pose, local if with_local else None)
    direction = POSE[:3, axis]
    assert direction @ solution.shared_covariance[:3, :3] @ direction > (0.9 * offset)**2


@pytest.mark.parametrize('with_local', [True, False])
def test_points_in_one_spot_or_on_one_ray_determine_no_pose(with_local: bool) -> None:
    along = np.arange(1, 96 * 96 + 1).reshape(96, 96, 1) * 1e-3
    for points in (np.ones((96, 96, 3)), along * np.ones(3), along * [0.0, 0.0, 1.0]):
        with pytest.raises(PoseError):
            assess(points, np.eye(4), points if with_local else None)


@pytest.mark.parametrize('with_local', [True, False])
@pytest.mark.parametrize('change', [
    np.diag([1.05, 1.05, 1.05, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0]),
    np.diag([1.0, 1.0, np.nan, 1.0])])
def test_measured_pose_that_is_not_rigid_is_refused(
        local: np.ndarray, change: np.ndarray, with_local: bool) -> None:
    with pytest.raises(PoseError, match='reference_from_camera: expected a rigid transform'):
        assess(transform_points(POSE, local), POSE @ change, local if with_local else None)
