# SPDX-License-Identifier: Apache-2.0
"""What a mapper tells of itself."""
from __future__ import annotations

from dataclasses import dataclass

from .memory_manager import MemoryReport
from .scale import Scale


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
