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
# Fewer tell nothing of the camera.
MIN_TRACKS = 12
# A track that does not lead back to where it began is none.
MAX_MISS_PIXELS = 1.0


@dataclass(frozen=True)
class Tracks:
    """Pixels [n, 2] of the same places in a first and in a second image."""

    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.starts)

    def select(self, which: np.ndarray) -> Tracks:
        """Choose some, by bool [n] or indices."""
        return Tracks(self.starts[which], self.ends[which])


def to_gray(image: np.ndarray) -> np.ndarray:
    """Return RGB uint8 [h, w, 3] as uint8 [h, w]."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def find_corners(gray: np.ndarray, usable: np.ndarray | None = None) -> np.ndarray:
    """Return pixels worth following, float32 [n, 1, 2], whose surroundings are `usable` [h, w]."""
    mask = None
    if usable is not None and not usable.all():
        # The rim of what is not usable is a corner of the mask, not of the world.
        window = np.ones((WINDOW_PIXELS, WINDOW_PIXELS), np.uint8)
        mask = cv2.erode(usable.astype(np.uint8), window)
    found = cv2.goodFeaturesToTrack(gray, CORNERS, CORNER_QUALITY, WINDOW_PIXELS // 3, mask=mask)
    return np.zeros((0, 1, 2), np.float32) if found is None else found


def follow(first: np.ndarray, second: np.ndarray, corners: np.ndarray) -> Tracks:
    """Follow corners [n, 1, 2] of a gray image [h, w] to a second one, there and back."""
    if not len(corners):
        return Tracks(np.zeros((0, 2)), np.zeros((0, 2)))
    window = (WINDOW_PIXELS, WINDOW_PIXELS)
    ends, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None, winSize=window)
    again, found_again, _ = cv2.calcOpticalFlowPyrLK(second, first, ends, None, winSize=window)
    good = (found & found_again).ravel() == 1
    good &= np.linalg.norm(again - corners, axis=-1).ravel() < MAX_MISS_PIXELS
    return Tracks(corners[good].reshape(-1, 2).astype(float),
                  ends[good].reshape(-1, 2).astype(float))


def rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return the directions [n, 3] of pixels [n, 2], of depth one."""
    centre, focal = (intrinsics.cx, intrinsics.cy), (intrinsics.fx, intrinsics.fy)
    return np.column_stack([(pixels - centre) / focal, np.ones(len(pixels))])


def at_pixels(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the values [h, w, ...] of the pixels [n, 2] nearest to some places."""
    columns, rows = np.rint(pixels).astype(int).T
    return values[rows, columns]
