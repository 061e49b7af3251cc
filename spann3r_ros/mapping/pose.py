# SPDX-License-Identifier: Apache-2.0
"""A camera's pose, and how sure it is, from a pointmap: PnP-RANSAC on its confident points."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .config import PoseConfig
from .geometry import invert, pixel_grid, transform_points
from .types import FrameError, Intrinsics, Pointmap

MIN_POSE_POINTS = 12
# Below this ratio of spreads the points lie on a line (or in one spot) and fix no pose.
MIN_SPREAD_RATIO = 1e-3
REFINE_ROUNDS = 3
# A network errs by patches, not by pixels: so many neighbours count as one measurement.
PIXELS_PER_MEASUREMENT = 256
# However well the points agree, a pixel is not measured better than this.
MIN_PIXEL_DEVIATION = 0.1


class PoseError(FrameError):
    """The points admit no camera pose."""


@dataclass(frozen=True)
class PoseSolution:
    """A camera's pose in the fragment.

    `fragment_from_camera` [4, 4]; `covariance` [6, 6] of an error in place (fragment units) and
    of one in rotation (radians) about the camera, both along the fragment's axes; `support` is
    the share of the voting points that agree.
    """

    fragment_from_camera: np.ndarray
    covariance: np.ndarray
    support: float


def select_points(pointmap: Pointmap, config: PoseConfig) -> np.ndarray:
    """Return flat indices of the pixels that may vote for a pose.

    They are the finite ones above `min_confidence`, of those the `best_fraction` most confident.
    """
    confidence = pointmap.confidence.reshape(-1)
    finite = np.isfinite(pointmap.points).all(axis=-1).reshape(-1)
    # 'Ignore confidence' must let points of confidence zero vote too.
    above = confidence > config.min_confidence if config.min_confidence > 0.0 else True
    voters = np.flatnonzero(finite & np.isfinite(confidence) & above)
    if len(voters) and config.best_fraction < 1.0:
        bar = np.quantile(confidence[voters], 1.0 - config.best_fraction)
        voters = voters[confidence[voters] >= bar]
    return voters


def solve_pose(pointmap: Pointmap, intrinsics: Intrinsics, config: PoseConfig) -> PoseSolution:
    """Return the camera's pose by PnP-RANSAC and refinement on the inliers.

    Raises PoseError when the points are too few, degenerate or in disagreement.
    """
    voters = select_points(pointmap, config)
    electorate = len(voters)
    if electorate < MIN_POSE_POINTS:
        raise PoseError(f'pose: expected {MIN_POSE_POINTS} usable points, got {electorate}')
    if electorate > config.max_points:
        # Drawn by chance, since an even stride would favour some image columns.
        rng = np.random.default_rng(0)
        voters = np.sort(rng.choice(voters, config.max_points, replace=False))
    points = pointmap.points.reshape(-1, 3)[voters].astype(float)
    pixels = pixel_grid(*pointmap.confidence.shape)[voters]
    _check_spread(points)
    limit = config.max_reprojection * intrinsics.width
    camera_from_fragment = _solve_ransac(points, pixels, intrinsics, config, limit)
    inliers = _inliers(camera_from_fragment, points, pixels, intrinsics, limit)
    for _ in range(REFINE_ROUNDS):
        _check_inliers(inliers, points, config)
        camera_from_fragment = _refine(
            camera_from_fragment, points[inliers], pixels[inliers], intrinsics)
        inliers = _inliers(camera_from_fragment, points, pixels, intrinsics, limit)
    _check_inliers(inliers, points, config)
    support = float(inliers.mean())
    covariance = pose_covariance(camera_from_fragment, points[inliers], pixels[inliers],
                                 intrinsics, support * electorate / PIXELS_PER_MEASUREMENT)
    return PoseSolution(invert(camera_from_fragment), covariance, support)


def pose_covariance(
    camera_from_fragment: np.ndarray, points: np.ndarray, pixels: np.ndarray,
    intrinsics: Intrinsics, measurements: float,
) -> np.ndarray:
    """Return the covariance [6, 6] of a pose that was fitted to points [n, 3] at pixels [n, 2].

    That of least squares with the residuals as noise, if the points are worth `measurements`
    independent ones. Order and axes are those of `PoseSolution.covariance`.
    """
    rotation = camera_from_fragment[:3, :3]
    x, y, z = (points @ rotation.T + camera_from_fragment[:3, 3]).T
    projection = np.zeros((len(points), 2, 3))
    projection[:, 0, 0], projection[:, 0, 2] = intrinsics.fx / z, -intrinsics.fx * x / z**2
    projection[:, 1, 1], projection[:, 1, 2] = intrinsics.fy / z, -intrinsics.fy * y / z**2
    moved = projection @ -rotation  # [n, 2, 3]: by the camera's place along the fragment's axes
    lever = points - invert(camera_from_fragment)[:3, 3]
    turned = np.cross(lever[:, None], moved)  # [n, 2, 3]: by its rotation about them
    slopes = np.concatenate([moved, turned], axis=-1)  # [n, 2, 6]
    seen = np.stack([intrinsics.fx * x / z + intrinsics.cx,
                     intrinsics.fy * y / z + intrinsics.cy], axis=1)  # [n, 2]
    pulls = np.einsum('nij,ni->nj', slopes, seen - pixels)  # [n, 6]
    rows = slopes.reshape(-1, 6)
    bend = rows.T @ rows
    # White's estimator: near points err by more pixels than far ones.
    noise = pulls.T @ pulls + MIN_PIXEL_DEVIATION**2 * bend
    try:
        spread = np.linalg.inv(bend)
    except np.linalg.LinAlgError as error:
        raise PoseError('pose: the points leave a direction open') from error
    # Two numbers a measurement, six of them spent on the fit.
    independent = max(measurements - 3.0, 1.0)
    covariance = spread @ noise @ spread * (len(points) / independent)
    return 0.5 * (covariance + covariance.T)  # rounding leaves it not quite symmetric


def _solve_ransac(
    points: np.ndarray, pixels: np.ndarray, intrinsics: Intrinsics, config: PoseConfig,
    limit: float,
) -> np.ndarray:
    try:
        found, rotation, translation, _ = cv2.solvePnPRansac(
            points, pixels, intrinsics.matrix, None, iterationsCount=config.ransac_iterations,
            reprojectionError=limit, confidence=0.9999, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error as error:
        raise PoseError(f'pose: the points admit no solution ({error.err})') from error
    if not found:
        raise PoseError('pose: no camera agrees with the points')
    return _to_transform(rotation, translation)


def _refine(
    camera_from_fragment: np.ndarray, points: np.ndarray, pixels: np.ndarray,
    intrinsics: Intrinsics,
) -> np.ndarray:
    """Return the pose that minimises the squared reprojection error (Levenberg-Marquardt)."""
    rotation, _ = cv2.Rodrigues(camera_from_fragment[:3, :3])
    translation = camera_from_fragment[:3, 3].copy()
    rotation, translation = cv2.solvePnPRefineLM(
        points, pixels, intrinsics.matrix, None, rotation, translation)
    return _to_transform(rotation, translation)


def _to_transform(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
        raise PoseError('pose: the solution is not finite')
    transform = np.eye(4)
    transform[:3, :3] = cv2.Rodrigues(rotation)[0]
    transform[:3, 3] = translation.reshape(3)
    return transform


def _inliers(
    camera_from_fragment: np.ndarray, points: np.ndarray, pixels: np.ndarray,
    intrinsics: Intrinsics, limit: float,
) -> np.ndarray:
    """Return which points [n] lie before the camera and within `limit` pixels of theirs."""
    seen = transform_points(camera_from_fragment, points)
    with np.errstate(divide='ignore', invalid='ignore'):
        projected = seen[:, :2] / seen[:, 2:] * (intrinsics.fx, intrinsics.fy)
    error = np.linalg.norm(projected + (intrinsics.cx, intrinsics.cy) - pixels, axis=1)
    return (seen[:, 2] > 0.0) & (error <= limit)


def _check_inliers(inliers: np.ndarray, points: np.ndarray, config: PoseConfig) -> None:
    needed = max(MIN_POSE_POINTS, config.min_inlier_fraction * len(points))
    if inliers.sum() < needed:
        raise PoseError(f'pose: expected {needed:.0f} of {len(points)} points to agree, '
                        f'got {inliers.sum()}')
    _check_spread(points[inliers])


def _check_spread(points: np.ndarray) -> None:
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if not spread[1] > MIN_SPREAD_RATIO * spread[0]:
        raise PoseError('pose: the points lie on one line')
