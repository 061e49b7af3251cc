# SPDX-License-Identifier: Apache-2.0
"""A camera's pose and its covariance from one estimate of a network.

Where the network measures no pose, it is solved from the pointmap (`pnp`). Where it does, its
covariance comes from the residuals between its global points g and its local points l, moved by
its pose (R, c): r = g - (c + R l). With the Jacobian J = [I, -[R l]x] of a moved point by a small
shift and rotation of the camera, H = sum J^T J and M = sum J^T r r^T J, it is H^-1 M H^-1, scaled
by the number of independent measurements as in `pnp`.
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

# A global point is an inlier within this share of its depth from the moved local one.
MAX_RESIDUAL = 0.1
# However well the two agree, a point is not measured better than this share of its depth.
MIN_DEVIATION = 1e-3


def measure_pose(estimate: Estimate, intrinsics: Intrinsics, config: PoseConfig) -> PoseSolution:
    """Return the camera's pose in the fragment; PoseError when the estimate admits none."""
    if estimate.reference_from_camera is None:
        return solve_pose(estimate.pointmap, intrinsics, config)
    return assess_pose(estimate, intrinsics, config)


def assess_pose(estimate: Estimate, intrinsics: Intrinsics, config: PoseConfig) -> PoseSolution:
    """Return the pose that the network measured, with the covariance that its points imply.

    Without local points these are the global ones' depths on the rays of their pixels. PoseError
    when too few points agree with the pose.
    """
    pose = estimate.reference_from_camera
    voters = select_points(estimate.pointmap, config)
    if len(voters) < MIN_POSE_POINTS:
        raise PoseError(f'pose: expected {MIN_POSE_POINTS} usable points, got {len(voters)}')
    chosen = voters[draw_indices(len(voters), config.max_points)]
    points = estimate.pointmap.points.reshape(-1, 3)[chosen].astype(float)
    seen = transform_points(invert(pose), points)
    if estimate.local is None:
        pixels = pixel_grid(*estimate.pointmap.confidence.shape)[chosen]
        local = rays(pixels, intrinsics) * seen[:, 2:]
    else:
        local = estimate.local.points.reshape(-1, 3)[chosen].astype(float)
    turned = local @ pose[:3, :3].T
    residuals = points - pose[:3, 3] - turned
    depth = seen[:, 2]
    with np.errstate(invalid='ignore'):
        good = (depth > 0.0) & (np.linalg.norm(residuals, axis=1) <= MAX_RESIDUAL * depth)
    needed = max(MIN_POSE_POINTS, config.min_inlier_fraction * len(chosen))
    if good.sum() < needed:
        raise PoseError(f'pose: expected {needed:.0f} of {len(chosen)} points to agree with the '
                        f'measured pose, got {good.sum()}')
    support = float(good.mean())
    return _solution(pose, turned[good], residuals[good], depth[good], support,
                     len(voters) / PIXELS_PER_MEASUREMENT)


def _solution(pose: np.ndarray, turned: np.ndarray, residuals: np.ndarray, depth: np.ndarray,
              support: float, measurements: float) -> PoseSolution:
    jacobians = np.zeros((len(turned), 3, 6))
    jacobians[:, [0, 1, 2], [0, 1, 2]] = 1.0
    x, y, z = turned.T
    jacobians[:, [0, 0, 1, 1, 2, 2], [4, 5, 3, 5, 3, 4]] = np.stack([z, -y, -z, x, y, -x], axis=1)
    normal = np.einsum('nij,nik->jk', jacobians, jacobians)
    pulls = np.einsum('nij,ni->nj', jacobians, residuals)
    spread = np.linalg.inv(normal)
    floor = np.einsum('nij,nik,n->jk', jacobians, jacobians, (MIN_DEVIATION * depth)**2)

    def covariance(noise: np.ndarray, independent: float) -> np.ndarray:
        found = spread @ noise @ spread * (len(turned) / independent)
        return 0.5 * (found + found.T)

    noise = pulls.T @ pulls
    return PoseSolution(pose, covariance(noise + floor, max(support * measurements - 3.0, 1.0)),
                        covariance(noise, 1.0), support)
