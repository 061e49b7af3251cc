# SPDX-License-Identifier: Apache-2.0
"""Quaternions (x, y, z, w), Euler angles and matrices [4, 4] in ROS's order, on transforms3d.

A stand-in for the part of tf_transformations used here, for machines that lack the genuine one.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from transforms3d import affines, euler, quaternions

Quaternion = tuple[float, float, float, float]


def identity_matrix() -> np.ndarray:
    """Return the transform [4, 4] that moves nothing."""
    return np.eye(4)


def translation_matrix(direction: Sequence[float]) -> np.ndarray:
    """Return the transform [4, 4] that moves by a vector [3]."""
    matrix = np.eye(4)
    matrix[:3, 3] = direction
    return matrix


def translation_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """Return the translation [3] of a transform [4, 4]."""
    return affines.decompose(matrix)[0]


def concatenate_matrices(*matrices: np.ndarray) -> np.ndarray:
    """Return the product of transforms [4, 4]; the last one is applied first."""
    return reduce(np.dot, matrices, np.eye(4))


def inverse_matrix(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of a matrix; numpy's LinAlgError for a singular one."""
    return np.linalg.inv(matrix)


def quaternion_matrix(quaternion: Sequence[float]) -> np.ndarray:
    """Return the rotation [4, 4] of a quaternion of any length; the identity for one of zeros."""
    x, y, z, w = quaternion
    matrix = np.eye(4)
    matrix[:3, :3] = quaternions.quat2mat((w, x, y, z))
    return matrix


def quaternion_from_matrix(matrix: np.ndarray) -> Quaternion:
    """Return the unit quaternion, w >= 0, of the rotation in a transform [4, 4].

    Scale and shear are taken out first; numpy's LinAlgError for a singular matrix.
    """
    w, x, y, z = quaternions.mat2quat(affines.decompose(matrix)[1])
    return x, y, z, w


def quaternion_multiply(quaternion1: Sequence[float], quaternion0: Sequence[float]) -> Quaternion:
    """Return the product of two quaternions; the right one is applied first."""
    (x1, y1, z1, w1), (x0, y0, z0, w0) = quaternion1, quaternion0
    w, x, y, z = quaternions.qmult((w1, x1, y1, z1), (w0, x0, y0, z0))
    return x, y, z, w


def quaternion_conjugate(quaternion: Sequence[float]) -> np.ndarray:
    """Return the quaternion [4] with its vector part turned round."""
    return np.array(quaternion, float) * (-1.0, -1.0, -1.0, 1.0)


def quaternion_inverse(quaternion: Sequence[float]) -> np.ndarray:
    """Return the inverse [4] of a quaternion of any length; not finite for one of zeros."""
    return quaternion_conjugate(quaternion) / np.dot(quaternion, quaternion)


def euler_matrix(ai: float, aj: float, ak: float, axes: str = 'sxyz') -> np.ndarray:
    """Return the rotation [4, 4] of three angles in radians about `axes`.

    `axes` names a frame, (s)tatic or (r)otating, and three axes in the order of application.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = euler.euler2mat(ai, aj, ak, axes)
    return matrix


def euler_from_matrix(matrix: np.ndarray, axes: str = 'sxyz') -> tuple[float, float, float]:
    """Return the three angles in radians of a rotation [3, 3] or [4, 4] about `axes`."""
    return euler.mat2euler(matrix, axes)


def euler_from_quaternion(quaternion: Sequence[float],
                          axes: str = 'sxyz') -> tuple[float, float, float]:
    """Return the three angles in radians of a quaternion of any length about `axes`."""
    return euler_from_matrix(quaternion_matrix(quaternion), axes)


def quaternion_from_euler(ai: float, aj: float, ak: float, axes: str = 'sxyz') -> Quaternion:
    """Return the unit quaternion of three angles in radians about `axes`."""
    w, x, y, z = euler.euler2quat(ai, aj, ak, axes)
    return x, y, z, w
