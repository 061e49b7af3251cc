# SPDX-License-Identifier: Apache-2.0
"""Corners followed from one image to another."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics

CORNERS = 150
CORNER_QUALITY = 0.01
WINDOW_PIXELS = 11
# Fewer tracks are not used for an estimate.
MIN_TRACKS = 12
# A track is rejected if tracking back from its end misses its start by more than this.
MAX_RETURN_ERROR_PX = 1.0


@dataclass(frozen=True)
class Tracks:
    """Pixels [n, 2] of the same places in a first and in a second image.

    `corners` [n] are their indices in the corners that were tracked.
    """

    starts: np.ndarray
    ends: np.ndarray
    corners: np.ndarray

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self.starts)

    def select(self, which: np.ndarray) -> Tracks:
        """Return the tracks chosen by a bool [n] or by indices."""
        return Tracks(self.starts[which], self.ends[which], self.corners[which])


def to_gray(image: np.ndarray) -> np.ndarray:
    """Return RGB uint8 [h, w, 3] as uint8 [h, w]."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def find_corners(gray: np.ndarray, usable: np.ndarray | None = None) -> np.ndarray:
    """Return corners to track, float32 [n, 1, 2]; the pixels around them are `usable` [h, w]."""
    mask = None
    if usable is not None and not usable.all():
        # The border of the mask would give corners that belong to no object.
        window = np.ones((WINDOW_PIXELS, WINDOW_PIXELS), np.uint8)
        mask = cv2.erode(usable.astype(np.uint8), window)
    found = cv2.goodFeaturesToTrack(gray, CORNERS, CORNER_QUALITY, WINDOW_PIXELS // 3, mask=mask)
    return np.zeros((0, 1, 2), np.float32) if found is None else found


def follow(first: np.ndarray, second: np.ndarray, corners: np.ndarray) -> Tracks:
    """Return the tracks of corners [n, 1, 2] from a gray image [h, w] to a second one.

    Each corner is tracked to the second image and back; a track that misses its start is rejected.
    """
    if not len(corners):
        return Tracks(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))
    window = (WINDOW_PIXELS, WINDOW_PIXELS)
    ends, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None, winSize=window)
    returned, found_back, _ = cv2.calcOpticalFlowPyrLK(second, first, ends, None, winSize=window)
    good = (found & found_back).ravel() == 1
    good &= np.linalg.norm(returned - corners, axis=-1).ravel() < MAX_RETURN_ERROR_PX
    return Tracks(corners[good].reshape(-1, 2).astype(float),
                  ends[good].reshape(-1, 2).astype(float), np.flatnonzero(good))


def rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return the points [n, 3] at depth one on the rays of pixels [n, 2]."""
    centre, focal = (intrinsics.cx, intrinsics.cy), (intrinsics.fx, intrinsics.fy)
    return np.column_stack([(pixels - centre) / focal, np.ones(len(pixels))])


def at_pixels(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the values [n, ...] of an image [h, w, ...] at the nearest pixels to [n, 2]."""
    columns, rows = np.rint(pixels).astype(int).T
    return values[rows, columns]
