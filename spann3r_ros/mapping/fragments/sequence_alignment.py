# SPDX-License-Identifier: Apache-2.0
"""The similarity between two sequences that have seen the same images.

Pixel i of a shared image has the ray (u, v, 1) and the depth d_i in the first sequence, whose
camera T_k is known, and the point X_i in the second one. The similarity S = first_from_second
moves it to Y_i = S X_i, seen in the camera at (x, y, z):

    r_i = ( x/z - u,  y/z - v,  log z - log d_i )      across the ray, and along it
    q_i = (r_1^2 + r_2^2) / a^2 + r_3^2 / b^2          a, b: standard deviations
    w_i = c_i (1 + q_i / 9)^-2                        Geman and McClure; c_i: confidence

a and b are those of a normal distribution with the median of |r| that the pixels have, which in
each step are weighted by w_i. They never grow from step to step, so that outliers on one side do
not draw the similarity to them.

The scale begins as the median of log d_i - log (depth of X_i in its own camera), weighted by the
confidence, the rest as the pose of the image with the most pixels. Gauss-Newton on all pixels of
all images minimises the cost whose weights are w_i. A small similarity (t, r, s) acts about the
middle g of the points: Y + t + r x (Y - g) + s (Y - g). A step never leaves the rotations, so that
no input gives a reflection.

The errors of a network are alike in a patch of the image and in successive images. The covariance
therefore has the score of each of 4 x 4 cells of the image, over all images, as one measurement:

    H = sum of the Hessians             G_c = sum over cell c of w_i J_i^T W r_i
    P = 1.5 H^-1 (sum G_c G_c^T) H^-1 n / (n - 7) + floor      n: cells with pixels

The factor 1.5 allows for errors that neighbouring cells have in common.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.transforms import (
    invert,
    move_pose,
    rotation_vector,
    to_rigid,
)
from spann3r_ros.core.types import FrameError
from spann3r_ros.mapping.tracking.focal_length import weighted_median

from .shared_views import CELLS, SharedPixels, SharedView, usable

# Fewer confident pixels, in all images together, give no similarity.
MIN_SHARED_POINTS = 200
# So many pixels at most enter the fit, evenly over the images.
MAX_POINTS = 3000
# A pixel agrees if its depths differ by less than this (logarithm), and its point is less than
# this, as a share of the focal length, beside its ray.
MAX_DEPTH_ERROR = 0.1
MAX_RAY_ERROR = 0.04
# Least share of the pixels that must agree.
MIN_AGREEING = 0.35
# The least number of cells with pixels.
MIN_CELLS = 8
# Factor on the covariance for what neighbouring cells have in common.
NEIGHBOURS = 1.5
# Degrees of freedom of a similarity.
FREEDOM = 7
# q at which the weight is a quarter.
KERNEL = 9.0
MAX_STEPS = 20
SMALL_STEP = 1e-4
# Standard deviation of a normal distribution over the median length of two and of one component.
TO_DEVIATION = 0.849, 1.483
# Lower bounds of a and b, of a tenth of a pixel in 200 and of the depth.
MIN_DEVIATION = 5e-4, 1e-3
# Lower bound of the deviations of a join: shift in units of the depth, rotation, log scale.
FLOOR = np.repeat([1e-3, 1e-3, 1e-3], [3, 3, 1])
# Largest standard deviations of a join along any axis, in these units.
MAX_DEVIATION = np.repeat([0.1, 0.1, 0.1], [3, 3, 1])
# Largest difference of the pose of an image in both sequences: shift in units of the depth, angle.
MAX_POSE_ERROR = 0.15, np.radians(6.0)


class AlignmentError(FrameError):
    """Two sequences cannot be aligned by the images that they share."""


@dataclass(frozen=True)
class Alignment:
    """A measured similarity `first_from_second` [4, 4].

    `covariance` [7, 7] is that of the similarity E in `true = E first_from_second`: of its shift,
    rotation vector and log scale about the origin of the first sequence, along its axes. `points`
    pixels were confident in both sequences, the share `agreeing` of them agrees. `spread` is the
    standard deviation of the log depth ratios of these, `distance` their median depth.
    """

    first_from_second: np.ndarray
    covariance: np.ndarray
    points: int
    agreeing: float
    spread: float
    distance: float


def align(views: Sequence[SharedView]) -> Alignment:
    """Return the similarity that moves the second sequence's points to the first one's.

    Raises AlignmentError if too few pixels are confident or agree, if they do not determine the
    similarity, or if it contradicts the poses of the cameras.
    """
    chosen = [np.flatnonzero(usable(view)) for view in views]
    count = sum(map(len, chosen))
    if count < MIN_SHARED_POINTS:
        raise AlignmentError(f'fragment: expected {MIN_SHARED_POINTS} confident points shared '
                             f'with the last one, got {count}')
    pixels = SharedPixels(views, [one[::-(-count // MAX_POINTS)] for one in chosen])
    similarity = _start(views, chosen, pixels)
    fit = _Linearisation(pixels, similarity)
    for _ in range(MAX_STEPS):
        step = fit.step()
        fit = _Linearisation(pixels, fit.moved(step), fit)
        if np.abs(step / fit.unit).max() < SMALL_STEP:
            break
    similarity = fit.similarity
    if fit.agreeing < MIN_AGREEING:
        raise AlignmentError(f'fragment: expected {MIN_AGREEING:.0%} of the points to agree on '
                             f'a place and a scale, got {fit.agreeing:.0%}')
    covariance = fit.covariance()
    _check_poses(views, similarity, fit.distance)
    return Alignment(similarity, _about_origin(covariance, fit.middle), count, fit.agreeing,
                     fit.spread, fit.distance)


def _start(views: Sequence[SharedView], chosen: Sequence[np.ndarray],
           pixels: SharedPixels) -> np.ndarray:
    """Return a similarity by the depth ratios of all images and the pose of one of them."""
    ratios = np.empty(len(pixels.log_depth))
    for view, first, last in zip(views, pixels.bounds[:-1], pixels.bounds[1:], strict=True):
        row = invert(view.second_from_camera)[2]
        depth = row[:3] @ pixels.points[:, first:last] + row[3]
        with np.errstate(invalid='ignore', divide='ignore'):
            ratios[first:last] = pixels.log_depth[first:last] - np.log(depth)
    good = np.isfinite(ratios)
    if good.sum() < MIN_AGREEING * len(good):
        raise AlignmentError(f'fragment: expected {MIN_AGREEING:.0%} of the points in front of '
                             f'the camera, got {good.mean():.0%}')
    scale = np.exp(weighted_median(ratios[good], pixels.weights[good]))
    best = views[int(np.argmax([len(one) for one in chosen]))]
    return (best.first_from_camera @ np.diag([scale, scale, scale, 1.0])
            @ invert(best.second_from_camera))


class _Linearisation:
    """The residuals of all pixels about a similarity; the module's docstring has the equations."""

    def __init__(self, pixels: SharedPixels, similarity: np.ndarray,
                 before: _Linearisation | None = None) -> None:
        self.similarity = similarity
        placed = similarity[:3, :3] @ pixels.points + similarity[:3, 3:]
        self.middle = np.median(placed, axis=1)
        arms = placed - self.middle[:, None]
        seen, self._jacobian = np.empty_like(placed), np.empty((3, FREEDOM, len(arms[0])))
        for camera, first, last in zip(pixels.cameras, pixels.bounds[:-1], pixels.bounds[1:],
                                       strict=True):
            part = np.s_[:, first:last]
            seen[part] = camera[:3, :3] @ placed[part] + camera[:3, 3:]
            self._jacobian[:, :, first:last] = _jacobian(camera[:3, :3], arms[part], seen[part])
        # A point behind the camera counts as far beside its ray.
        front = seen[2] > 0.0
        depth = np.where(front, seen[2], np.inf)
        self._residuals = np.stack([seen[0] / depth - pixels.rays[0],
                                    seen[1] / depth - pixels.rays[1],
                                    np.log(np.where(front, seen[2], 1.0)) - pixels.log_depth])
        self._residuals[2, ~front] = np.inf
        beside = np.hypot(*self._residuals[:2])
        along = np.abs(self._residuals[2])
        agreeing = (beside < MAX_RAY_ERROR) & (along < MAX_DEPTH_ERROR)
        self.agreeing = float(agreeing.mean())
        self.spread = float(self._residuals[2, agreeing].std()) if agreeing.any() else np.inf
        self.distance = float(np.exp(np.median(pixels.log_depth)))
        # Units of a step: shift, rotation, log scale.
        self.unit = np.repeat([self.distance, 1.0, 1.0], [3, 3, 1])
        self._residuals[:, ~front] = 0.0
        weights = pixels.weights if before is None else before._weights
        deviations = [max(least, factor * weighted_median(one, weights))
                      for least, one, factor in zip(MIN_DEVIATION, (beside, along), TO_DEVIATION,
                                                    strict=True)]
        if before is not None:
            deviations = np.minimum(deviations, before._deviations)
        self._deviations = deviations
        self._inverse = 1.0 / np.square(np.repeat(deviations, [2, 1]))
        self._q = (self._inverse[:, None] * self._residuals**2).sum(axis=0) / KERNEL
        self._weights = np.where(front, pixels.weights * (1.0 + self._q)**-2, 0.0)
        self._cells = pixels.cells
        scaled = self._jacobian * self.unit[:, None]
        self._jacobian = scaled
        self._scores = np.einsum('kin,k,kn->in', scaled, self._inverse, self._residuals)
        self._normal = np.einsum('kin,k,n,kjn->ij', scaled, self._inverse, self._weights, scaled,
                                 optimize=True)

    def step(self) -> np.ndarray:
        """Return the step [7] of Gauss-Newton."""
        gradient = self._scores @ self._weights
        try:
            return -np.linalg.solve(self._normal, gradient) * self.unit
        except np.linalg.LinAlgError as error:
            raise AlignmentError('fragment: the shared points do not determine its place'
                                 ) from error

    def moved(self, step: np.ndarray) -> np.ndarray:
        """Return the similarity after a step about the middle of the points."""
        grown = np.exp(step[6])
        change = to_rigid(step[3:6], np.zeros(3))
        change[:3, :3] *= grown
        change[:3, 3] = self.middle + step[:3] - change[:3, :3] @ self.middle
        return change @ self.similarity

    def covariance(self) -> np.ndarray:
        """Return the covariance [7, 7] about the middle; AlignmentError if it is too large."""
        occupied = np.unique(self._cells[self._weights > 0.0])
        if len(occupied) < MIN_CELLS:
            raise AlignmentError(f'fragment: expected shared points in {MIN_CELLS} of '
                                 f'{CELLS**2} parts of the image, got {len(occupied)}')
        # The weights fall with the residuals, which makes the cost flatter than its weights.
        flat = 4.0 / KERNEL * self._weights / (1.0 + self._q)
        hessian = self._normal - np.einsum('in,n,jn->ij', self._scores, flat, self._scores,
                                           optimize=True)
        weighted = self._weights * self._scores
        scores = np.stack([np.bincount(self._cells, one, CELLS**2) for one in weighted])
        eigenvalues = np.linalg.eigvalsh(hessian)
        if not eigenvalues[0] > 1e-9 * eigenvalues[-1]:
            raise AlignmentError('fragment: the shared points do not determine its place')
        inverse = np.linalg.inv(hessian)
        independent = max(len(occupied) - FREEDOM, 1)
        covariance = (inverse @ scores @ scores.T @ inverse
                      * (NEIGHBOURS * len(occupied) / independent) + np.diag(FLOOR**2))
        deviations = np.sqrt(np.diag(covariance))
        if not (deviations <= MAX_DEVIATION).all():
            raise AlignmentError(
                'fragment: expected deviations up to '
                f'{MAX_DEVIATION[0]:.0%} of the depth, {np.degrees(MAX_DEVIATION[3]):.1f} degrees '
                f'and {MAX_DEVIATION[6]:.0%} of the scale, got {deviations[:3].max():.1%}, '
                f'{np.degrees(deviations[3:6].max()):.1f} and {deviations[6]:.1%}')
        covariance *= self.unit[:, None] * self.unit
        return 0.5 * (covariance + covariance.T)


def _jacobian(turn: np.ndarray, arms: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the derivative [3, 7, n] of the residuals by a similarity about the middle.

    `turn` [3, 3] are the camera's axes; `arms` [3, n] and `seen` [3, n] the points from the middle
    and in the camera.
    """
    x, y, z = arms
    zero = np.zeros_like(x)
    # Columns of the motion of a point: shift, rotation vector, log scale.
    motion = np.empty((3, FREEDOM, len(x)))
    motion[:, :3] = np.eye(3)[:, :, None]
    motion[:, 3:6] = [[zero, z, -y], [-z, zero, x], [y, -x, zero]]
    motion[:, 6] = arms
    motion = np.tensordot(turn, motion, axes=1)
    depth = np.where(seen[2] > 0.0, seen[2], np.inf)
    motion /= depth
    motion[:2] -= (seen[:2] / depth)[:, None] * motion[2]
    return motion


def _check_poses(views: Sequence[SharedView], similarity: np.ndarray, distance: float) -> None:
    """Raise AlignmentError if the similarity contradicts the poses of most cameras."""
    shifts, angles = [], []
    for view in views:
        moved = move_pose(similarity, view.second_from_camera)
        shifts.append(np.linalg.norm(moved[:3, 3] - view.first_from_camera[:3, 3]) / distance)
        angles.append(np.linalg.norm(rotation_vector(
            moved[:3, :3] @ view.first_from_camera[:3, :3].T)))
    shift, angle = float(np.median(shifts)), float(np.median(angles))
    if shift > MAX_POSE_ERROR[0] or angle > MAX_POSE_ERROR[1]:
        raise AlignmentError(
            'fragment: expected the cameras of both sequences within '
            f'{MAX_POSE_ERROR[0]:.0%} of the depth and {np.degrees(MAX_POSE_ERROR[1]):.0f} '
            f'degrees, got {shift:.0%} and {np.degrees(angle):.1f}')


def _about_origin(covariance: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return a covariance [7, 7] about a point as one about the origin of the same axes."""
    x, y, z = middle
    shift = np.eye(FREEDOM)
    shift[:3, 3:6] = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]
    shift[:3, 6] = -middle
    return shift @ covariance @ shift.T
