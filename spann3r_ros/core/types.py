# SPDX-License-Identifier: Apache-2.0
"""Values that travel through the mapping layer; all arrays are numpy, all stamps integers."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Intrinsics


class FrameError(ValueError):
    """A single frame cannot be used; the map is untouched and the next frame may follow."""


class DeviceMemoryError(FrameError):
    """A step ran out of memory: the frame is lost, and what the network remembers has to go."""


@dataclass(frozen=True)
class Frame:
    """One stamped camera image; `rgb` is uint8 [height, width, 3].

    `mask`, bool [height, width], says which pixels may enter the map; None: all. `up` [3] is the
    direction against gravity in the optical frame; None: the camera is taken as level.
    `world_from_camera` [4, 4] is the camera's pose in the map, in metres, where others know it;
    None: it is solved. All frames of a map are of one kind.
    """

    stamp_ns: int
    frame_id: str
    rgb: np.ndarray
    intrinsics: Intrinsics | None = None
    mask: np.ndarray | None = None
    up: np.ndarray | None = None
    world_from_camera: np.ndarray | None = None


@dataclass(frozen=True)
class Pointmap:
    """Points [height, width, 3] in the fragment frame and confidence [height, width] in [0, 1)."""

    points: np.ndarray
    confidence: np.ndarray


def finite_points(points: np.ndarray) -> np.ndarray:
    """Return which points [..., 3] have three finite coordinates, bool [...]."""
    # Much faster than a reduction over an axis as short as three.
    x, y, z = (np.isfinite(points[..., axis]) for axis in range(3))
    return x & y & z


def clean(pointmap: Pointmap, usable: np.ndarray | None = None) -> Pointmap:
    """Return float32 with the point NaN and confidence 0 where not finite or not usable [h, w].

    Where nothing is to be cleaned, it shares the pointmap's memory.
    """
    good = finite_points(pointmap.points) & np.isfinite(pointmap.confidence)
    if usable is not None:
        good &= usable
    if good.all():
        return Pointmap(pointmap.points.astype(np.float32, copy=False),
                        pointmap.confidence.astype(np.float32, copy=False))
    return Pointmap(np.where(good[..., None], pointmap.points, np.nan).astype(np.float32),
                    np.where(good, pointmap.confidence, 0.0).astype(np.float32))


def check_confident(pointmap: Pointmap, least: float) -> None:
    """Raise FrameError unless a point has a confidence of `least`, and above 0."""
    best = pointmap.confidence.max(initial=0.0)
    if best < least or best == 0.0:
        wanted = f'{least} or more' if least else 'above 0'
        raise FrameError(f'pointmap: expected finite points of confidence {wanted}, the best has '
                         f'{best:.3g}')


@dataclass(frozen=True)
class StampedPose:
    """Pose of the camera's optical frame in the map; transform [4, 4], destination first.

    `covariance` [6, 6], where known, is that of the place (map units) and of the rotation
    (radians) about the camera, x y z each, along the map's axes.
    """

    stamp_ns: int
    frame_id: str
    world_from_camera: np.ndarray
    covariance: np.ndarray | None = None

