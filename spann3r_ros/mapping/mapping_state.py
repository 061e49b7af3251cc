# SPDX-License-Identifier: Apache-2.0
"""The mapper's state between two frames, without the voxel map and the network's memory."""
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
    """A frame that the keyframe gate admitted, with its network input and image id."""

    frame: Frame
    network_input: Preprocessed
    image_id: int


@dataclass
class MappingState:
    """The mapper's state between two frames; a reset creates a new one."""

    gate: KeyframeGate
    camera_track: CameraTrack
    trajectory: deque[StampedPose]
    fragment: Fragment = field(default_factory=Fragment)
    pending: dict[int, Admitted] = field(default_factory=dict)  # final estimate still to come
    replays: dict[int, Admitted] = field(default_factory=dict)  # for the new fragment to process
    undelivered: list[Keyframe] = field(default_factory=list)  # in the map, but in no update yet
    image_ids: int = 0  # the number of ids used so far
    anchor: Keyframe | None = None  # the first image of a new fragment: `can_place`
    placed_scale: float = 1.0  # map units per unit of the fragment placed last; 1: the first one
    placements_failed: int = 0  # in a row
    known_poses: KnownPoses | None = None  # None: poses are solved
    restart_reason: str = ''  # if not empty, the next frame begins a fragment
    camera: tuple[str, tuple[int, int]] | None = None  # frame_id; height and width of its images
    calibration: tuple[Intrinsics | None] | None = None  # of all frames; None: not known yet
    coverage: float = math.nan
    intrinsics: Intrinsics | None = None  # estimated, at the network's input size
    closed: bool = False
    keyframes: int = 0
    poses_failed: int = 0
    live_poses_failed: int = 0

    @property
    def founded(self) -> bool:
        """Return whether the map has its first keyframe, placed or waiting for a scale."""
        waiting = self.known_poses is not None and self.known_poses.waiting > 0
        return self.keyframes > 0 or waiting

    def check_open(self, frame: Frame) -> None:
        """Raise FrameError for a frame that does not fit the map, or if the map is closed."""
        if self.closed:
            raise FrameError('the map is closed by a flush: reset before further frames')
        check_known_pose(frame)
        if self.camera is None:
            return
        if (frame.world_from_camera is None) != (self.known_poses is None):
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
        if self.calibration not in (None, (frame.intrinsics,)):
            raise FrameError('intrinsics: expected those of all frames of the map, '
                             f'{self.calibration[0]}, got {frame.intrinsics}; reset to change '
                             'them')

    def admit(self, frame: Frame, network_input: Preprocessed) -> Admitted:
        """Return a frame with the next image id."""
        self.image_ids += 1
        return Admitted(frame, network_input, self.image_ids)

    def take(self, admitted: Admitted) -> None:
        """Record a frame that the network has processed as pending."""
        self.pending[admitted.image_id] = admitted
        self.camera = admitted.frame.frame_id, admitted.frame.rgb.shape[:2]
        self.calibration = (admitted.frame.intrinsics,)
        self.coverage = admitted.network_input.coverage
        if admitted.frame.world_from_camera is not None and self.known_poses is None:
            self.known_poses = KnownPoses()

    def take_keyframes(self) -> tuple[Keyframe, ...]:
        """Return the keyframes that no update contains yet, oldest first; forget them."""
        keyframes, self.undelivered = tuple(self.undelivered), []
        return keyframes

    def saved(self, voxels: VoxelRows) -> SavedMap | None:
        """Return what `resume` needs; None while no new fragment could be joined to the map."""
        posed = self.known_poses is not None
        if self.camera is None or self.intrinsics is None or (self.anchor is None and not posed):
            return None
        return SavedMap(voxels, list(self.trajectory), self.anchor, self.camera, self.intrinsics,
                        self.fragment.id, self.fragment.scale, self.keyframes)

    def resume(self, saved: SavedMap) -> None:
        """Take over a saved map, so that the next frame begins a fragment of it."""
        self.trajectory.extend(saved.trajectory)
        self.fragment = Fragment(saved.fragment_id, saved.scale)
        self.camera, self.intrinsics = saved.camera, saved.intrinsics
        self.keyframes = saved.keyframes
        self.restart_reason = MAP_LOADED
        self.anchor = saved.anchor
        if saved.anchor is None:
            self.known_poses = KnownPoses()
        else:
            self.camera_track.follow_keyframe(saved.anchor)
