# SPDX-License-Identifier: Apache-2.0
"""What a mapper holds between two frames, but for the map and the network's memory."""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import Frame, FrameError, StampedPose
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.layers.voxel_map import VoxelRows
from spann3r_ros.mapping.storage.saved_map import SavedMap
from spann3r_ros.mapping.tracking.camera_track import CameraTrack
from spann3r_ros.mapping.tracking.keyframe_gate import KeyframeGate
from spann3r_ros.mapping.tracking.known_poses import KnownPoses, check_known_pose

MAP_LOADED = 'a map was loaded'


@dataclass(frozen=True)
class Admitted:
    """A frame given to the network under an id."""

    frame: Frame
    network_input: Preprocessed
    image_id: int


@dataclass
class MappingState:
    """A reset makes a new one."""

    gate: KeyframeGate
    camera_track: CameraTrack
    trajectory: deque[StampedPose]
    fragment: Fragment = field(default_factory=Fragment)
    pending: dict[int, Admitted] = field(default_factory=dict)  # whose estimate is to come
    image_ids: int = 0  # how many ids are given out
    anchor: Keyframe | None = None  # the newest with a pose: a new fragment begins with it
    known_poses: KnownPoses | None = None  # None: poses are solved
    restart_reason: str = ''  # not empty: the next frame begins a fragment
    camera: tuple[str, tuple[int, int]] | None = None  # its frame, its images' height and width
    coverage: float = math.nan
    intrinsics: Intrinsics | None = None  # estimated, at the network's input size
    closed: bool = False
    keyframes: int = 0
    poses_failed: int = 0
    live_poses_failed: int = 0

    @property
    def founded(self) -> bool:
        """Say whether a first pointmap was good enough to begin with."""
        waiting = self.known_poses is not None and self.known_poses.waiting > 0
        return self.keyframes > 0 or waiting

    def check_open(self, frame: Frame) -> None:
        """Raise FrameError for a frame that this map does not take, or not any more."""
        if self.closed:
            raise FrameError('the map is closed by a flush: reset before further frames')
        check_known_pose(frame)
        if self.camera is None:
            return
        if (frame.world_from_camera is None) != (self.known_poses is None):
            raise FrameError('world_from_camera: expected a pose with every frame of a map, or '
                             'with none; reset to change that')
        # One map is of one camera: the memory, the tracked corners and an estimated focal length
        # assume so.
        frame_id, size = self.camera
        if frame.frame_id != frame_id:
            raise FrameError(f'frame_id: expected images of {frame_id!r} as before, got '
                             f'{frame.frame_id!r}; reset to change the camera')
        if frame.rgb.shape[:2] != size:
            raise FrameError(f'rgb: expected height and width {size} as before, got '
                             f'{frame.rgb.shape[:2]}; reset to change the image size')

    def admit(self, frame: Frame, network_input: Preprocessed) -> Admitted:
        """Return a frame with an id of its own."""
        self.image_ids += 1
        return Admitted(frame, network_input, self.image_ids)

    def take(self, admitted: Admitted) -> None:
        """Note a frame that the network has taken."""
        self.pending[admitted.image_id] = admitted
        self.camera = admitted.frame.frame_id, admitted.frame.rgb.shape[:2]
        self.coverage = admitted.network_input.coverage
        if admitted.frame.world_from_camera is not None and self.known_poses is None:
            self.known_poses = KnownPoses()

    def saved(self, voxels: VoxelRows) -> SavedMap | None:
        """Return what `resume` needs; None while there is no place to go on from."""
        posed = self.known_poses is not None
        if self.camera is None or self.intrinsics is None or (self.anchor is None and not posed):
            return None
        return SavedMap(voxels, list(self.trajectory), self.anchor, self.camera, self.intrinsics,
                        self.fragment.id, self.fragment.scale, self.keyframes)

    def resume(self, saved: SavedMap) -> None:
        """Let the next frame begin a fragment of a saved map."""
        self.trajectory.extend(saved.trajectory)
        self.fragment = Fragment(saved.fragment_id, saved.scale)
        self.camera, self.intrinsics = saved.camera, saved.intrinsics
        self.keyframes = saved.keyframes
        self.restart_reason = MAP_LOADED
        self.anchor = saved.anchor
        if saved.anchor is None:
            self.known_poses = KnownPoses()
        else:
            self.camera_track.advance(saved.anchor)
