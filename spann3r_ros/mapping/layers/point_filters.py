# SPDX-License-Identifier: Apache-2.0
"""Which points of a keyframe may enter the voxel map."""
from __future__ import annotations

import cv2
import numpy as np

from spann3r_ros.mapping.mapper_config import VoxelMapConfig

# Neighbours on both sides are compared in these directions (rows, columns), at these distances.
# A smear is up to three pixels wide.
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
STEPS = (1, 2)
# A point between two surfaces that are flat in the image is off both by all of the difference.
OFF_SURFACE = 0.6
REACH = 2 * max(STEPS)


def usable_points(depth: np.ndarray, confidence: np.ndarray,
                  config: VoxelMapConfig) -> np.ndarray:
    """Return which pixels of a depth image [h, w] have a point for the map, bool [h, w].

    These have a depth, at least `min_confidence`, are no flying pixels, and are not too far.
    """
    # A weight of zero would divide by zero; NaN fails all comparisons.
    usable = (confidence >= config.min_confidence) & (confidence > 0.0) & (depth > 0.0)
    if config.edge_jump:
        usable.reshape(-1)[flying_pixels(depth, config.edge_jump)] = False
    if config.max_depth and usable.any():
        usable &= depth <= config.max_depth * np.median(depth[usable])
    return usable


def flying_pixels(depth: np.ndarray, jump: float) -> np.ndarray:
    """Return the flat indices of pixels that hang between a near and a far surface.

    Such a pixel of `depth` [h, w] has, in some direction, a nearer point on one side and a farther
    one on the other. The inverse depth differs to both by more than the share `jump`. It also
    differs by more than half of that from the values that continue either side. The inverse depth
    of a plane is linear in the image, so that no pixel of a plane, however oblique, is taken. A
    thin pole has no nearer point beside it.
    """
    inverse = np.full((depth.shape[0] + 2 * REACH, depth.shape[1] + 2 * REACH), np.nan, np.float32)
    with np.errstate(divide='ignore'):
        inverse[REACH:-REACH, REACH:-REACH] = 1.0 / depth
    known = np.isfinite(inverse)
    window = np.ones((2 * max(STEPS) + 1,) * 2, np.uint8)
    nearest = cv2.dilate(np.where(known, inverse, np.float32(0.0)), window)
    farthest = cv2.erode(np.where(known, inverse, np.float32(np.inf)), window)
    flat = inverse.ravel()
    chosen = np.flatnonzero((nearest > (1.0 + jump) * inverse)
                            & (farthest < (1.0 - jump) * inverse))
    own = flat[chosen]
    least = jump * own
    flying = np.zeros(len(chosen), bool)
    for rows, columns in DIRECTIONS:
        for step in STEPS:
            shift = step * (rows * inverse.shape[1] + columns)
            one, other = flat[chosen - shift], flat[chosen + shift]
            to_one, to_other = own - one, own - other
            smaller = np.minimum(np.abs(to_one), np.abs(to_other))
            between = (to_one * to_other < 0.0) & (smaller > least)
            # How far the pixel is from the lines through the two points on either side.
            off_one = np.abs(to_one - one + flat[chosen - 2 * shift])
            off_other = np.abs(to_other - other + flat[chosen + 2 * shift])
            flying |= between & (np.minimum(off_one, off_other) > OFF_SURFACE * smaller)
    row, column = np.divmod(chosen[flying], inverse.shape[1])
    return (row - REACH) * depth.shape[1] + column - REACH
