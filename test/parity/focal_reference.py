# SPDX-License-Identifier: Apache-2.0
"""The focal length as the reference implementation estimates it."""
from __future__ import annotations

import numpy as np

from spann3r_ros.core.camera import pixel_grid


def estimate_focal_reference(points: np.ndarray) -> float:
    """Return the focal length of a pointmap [h, w, 3] by the original's estimator.

    Ten rounds of L1 reweighting over all pixels, about the point (w/2, h/2).
    """
    height, width = points.shape[:2]
    pixels = pixel_grid(height, width) - np.array([width / 2, height / 2])  # [h*w, 2]
    flat = points.reshape(-1, 3).astype(float)
    with np.errstate(all='ignore'):
        rays = flat[:, :2] / flat[:, 2:]
    rays = np.nan_to_num(rays, nan=0.0, posinf=0.0, neginf=0.0)
    products, squares = (pixels * rays).sum(axis=1), (rays**2).sum(axis=1)
    focal = products.mean() / squares.mean()
    for _ in range(10):
        weights = 1.0 / np.maximum(np.linalg.norm(pixels - focal * rays, axis=1), 1e-8)
        focal = (weights * products).mean() / (weights * squares).mean()
    return float(focal)
