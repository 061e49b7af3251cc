# SPDX-License-Identifier: Apache-2.0
"""The mapper's results and counters."""
from __future__ import annotations

from dataclasses import dataclass

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import Frame, FrameError, StampedPose
from spann3r_ros.mapping.scale.map_scale import Scale

from .memory_manager import MemoryReport


@dataclass(frozen=True)
class MappingStatus:
    """The mapper's counters since the last reset; those of `memory` are since the start.

    `poses_failed` counts keyframes whose pointmap gave no pose. `poses_gated` counts those whose
    pointmap gave a pose that the filter rejected, and `pose_resets` how often it then followed the
    pointmaps after all. `keyframes_left_out` counts keyframes without a pose, whose points did not
    enter the map. `live_poses_failed` counts frames whose live
    pose could not be estimated. `coverage` is the share of the newest image that the network sees;
    it is NaN before the first image.
    """

    fragment_id: int
    scale: Scale
    keyframes: int
    skipped: int
    poses_failed: int
    poses_gated: int
    pose_resets: int
    keyframes_left_out: int
    live_poses_failed: int
    coverage: float
    voxels: int
    voxel_size: float
    voxels_evicted: int
    memory: MemoryReport


@dataclass(frozen=True)
class MapUpdate:
    """The result of processing one frame: completed keyframes, the live pose, or neither.

    `skipped` is true if the keyframe gate rejected the frame. `keyframes` are those that the frame
    completed: the *previous* admitted frame (refined result), and earlier ones that waited for a
    scale. `live_pose` is the pose of the newest frame (provisional result). `refused` are earlier
    frames, taken before, whose final estimate turned out to be unusable, with the reasons.
    """

    skipped: bool = False
    keyframes: tuple[Keyframe, ...] = ()
    live_pose: StampedPose | None = None
    inference_sec: float = 0.0
    refused: tuple[tuple[Frame, FrameError], ...] = ()
