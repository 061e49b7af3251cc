# SPDX-License-Identifier: Apache-2.0
"""Corners that two photographs share, by their appearance and by the geometry of two cameras.

A network answers a pair of photographs of different places too, often with more confidence than
one of the same place. Corners do not depend on the network. SIFT finds them in a copy of at most
`SIDE` pixels. Two corners match if each is the nearest of the other, and clearly nearer than the
second one (Lowe's ratio). The shared ones are the inliers of a fundamental matrix, by RANSAC.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# The longer side of the copy in pixels.
SIDE = 640
MOST_CORNERS = 1000
RATIO = 0.8
# Distance from the epipolar line, in pixels of the copy.
REACH_PX = 2.0
# A fundamental matrix fits seven matches, right or wrong.
LEAST_SHARED, LEAST_SHARE = 15, 0.3
# Corners at the same place in both photographs are those of a date stamp, or of dust on the lens.
LEAST_MOVED_PX = 0.5
CERTAINTY, ROUNDS = 0.999, 2000


@dataclass(frozen=True)
class Corners:
    """Corners of an image: `pixels` float32 [n, 2] of the copy, `descriptors` uint8 [n, 128]."""

    pixels: np.ndarray
    descriptors: np.ndarray


def reduced(rgb: np.ndarray) -> np.ndarray:
    """Return an image [h, w, 3] whose longer side is at most `SIDE`."""
    scale = SIDE / max(rgb.shape[:2])
    if scale >= 1.0:
        return rgb
    size = tuple(max(1, round(scale * side)) for side in rgb.shape[1::-1])
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def find_corners(small: np.ndarray) -> Corners:
    """Return the corners of a reduced image, uint8 RGB [h, w, 3]."""
    keypoints, descriptors = cv2.SIFT_create(MOST_CORNERS).detectAndCompute(
        cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        return Corners(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))
    return Corners(np.float32([one.pt for one in keypoints]), descriptors.astype(np.uint8))


def shared_corners(first: Corners, second: Corners) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels float32 [n, 2] of the corners that two images share, in each of them.

    None are shared unless they are enough to be no chance.
    """
    one, other = _matches(first, second)
    if len(one) < LEAST_SHARED:
        return one[:0], other[:0]
    _, inliers = cv2.findFundamentalMat(one, other, cv2.FM_RANSAC, REACH_PX, CERTAINTY, ROUNDS)
    good = np.zeros(len(one), bool) if inliers is None else inliers.ravel() > 0
    if good.sum() < max(LEAST_SHARED, LEAST_SHARE * len(one)):
        good[:] = False
    return one[good], other[good]


def _matches(first: Corners, second: Corners) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels [n, 2] of matching corners in both images."""
    if min(len(first.pixels), len(second.pixels)) < 2:
        return first.pixels[:0], second.pixels[:0]
    # The root of a histogram has length one; the product is the Hellinger similarity.
    similarity = _root(first.descriptors) @ _root(second.descriptors).T
    forward, backward = similarity.argmax(1), similarity.argmax(0)
    best_two = np.partition(similarity, -2, axis=1)[:, -2:]
    distances = np.sqrt(np.maximum(2.0 - 2.0 * best_two, 0.0))
    good = ((distances[:, 1] < RATIO * distances[:, 0])
            & (backward[forward] == np.arange(len(forward))))
    one, other = first.pixels[good], second.pixels[forward[good]]
    moved = np.linalg.norm(one - other, axis=1) > LEAST_MOVED_PX
    return one[moved], other[moved]


def _root(descriptors: np.ndarray) -> np.ndarray:
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(1, keepdims=True), 1.0))
