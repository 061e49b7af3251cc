# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms, similarities, rotations and map axes.

Transforms are 4x4 and named destination first: `a_from_b` moves points of frame b to frame a.
"""
from __future__ import annotations

import math

import cv2
import numpy as np

# REP-103: map x is the optical z, map y the negative optical x, map z the negative optical y.
MAP_FROM_OPTICAL = np.array([
    [0.0, 0.0, 1.0, 0.0],
    [-1.0, 0.0, 0.0, 0.0],
    [0.0, -1.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 1.0],
])
MAP_FROM_OPTICAL.setflags(write=False)

# Largest share of a voxel by which float32 coordinates may be apart.
MAX_STEP_SHARE = 0.1
# Largest difference of a rotation times its transpose from the identity.
RIGID_TOLERANCE = 1e-3
# The same from which on rounding is removed.
ROUNDING_TOLERANCE = 1e-12
# Cosine of 10 degrees. A camera that looks closer to the vertical has no usable forward direction.
STEEP = 0.985


def map_axes(up: np.ndarray) -> np.ndarray:
    """Return `map_from_optical` [4, 4]: map z along `up` [3], map x along the horizontal forward.

    Forward is the viewing direction. For a camera that looks nearly along `up` or against it,
    forward is the direction of the image's upper or lower border.
    """
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


def without_rounding(transform: np.ndarray) -> np.ndarray:
    """Return a rigid transform [4, 4] with the rotation that is nearest to its rounded one.

    Products with inverses double the rounding, so that a long chain of them has to remove it. A
    transform that is hardly rounded is returned as it is.
    """
    rotation = transform[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() < ROUNDING_TOLERANCE:
        return transform
    u, _, vt = np.linalg.svd(rotation)
    return to_rigid(u @ vt, transform[:3, 3])


def is_rigid(transform: np.ndarray) -> bool:
    """Return whether an array is a finite transform [4, 4] of a rotation and a shift."""
    if transform.shape != (4, 4) or not np.isfinite(transform).all():
        return False
    rotation = transform[:3, :3]
    return bool(np.allclose(rotation @ rotation.T, np.eye(3), atol=RIGID_TOLERANCE)
                and np.linalg.det(rotation) > 0.0)


def is_similarity(transform: np.ndarray) -> bool:
    """Return whether an array is a finite transform [4, 4] of a scale, a rotation and a shift."""
    if transform.shape != (4, 4) or not np.isfinite(transform).all():
        return False
    scale = similarity_scale(transform)
    return bool(scale > 0.0 and np.array_equal(transform[3], [0.0, 0.0, 0.0, 1.0])
                and is_rigid(transform / [scale, scale, scale, 1.0]))


def invert_similarity(transform: np.ndarray) -> np.ndarray:
    """Return the inverse of a similarity [4, 4]."""
    turn = transform[:3, :3].T / similarity_scale(transform)**2
    inverse = np.eye(4)
    inverse[:3, :3] = turn
    inverse[:3, 3] = -turn @ transform[:3, 3]
    return inverse


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points [..., 3] moved by a transform [4, 4], in the points' own dtype."""
    if not points.size:
        return points.copy()
    # An order of magnitude faster than numpy's product with a matrix this small.
    rows = np.ascontiguousarray(points).reshape(-1, 1, 3)
    return cv2.transform(rows, transform[:3].astype(points.dtype)).reshape(points.shape)


def float32_step(points: np.ndarray) -> float:
    """Return the distance of float32 numbers at the largest coordinate of points [..., 3].

    Coordinates that are not finite are left out; 0.0 if there are no others.
    """
    largest = np.abs(points[np.isfinite(points)]).max(initial=0.0)
    return float(np.spacing(np.float32(largest))) if largest else 0.0


def rounding_warning(points: np.ndarray, voxel_size: float) -> str:
    """Return a warning for points whose float32 coordinates are too coarse for voxels, or ''.

    They are if their step exceeds `MAX_STEP_SHARE` of the voxel size.
    """
    step = float32_step(points)
    if step <= MAX_STEP_SHARE * voxel_size:
        return ''
    return (f'the map is so far from its origin that the points of clouds, in float32, are '
            f'{step:.2g} apart, with voxels of {voxel_size:.2g}: choose a map_frame with a nearer '
            'origin')


def move_pose(similarity: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return a camera pose [4, 4] moved by a similarity [4, 4]; it stays rigid."""
    moved = similarity @ pose
    moved[:3, :3] /= similarity_scale(similarity)
    return moved


def move_covariance(similarity: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return a pose's covariance [6, 6] after a similarity [4, 4] to another frame."""
    turn = np.zeros((6, 6))
    turn[:3, :3] = similarity[:3, :3]
    turn[3:, 3:] = similarity[:3, :3] / similarity_scale(similarity)
    return turn @ covariance @ turn.T


def shift_covariance(covariance: np.ndarray, lever: np.ndarray) -> np.ndarray:
    """Return a pose's covariance [6, 6] moved to a point at the offset `lever` [3], same axes."""
    shift = shift_jacobian(lever)
    return shift @ covariance @ shift.T


def shift_jacobian(lever: np.ndarray) -> np.ndarray:
    """Return the Jacobian [6, 6] of a pose's error moved to a point at the offset `lever` [3]."""
    x, y, z = lever
    shift = np.eye(6)
    shift[:3, 3:] = [[0.0, z, -y], [-z, 0.0, x], [y, -x, 0.0]]
    return shift


def similarity_scale(similarity: np.ndarray) -> float:
    """Return the scale factor of a similarity [4, 4]."""
    return float(np.linalg.norm(similarity[:3, 0]))


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return the rotation vector [3], axis times angle, of a rotation matrix [3, 3]."""
    vector = cv2.Rodrigues(rotation)[0][:, 0]
    if vector.any():
        return vector
    # OpenCV returns zero for angles below 1e-5.
    return 0.5 * np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
                           rotation[1, 0] - rotation[0, 1]])


def to_rigid(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Return the rigid transform [4, 4] of a rotation, matrix [3, 3] or vector [3], and shift."""
    transform = np.eye(4)
    transform[:3, :3] = rotation if rotation.size == 9 else cv2.Rodrigues(rotation)[0]
    transform[:3, 3] = translation.reshape(3)
    return transform


def matrix_to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (x, y, z, w), w >= 0, of a rotation matrix [3, 3]."""
    # Python numbers: numpy takes several times as long for so few.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.asarray(rotation, float).tolist()
    # Four times the outer product of the quaternion with itself: each row is a multiple of it.
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


def slerp(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Return the unit quaternion [4] at a share of the shorter turn between two quaternions.

    Share 0 is `first`, share 1 is `second` or its negative, which is the same rotation. Both may
    have any length but zero.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    if first @ second < 0.0:
        second = -second
    # The arc cosine of the product would lose half of the digits for small angles.
    angle = 2.0 * math.atan2(np.linalg.norm(second - first), np.linalg.norm(second + first))
    if angle < 1e-12:
        return first
    mixed = (math.sin((1.0 - share) * angle) * first
             + math.sin(share * angle) * second) / math.sin(angle)
    return mixed / np.linalg.norm(mixed)


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

