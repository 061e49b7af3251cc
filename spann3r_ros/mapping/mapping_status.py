# SPDX-License-Identifier: Apache-2.0
"""What a mapper tells of itself."""
from __future__ import annotations

from dataclasses import dataclass

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.scale.map_scale import Scale

from .memory_manager import MemoryReport


@dataclass(frozen=True)
class MappingStatus:
    """Where the mapper stands; counts are since the last reset, those of `memory` since the start.

    `poses_failed` counts keyframes, `live_poses_failed` newest frames, that admitted no pose.
    `coverage` is the share of the newest image that the network saw; NaN before the first.
    """

    fragment_id: int
    scale: Scale
    keyframes: int
    skipped: int
    poses_failed: int
    live_poses_failed: int
    coverage: float
    voxels: int
    voxel_size: float
    voxels_evicted: int
    memory: MemoryReport


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
