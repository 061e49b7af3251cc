# SPDX-License-Identifier: Apache-2.0
"""A camera's pose and its covariance from one estimate of a network.

If the network measures no pose, `pnp` solves it from the pointmap. If the network measures a pose
but no local points, `pnp` gives its covariance from the reprojection errors. If the network
measures a pose (R, c) and local points l, the covariance comes from their residuals to the global
points g:

    r = g - (c + R l)
    J = [I, -[R l]x]             Jacobian of c + R l by a small shift and rotation of the camera
    H = sum J^T J                normal_matrix
    M = sum J^T r r^T J          meat
    P_shared = H^-1 M H^-1 n

The covariance adds a floor to M and is divided by the number of independent measurements, as in
`pnp`.
"""
from __future__ import annotations

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import invert, is_rigid, transform_points
from spann3r_ros.mapping.mapper_config import PoseConfig

from .pnp import (
    MIN_POSE_POINTS,
    MIN_SPREAD_RATIO,
    PoseError,
    PoseSolution,
    assess_projection,
    draw_points,
    solve_pose,
)

# Largest residual of an inlier, as a share of its depth: across the ray without local points.
MAX_RESIDUAL = 0.1
# Lower bound of a point's standard deviation, as a share of its depth.
MIN_DEVIATION = 1e-3


def measure_pose(estimate: Estimate, intrinsics: Intrinsics, config: PoseConfig) -> PoseSolution:
    """Return the camera's pose in the fragment; raise PoseError if the estimate admits none."""
    if estimate.reference_from_camera is None:
        return solve_pose(estimate.pointmap, intrinsics, config)
    return assess_pose(estimate, intrinsics, config)


def assess_pose(estimate: Estimate, intrinsics: Intrinsics, config: PoseConfig) -> PoseSolution:
    """Return the pose that the network measured, with the covariance that its points imply.

    Raises PoseError when the pose is not rigid, when too few points agree with it, or when they
    are degenerate.
    """
    pose = estimate.reference_from_camera
    if not is_rigid(pose):
        raise PoseError(f'reference_from_camera: expected a rigid transform [4, 4], got {pose}')
    if estimate.local is None:
        # The global points give the depth only with the pose itself. The depth of a point would
        # then have no residual, however wrong the pose is along the viewing axis.
        return assess_projection(pose, estimate.pointmap, intrinsics, config,
                                 MAX_RESIDUAL * max(intrinsics.fx, intrinsics.fy))
    chosen, measurements = draw_points(estimate.pointmap, config)
    points = estimate.pointmap.points.reshape(-1, 3)[chosen].astype(float)
    depth = transform_points(invert(pose), points)[:, 2]
    rotated = estimate.local.points.reshape(-1, 3)[chosen].astype(float) @ pose[:3, :3].T
    residuals = points - pose[:3, 3] - rotated
    with np.errstate(invalid='ignore'):
        good = (depth > 0.0) & (np.linalg.norm(residuals, axis=1) <= MAX_RESIDUAL * depth)
    needed = max(MIN_POSE_POINTS, config.min_inlier_fraction * len(chosen))
    if good.sum() < needed:
        raise PoseError(f'pose: expected {needed:.0f} of {len(chosen)} points to agree with the '
                        f'measured pose, got {good.sum()}')
    inlier_share = float(good.mean())
    return _solution(pose, rotated[good], residuals[good], depth[good], inlier_share,
                     measurements)


def _solution(pose: np.ndarray, rotated: np.ndarray, residuals: np.ndarray, depth: np.ndarray,
              inlier_share: float, measurements: float) -> PoseSolution:
    jacobians = np.zeros((len(rotated), 3, 6))
    jacobians[:, [0, 1, 2], [0, 1, 2]] = 1.0
    x, y, z = rotated.T
    jacobians[:, [0, 0, 1, 1, 2, 2], [4, 5, 3, 5, 3, 4]] = np.stack([z, -y, -z, x, y, -x], axis=1)
    normal_matrix = np.einsum('nij,nik->jk', jacobians, jacobians)
    _check_condition(normal_matrix, depth)
    gradients = np.einsum('nij,ni->nj', jacobians, residuals)
    inverse = np.linalg.inv(normal_matrix)
    floor = np.einsum('nij,nik,n->jk', jacobians, jacobians, (MIN_DEVIATION * depth)**2)

    def sandwich(meat: np.ndarray, independent: float) -> np.ndarray:
        covariance = inverse @ meat @ inverse * (len(rotated) / independent)
        return 0.5 * (covariance + covariance.T)

    meat = gradients.T @ gradients
    independent = max(inlier_share * measurements - 3.0, 1.0)
    return PoseSolution(pose, sandwich(meat + floor, independent), sandwich(meat, 1.0),
                        inlier_share, float(1.0 / (1.0 / depth).mean()))


def _check_condition(normal_matrix: np.ndarray, depth: np.ndarray) -> None:
    """Raise PoseError if points at these depths [n] do not determine all of a pose."""
    # With rotations in units of the distance, the matrix does not depend on the fragment's scale.
    unit = np.repeat([1.0, 1.0 / np.sqrt(np.square(depth).mean())], 3)
    eigenvalues = np.linalg.eigvalsh(unit[:, None] * normal_matrix * unit)
    if not eigenvalues[0] > MIN_SPREAD_RATIO**2 * eigenvalues[-1]:
        raise PoseError('pose: the points do not determine all six degrees of freedom: they lie '
                        'on one line or in one spot')
