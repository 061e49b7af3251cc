# SPDX-License-Identifier: Apache-2.0
"""Errors between camera poses `world_from_camera` [n, 4, 4] and true ones."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.transforms import rotation_vector


@dataclass(frozen=True)
class Similarity:
    """Maps source points to target points: x -> scale * rotation @ x + translation."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Return the mapped points [..., 3]."""
        return self.scale * points @ self.rotation.T + self.translation


@dataclass(frozen=True)
class RelativeErrors:
    """Errors of the motion over `step` frames, one entry per pair; scale already applied."""

    translation: np.ndarray
    rotation_deg: np.ndarray


@dataclass(frozen=True)
class PathErrors:
    """Errors of a path after one similarity, in the truth's unit; RMS over all poses or steps."""

    path_length: float
    trajectory_error: float
    translation: float
    rotation_deg: float


def check_poses(name: str, poses: np.ndarray) -> np.ndarray:
    """Return the poses as float64 [n, 4, 4]; ValueError if empty, misshapen or not finite."""
    poses = np.asarray(poses, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) == 0:
        raise ValueError(f'{name}: expected poses [n, 4, 4], at least one, got {poses.shape}')
    if not np.isfinite(poses).all():
        raise ValueError(f'{name}: expected finite poses, got NaN or infinity')
    return poses


def check_pose_pairs(estimate: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two corresponding float64 arrays [n, 4, 4]; ValueError for different lengths."""
    estimate, truth = check_poses('estimate', estimate), check_poses('truth', truth)
    if len(estimate) != len(truth):
        raise ValueError(f'estimate and truth: expected as many poses in both, '
                         f'got {len(estimate)} and {len(truth)}')
    return estimate, truth


def rotation_angles_deg(rotations: np.ndarray) -> np.ndarray:
    """Return the angle of each rotation matrix [n, 3, 3] in degrees."""
    # atan2 of sine and cosine, as arccos alone loses half the digits near zero.
    skew = rotations - np.swapaxes(rotations, -1, -2)
    sine = 0.5 * np.sqrt(skew[:, 2, 1] ** 2 + skew[:, 0, 2] ** 2 + skew[:, 1, 0] ** 2)
    cosine = 0.5 * (np.trace(rotations, axis1=-2, axis2=-1) - 1.0)
    return np.degrees(np.arctan2(sine, cosine))


def rotation_errors_deg(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the angle between corresponding orientations in degrees [n]; nothing is aligned."""
    estimate, truth = check_pose_pairs(estimate, truth)
    return rotation_angles_deg(np.swapaxes(estimate[:, :3, :3], 1, 2) @ truth[:, :3, :3])


def fit_similarity(source: np.ndarray, target: np.ndarray, with_scale: bool = True,
                   weights: np.ndarray | None = None) -> Similarity:
    """Return the least-squares similarity (or rigid motion) taking source [n, 3] to target.

    The closed form of Umeyama (1991); `weights` [n] are those of the squares. For collinear points
    the rotation about their line is not determined; one minimiser is returned. ValueError for
    fewer than two different points.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or len(source) < 2:
        raise ValueError(f'source and target: expected two arrays [n >= 2, 3] of one shape, '
                         f'got {source.shape} and {target.shape}')
    source_mean, target_mean = (np.average(points, axis=0, weights=weights)
                                for points in (source, target))
    source_part, target_part = source - source_mean, target - target_mean
    if weights is not None:
        root = np.sqrt(weights)[:, None]
        source_part, target_part = root * source_part, root * target_part
    variance = (source_part ** 2).sum()
    if variance == 0.0:
        raise ValueError('source: expected at least two different points, got one')
    u, spread, vt = np.linalg.svd(target_part.T @ source_part)
    mirror = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * mirror) @ vt
    scale = float((spread * mirror).sum() / variance) if with_scale else 1.0
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def mean_rotation(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] that best maps estimated orientations to the true ones.

    Unlike a rotation fitted to camera centres, it is also determined for short and straight paths.
    """
    estimate, truth = check_pose_pairs(estimate, truth)
    summed = np.einsum('nij,nkj->ik', truth[:, :3, :3], estimate[:, :3, :3])
    u, _, vt = np.linalg.svd(summed)
    return (u * [1.0, 1.0, np.linalg.det(u) * np.linalg.det(vt)]) @ vt


def relative_pose_errors(estimate: np.ndarray, truth: np.ndarray, step: int = 1,
                         scale: float = 1.0) -> RelativeErrors:
    """Return errors of the motion from frame i to frame i + step, estimates times `scale`."""
    estimate, truth = check_pose_pairs(estimate, truth)
    if not 0 < step < len(truth):
        raise ValueError(f'step: expected 1 to {len(truth) - 1}, got {step}')
    estimate = estimate.copy()
    estimate[:, :3, 3] *= scale
    error = np.linalg.inv(motion(truth, step)) @ motion(estimate, step)
    return RelativeErrors(np.linalg.norm(error[:, :3, 3], axis=1),
                          rotation_angles_deg(error[:, :3, :3]))


def path_errors(estimate: np.ndarray, truth: np.ndarray) -> PathErrors:
    """Return ATE and RPE between consecutive poses of corresponding paths [n, 4, 4].

    ValueError for fewer than two poses, or a camera that does not move.
    """
    estimate, truth = check_pose_pairs(estimate, truth)
    alignment = fit_similarity(estimate[:, :3, 3], truth[:, :3, 3])
    steps = relative_pose_errors(estimate, truth, scale=alignment.scale)
    return PathErrors(
        float(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum()),
        root_mean_square(alignment.apply(estimate[:, :3, 3]) - truth[:, :3, 3]),
        float(np.sqrt((steps.translation ** 2).mean())),
        float(np.sqrt((steps.rotation_deg ** 2).mean())))


def scale_error(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return by what share a path [n, 4, 4] is too long (above zero) or too short.

    ValueError for fewer than two poses, or a camera that does not move.
    """
    estimate, truth = check_pose_pairs(estimate, truth)
    # The inverse fit: noise of the estimate must not look as if the path were too long.
    return fit_similarity(truth[:, :3, 3], estimate[:, :3, 3]).scale - 1.0


def normalised_errors_squared(estimate: np.ndarray, covariances: np.ndarray, truth: np.ndarray,
                              scale: float) -> np.ndarray:
    """Return the NEES of poses [n, 4, 4] with covariances [n, 6, 6], divided by six [n].

    Its mean is one if the covariances are those of the errors. Estimates are in the frame of the
    truth and are multiplied by `scale`; nothing else is aligned. Covariances are of position and
    rotation (radians, about the camera), along the axes of the frame, in units of the estimate.
    """
    estimate, truth = check_pose_pairs(estimate, truth)
    errors = np.empty((len(truth), 6))
    errors[:, :3] = scale * estimate[:, :3, 3] - truth[:, :3, 3]
    turns = estimate[:, :3, :3] @ np.swapaxes(truth[:, :3, :3], 1, 2)
    errors[:, 3:] = [rotation_vector(turn) for turn in turns]
    unit = np.repeat([scale, 1.0], 3)
    scaled = unit[:, None] * np.asarray(covariances, np.float64) * unit
    return np.einsum('ni,ni->n', errors, np.linalg.solve(scaled, errors[..., None])[..., 0]) / 6.0


def motion(poses: np.ndarray, step: int) -> np.ndarray:
    """Return camera i from camera i + step for all i [n - step, 4, 4]."""
    return np.linalg.inv(poses[:-step]) @ poses[step:]


def root_mean_square(offsets: np.ndarray) -> float:
    """Return the root of the mean squared length of the rows [n, 3]."""
    return float(np.sqrt((offsets ** 2).sum(axis=1).mean()))
