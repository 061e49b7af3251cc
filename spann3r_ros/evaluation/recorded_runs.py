# SPDX-License-Identifier: Apache-2.0
"""Mapping of recordings as in the node, with a record of the network's estimates."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.network import Estimate, Network, NetworkStatus
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert
from spann3r_ros.core.types import Frame, FrameError, Pointmap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    FragmentConfig,
    KeyframeConfig,
    MapperConfig,
    SightConfig,
)
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.pipeline.runner import run_frames

OPTICAL_FROM_MAP = invert(MAP_FROM_OPTICAL)
# Measures of frames need all of them as keyframes.
EVERY_FRAME = KeyframeConfig(selection='stride')


@dataclass(frozen=True)
class MappedFrame:
    """A keyframe in one frame for all of them: its points, and its pose if it has one.

    `covariance` [6, 6] is that of the pose, as in `StampedPose`.
    `depth` [h, w] is in units of its fragment.
    """

    stamp_ns: int
    fragment_id: int
    image: np.ndarray
    intrinsics: Intrinsics
    depth: np.ndarray
    pointmap: Pointmap
    world_from_camera: np.ndarray | None
    covariance: np.ndarray | None


@dataclass(frozen=True)
class RecordedRun:
    """The result of mapping a recording of n frames; stamps of keyframes are frame numbers.

    `pointmaps` [n] are those of the network, `keyframes` those of the mapper, both in the first
    camera's optical frame. `network_sec` is the time spent in the network.
    """

    pointmaps: list[Pointmap]
    keyframes: list[MappedFrame]
    network_sec: float

    @property
    def poses(self) -> tuple[np.ndarray, list[int]]:
        """Return first-camera-from-camera [m, 4, 4] of frames with a pose, and their numbers."""
        return poses_of(self.keyframes)


class RecordingNetwork:
    """A network that delegates to another one, and records its final estimates and its time."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.name = network.name
        self.identity = network.identity
        self.measures_pose = network.measures_pose
        self.estimates: list[Estimate] = []
        self.seconds = 0.0

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return the network's input size."""
        return self._network.input_size(aspect)

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Run a step; record its estimates."""
        return self._record(lambda: self._network.step(image, image_id))

    def provisional(self) -> Estimate | None:
        """Return the network's provisional estimate."""
        return self._network.provisional()

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the network's estimates of a pair."""
        return self._network.pair(first, second)

    def flush(self) -> list[Estimate]:
        """Flush the network; record its estimates."""
        return self._record(self._network.flush)

    def reset(self) -> None:
        """Reset the network."""
        self._network.reset()

    def state(self) -> dict[str, np.ndarray]:
        """Return the network's state."""
        return self._network.state()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the network's state."""
        self._network.restore(arrays)

    def status(self) -> NetworkStatus:
        """Return the network's counters."""
        return self._network.status()

    def _record(self, call: Callable[[], list[Estimate]]) -> list[Estimate]:
        started = time.perf_counter()
        estimates = call()
        self.seconds += time.perf_counter() - started
        self.estimates += estimates
        return estimates


def run_recording(network: Network, frames: Sequence[Frame],
                  config: MapperConfig | None = None,
                  observe: Callable[[], object] = lambda: None) -> RecordedRun:
    """Run the mapper on frames whose stamps are their numbers from 0; all are used.

    Images that show little that is new, or nothing, are used too, because the measures need every
    frame, and the map has one fragment, because they need one sequence. `observe` is called after
    each frame. FrameError if the network did not estimate every frame in one sequence.
    """
    recorder = RecordingNetwork(network)
    config = replace(config or MapperConfig(), keyframes=EVERY_FRAME,
                     sight=SightConfig(check=False),
                     fragments=FragmentConfig(max_keyframes=0, max_lost=0))
    result = run_frames(Mapper(recorder, config), frames, observe)
    references = {estimate.reference_id for estimate in recorder.estimates}
    if len(recorder.estimates) != len(frames) or len(references) != 1:
        failures = ''.join(f'; frame {frame.stamp_ns}: {error}'
                           for frame, error in result.failures[:1])
        raise FrameError(f'network: expected {len(frames)} pointmaps of one sequence, '
                         f'got {len(recorder.estimates)} of {len(references)}{failures}')
    return RecordedRun([estimate.pointmap for estimate in recorder.estimates],
                       in_first_camera(result.updates), recorder.seconds)


def to_frames(images: np.ndarray, camera: Intrinsics) -> list[Frame]:
    """Return frames of images uint8 [n, h, w, 3]; their stamps are their numbers."""
    return [Frame(index, 'camera', image, camera) for index, image in enumerate(images)]


def poses_of(keyframes: Sequence[MappedFrame]) -> tuple[np.ndarray, list[int]]:
    """Return the poses [m, 4, 4] of the keyframes that have one, and their stamps."""
    posed = [one for one in keyframes if one.world_from_camera is not None]
    poses = np.array([one.world_from_camera for one in posed]).reshape(-1, 4, 4)
    return poses, [one.stamp_ns for one in posed]


def in_first_camera(updates: Sequence[MapUpdate]) -> list[MappedFrame]:
    """Return the keyframes of updates in the optical frame of a first camera that was level."""
    return in_world(updates, OPTICAL_FROM_MAP)


def in_world(updates: Sequence[MapUpdate], world_from_map: np.ndarray) -> list[MappedFrame]:
    """Return the keyframes of updates where they are at the end, in a frame of the caller."""
    places = {}
    for update in updates:
        places |= update.places
    return [_located(keyframe, world_from_map @ places[keyframe.fragment_id])
            for update in updates for keyframe in update.keyframes]


def _located(keyframe: Keyframe, world_from_fragment: np.ndarray) -> MappedFrame:
    pose = keyframe.pose_in(world_from_fragment)
    return MappedFrame(keyframe.stamp_ns, keyframe.fragment_id, keyframe.image,
                       keyframe.intrinsics, keyframe.depth,
                       Pointmap(keyframe.points_in(world_from_fragment), keyframe.confidence),
                       None if pose is None else pose.world_from_camera,
                       None if pose is None else pose.covariance)
