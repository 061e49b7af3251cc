# SPDX-License-Identifier: Apache-2.0
"""One camera for photographs of different sizes and focal lengths.

A map has one camera. It has the size of most photographs and, if EXIF data have focal lengths, the
median of those. Every other photograph is scaled so that a pixel spans the same angle:

    scale = f_common / f_photo          if both focal lengths are known
    scale = diagonal_common / diagonal_photo   otherwise: the same lens

It is then placed by its middle. What is outside is cut off, what is missing is masked.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spann3r_ros.core.camera import MAX_CHANGE, Intrinsics, centred_intrinsics
from spann3r_ros.core.types import FrameError
from spann3r_ros.datasets.photos.photo_files import PhotoFile
from spann3r_ros.datasets.photos.photo_tags import focal_pixels

# A photograph of another lens that fills a smaller share of the common image is left out.
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class CommonCamera:
    """Height and width, and the focal length on a 35 mm film in mm; None if unknown."""

    size: tuple[int, int]
    focal_mm: float | None

    @property
    def intrinsics(self) -> Intrinsics | None:
        """Return the intrinsics; None if the focal length is not known."""
        if self.focal_mm is None:
            return None
        return centred_intrinsics(focal_pixels(self.focal_mm, *self.size), *self.size)

    def fits(self, size: tuple[int, int], focal_mm: float | None) -> bool:
        """Return whether a photograph is used as it is."""
        return size == self.size and abs(self.scale(size, focal_mm) - 1.0) <= MAX_CHANGE

    def fit(self, photo: PhotoFile) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the image [h, w, 3] and which pixels it fills, bool [h, w]; None: all.

        Raises FrameError if they are too few.
        """
        size = photo.rgb.shape[:2]
        if self.fits(size, photo.focal_mm):
            return photo.rgb, None
        scale, (height, width) = self.scale(size, photo.focal_mm), self.size
        # Both middles coincide; pixel centres lie at integer coordinates.
        matrix = np.array([[scale, 0.0, 0.5 * (width - 1) - scale * 0.5 * (size[1] - 1)],
                           [0.0, scale, 0.5 * (height - 1) - scale * 0.5 * (size[0] - 1)]])
        rgb = photo.rgb
        if scale < 1.0:
            # A mean over the pixels that fall into one, before the samples.
            smaller = tuple(max(1, round(scale * side)) for side in size[::-1])
            rgb = cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA)
            matrix = np.array([[1.0, 0.0, 0.5 * (width - smaller[0])],
                               [0.0, 1.0, 0.5 * (height - smaller[1])]])
        filled = cv2.warpAffine(np.ones(rgb.shape[:2], np.uint8), matrix, (width, height),
                                flags=cv2.INTER_NEAREST) > 0
        if filled.mean() < LEAST_SHARE:
            raise FrameError(f'its field of view is {filled.mean():.0%} of that of most '
                             'photographs')
        image = cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_LINEAR)
        return image, None if filled.all() else filled

    def scale(self, size: tuple[int, int], focal_mm: float | None) -> float:
        """Return how many pixels of the common camera one of a photograph is."""
        if focal_mm is None or self.focal_mm is None:
            return float(np.hypot(*self.size) / np.hypot(*size))
        return focal_pixels(self.focal_mm, *self.size) / focal_pixels(focal_mm, *size)


def choose_camera(sizes: Sequence[tuple[int, int]],
                  focals_mm: Sequence[float | None]) -> CommonCamera:
    """Return the camera of most photographs: of equally frequent sizes the largest, the widest."""
    counts = Counter(sizes)
    size = max(counts, key=lambda one: (counts[one], one[0] * one[1], one[1]))
    known = [focal for own, focal in zip(sizes, focals_mm, strict=True)
             if own == size and focal is not None]
    # Photographs without the entry may be of another lens: half of them must have one.
    if 2 * len(known) < counts[size]:
        return CommonCamera(size, None)
    return CommonCamera(size, sorted(known)[len(known) // 2])
