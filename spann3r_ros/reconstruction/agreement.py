# SPDX-License-Identifier: Apache-2.0
"""Whether the poses of a map agree with the corners that its photographs share.

The point of a corner, by the depth of its keyframe, is projected into the other photograph. Its
distance from the corner there says how good poses and depths are, and does not depend on what the
network says of itself.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert, transform_points

# With a larger median distance, as a share of the image's width, a map is not to be trusted.
MOST_ERROR = 0.03


@dataclass(frozen=True)
class CornerLink:
    """Corners that two photographs share: pixels [n, 2] about the middle of each image."""

    first: Path
    second: Path
    pixels: np.ndarray
    other_pixels: np.ndarray


@dataclass(frozen=True)
class Placed:
    """What is kept of a keyframe: depth float16 [h, w], its camera and its pose [4, 4]."""

    depth: np.ndarray
    intrinsics: Intrinsics
    fragment_from_camera: np.ndarray

    @classmethod
    def of(cls, keyframe: Keyframe) -> Placed:
        """Return what is kept of a keyframe with a pose."""
        return cls(keyframe.depth.astype(np.float16), keyframe.intrinsics,
                   keyframe.pose.fragment_from_camera)


def corner_error(links: Iterable[CornerLink], placed: Mapping[Path, Placed]) -> float | None:
    """Return the median distance of projected corners, as a share of the image's width.

    A corner that falls behind the other camera counts as the whole width. None without a link
    between photographs that are placed.
    """
    found = []
    for link in links:
        if link.first in placed and link.second in placed:
            one, other = placed[link.first], placed[link.second]
            found += [_errors(one, other, link.pixels, link.other_pixels),
                      _errors(other, one, link.other_pixels, link.pixels)]
    found = np.concatenate(found) if found else np.zeros(0)
    return float(np.median(found)) if len(found) else None


def _errors(one: Placed, other: Placed, pixels: np.ndarray,
            other_pixels: np.ndarray) -> np.ndarray:
    camera = one.intrinsics
    height, width = one.depth.shape
    columns, rows = (np.rint(pixels + (0.5 * (width - 1), 0.5 * (height - 1)))).astype(int).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    depth = np.full(len(pixels), np.nan)
    depth[inside] = one.depth[rows[inside], columns[inside]]
    known = depth > 0.0
    # About the middle of the image, where both principal points are.
    rays = np.column_stack([pixels[known] / (camera.fx, camera.fy), np.ones(known.sum())])
    seen = transform_points(invert(other.fragment_from_camera) @ one.fragment_from_camera,
                            rays * depth[known, None])
    ahead = seen[:, 2] > 0.0
    errors = np.ones(len(seen))
    projected = seen[ahead, :2] / seen[ahead, 2:] * (other.intrinsics.fx, other.intrinsics.fy)
    distances = np.linalg.norm(projected - other_pixels[known][ahead], axis=1)
    errors[ahead] = np.minimum(distances / width, 1.0)
    return errors
