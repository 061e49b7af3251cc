# SPDX-License-Identifier: Apache-2.0
"""Baselines without a network, with which a reconstruction is compared.

All pointmaps are in the optical frame of the sequence's first camera.
"""
from __future__ import annotations

import numpy as np


def pixel_rays(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the rays [height, width, 3] with z = 1 through the pixel centres of a pinhole."""
    v, u = np.mgrid[:height, :width].astype(np.float64)
    return np.stack([(u - matrix[0, 2]) / matrix[0, 0], (v - matrix[1, 2]) / matrix[1, 1],
                     np.ones_like(u)], axis=-1)


def plane_pointmaps(depth: float, frames: int, rays: np.ndarray) -> np.ndarray:
    """Return [frames, h, w, 3]: a fronto-parallel plane at `depth`, the camera never moving."""
    if not depth > 0.0:
        raise ValueError(f'depth: expected a positive distance, got {depth}')
    return np.broadcast_to(depth * rays, (frames, *rays.shape))


def median_pointmaps(training: np.ndarray) -> np.ndarray:
    """Return [frames, h, w, 3]: the median over training rooms [rooms, frames, h, w, 3]."""
    if training.ndim != 5 or len(training) == 0:
        raise ValueError(f'training: expected [rooms, frames, h, w, 3], got {training.shape}')
    return np.median(training, axis=0)


def posed_depth_pointmaps(depth: np.ndarray, poses: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return [frames, h, w, 3]: one depth image [h, w] placed at the *true* camera poses.

    It uses the true poses [frames, 4, 4], so it is a reference for depth alone, not a baseline.
    """
    points = depth[..., None] * rays
    rotated = np.einsum('fij,hwj->fhwi', poses[:, :3, :3], points)
    return rotated + poses[:, None, None, :3, 3]
