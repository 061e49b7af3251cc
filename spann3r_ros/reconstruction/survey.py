# SPDX-License-Identifier: Apache-2.0
"""A first look at photographs: which of them can be used, and which repeat others.

What is decided depends on the pixels of the photographs, and on no name and no order.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from spann3r_ros.core.types import FrameError
from spann3r_ros.datasets.photos.photo_files import read_photo
from spann3r_ros.mapping.mapper_config import SightConfig
from spann3r_ros.mapping.selection.image_content import ImageContent, measure_content
from spann3r_ros.mapping.selection.sight import BLURRED, fault_of, is_blurred

from .corners import Corners, find_corners, reduced

THUMBNAIL = 64
# Mean and largest difference of the gray levels of thumbnails that are the same picture: those of
# another quality or size of the file, and of a camera that stands still.
SAME_MEAN, SAME_LARGEST = 2.0, 30.0
# With fewer photographs none is blurred beside the others.
LEAST_COMPARED = 4


@dataclass(frozen=True)
class Surveyed:
    """What is kept of a photograph: `digest` is that of its pixels, `size` height and width.

    `focal_mm` is the focal length on a 35 mm film, `thumbnail` float32 [64, 64] gray.
    """

    path: Path
    digest: str
    size: tuple[int, int]
    focal_mm: float | None
    content: ImageContent
    thumbnail: np.ndarray
    corners: Corners


@dataclass(frozen=True)
class LeftOut:
    """A photograph that is not used, and why."""

    path: Path
    reason: str


def survey(paths: Iterable[Path],
           done: Callable[[int], object]) -> tuple[list[Surveyed], list[LeftOut]]:
    """Return the photographs that are read, by ascending digests, and the others.

    `done` gets 1 for each file.
    """
    found, others = [], []
    for path in paths:
        done(1)
        try:
            photo = read_photo(path)
            if min(photo.rgb.shape[:2]) < 2:
                raise FrameError(f'has {photo.rgb.shape[1]}x{photo.rgb.shape[0]} pixels')
        except FrameError as error:
            others.append(LeftOut(path, str(error)))
            continue
        small = reduced(photo.rgb)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        found.append(Surveyed(
            path, _digest(photo.rgb), photo.rgb.shape[:2], photo.focal_mm, measure_content(small),
            cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA),
            find_corners(small)))
    # Of files with the same pixels the one that is used has the first name.
    return sorted(found, key=lambda one: (one.digest, one.path.name, str(one.path))), others


def select(photos: Sequence[Surveyed],
           config: SightConfig) -> tuple[list[Surveyed], list[LeftOut]]:
    """Return the photographs that show something, without duplicates, and the others."""
    kept, left_out = [], []
    sharpness = np.median([one.content.sharpness for one in photos]) if photos else 0.0
    for photo in photos:
        reason = fault_of(photo.content, config) if config.check else ''
        if (not reason and config.check and len(photos) >= LEAST_COMPARED
                and is_blurred(photo.content, sharpness, config)):
            reason = BLURRED
        if reason:
            left_out.append(LeftOut(photo.path, reason))
        else:
            kept.append(photo)
    return _without_duplicates(kept, left_out)


def _without_duplicates(photos: list[Surveyed],
                        left_out: list[LeftOut]) -> tuple[list[Surveyed], list[LeftOut]]:
    """Return one photograph of each group of equal ones: the largest, then the sharpest."""
    ranked = sorted(range(len(photos)), key=lambda index: (
        -photos[index].size[0] * photos[index].size[1], -photos[index].content.sharpness, index))
    kept: list[int] = []
    for index in ranked:
        original = next((one for one in kept if _is_same(photos[one], photos[index])), None)
        if original is None:
            kept.append(index)
        else:
            same = ('the same' if photos[original].digest == photos[index].digest
                    else 'nearly the same')
            left_out.append(LeftOut(photos[index].path,
                                    f'{same} picture as {photos[original].path.name}'))
    return [photos[index] for index in sorted(kept)], left_out


def _is_same(first: Surveyed, second: Surveyed) -> bool:
    if first.digest == second.digest:
        return True
    difference = np.abs(first.thumbnail - second.thumbnail)
    return bool(difference.mean() <= SAME_MEAN and difference.max() <= SAME_LARGEST)


def _digest(rgb: np.ndarray) -> str:
    digest = hashlib.sha256(str(rgb.shape).encode())
    digest.update(np.ascontiguousarray(rgb))
    return digest.hexdigest()
