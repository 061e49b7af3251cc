# SPDX-License-Identifier: Apache-2.0
"""The mapper's state between two frames, without the network's memory; a reset replaces it."""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import is_rigid
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.core.views import Preprocessed

from .admitted import Admitted
from .back_end import BackEnd
from .fragments.atlas import Atlas
from .layers.voxel_map import VoxelMap
from .mapper_config import MapperConfig
from .mapping_status import FailedFrame, MappingStatus
from .memory_manager import MemoryReport
from .occupancy.grid_config import GridConfig
from .selection.keyframe_gate import KeyframeGate
from .selection.sight import Sight
from .tracking.focal_length import FocalRefinement
from .tracking.known_poses import KnownPoses
from .tracking.pose_source import PoseSource


class Phase(Enum):
    """What a map accepts.

    EMPTY: frames of any camera, with or without given poses. TRACKING and LOST: frames of the
    map's camera; LOST, if the newest keyframe has no pose. CLOSED, after a flush: no frames.
    """

    EMPTY = 'empty'
    TRACKING = 'tracking'
    LOST = 'lost'
    CLOSED = 'closed'


@dataclass(frozen=True)
class Calibration:
    """The height and width of a map's images and their intrinsics; None: not calibrated."""

    size: tuple[int, int]
    intrinsics: Intrinsics | None


@dataclass
class MappingState:
    """One map, the frames on their way into it, and the counters."""

    gate: KeyframeGate
    sight: Sight
    atlas: Atlas
    back_end: BackEnd
    phase: Phase = Phase.EMPTY
    poses: PoseSource | None = None  # chosen by the first frame
    pending: dict[int, Admitted] = field(default_factory=dict)  # final estimate still to come
    replays: dict[int, Admitted] = field(default_factory=dict)  # for the new fragment to process
    # The last frame that was too similar to the only one that the network has. At the end of the
    # recording the network gets it after all, because it needs two.
    spare: tuple[Frame, Preprocessed] | None = None
    restart_reason: str = ''  # if not empty, the next frame begins a fragment
    image_ids: int = 0  # the number of ids used so far
    newest_ns: int | None = None  # the stamp of the last frame that came
    camera: tuple[str, tuple[int, int]] | None = None  # frame_id; height and width of its images
    intrinsics: Intrinsics | None = None  # of the last keyframe, at the network's input size
    calibration: Calibration | None = None  # None: the map has no frame yet
    coverage: float = math.nan
    focal: FocalRefinement = field(default_factory=FocalRefinement)
    keyframes: int = 0
    keyframes_left_out: int = 0
    confidence: float = math.nan  # mean of the newest keyframe
    undelivered: list[Keyframe] = field(default_factory=list)
    failed: list[FailedFrame] = field(default_factory=list)  # not reported yet

    def configure(self, config: MapperConfig) -> None:
        """Use other settings from the next frame on."""
        self.gate.configure(config.keyframes)
        self.sight.configure(config.sight)
        self.atlas.configure(config)
        self.back_end.configure(config)
        if self.poses is not None:
            self.poses.configure(config)

    def check(self, frame: Frame) -> None:
        """Raise FrameError for a frame that the map does not accept; change nothing."""
        if self.phase is Phase.CLOSED:
            raise FrameError('the map is closed by a flush: reset before further frames')
        pose = frame.world_from_camera
        if pose is not None and not is_rigid(pose):
            raise FrameError(f'world_from_camera: expected a rigid transform [4, 4], got {pose}')
        if self.camera is None:
            return
        if (pose is None) == isinstance(self.poses, KnownPoses):
            raise FrameError('world_from_camera: expected a pose with every frame of a map, or '
                             'with none; reset to change that')
        # A map has one camera: the network's memory, the tracked corners and an estimated focal
        # length depend on it.
        frame_id, size = self.camera
        if frame.frame_id != frame_id:
            raise FrameError(f'frame_id: expected images of {frame_id!r} as before, got '
                             f'{frame.frame_id!r}; reset to change the camera')
        if frame.rgb.shape[:2] != size:
            raise FrameError(f'rgb: expected height and width {size} as before, got '
                             f'{frame.rgb.shape[:2]}; reset to change the image size')

        if self.calibration is not None and self.calibration.intrinsics != frame.intrinsics:
            raise FrameError('intrinsics: expected those of all frames of the map, '
                             f'{self.calibration.intrinsics}, got {frame.intrinsics}; reset to '
                             'change them')

    def admit(self, frame: Frame, network_input: Preprocessed) -> Admitted:
        """Return a frame with the next image id."""
        self.spare = None
        waypoints = self.gate.admit(frame.stamp_ns, network_input)
        self.image_ids += 1
        return Admitted(frame, network_input, self.image_ids, frame.rgb.shape[:2],
                        frame.intrinsics, waypoints=waypoints)

    @property
    def needs_second(self) -> bool:
        """Return whether the network has one image only, and needs two for an estimate."""
        waiting = 0 if self.poses is None else self.poses.waiting
        return bool(self.pending) and not (self.atlas.current.received or waiting)

    def skip(self, frame: Frame, network_input: Preprocessed, may_serve: bool) -> None:
        """Record a frame that is no keyframe; `may_serve`: it could be one."""
        self.gate.skip()
        if may_serve and self.needs_second:
            self.spare = frame, network_input

    def admit_spare(self) -> Admitted:
        """Return the spare frame with the next image id; it stays counted as skipped."""
        # The image of a spare frame of a saved map is that of the network's input.
        return replace(self.admit(*self.spare), is_counted=False, size=self.calibration.size,
                       intrinsics=self.calibration.intrinsics)

    def take(self, admitted: Admitted) -> None:
        """Record a frame that the network has processed as pending."""
        self.pending[admitted.image_id] = admitted
        self.camera = admitted.frame.frame_id, admitted.size
        self.calibration = Calibration(admitted.size, admitted.intrinsics)
        self.coverage = admitted.network_input.coverage

    def fail(self, admitted: Admitted, error: Exception) -> None:
        """Record that a frame cannot be used."""
        self.failed.append(FailedFrame(admitted.frame, error, admitted.is_counted))

    def restart(self, reason: str) -> None:
        """Let the next frame begin a fragment."""
        self.restart_reason = reason

    def grid_reason(self, config: GridConfig) -> str:
        """Return why the map has no occupancy grid, or an empty text."""
        if not config.enabled:
            return 'grid.enabled is false'
        if not self.keyframes:
            return 'the map is empty'
        if config.force:
            return ''
        if not self.atlas.located()[-1].scale.metric:
            return 'the scale of the map is not known'
        return '' if self.back_end.levelled else 'the map is not level'

    @property
    def is_located(self) -> bool:
        """Return whether the place of the camera in the map is known, or will be assumed."""
        return not (self.back_end.relocaliser.awaits_image
                    or self.atlas.current.id in self.atlas.unlocated())

    def _localisation(self) -> str:
        """Return the state of the relocalisation."""
        if not self.back_end.relocaliser.is_enabled or isinstance(self.poses, KnownPoses):
            return 'off'
        if not self.keyframes:
            return ''
        if not self.is_located:
            return 'searching'
        return 'lost' if self.phase is Phase.LOST else 'located'

    def status(self, voxel_map: VoxelMap, memory: MemoryReport,
               grid: GridConfig) -> MappingStatus:
        """Return the counters."""
        atlas, poses = self.atlas, self.poses
        return MappingStatus(
            phase=self.phase.value,
            fragment_id=atlas.current.id,
            fragments=sum(one.received > 0 for one in atlas.fragments.values()),
            revision=atlas.revision,
            scale=atlas.current.scale,
            keyframes=self.keyframes,
            skipped=self.gate.skipped,
            blind_reason=self.sight.reason,
            poses_failed=0 if poses is None else poses.failed,
            poses_gated=0 if poses is None else poses.gated,
            pose_resets=0 if poses is None else poses.resets,
            keyframes_left_out=self.keyframes_left_out,
            live_poses_failed=0 if poses is None else poses.live_failed,
            coverage=self.coverage,
            voxels=sum(map(len, atlas.stores(voxel_map.name))),
            voxel_size=voxel_map.voxel_size * atlas.unit,
            voxels_evicted=voxel_map.evicted,
            kept=atlas.kept(),
            memory=memory,
            fragments_unconnected=len(atlas.unconnected()),
            loops_accepted=atlas.loops(accepted=True),
            loops_rejected=atlas.loops(accepted=False),
            voxels_carved=voxel_map.carved,
            grid_reason=self.grid_reason(grid),
            confidence=self.confidence,
            localisation=self._localisation(),
            localisation_reason=self.back_end.relocaliser.reason,
            loops_refused=self.back_end.loops.refused,
            loop_refusal=self.back_end.loops.refusal,
            back_end_failures=self.back_end.failures,
            back_end_reason=self.back_end.failure,
        )

    def forget_calibration(self) -> None:
        """Forget what an unusable first frame decided; without other frames also its camera."""
        self.intrinsics, self.focal = None, FocalRefinement()
        if not (self.pending or self.replays):
            self.camera = self.poses = self.calibration = None
