# SPDX-License-Identifier: Apache-2.0
"""The mapper's results and counters."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import FragmentPose, Frame
from spann3r_ros.mapping.scale.map_scale import Scale

from .fragments.keyframe_store import KeptReport
from .memory_manager import MemoryReport


@dataclass(frozen=True)
class MappingStatus:
    """The mapper's counters since the last reset; those of `memory` are since the start.

    `phase` is empty, tracking, lost or closed. `skipped` counts the frames that show something
    and are no keyframes. `blind_reason` is what the newest images lack, or empty. `fragments`
    counts those with keyframes, `fragments_unconnected` those of them that no measurement connects
    with the oldest one. `loops_accepted` and `loops_rejected` are what the pose graph says of the
    verified loops, or has said of those that it has forgotten. `revision` grows whenever a
    fragment moves.
    `poses_failed` counts keyframes whose pointmap gave no pose, `poses_gated` those whose pointmap
    gave a pose that the filter rejected, and `pose_resets` how often it then followed the
    pointmaps after all. `keyframes_left_out` counts keyframes without a pose, whose points did not
    enter the map.
    `live_poses_failed` counts frames whose live pose could not be estimated. `coverage` is the
    share of the newest image that the network sees; it is NaN before the first image.
    `voxels_carved` counts voxels removed because later keyframes saw through them.
    `grid_reason` is why the map has no occupancy grid, or empty.
    `confidence` is the mean of the newest keyframe's pixels; NaN before the first one.
    `localisation` is off, searching, located or lost, or empty before the first keyframe;
    `localisation_reason` is what a search lacks.
    `loops_refused` counts the candidates of loops that were not verified, `loop_refusal` is what
    the newest of them lacked, or empty. `back_end_failures` counts what failed while keyframes in
    the map were levelled, scaled or corrected, `back_end_reason` says what failed last.
    """

    phase: str
    fragment_id: int
    fragments: int
    revision: int
    scale: Scale
    keyframes: int
    skipped: int
    blind_reason: str
    poses_failed: int
    poses_gated: int
    pose_resets: int
    keyframes_left_out: int
    live_poses_failed: int
    coverage: float
    voxels: int
    voxel_size: float
    voxels_evicted: int
    kept: KeptReport
    memory: MemoryReport
    fragments_unconnected: int
    loops_accepted: int
    loops_rejected: int
    voxels_carved: int
    grid_reason: str = ''
    confidence: float = math.nan
    localisation: str = 'off'
    localisation_reason: str = ''
    loops_refused: int = 0
    loop_refusal: str = ''
    back_end_failures: int = 0
    back_end_reason: str = ''


@dataclass(frozen=True)
class FailedFrame:
    """A frame that cannot be used, and the reason.

    `is_counted` is false for a frame that is not among the processed ones, see `Admitted`.
    """

    frame: Frame
    error: Exception
    is_counted: bool = True


@dataclass(frozen=True)
class MapUpdate:
    """The result of processing one frame.

    `skipped` is true if the frame is no keyframe. It may have a live pose, unless its image shows
    nothing; then `blind` is true too. `keyframes` are those completed by this frame: of this one,
    of earlier frames, or none. `live_pose` is the pose of the newest frame (a provisional result).
    `failed` are the frames that turned out to be unusable: this one or earlier ones. `moved` are
    the ids of the fragments that moved since the update before.
    `places` has `map_from_fragment` [4, 4] of these, of the current one and of those that
    keyframes and live pose are in. `unlocated` are the ids of those among them whose place is not
    known; `located` is false while that of the camera is not.
    """

    skipped: bool = False
    keyframes: tuple[Keyframe, ...] = ()
    live_pose: FragmentPose | None = None
    inference_sec: float = 0.0
    failed: tuple[FailedFrame, ...] = ()
    revision: int = 0
    moved: tuple[int, ...] = ()
    places: Mapping[int, np.ndarray] = field(default_factory=dict)
    blind: bool = False
    unlocated: frozenset[int] = frozenset()
    located: bool = True

    def error_of(self, frame: Frame) -> Exception | None:
        """Return why a frame cannot be used; None if it can."""
        return next((one.error for one in self.failed if one.frame is frame), None)
