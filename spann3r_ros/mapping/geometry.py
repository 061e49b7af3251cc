# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms, map axes, and a camera's focal length from a pointmap.

Transforms are 4x4 and named destination first: `a_from_b` takes points of frame b to frame a.
"""
from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from .types import FrameError, Intrinsics, Keyframe, Pointmap

logger = logging.getLogger(__name__)

# REP-103: map x is the optical z, map y the negative optical x, map z the negative optical y.
MAP_FROM_OPTICAL = np.array([
    [0.0, 0.0, 1.0, 0.0],
    [-1.0, 0.0, 0.0, 0.0],
    [0.0, -1.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 1.0],
])
MAP_FROM_OPTICAL.setflags(write=False)

# A camera that looks this much along the vertical has no forward of its own: 10 degrees.
STEEP = 0.985
# Focal lengths are believed between these multiples of the longer side: 118 to 11 degrees.
FOCAL_BOUNDS = (0.3, 5.0)


def map_axes(up: np.ndarray | None) -> np.ndarray:
    """Return `map_from_optical` [4, 4] that turns `up` [3] into z and forward, levelled, into x.

    A camera that looks along `up` takes the side of its image that lies forward for x. None is
    a level camera.
    """
    if up is None:
        return MAP_FROM_OPTICAL
    z = np.asarray(up, float) / np.linalg.norm(up)
    steep = abs(z[2]) > STEEP
    ahead = np.array([0.0, np.sign(z[2]), 0.0]) if steep else np.array([0.0, 0.0, 1.0])
    x = ahead - (ahead @ z) * z
    x /= np.linalg.norm(x)
    transform = np.eye(4)
    transform[:3, :3] = [x, np.cross(z, x), z]
    return transform


def invert(transform: np.ndarray) -> np.ndarray:
    """Return the inverse of a rigid transform [4, 4]."""
    rotation = transform[:3, :3]
    inverse = np.eye(4)
    inverse[:3, :3] = rotation.T
    inverse[:3, 3] = -rotation.T @ transform[:3, 3]
    return inverse


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points [..., 3] moved by a transform [4, 4], in the points' own dtype."""
    if not points.size:
        return points.copy()
    # An order of magnitude faster than numpy's product with a matrix this small.
    rows = np.ascontiguousarray(points).reshape(-1, 1, 3)
    return cv2.transform(rows, transform[:3].astype(points.dtype)).reshape(points.shape)


def depth_of(keyframe: Keyframe) -> np.ndarray:
    """Return z in the camera's optical frame [h, w] of a posed keyframe's points; NaN as there."""
    camera_from_world = invert(keyframe.pose.world_from_camera)
    return transform_points(camera_from_world, keyframe.pointmap.points)[..., 2]


def on_rays(keyframe: Keyframe) -> Keyframe:
    """Return a posed keyframe whose points keep their depth, but lie on the rays of their pixels.

    Cloud, depth image, intrinsics and pose then tell the same. What lies behind the camera, where
    no ray leads, is taken out.
    """
    camera, there = keyframe.intrinsics, keyframe.pose.world_from_camera
    depth = depth_of(keyframe)[..., None]
    ahead = depth > 0.0  # not NaN
    columns, rows = pixel_grid(*depth.shape[:2]).astype(np.float32).T.reshape(2, *depth.shape)
    seen = np.concatenate([(columns - np.float32(camera.cx)) / np.float32(camera.fx),
                           (rows - np.float32(camera.cy)) / np.float32(camera.fy),
                           np.ones_like(depth)], axis=-1) * np.where(ahead, depth, np.nan)
    return replace(keyframe, pointmap=Pointmap(
        transform_points(there, seen),
        np.where(ahead[..., 0], keyframe.pointmap.confidence, np.float32(0.0))))


def move_pose(similarity: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return a camera pose [4, 4] moved by a similarity [4, 4]; it stays rigid."""
    moved = similarity @ pose
    moved[:3, :3] /= similarity_scale(similarity)
    return moved


def move_covariance(similarity: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return a pose's covariance [6, 6] in the frame that a similarity [4, 4] leads to."""
    turn = np.zeros((6, 6))
    turn[:3, :3] = similarity[:3, :3]
    turn[3:, 3:] = similarity[:3, :3] / similarity_scale(similarity)
    return turn @ covariance @ turn.T


def shift_covariance(covariance: np.ndarray, lever: np.ndarray) -> np.ndarray:
    """Return a pose's covariance [6, 6] for a point that is `lever` [3] away, in the same axes."""
    x, y, z = lever
    shift = np.eye(6)
    shift[:3, 3:] = [[0.0, z, -y], [-z, 0.0, x], [y, -x, 0.0]]
    return shift @ covariance @ shift.T


def similarity_scale(similarity: np.ndarray) -> float:
    """Return the factor by which a similarity [4, 4] stretches."""
    return float(np.linalg.norm(similarity[:3, 0]))


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return axis times angle [3] of a rotation matrix [3, 3]."""
    vector = cv2.Rodrigues(rotation)[0][:, 0]
    if vector.any():
        return vector
    # OpenCV rounds what is below 1e-5 to nothing.
    return 0.5 * np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
                           rotation[1, 0] - rotation[0, 1]])


def to_rigid(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Return the transform [4, 4] of a rotation, as a matrix [3, 3] or a vector [3]."""
    transform = np.eye(4)
    transform[:3, :3] = rotation if rotation.size == 9 else cv2.Rodrigues(rotation)[0]
    transform[:3, 3] = translation.reshape(3)
    return transform


def matrix_to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (x, y, z, w), w >= 0, of a rotation matrix [3, 3]."""
    # Plain numbers: numpy takes several times as long over so few.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.asarray(rotation, float).tolist()
    # Four times the quaternion's product with itself: each row is a multiple of it.
    rows = (
        (1.0 + xx - yy - zz, yx + xy, zx + xz, zy - yz),
        (yx + xy, 1.0 - xx + yy - zz, zy + yz, xz - zx),
        (zx + xz, zy + yz, 1.0 - xx - yy + zz, yx - xy),
        (zy - yz, xz - zx, yx - xy, 1.0 + xx + yy + zz),
    )
    largest = max(range(4), key=lambda index: rows[index][index])
    length = math.hypot(*rows[largest])
    if rows[largest][3] < 0.0:
        length = -length
    return np.array([value / length for value in rows[largest]])


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
    pixels = pixel_grid(height, width) - centre  # [h*w, 2]
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


def estimate_intrinsics(pointmap: Pointmap) -> Intrinsics:
    """Return intrinsics for a pointmap that is in its own camera's frame, within `FOCAL_BOUNDS`.

    Raises FrameError as `estimate_focal` does.
    """
    height, width = pointmap.confidence.shape
    focal = estimate_focal(pointmap)
    bounded = bound_focal(focal, height, width)
    if bounded != focal:
        logger.warning('estimated focal length %.1f px is not credible for %dx%d images: '
                       'using %.1f px; give camera_info', focal, width, height, bounded)
    return centred_intrinsics(bounded, height, width)


def bound_focal(focal: float, height: int, width: int) -> float:
    """Return the focal length in pixels, held within `FOCAL_BOUNDS`."""
    low, high = (bound * max(height, width) for bound in FOCAL_BOUNDS)
    return min(max(focal, low), high)


def estimate_focal_reference(points: np.ndarray) -> float:
    """Return the focal length of a pointmap [h, w, 3] by the original's estimator.

    Ten rounds of L1 reweighting over all pixels, about the point (w/2, h/2).
    """
    height, width = points.shape[:2]
    pixels = pixel_grid(height, width) - np.array([width / 2, height / 2])  # [h*w, 2]
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


@lru_cache(maxsize=4)
def pixel_grid(height: int, width: int) -> np.ndarray:
    """Return the (x, y) of every pixel, row by row, float64 [height * width, 2], read-only."""
    y, x = np.mgrid[:height, :width]
    grid = np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)
    grid.setflags(write=False)
    return grid
