# SPDX-License-Identifier: Apache-2.0
"""How much an image shows: its usable share, clipped pixels, detail and sharpness.

All is measured in a small gray copy g of the network's input, with the Gaussian filters G_s of s
pixels. The gradients of two bands give two structure tensors, means over the usable pixels:

    coarse band  G_1.5 g - G_4 g       C = mean of  d d^T,  d limited to `MAX_GRADIENT`
    fine band          g - G_1 g       F = mean of  d d^T

    detail     sqrt(least eigenvalue of C)
    sharpness  sqrt(least of  v^T F v / v^T C v  over all directions v)

Both are of the direction in which the image shows least, so that a blur along one direction
counts. Shading is slower than both bands. The noise of a camera is fine, and hardly enters the
detail. Contrast cancels in the sharpness.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# The longer side of the small copy, in pixels.
SIDE = 96
# The usual weights nearly lose what is blue.
EQUAL_WEIGHTS = np.full((1, 3), 1.0 / 3.0)
# Pixels up to the first value or from the second one on are clipped.
DARKEST, BRIGHTEST = 3, 252
FINE_PX, LOW_PX, HIGH_PX = 1.0, 1.5, 4.0
# Gray levels a pixel: a single lamp does not give a dark picture detail.
MAX_GRADIENT = 5.0
# Pixels so near to one that is not usable are left out: the filters mix them.
BORDER_PX = 3
NEIGHBOURS = np.ones((3, 3), np.uint8)
# Added to the variances C: a band without a signal gives no sharpness.
LEAST_VARIANCE = 1e-3


@dataclass(frozen=True)
class ImageContent:
    """What an image shows.

    `usable`, `dark` and `bright` are shares of the pixels: those that may enter the map, and of
    these the ones clipped at either end. `flat` is the share of pixels that equal all eight around
    them: a camera's noise leaves none. `detail` is in gray levels a pixel of the small copy,
    `sharpness` a ratio. All but `usable` are zero if nothing is usable.
    """

    usable: float
    dark: float = 0.0
    bright: float = 0.0
    flat: float = 0.0
    detail: float = 0.0
    sharpness: float = 0.0


def measure_content(image: np.ndarray, usable: np.ndarray | None = None) -> ImageContent:
    """Return what an image shows; rgb uint8 [h, w, 3], `usable` bool [h, w] or None: all."""
    small = cv2.transform(image, EQUAL_WEIGHTS)
    scale = SIDE / max(small.shape)
    size = tuple(max(1, round(scale * side)) for side in small.shape[::-1])
    if scale < 1.0:
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    gray, inner = small.astype(np.float32), None
    flat = cv2.dilate(small, NEIGHBOURS) == cv2.erode(small, NEIGHBOURS)
    share = 1.0
    if usable is not None and not usable.all():
        share = float(usable.mean())
        whole = cv2.resize(usable.astype(np.float32), small.shape[::-1],
                           interpolation=cv2.INTER_AREA) == 1.0
        if not whole.any():
            return ImageContent(0.0)
        # Without this the border of a mask would be a contrast.
        gray[~whole] = gray[whole].mean()
        window = np.ones((2 * BORDER_PX + 1, 2 * BORDER_PX + 1), np.uint8)
        inner = cv2.erode(whole.astype(np.uint8), window, borderValue=1) > 0
        small, flat = small[whole], flat[inner]
        if not inner.any():
            return ImageContent(0.0)
    coarse = _tensor(_smooth(gray, LOW_PX) - _smooth(gray, HIGH_PX), inner, MAX_GRADIENT)
    fine = _tensor(gray - _smooth(gray, FINE_PX), inner)
    ratios = np.linalg.eigvals(np.linalg.solve(coarse + LEAST_VARIANCE * np.eye(2), fine)).real
    return ImageContent(share, float((small <= DARKEST).mean()),
                        float((small >= BRIGHTEST).mean()), float(flat.mean()),
                        _root(np.linalg.eigvalsh(coarse)), _root(ratios))


def _smooth(gray: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(gray, (0, 0), sigma)


def _tensor(band: np.ndarray, inner: np.ndarray | None, limit: float = np.inf) -> np.ndarray:
    """Return the mean [2, 2] of the products of a band's gradients."""
    along_x, along_y = (cv2.Sobel(band, cv2.CV_32F, *order, scale=0.125)
                        for order in ((1, 0), (0, 1)))
    if inner is not None:
        along_x, along_y = along_x[inner], along_y[inner]
    xx, xy, yy = along_x * along_x, along_x * along_y, along_y * along_y
    if np.isfinite(limit):
        weights = limit**2 / np.maximum(xx + yy, limit**2)
        xx, xy, yy = weights * xx, weights * xy, weights * yy
    cross = float(xy.mean())
    return np.array([[float(xx.mean()), cross], [cross, float(yy.mean())]])


def _root(values: np.ndarray) -> float:
    return float(np.sqrt(max(values.min(), 0.0)))
