# SPDX-License-Identifier: Apache-2.0
"""A camera's focal length from a pointmap."""
from __future__ import annotations

import logging

import numpy as np

from spann3r_ros.core.camera import Intrinsics, centred_intrinsics, pixel_grid
from spann3r_ros.core.types import FrameError, Pointmap

logger = logging.getLogger(__name__)


# Least and greatest credible focal length over the longer side: fields of view of 118 and 11 deg.
FOCAL_BOUNDS = (0.3, 5.0)


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
