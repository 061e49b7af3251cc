# SPDX-License-Identifier: Apache-2.0
"""A camera's pose and its covariance from one estimate of a network.

If the network measures no pose, `pnp` solves it from the pointmap. If the network measures a pose
(R, c), its covariance comes from the residuals between the global points g and the local points l:

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

from spann3r_ros.core.camera import Intrinsics, pixel_grid
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.mapping.mapper_config import PoseConfig

from .corner_tracks import rays
from .pnp import (
    MIN_POSE_POINTS,
    PIXELS_PER_MEASUREMENT,
    PoseError,
    PoseSolution,
    draw_indices,
    select_points,
    solve_pose,
)

# Largest residual of an inlier, as a share of its depth.
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

    Without local points, the depths of the global ones on the rays of their pixels are used.
    Raises PoseError when too few points agree with the pose.
    """
    pose = estimate.reference_from_camera
    candidates = select_points(estimate.pointmap, config)
    if len(candidates) < MIN_POSE_POINTS:
        raise PoseError(f'pose: expected {MIN_POSE_POINTS} usable points, got {len(candidates)}')
    chosen = candidates[draw_indices(len(candidates), config.max_points)]
    points = estimate.pointmap.points.reshape(-1, 3)[chosen].astype(float)
    in_camera = transform_points(invert(pose), points)
    if estimate.local is None:
        pixels = pixel_grid(*estimate.pointmap.confidence.shape)[chosen]
        local = rays(pixels, intrinsics) * in_camera[:, 2:]
    else:
        local = estimate.local.points.reshape(-1, 3)[chosen].astype(float)
    rotated = local @ pose[:3, :3].T
    residuals = points - pose[:3, 3] - rotated
    depth = in_camera[:, 2]
    with np.errstate(invalid='ignore'):
        good = (depth > 0.0) & (np.linalg.norm(residuals, axis=1) <= MAX_RESIDUAL * depth)
    needed = max(MIN_POSE_POINTS, config.min_inlier_fraction * len(chosen))
    if good.sum() < needed:
        raise PoseError(f'pose: expected {needed:.0f} of {len(chosen)} points to agree with the '
                        f'measured pose, got {good.sum()}')
    inlier_share = float(good.mean())
    return _solution(pose, rotated[good], residuals[good], depth[good], inlier_share,
                     len(candidates) / PIXELS_PER_MEASUREMENT)


def _solution(pose: np.ndarray, rotated: np.ndarray, residuals: np.ndarray, depth: np.ndarray,
              inlier_share: float, measurements: float) -> PoseSolution:
    jacobians = np.zeros((len(rotated), 3, 6))
    jacobians[:, [0, 1, 2], [0, 1, 2]] = 1.0
    x, y, z = rotated.T
    jacobians[:, [0, 0, 1, 1, 2, 2], [4, 5, 3, 5, 3, 4]] = np.stack([z, -y, -z, x, y, -x], axis=1)
    normal_matrix = np.einsum('nij,nik->jk', jacobians, jacobians)
    gradients = np.einsum('nij,ni->nj', jacobians, residuals)
    inverse = np.linalg.inv(normal_matrix)
    floor = np.einsum('nij,nik,n->jk', jacobians, jacobians, (MIN_DEVIATION * depth)**2)

    def sandwich(meat: np.ndarray, independent: float) -> np.ndarray:
        covariance = inverse @ meat @ inverse * (len(rotated) / independent)
        return 0.5 * (covariance + covariance.T)

    meat = gradients.T @ gradients
    independent = max(inlier_share * measurements - 3.0, 1.0)
    return PoseSolution(pose, sandwich(meat + floor, independent), sandwich(meat, 1.0),
                        inlier_share)
