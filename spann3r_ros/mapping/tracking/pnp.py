# SPDX-License-Identifier: Apache-2.0
"""A camera's pose, and how sure it is, from a pointmap: PnP-RANSAC on its confident points."""
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
# Below this ratio of spreads the points lie on a line (or in one spot) and fix no pose.
MIN_SPREAD_RATIO = 1e-3
MAX_REFINEMENTS = 10
# Radians, and shares of the points' distance: a smaller step ends the refinement.
SMALL_STEP = 1e-4
# So many points are enough to find who agrees with whom; the refinement uses all.
RANSAC_POINTS = 500
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
    of one in rotation (radians) about the camera, both along the fragment's axes; `systematic`
    [6, 6] likewise if the points' disagreement were an error that they share; `support` is the
    share of the voting points that agree.
    """

    fragment_from_camera: np.ndarray
    covariance: np.ndarray
    systematic: np.ndarray
    support: float


def select_points(pointmap: Pointmap, config: PoseConfig) -> np.ndarray:
    """Return flat indices of the pixels that may vote for a pose.

    They are the finite ones above `min_confidence`, of those the `best_fraction` most confident.
    """
    confidence = pointmap.confidence.reshape(-1)
    finite = finite_points(pointmap.points).reshape(-1)
    # 'Ignore confidence' must let points of confidence zero vote too.
    above = confidence > config.min_confidence if config.min_confidence > 0.0 else True
    voters = np.flatnonzero(finite & np.isfinite(confidence) & above)
    if len(voters) and config.best_fraction < 1.0:
        of_voters = confidence[voters]
        last = int((1.0 - config.best_fraction) * (len(voters) - 1))
        voters = voters[of_voters >= np.partition(of_voters, last)[last]]
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
        voters = voters.take(draw_indices(electorate, config.max_points))
    # One row per coordinate: numpy is slow at many rows of three.
    points = np.array(pointmap.points.reshape(-1, 3).take(voters, axis=0).T, float, order='C')
    pixels = np.array(pixel_grid(*pointmap.confidence.shape).take(voters, axis=0).T, order='C')
    return fit_pose(points, pixels, intrinsics, config, config.max_reprojection,
                    electorate / PIXELS_PER_MEASUREMENT)


def fit_pose(points: np.ndarray, pixels: np.ndarray, intrinsics: Intrinsics, config: PoseConfig,
             max_miss: float, measurements: float) -> PoseSolution:
    """Return the pose of a camera that sees points [3, n] at pixels [2, n], as `solve_pose` does.

    `max_miss` is how far an inlier may be off, as a share of the image width; for the covariance
    the points count as so many independent `measurements`.
    """
    limit = max_miss * intrinsics.width
    few = np.s_[:, draw_indices(points.shape[1], RANSAC_POINTS)]
    _check_spread(points[few])
    camera_from_fragment = _solve_ransac(
        points[few].T.copy(), pixels[few].T.copy(), intrinsics, config, limit)
    for left in reversed(range(MAX_REFINEMENTS)):
        inliers = _inliers(camera_from_fragment, points, pixels, intrinsics, limit)
        _check_inliers(len(inliers), points.shape[1], config)
        agreeing = points.take(inliers, axis=1)
        fit = _Fit(camera_from_fragment, agreeing, pixels.take(inliers, axis=1), intrinsics)
        step = fit.step()
        small = np.abs(step[3:]).max() < SMALL_STEP > np.abs(step[:3]).max() / fit.distance
        if small or not left:
            break
        camera_from_fragment = _moved(camera_from_fragment, step)
    _check_spread(agreeing)
    support = len(inliers) / points.shape[1]
    return PoseSolution(invert(camera_from_fragment), fit.covariance(support * measurements),
                        fit.systematic(), support)


def draw_indices(count: int, wanted: int) -> np.ndarray:
    """Return so many indices below `count`, ascending; all of them if there are no more.

    One by chance, the same in every run, from each of equal parts: an even stride would favour
    some columns of an image.
    """
    if count <= wanted:
        return np.arange(count)
    bounds = np.arange(wanted + 1) * count // wanted
    return bounds[:-1] + (_chances(wanted) * np.diff(bounds)).astype(np.intp)


@lru_cache(maxsize=4)
def _chances(count: int) -> np.ndarray:
    """Return numbers in [0, 1), the same in every run, read-only."""
    chances = np.random.default_rng(0).random(count)
    chances.setflags(write=False)
    return chances


class _Fit:
    """The camera's pose linearised about an estimate, for points [3, n] seen at pixels [2, n].

    Steps [6] are small motions of the points in the camera's frame: shift, then rotation vector.
    """

    def __init__(self, camera_from_fragment: np.ndarray, points: np.ndarray, pixels: np.ndarray,
                 intrinsics: Intrinsics) -> None:
        self._fragment_from_camera = camera_from_fragment[:3, :3].T
        x, y, z = _seen(camera_from_fragment, points)
        u, v, zero = x / z, y / z, np.zeros_like(z)
        fx, fy = intrinsics.fx, intrinsics.fy
        # How a point's pixel moves with each of the six, across and down: [6, n].
        self._across = np.array([fx / z, zero, -fx * u / z, -fx * u * v, fx * (1.0 + u * u),
                                 -fx * v])
        self._down = np.array([zero, fy / z, -fy * v / z, -fy * (1.0 + v * v), fy * u * v,
                               fy * u])
        self._off_across = fx * u + intrinsics.cx - pixels[0]
        self._off_down = fy * v + intrinsics.cy - pixels[1]
        self._bend = self._across @ self._across.T + self._down @ self._down.T
        self.distance = float(1.0 / (1.0 / z).mean())  # not led by what lies far away
        try:
            self._spread = np.linalg.inv(self._bend)
        except np.linalg.LinAlgError as error:
            raise PoseError('pose: the points leave a direction open') from error

    def step(self) -> np.ndarray:
        """Return the step [6] to the least squared error (Gauss-Newton)."""
        return -self._spread @ (self._across @ self._off_across + self._down @ self._off_down)

    def covariance(self, measurements: float) -> np.ndarray:
        """Return the pose's covariance, order and axes as in `PoseSolution`.

        That of least squares with the residuals as noise, if the points are worth `measurements`
        independent ones.
        """
        noise = self._noise + MIN_PIXEL_DEVIATION**2 * self._bend
        # Two numbers a measurement, six of them spent on the fit.
        return self._of_pose(noise, max(measurements - 3.0, 1.0))

    def systematic(self) -> np.ndarray:
        """Return the covariance if all points were one measurement, as exact as they agree."""
        return self._of_pose(self._noise, 1.0)

    @cached_property
    def _noise(self) -> np.ndarray:
        # White's estimator: near points err by more pixels than far ones.
        pulls = self._across * self._off_across + self._down * self._off_down  # [6, n]
        return pulls @ pulls.T

    def _of_pose(self, noise: np.ndarray, independent: float) -> np.ndarray:
        of_points = self._spread @ noise @ self._spread * (self._across.shape[1] / independent)
        # The camera moves against the points that it sees.
        turn = np.zeros((6, 6))
        turn[:3, :3] = turn[3:, 3:] = -self._fragment_from_camera
        covariance = turn @ of_points @ turn.T
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


def _moved(camera_from_fragment: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the pose [4, 4] after a step [6] of the points in the camera's frame."""
    return _to_transform(step[3:], step[:3]) @ camera_from_fragment


def _to_transform(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
        raise PoseError('pose: the solution is not finite')
    return to_rigid(rotation, translation)


def _seen(camera_from_fragment: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points [3, n] in the camera's frame."""
    return camera_from_fragment[:3, :3] @ points + camera_from_fragment[:3, 3:]


def _inliers(
    camera_from_fragment: np.ndarray, points: np.ndarray, pixels: np.ndarray,
    intrinsics: Intrinsics, limit: float,
) -> np.ndarray:
    """Return the indices of points [3, n] before the camera and within `limit` of their pixels."""
    x, y, z = _seen(camera_from_fragment, points)
    with np.errstate(divide='ignore', invalid='ignore'):
        across = intrinsics.fx * x / z + intrinsics.cx - pixels[0]
        down = intrinsics.fy * y / z + intrinsics.cy - pixels[1]
        return np.flatnonzero((z > 0.0) & (across * across + down * down <= limit * limit))


def _check_inliers(inliers: int, points: int, config: PoseConfig) -> None:
    needed = max(MIN_POSE_POINTS, config.min_inlier_fraction * points)
    if inliers < needed:
        raise PoseError(f'pose: expected {needed:.0f} of {points} points to agree, got {inliers}')


def _check_spread(points: np.ndarray) -> None:
    offsets = points - points.mean(axis=1, keepdims=True)
    scatter = offsets @ offsets.T
    # Of the squared spreads a, b, c, which need not be solved for: a + b + c and ab + bc + ca.
    total = float(np.trace(scatter))
    of_pairs = 0.5 * (total**2 - float((scatter * scatter).sum()))
    # With one far above the others, their ratio is that of the second spread to the first.
    if not of_pairs > MIN_SPREAD_RATIO**2 * total**2:
        raise PoseError('pose: the points lie on one line')
