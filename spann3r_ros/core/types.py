# SPDX-License-Identifier: Apache-2.0
"""Frames, pointmaps and poses; all arrays are numpy, all stamps are integers in nanoseconds."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Intrinsics
from .transforms import move_covariance, move_pose


class FrameError(ValueError):
    """A single frame cannot be used; the map is unchanged and the next frame may follow."""


class UnsupportedImageError(FrameError):
    """The encoding or the file format of an image is not read; `name` is that encoding or format.

    All images of a camera fail alike then.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class DeviceMemoryError(FrameError):
    """A step ran out of memory: the frame is lost, and the network's memory must be reset."""


@dataclass(frozen=True)
class Frame:
    """One stamped camera image; `rgb` is uint8 [height, width, 3].

    `mask`, bool [height, width], is true for the pixels that may enter the map; None: all.
    `first_pose` [4, 4] is the camera's pose in a map that begins with this image, z up: its third
    row has the direction against gravity; None: a level camera at the origin.
    `world_from_camera` [4, 4] is the given pose of the camera in the map, in metres; None: the
    pose is solved. Either all frames of a map have a given pose or none.
    `odometry` [4, 4] is the pose of the camera in the robot's odometry, in metres, and `depth`,
    float32 [height, width], the depth in metres along the optical axis, 0 or NaN where unknown;
    both are used for the scale only. None: not known.
    """

    stamp_ns: int
    frame_id: str
    rgb: np.ndarray
    intrinsics: Intrinsics | None = None
    mask: np.ndarray | None = None
    first_pose: np.ndarray | None = None
    world_from_camera: np.ndarray | None = None
    odometry: np.ndarray | None = None
    depth: np.ndarray | None = None


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
    """Return a float32 pointmap without the points that are not finite or not `usable` [h, w].

    These become NaN with confidence 0. If there are none, the result shares the pointmap's memory.
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
    """Raise FrameError unless some point has a confidence of at least `least` and above 0."""
    best = pointmap.confidence.max(initial=0.0)
    if best < least or best == 0.0:
        wanted = f'{least} or more' if least else 'above 0'
        raise FrameError(f'pointmap: expected finite points of confidence {wanted}, the best has '
                         f'{best:.3g}')


@dataclass(frozen=True)
class StampedPose:
    """Pose of the camera's optical frame in the map; transform [4, 4], destination first.

    `covariance` [6, 6] is that of the position (map units) and of the rotation (radians, about the
    camera), x y z each, along the map's axes; None if unknown.
    """

    stamp_ns: int
    frame_id: str
    world_from_camera: np.ndarray
    covariance: np.ndarray | None = None


@dataclass(frozen=True)
class FragmentPose:
    """Pose of the camera's optical frame in a fragment; transform [4, 4], destination first.

    `covariance` [6, 6] is that of the position (fragment units) and of the rotation (radians,
    about the camera), x y z each, along the fragment's axes; None if unknown.
    """

    stamp_ns: int
    frame_id: str
    fragment_id: int
    fragment_from_camera: np.ndarray
    covariance: np.ndarray | None = None

    def in_map(self, map_from_fragment: np.ndarray) -> StampedPose:
        """Return the pose in the map; `map_from_fragment` [4, 4] is a similarity."""
        covariance = self.covariance
        if covariance is not None:
            covariance = move_covariance(map_from_fragment, covariance)
        return StampedPose(self.stamp_ns, self.frame_id,
                           move_pose(map_from_fragment, self.fragment_from_camera), covariance)
