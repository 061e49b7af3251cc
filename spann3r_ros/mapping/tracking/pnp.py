# SPDX-License-Identifier: Apache-2.0
"""Camera pose and its covariance from a pointmap: PnP by RANSAC and Gauss-Newton.

A confident point X_i of the pointmap, in the frame of the fragment, is observed at a pixel
(u_i, v_i). The camera's pose projects X_i to a pixel. The residual r_i = (`residual_u`,
`residual_v`) is that pixel minus the observed one. A step d [6] is a small motion of the points in
the camera's frame: shift, then rotation vector. J_i = dr_i / dd [2, 6] has the rows `jacobian_u`
and `jacobian_v`. Sums run over the n inliers:

    H = sum J_i^T J_i                            normal_matrix
    d = -H^-1 sum J_i^T r_i                      Gauss-Newton step
    M = sum J_i^T r_i r_i^T J_i                  meat of White's sandwich covariance
    P = H^-1 (M + s^2 H) H^-1 n / max(m - 3, 1)  `covariance`
    P_shared = H^-1 M H^-1 n                     `shared_covariance`

s is `MIN_PIXEL_DEVIATION`. m is the number of independent measurements, which is much smaller than
n: neighbouring pixels have nearly the same error, so `PIXELS_PER_MEASUREMENT` of them count as
one. P_shared assumes that all points have one error in common. Both are rotated into the axes of
the fragment.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics, pixel_grid
from spann3r_ros.core.transforms import invert, to_rigid
from spann3r_ros.core.types import FrameError, Pointmap, finite_points
from spann3r_ros.mapping.mapper_config import PoseConfig

MIN_POSE_POINTS = 12
# Second largest standard deviation of the points over their largest one. Below this ratio the
# points lie on a line or in one spot, and they determine no pose.
MIN_SPREAD_RATIO = 1e-3
MAX_REFINEMENTS = 10
# The refinement ends at a smaller step: rotation in radians, shift divided by the distance.
SMALL_STEP = 1e-4
# RANSAC uses at most so many points. The refinement uses all of them.
RANSAC_POINTS = 500
# The network's errors are nearly equal within a patch: so many pixels count as one measurement.
PIXELS_PER_MEASUREMENT = 256
# Lower bound of a pixel's standard deviation, however small the residuals are.
MIN_PIXEL_DEVIATION = 0.1


class PoseError(FrameError):
    """The points admit no camera pose."""


@dataclass(frozen=True)
class PoseSolution:
    """A camera's pose in the fragment.

    `fragment_from_camera` [4, 4] is the pose. `covariance` [6, 6] is that of the error in position
    (fragment units) and in rotation (radians, about the camera), along the fragment's axes.
    `shared_covariance` [6, 6] is the covariance if all points had one error in common.
    `inlier_share` is the share of the candidate points that are inliers, `distance` the harmonic
    mean of their depths in fragment units.
    """

    fragment_from_camera: np.ndarray
    covariance: np.ndarray
    shared_covariance: np.ndarray
    inlier_share: float
    distance: float


def select_points(pointmap: Pointmap, config: PoseConfig) -> np.ndarray:
    """Return flat indices of the candidate points for a pose.

    A candidate is finite and its confidence is above `min_confidence`. Of these, the
    `best_fraction` with the highest confidence is returned.
    """
    confidence = pointmap.confidence.reshape(-1)
    finite = finite_points(pointmap.points).reshape(-1)
    # min_confidence 0.0 switches the threshold off: points of confidence zero are candidates too.
    above = confidence > config.min_confidence if config.min_confidence > 0.0 else True
    candidates = np.flatnonzero(finite & np.isfinite(confidence) & above)
    if len(candidates) and config.best_fraction < 1.0:
        candidate_confidence = confidence[candidates]
        last = int((1.0 - config.best_fraction) * (len(candidates) - 1))
        threshold = np.partition(candidate_confidence, last)[last]
        candidates = candidates[candidate_confidence >= threshold]
    return candidates


def solve_pose(pointmap: Pointmap, intrinsics: Intrinsics, config: PoseConfig) -> PoseSolution:
    """Return the camera's pose by PnP-RANSAC and refinement on the inliers.

    Raises PoseError when the points are too few or degenerate, or when too few are inliers.
    """
    chosen, measurements = draw_points(pointmap, config)
    return fit_pose(*_observed(pointmap, chosen), intrinsics, config, config.max_reprojection,
                    measurements)


def assess_projection(fragment_from_camera: np.ndarray, pointmap: Pointmap,
                      intrinsics: Intrinsics, config: PoseConfig, limit: float) -> PoseSolution:
    """Return a given pose [4, 4] with the covariance that its reprojection errors imply.

    An inlier is at most `limit` pixels off. Raises PoseError as `solve_pose` does.
    """
    chosen, measurements = draw_points(pointmap, config)
    points, pixels = _observed(pointmap, chosen)
    camera_from_fragment = invert(fragment_from_camera)
    inliers = _inliers(camera_from_fragment, points, pixels, intrinsics, limit)
    _check_inliers(len(inliers), points.shape[1], config)
    inlier_points = points.take(inliers, axis=1)
    _check_spread(inlier_points)
    linearised = _Linearisation(camera_from_fragment, inlier_points,
                                pixels.take(inliers, axis=1), intrinsics)
    inlier_share = len(inliers) / points.shape[1]
    return PoseSolution(fragment_from_camera, linearised.covariance(inlier_share * measurements),
                        linearised.shared_covariance(), inlier_share, linearised.distance)


def fit_pose(points: np.ndarray, pixels: np.ndarray, intrinsics: Intrinsics, config: PoseConfig,
             max_reprojection: float, measurements: float) -> PoseSolution:
    """Return the pose of a camera that observes points [3, n] at pixels [2, n].

    `max_reprojection` is the largest residual of an inlier, as a share of the image width. For
    the covariance the points count as `measurements` independent ones. Raises PoseError as
    `solve_pose` does.
    """
    limit = max_reprojection * intrinsics.width
    subset = np.s_[:, draw_indices(points.shape[1], RANSAC_POINTS)]
    _check_spread(points[subset])
    camera_from_fragment = _solve_ransac(
        points[subset].T.copy(), pixels[subset].T.copy(), intrinsics, config, limit)
    for left in reversed(range(MAX_REFINEMENTS)):
        inliers = _inliers(camera_from_fragment, points, pixels, intrinsics, limit)
        _check_inliers(len(inliers), points.shape[1], config)
        inlier_points = points.take(inliers, axis=1)
        linearised = _Linearisation(camera_from_fragment, inlier_points,
                                    pixels.take(inliers, axis=1), intrinsics)
        step = linearised.step()
        small = (np.abs(step[3:]).max() < SMALL_STEP
                 > np.abs(step[:3]).max() / linearised.distance)
        if small or not left:
            break
        camera_from_fragment = _apply_step(camera_from_fragment, step)
    _check_spread(inlier_points)
    inlier_share = len(inliers) / points.shape[1]
    return PoseSolution(invert(camera_from_fragment),
                        linearised.covariance(inlier_share * measurements),
                        linearised.shared_covariance(), inlier_share, linearised.distance)


def draw_points(pointmap: Pointmap, config: PoseConfig) -> tuple[np.ndarray, float]:
    """Return flat indices of at most `max_points` candidates, and the number of measurements.

    The candidates count as that many independent measurements. Raises PoseError when they are too
    few for a pose.
    """
    candidates = select_points(pointmap, config)
    count = len(candidates)
    if count < MIN_POSE_POINTS:
        raise PoseError(f'pose: expected {MIN_POSE_POINTS} usable points, got {count}')
    return (candidates.take(draw_indices(count, config.max_points)),
            count / PIXELS_PER_MEASUREMENT)


def draw_indices(count: int, wanted: int) -> np.ndarray:
    """Return `wanted` ascending indices below `count`, or all of them if there are fewer.

    The range is divided into `wanted` equal parts, and one index is drawn at random from each. The
    draw is the same in every run. An even stride would prefer some columns of an image.
    """
    if count <= wanted:
        return np.arange(count)
    bounds = np.arange(wanted + 1) * count // wanted
    return bounds[:-1] + (_random_numbers(wanted) * np.diff(bounds)).astype(np.intp)


@lru_cache(maxsize=4)
def _random_numbers(count: int) -> np.ndarray:
    """Return random numbers in [0, 1), the same in every run, read-only."""
    numbers = np.random.default_rng(0).random(count)
    numbers.setflags(write=False)
    return numbers


def _observed(pointmap: Pointmap, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points [3, n] and their pixels [2, n]: numpy is slow at many rows of three."""
    points = pointmap.points.reshape(-1, 3).take(chosen, axis=0)
    pixels = pixel_grid(*pointmap.confidence.shape).take(chosen, axis=0)
    return np.array(points.T, float, order='C'), np.array(pixels.T, order='C')


class _Linearisation:
    """The residuals of points [3, n] at pixels [2, n], linearised about an estimate of the pose.

    The module's docstring defines the step, the Jacobians and the matrices.
    """

    def __init__(self, camera_from_fragment: np.ndarray, points: np.ndarray, pixels: np.ndarray,
                 intrinsics: Intrinsics) -> None:
        self._fragment_from_camera = camera_from_fragment[:3, :3].T
        x, y, z = _in_camera(camera_from_fragment, points)
        u, v, zero = x / z, y / z, np.zeros_like(z)
        fx, fy = intrinsics.fx, intrinsics.fy
        # Rows: the six numbers of a step; columns: points. [6, n]
        self._jacobian_u = np.array([fx / z, zero, -fx * u / z, -fx * u * v,
                                     fx * (1.0 + u * u), -fx * v])
        self._jacobian_v = np.array([zero, fy / z, -fy * v / z, -fy * (1.0 + v * v), fy * u * v,
                                     fy * u])
        self._residual_u = fx * u + intrinsics.cx - pixels[0]
        self._residual_v = fy * v + intrinsics.cy - pixels[1]
        self._normal_matrix = (self._jacobian_u @ self._jacobian_u.T
                               + self._jacobian_v @ self._jacobian_v.T)
        # The harmonic mean of the depths: a few far points hardly change it.
        self.distance = float(1.0 / (1.0 / z).mean())
        try:
            self._inverse = np.linalg.inv(self._normal_matrix)
        except np.linalg.LinAlgError as error:
            raise PoseError('pose: the points do not determine all six degrees of freedom: '
                            'the normal matrix is singular') from error

    def step(self) -> np.ndarray:
        """Return the step [6] to the least squared residuals (Gauss-Newton)."""
        return -self._inverse @ (self._jacobian_u @ self._residual_u
                                 + self._jacobian_v @ self._residual_v)

    def covariance(self, measurements: float) -> np.ndarray:
        """Return the pose's covariance [6, 6], order and axes as in `PoseSolution`.

        The points count as `measurements` independent ones.
        """
        meat = self._meat + MIN_PIXEL_DEVIATION**2 * self._normal_matrix
        # A measurement has two numbers. The six parameters of the pose use up three of them.
        return self._sandwich(meat, max(measurements - 3.0, 1.0))

    def shared_covariance(self) -> np.ndarray:
        """Return the pose's covariance [6, 6] if all points had one error in common."""
        return self._sandwich(self._meat, 1.0)

    @cached_property
    def _meat(self) -> np.ndarray:
        # White's estimator allows residuals of unequal variance: near points have larger ones.
        gradients = (self._jacobian_u * self._residual_u
                     + self._jacobian_v * self._residual_v)  # [6, n]
        return gradients @ gradients.T

    def _sandwich(self, meat: np.ndarray, measurements: float) -> np.ndarray:
        of_step = self._inverse @ meat @ self._inverse * (self._jacobian_u.shape[1] / measurements)
        # A step moves the points; the camera's own motion is the opposite one.
        rotation = np.zeros((6, 6))
        rotation[:3, :3] = rotation[3:, 3:] = -self._fragment_from_camera
        covariance = rotation @ of_step @ rotation.T
        return 0.5 * (covariance + covariance.T)  # rounding makes it slightly asymmetric


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
        raise PoseError('pose: RANSAC found no pose that fits the points')
    return _to_transform(rotation, translation)


def _apply_step(camera_from_fragment: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the pose [4, 4] after a step [6] of the points in the camera's frame."""
    return _to_transform(step[3:], step[:3]) @ camera_from_fragment


def _to_transform(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
        raise PoseError('pose: the solution is not finite')
    return to_rigid(rotation, translation)


def _in_camera(camera_from_fragment: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points [3, n] in the camera's frame."""
    return camera_from_fragment[:3, :3] @ points + camera_from_fragment[:3, 3:]


def _inliers(
    camera_from_fragment: np.ndarray, points: np.ndarray, pixels: np.ndarray,
    intrinsics: Intrinsics, limit: float,
) -> np.ndarray:
    """Return the indices of the points [3, n] in front of the camera, at most `limit` px off."""
    x, y, z = _in_camera(camera_from_fragment, points)
    with np.errstate(divide='ignore', invalid='ignore'):
        residual_u = intrinsics.fx * x / z + intrinsics.cx - pixels[0]
        residual_v = intrinsics.fy * y / z + intrinsics.cy - pixels[1]
        squared = residual_u * residual_u + residual_v * residual_v
        return np.flatnonzero((z > 0.0) & (squared <= limit * limit))


def _check_inliers(inliers: int, points: int, config: PoseConfig) -> None:
    needed = max(MIN_POSE_POINTS, config.min_inlier_fraction * points)
    if inliers < needed:
        raise PoseError(f'pose: expected {needed:.0f} of {points} points to be inliers, '
                        f'got {inliers}')


def _check_spread(points: np.ndarray) -> None:
    offsets = points - points.mean(axis=1, keepdims=True)
    scatter = offsets @ offsets.T
    # The scatter matrix has the eigenvalues a >= b >= c. Its trace is a + b + c, and `pairs` is
    # ab + bc + ca: neither needs an eigenvalue solver.
    trace = float(np.trace(scatter))
    pairs = 0.5 * (trace**2 - float((scatter * scatter).sum()))
    # If a is much larger than b and c, then pairs / trace^2 is about b / a.
    if not pairs > MIN_SPREAD_RATIO**2 * trace**2:
        raise PoseError('pose: the points lie on one line')
