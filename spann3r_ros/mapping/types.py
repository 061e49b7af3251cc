# SPDX-License-Identifier: Apache-2.0
"""Values that travel through the mapping layer; all arrays are numpy, all stamps integers."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class FrameError(ValueError):
    """A single frame cannot be used; the map is untouched and the next frame may follow."""


class DeviceMemoryError(FrameError):
    """A step ran out of memory: the frame is lost, and what the network remembers has to go."""


@dataclass(frozen=True)
class Compute:
    """Where and how a network computes: the node's parameters of the same names."""

    device: str = 'auto'
    precision: str = 'auto'
    compile: bool = False
    cuda_graph: bool = False


@dataclass(frozen=True)
class Distortion:
    """Lens distortion as CameraInfo names it: plumb_bob, rational_polynomial or equidistant."""

    model: str
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics in pixels; pixel centres lie at integer coordinates.

    With `distortion` they are those of the rectified image, which keeps focal length and centre.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: Distortion | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Return the 3x3 camera matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


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
class StepResult:
    """What one reconstruction step yields.

    `refined` belongs to the previous frame (None on the first step of a fragment);
    `provisional` belongs to the newest frame (None when not asked for, or on the first step).
    """

    refined: Pointmap | None
    provisional: Pointmap | None


@dataclass(frozen=True)
class MemoryStatus:
    """Counters of the reconstructor's spatial memory."""

    working_frames: int = 0
    long_term_tokens: int = 0
    tokens: int = 0
    capacity_tokens: int = 0
    prunings: int = 0
    rejected_frames: int = 0
    device_bytes: int = 0


class Reconstructor(Protocol):
    """A streaming network that turns images into pointmaps in one fragment frame.

    The fragment frame is the optical frame (x right, y down, z forward) of the fragment's
    first image; its scale is arbitrary unless the reconstructor says otherwise.
    """

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the images `step` takes."""

    def step(self, image: np.ndarray, provisional: bool) -> StepResult:
        """Take one uint8 RGB image [height, width, 3] and return what became known by it.

        Raises DeviceMemoryError when only forgetting helps; the image is not taken then.
        """

    def provisional(self) -> Pointmap | None:
        """Return the newest image's provisional pointmap, None if under two images.

        None also where memory does not suffice: unlike `step` it costs no image.
        """

    def flush(self) -> Pointmap | None:
        """Return the newest image's pointmap and close the fragment; None if under two images."""

    def reset(self) -> None:
        """Forget every image: the next one founds a new fragment."""

    def status(self) -> MemoryStatus:
        """Return the memory's counters."""


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


@dataclass(frozen=True)
class Keyframe:
    """A frame admitted to the map, after cropping to the network's input size.

    `image` is uint8 [h, w, 3]; `pointmap.points` are in the map frame (REP-103, z up), NaN with
    confidence 0 where the network gave none; with a pose they lie on the rays of their pixels.
    `pose.world_from_camera` maps optical-frame points
    to the map frame; `pose` is None when the pointmap admits no pose, never an identity.
    """

    stamp_ns: int
    frame_id: str
    pose: StampedPose | None
    image: np.ndarray
    intrinsics: Intrinsics
    pointmap: Pointmap
    fragment_id: int


@dataclass(frozen=True)
class MapUpdate:
    """What processing one frame changed: finished keyframes, the live pose, or neither.

    `skipped` says that the keyframe gate refused the frame. `keyframes` is the *previous*
    admitted frame (refined result), or those up to it that had to wait for a scale; `live_pose`
    is the newest frame's (provisional result).
    """

    skipped: bool = False
    keyframes: tuple[Keyframe, ...] = ()
    live_pose: StampedPose | None = None
    inference_sec: float = 0.0
