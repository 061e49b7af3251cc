# SPDX-License-Identifier: Apache-2.0
"""Errors of similarities: vectors of seven numbers, their Jacobians and covariances.

The error vector of a similarity near the identity is e = (translation, rotation vector, log scale)
of its matrix E = [s R, t; 0, 1], with t as it stands in the matrix. An error of a similarity X is
one on its right side: X_true = X E. It is in the frame that X maps from, about its origin.
"""
from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from .transforms import invert_similarity

SIZE = 7
# Places of the parts in an error vector.
SHIFT, TURN, SCALE = slice(0, 3), slice(3, 6), 6
# Below this angle in radians a series replaces a quotient that loses all digits.
SMALL_ANGLE = 1e-4


def error_vectors(similarities: np.ndarray) -> np.ndarray:
    """Return the error vectors [..., 7] of similarities [..., 4, 4]; angles are below pi."""
    scales = similarity_scales(similarities)
    rotations = similarities[..., :3, :3] / scales[..., None, None]
    errors = np.empty((*scales.shape, SIZE))
    errors[..., SHIFT] = similarities[..., :3, 3]
    errors[..., TURN] = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec().reshape(
        *scales.shape, 3)
    errors[..., SCALE] = np.log(scales)
    return errors


def similarities_of(errors: np.ndarray) -> np.ndarray:
    """Return the similarities [..., 4, 4] of error vectors [..., 7]: inverts `error_vectors`."""
    errors = np.asarray(errors, float)
    turns = Rotation.from_rotvec(errors[..., TURN].reshape(-1, 3)).as_matrix()
    similarities = np.zeros((*errors.shape[:-1], 4, 4))
    similarities[..., :3, :3] = turns.reshape(*errors.shape[:-1], 3, 3) * np.exp(
        errors[..., SCALE])[..., None, None]
    similarities[..., :3, 3] = errors[..., SHIFT]
    similarities[..., 3, 3] = 1.0
    return similarities


def similarity_scales(similarities: np.ndarray) -> np.ndarray:
    """Return the scale factors [...] of similarities [..., 4, 4]."""
    return np.cbrt(np.linalg.det(similarities[..., :3, :3]))


def invert_similarities(similarities: np.ndarray) -> np.ndarray:
    """Return the inverses of similarities [..., 4, 4]."""
    scales = similarity_scales(similarities)
    inverses = np.zeros_like(similarities)
    turned = np.swapaxes(similarities[..., :3, :3], -1, -2) / (scales**2)[..., None, None]
    inverses[..., :3, :3] = turned
    inverses[..., :3, 3] = -(turned @ similarities[..., :3, 3, None])[..., 0]
    inverses[..., 3, 3] = 1.0
    return inverses


def without_rounding(similarities: np.ndarray) -> np.ndarray:
    """Return similarities [..., 4, 4] whose rotations are the nearest to the rounded ones.

    Inverses are built from transposes, so that each product with one adds the errors of both.
    """
    scales = similarity_scales(similarities)[..., None, None]
    u, _, vt = np.linalg.svd(similarities[..., :3, :3] / scales)
    rounded = similarities.copy()
    rounded[..., :3, :3] = scales * (u @ vt)
    return rounded


def adjoints(similarities: np.ndarray) -> np.ndarray:
    """Return the Jacobians [..., 7, 7] of the error vector of G E G^-1 at E = 1, for each G.

    They carry a small error from the frame that G maps from to the one that it maps to.
    """
    scaled, shift = similarities[..., :3, :3], similarities[..., :3, 3]
    rotation = scaled / similarity_scales(similarities)[..., None, None]
    jacobian = np.zeros((*similarities.shape[:-2], SIZE, SIZE))
    jacobian[..., SHIFT, SHIFT] = scaled
    jacobian[..., SHIFT, TURN] = cross_matrices(shift) @ rotation
    jacobian[..., SHIFT, SCALE] = -shift
    jacobian[..., TURN, TURN] = rotation
    jacobian[..., SCALE, SCALE] = 1.0
    return jacobian


def carry_covariance(new_from_frame: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the covariance [7, 7] of an error after a similarity [4, 4] to another frame."""
    jacobian = adjoints(new_from_frame)
    return jacobian @ covariance @ jacobian.T


def composed(first: np.ndarray, first_covariance: np.ndarray, second: np.ndarray,
             second_covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the product of two measured similarities [4, 4] and its covariance [7, 7].

    The errors of both are independent.
    """
    return (first @ second,
            carry_covariance(invert_similarity(second), first_covariance) + second_covariance)


def inverted(measured: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inverse of a measured similarity [4, 4] and its covariance [7, 7]."""
    return invert_similarity(measured), carry_covariance(measured, covariance)


def residuals(measured: np.ndarray, first: np.ndarray, second: np.ndarray,
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return residuals [n, 7] and their Jacobians [n, 7, 7] with respect to both nodes.

    `measured` is `first_from_second` [n, 4, 4], `first` and `second` are the places [n, 4, 4] of
    both nodes in one frame. The residual is the error vector of

        measured^-1 first^-1 second

    A node X moves to X S(d) by a step d, with S = `similarities_of`; the Jacobians are with
    respect to the steps d of the first and of the second node, at d = 0.
    """
    back = invert_similarities(measured)
    error = back @ invert_similarities(first) @ second
    vectors = error_vectors(error)
    turn = vectors[:, TURN]
    to_second = np.zeros((len(vectors), SIZE, SIZE))
    to_second[:, SHIFT, SHIFT] = error[:, :3, :3]
    to_second[:, TURN, TURN] = _inverse_left_jacobians(-turn)
    to_second[:, SCALE, SCALE] = 1.0
    left = np.zeros((len(vectors), SIZE, SIZE))
    left[:, SHIFT, SHIFT] = np.eye(3)
    left[:, SHIFT, TURN] = -cross_matrices(vectors[:, SHIFT])
    left[:, SHIFT, SCALE] = vectors[:, SHIFT]
    left[:, TURN, TURN] = _inverse_left_jacobians(turn)
    left[:, SCALE, SCALE] = 1.0
    return vectors, -left @ adjoints(back), to_second


def cross_matrices(vectors: np.ndarray) -> np.ndarray:
    """Return the matrices [..., 3, 3] of the cross products with vectors [..., 3]."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)


def _inverse_left_jacobians(turns: np.ndarray) -> np.ndarray:
    """Return d log(exp(d) exp(r)) / d d at d = 0 [n, 3, 3] for rotation vectors r [n, 3].

    With -r it is d log(exp(r) exp(d)) / d d.
    """
    angles = np.linalg.norm(turns, axis=-1)
    half = np.maximum(0.5 * angles, 0.5 * SMALL_ANGLE)
    factor = np.where(angles < SMALL_ANGLE, 1.0 / 12.0,
                      (1.0 - half / np.tan(half)) / (4.0 * half**2))
    cross = cross_matrices(turns)
    return np.eye(3) - 0.5 * cross + factor[..., None, None] * (cross @ cross)
