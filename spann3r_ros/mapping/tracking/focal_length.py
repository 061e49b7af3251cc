# SPDX-License-Identifier: Apache-2.0
"""A camera's focal length from pointmaps."""
from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics, centred_intrinsics, pixel_grid
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import invert, to_rigid
from spann3r_ros.core.types import FrameError, Pointmap
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .pnp import PoseError, draw_points, solve_pose

logger = logging.getLogger(__name__)


# Least and greatest credible focal length over the longer side: fields of view of 118 and 11 deg.
FOCAL_BOUNDS = (0.3, 5.0)
# The estimate of a map uses so many keyframes.
FOCAL_KEYFRAMES = 15
# First guesses of a focal length, as multiples of the current one. No more are tried once a larger
# share of the points are inliers.
FOCAL_FACTORS = (1.0, 0.8, 1.25, 0.63, 1.6, 0.5, 2.0)
CERTAIN_SHARE = 0.5
# The refinement ends after so many steps, or at a smaller change of log f.
MAX_STEPS = 10
SMALL_STEP = 1e-4


def estimate_focal(pointmap: Pointmap) -> float:
    """Return the focal length in pixels of a pointmap that is in its own camera's frame.

    It minimises the confidence-weighted sum of radial reprojection errors, so outliers with up to
    half of the weight are tolerated. The result is not clamped. Raises FrameError when no point
    lies in front of the camera.
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
                       'using %.1f px; publish camera_info', focal, width, height, bounded)
    return centred_intrinsics(bounded, height, width)


def bound_focal(focal: float, height: int, width: int) -> float:
    """Return the focal length in pixels, clamped to `FOCAL_BOUNDS`."""
    low, high = (bound * max(height, width) for bound in FOCAL_BOUNDS)
    return min(max(focal, low), high)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the value [n] at which half of the weight [n] is reached."""
    order = np.argsort(values, kind='stable')
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, 0.5 * reached[-1])])


def fit_focal(pointmap: Pointmap, intrinsics: Intrinsics, config: PoseConfig) -> float:
    """Return the focal length in pixels of a pointmap in any frame, together with its pose.

    `intrinsics` are a first guess. The poses that PnP gives for multiples of its focal length are
    refined together with the focal length. The first one with more than half of the points as
    inliers is taken, otherwise the one with most of them. Raises PoseError if no pose fits.
    """
    chosen, _ = draw_points(pointmap, config)
    points = pointmap.points.reshape(-1, 3)[chosen].astype(float)
    pixels = pixel_grid(*pointmap.confidence.shape)[chosen]
    failure, best_share, focal = None, 0.0, intrinsics.fx
    for factor in FOCAL_FACTORS:
        guess = _scaled(intrinsics, factor)
        try:
            solution = solve_pose(pointmap, guess, config)
        except PoseError as error:
            failure = error
            continue
        refined, share = _refine(invert(solution.fragment_from_camera), points, pixels, guess,
                                 config.max_reprojection * guess.width)
        if share > best_share:
            best_share, focal = share, refined
        if share > CERTAIN_SHARE:
            break
    if not best_share:
        raise failure
    return focal


def _refine(camera_from_reference: np.ndarray, points: np.ndarray, pixels: np.ndarray,
            guess: Intrinsics, limit: float) -> tuple[float, float]:
    """Return the focal length for points [n, 3] at pixels [n, 2], and the share of inliers.

    Gauss-Newton for pose and focal length: with f in the state the Jacobian of `pnp` has the
    further column dr / d log f = (f u, f v). An inlier is at most `limit` pixels off.
    """
    focal = guess.fx
    for _ in range(MAX_STEPS):
        seen = points @ camera_from_reference[:3, :3].T + camera_from_reference[:3, 3]
        with np.errstate(divide='ignore', invalid='ignore'):
            rays = seen[:, :2] / seen[:, 2:]
            residuals = focal * rays + (guess.cx, guess.cy) - pixels
            good = (seen[:, 2] > 0.0) & ((residuals ** 2).sum(axis=1) <= limit * limit)
        jacobian = _focal_jacobian(rays[good], seen[good, 2], focal)
        step = np.linalg.lstsq(jacobian, -residuals[good].T.reshape(-1), rcond=None)[0]
        camera_from_reference = to_rigid(step[3:6], step[:3]) @ camera_from_reference
        focal *= float(np.exp(np.clip(step[6], -0.3, 0.3)))
        if abs(step[6]) < SMALL_STEP:
            break
    return focal, float(good.mean())


def _scaled(intrinsics: Intrinsics, factor: float) -> Intrinsics:
    return replace(intrinsics, fx=factor * intrinsics.fx, fy=factor * intrinsics.fy)


def _focal_jacobian(rays: np.ndarray, depth: np.ndarray, focal: float) -> np.ndarray:
    """Return the Jacobian [2 n, 7] of residuals by a step of the points and by log f."""
    (u, v), zero = rays.T, np.zeros(len(rays))
    by_u = [1.0 / depth, zero, -u / depth, -u * v, 1.0 + u * u, -v, u]
    by_v = [zero, 1.0 / depth, -v / depth, -(1.0 + v * v), u * v, u, v]
    return focal * np.concatenate([np.column_stack(by_u), np.column_stack(by_v)])


class FocalRefinement:
    """The focal length of a map without calibration: the median of its first keyframes.

    A keyframe keeps the focal length that it was placed with. After `FOCAL_KEYFRAMES` estimates
    the focal length does not change any more.
    """

    def __init__(self, fixed: bool = False) -> None:
        self._logs: list[float] = []
        self._fixed = fixed

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'logs': np.array(self._logs), 'fixed': self._fixed}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self._logs = node.array('logs', np.float64, (None,)).tolist()
        self._fixed = node.flag('fixed')

    def update(self, estimate: Estimate, intrinsics: Intrinsics | None,
               config: PoseConfig) -> Intrinsics:
        """Return the intrinsics for a keyframe; `intrinsics` are those of the one before it.

        The first keyframe's pointmap must be in its own camera's frame. Raises FrameError as
        `estimate_focal` does.
        """
        if intrinsics is not None and (self._fixed or len(self._logs) >= FOCAL_KEYFRAMES):
            return intrinsics
        own = estimate.local or (estimate.pointmap if intrinsics is None or
                                 estimate.image_id == estimate.reference_id else None)
        try:
            focal = (fit_focal(estimate.pointmap, intrinsics, config) if own is None
                     else estimate_focal(own))
        except PoseError:
            return intrinsics
        height, width = estimate.pointmap.confidence.shape
        self._logs.append(np.log(bound_focal(focal, height, width)))
        if intrinsics is None:
            return estimate_intrinsics(own)
        return centred_intrinsics(float(np.exp(np.median(self._logs))), height, width)
