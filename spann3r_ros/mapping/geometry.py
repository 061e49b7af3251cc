# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms, map axes, and a camera's focal length and pose from a pointmap.

Transforms are 4x4 and named destination first: `a_from_b` takes points of frame b to frame a.
"""
from __future__ import annotations

import cv2
import numpy as np

from .config import PoseConfig
from .types import FrameError, Intrinsics, Pointmap

# REP-103: map x is the optical z, map y the negative optical x, map z the negative optical y.
MAP_FROM_OPTICAL = np.array([
    [0.0, 0.0, 1.0, 0.0],
    [-1.0, 0.0, 0.0, 0.0],
    [0.0, -1.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 1.0],
])
MAP_FROM_OPTICAL.setflags(write=False)

# Focal lengths are believed between these multiples of the longer side: 118 to 11 degrees.
FOCAL_BOUNDS = (0.3, 5.0)
MIN_POSE_POINTS = 12
# Below this ratio of spreads the points lie on a line (or in one spot) and fix no pose.
MIN_SPREAD_RATIO = 1e-3
REFINE_ROUNDS = 3


class PoseError(FrameError):
    """The points admit no camera pose."""


def invert(transform: np.ndarray) -> np.ndarray:
    """Return the inverse of a rigid transform [4, 4]."""
    rotation = transform[:3, :3]
    inverse = np.eye(4)
    inverse[:3, :3] = rotation.T
    inverse[:3, 3] = -rotation.T @ transform[:3, 3]
    return inverse


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points [..., 3] moved by a transform [4, 4], in the points' own dtype."""
    rotation = transform[:3, :3].astype(points.dtype)
    return points @ rotation.T + transform[:3, 3].astype(points.dtype)


def matrix_to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (x, y, z, w), w >= 0, of a rotation matrix [3, 3]."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.asarray(rotation, float)
    # The quaternion is the dominant eigenvector of this matrix, free of special cases.
    symmetric = np.array([
        [xx - yy - zz, yx + xy, zx + xz, zy - yz],
        [yx + xy, yy - xx - zz, zy + yz, xz - zx],
        [zx + xz, zy + yz, zz - xx - yy, yx - xy],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ])
    quaternion = np.linalg.eigh(symmetric)[1][:, -1]
    return -quaternion if quaternion[3] < 0.0 else quaternion


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrix [3, 3] of a quaternion (x, y, z, w) of any length but zero."""
    quaternion = np.asarray(quaternion, float)
    norm = np.linalg.norm(quaternion)
    if not np.isfinite(norm) or norm < 1e-12:
        raise ValueError(f'quaternion: expected a finite one that is not zero, got {quaternion}')
    x, y, z, w = quaternion / norm
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])


def centred_intrinsics(focal: float, height: int, width: int) -> Intrinsics:
    """Return intrinsics with square pixels and the principal point in the image's middle."""
    return Intrinsics(focal, focal, 0.5 * (width - 1), 0.5 * (height - 1), width, height)


def estimate_focal(pointmap: Pointmap) -> float:
    """Return the focal length in pixels of a pointmap that is in its own camera's frame.

    It minimises the confidence-weighted sum of radial reprojection errors: up to half the weight
    may be wrong. Not clamped; raises FrameError when no point lies in front of the camera.
    """
    height, width = pointmap.confidence.shape
    centre = np.array([0.5 * (width - 1), 0.5 * (height - 1)])
    pixels = _pixel_grid(height, width) - centre  # [h*w, 2]
    points = pointmap.points.reshape(-1, 3).astype(float)
    with np.errstate(all='ignore'):
        rays = points[:, :2] / points[:, 2:]
        lengths = np.linalg.norm(rays, axis=1)
        focals = (pixels * rays).sum(axis=1) / lengths**2
        weights = pointmap.confidence.reshape(-1) * lengths
    good = np.isfinite(focals) & np.isfinite(weights) & (points[:, 2] > 0.0) & (weights > 0.0)
    if not good.any():
        raise FrameError('pointmap: expected points in front of the camera, got none')
    return weighted_median(focals[good], weights[good])


def bound_focal(focal: float, height: int, width: int) -> float:
    """Return the focal length in pixels, held within `FOCAL_BOUNDS`."""
    low, high = (bound * max(height, width) for bound in FOCAL_BOUNDS)
    return min(max(focal, low), high)


def estimate_focal_reference(points: np.ndarray) -> float:
    """Return the focal length of a pointmap [h, w, 3] by the original's estimator.

    Ten rounds of L1 reweighting over all pixels, about the point (w/2, h/2).
    """
    height, width = points.shape[:2]
    pixels = _pixel_grid(height, width) - np.array([width / 2, height / 2])  # [h*w, 2]
    flat = points.reshape(-1, 3).astype(float)
    with np.errstate(all='ignore'):
        rays = flat[:, :2] / flat[:, 2:]
    rays = np.nan_to_num(rays, nan=0.0, posinf=0.0, neginf=0.0)
    products, squares = (pixels * rays).sum(axis=1), (rays**2).sum(axis=1)
    focal = products.mean() / squares.mean()
    for _ in range(10):
        weights = 1.0 / np.maximum(np.linalg.norm(pixels - focal * rays, axis=1), 1e-8)
        focal = (weights * products).mean() / (weights * squares).mean()
    return float(focal)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the value [n] at which half of the weight [n] is reached."""
    order = np.argsort(values, kind='stable')
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, 0.5 * reached[-1])])


def select_points(pointmap: Pointmap, config: PoseConfig) -> np.ndarray:
    """Return flat indices of the pixels that may vote for a pose.

    They are the finite ones above `min_confidence`, of those the `best_fraction` most confident,
    thinned evenly to `max_points`.
    """
    confidence = pointmap.confidence.reshape(-1)
    finite = np.isfinite(pointmap.points).all(axis=-1).reshape(-1)
    # 'Ignore confidence' must let points of confidence zero vote too.
    above = confidence > config.min_confidence if config.min_confidence > 0.0 else True
    voters = np.flatnonzero(finite & np.isfinite(confidence) & above)
    if len(voters) and config.best_fraction < 1.0:
        bar = np.quantile(confidence[voters], 1.0 - config.best_fraction)
        voters = voters[confidence[voters] >= bar]
    if len(voters) > config.max_points:
        # Drawn by chance, since an even stride would favour some image columns.
        rng = np.random.default_rng(0)
        voters = np.sort(rng.choice(voters, config.max_points, replace=False))
    return voters


def solve_pose(pointmap: Pointmap, intrinsics: Intrinsics, config: PoseConfig) -> np.ndarray:
    """Return `fragment_from_camera` [4, 4] by PnP-RANSAC and refinement on the inliers.

    Raises PoseError when the points are too few, degenerate or in disagreement.
    """
    voters = select_points(pointmap, config)
    if len(voters) < MIN_POSE_POINTS:
        raise PoseError(f'pose: expected {MIN_POSE_POINTS} usable points, got {len(voters)}')
    points = pointmap.points.reshape(-1, 3)[voters].astype(float)
    pixels = _pixel_grid(*pointmap.confidence.shape)[voters]
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
    return invert(camera_from_fragment)


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


def _pixel_grid(height: int, width: int) -> np.ndarray:
    """Return the (x, y) of every pixel, row by row, float64 [height * width, 2]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)
