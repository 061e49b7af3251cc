# SPDX-License-Identifier: Apache-2.0
"""The mapper's state between two frames, without the voxel map and the network's memory."""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe, depth_of
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.core.types import Frame, FrameError, StampedPose
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.layers.voxel_map import VoxelRows
from spann3r_ros.mapping.storage.saved_map import SavedMap
from spann3r_ros.mapping.tracking.corner_motion import CornerMotion
from spann3r_ros.mapping.tracking.focal_length import FocalRefinement
from spann3r_ros.mapping.tracking.keyframe_gate import KeyframeGate
from spann3r_ros.mapping.tracking.known_poses import KnownPoses, check_known_pose
from spann3r_ros.mapping.tracking.pose_filter import PoseFilter

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
    corners: CornerMotion
    pose_filter: PoseFilter
    trajectory: deque[StampedPose]
    fragment: Fragment = field(default_factory=Fragment)
    pending: dict[int, Admitted] = field(default_factory=dict)  # final estimate still to come
    replays: dict[int, Admitted] = field(default_factory=dict)  # for the new fragment to process
    undelivered: list[Keyframe] = field(default_factory=list)  # in the map, but in no update yet
    refused: list[tuple[Frame, FrameError]] = field(default_factory=list)  # in no update yet
    image_ids: int = 0  # the number of ids used so far
    anchor: Keyframe | None = None  # the first image of a new fragment: `can_place`
    placed_scale: float = 1.0  # map units per unit of the fragment placed last; 1: the first one
    placements_failed: int = 0  # in a row
    known_poses: KnownPoses | None = None  # None: poses are solved
    restart_reason: str = ''  # if not empty, the next frame begins a fragment
    camera: tuple[str, tuple[int, int]] | None = None  # frame_id; height and width of its images
    coverage: float = math.nan
    intrinsics: Intrinsics | None = None  # of the last keyframe, at the network's input size
    focal: FocalRefinement = field(default_factory=FocalRefinement)
    closed: bool = False
    keyframes: int = 0
    poses_failed: int = 0
    poses_gated: int = 0
    pose_resets: int = 0
    keyframes_left_out: int = 0
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

    def admit(self, frame: Frame, network_input: Preprocessed) -> Admitted:
        """Return a frame with the next image id."""
        self.image_ids += 1
        return Admitted(frame, network_input, self.image_ids)

    def take(self, admitted: Admitted) -> None:
        """Record a frame that the network has processed as pending."""
        self.pending[admitted.image_id] = admitted
        self.camera = admitted.frame.frame_id, admitted.frame.rgb.shape[:2]
        self.coverage = admitted.network_input.coverage
        if admitted.frame.world_from_camera is not None and self.known_poses is None:
            self.known_poses = KnownPoses()

    def take_keyframes(self) -> tuple[Keyframe, ...]:
        """Return the keyframes that no update contains yet, oldest first; forget them."""
        keyframes, self.undelivered = tuple(self.undelivered), []
        return keyframes

    def take_refused(self) -> tuple[tuple[Frame, FrameError], ...]:
        """Return the frames that were refused since the last update; forget them."""
        refused, self.refused = tuple(self.refused), []
        return refused

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
        self.focal = FocalRefinement(fixed=True)
        self.keyframes = saved.keyframes
        self.restart_reason = MAP_LOADED
        self.anchor = saved.anchor
        if saved.anchor is None:
            self.known_poses = KnownPoses()
        else:
            self.follow_corners(saved.anchor)
            self.pose_filter.begin_fragment(saved.anchor.pose.world_from_camera,
                                            saved.anchor.pose.covariance)

    def follow_corners(self, keyframe: Keyframe) -> None:
        """Track corners of a keyframe that has a pose."""
        self.corners.follow(keyframe.image, depth_of(keyframe), keyframe.pointmap.confidence)

    def carry_corners(self, keyframe: Keyframe) -> Keyframe:
        """Go on with corners from a doubtful keyframe; return it with the depth that fits them."""
        if keyframe.pose is None:
            self.corners.stop()
            return keyframe
        depth, pose = depth_of(keyframe), keyframe.pose.world_from_camera
        scale = self.corners.carry(keyframe.stamp_ns, depth, keyframe.pointmap.confidence)
        enlarged = pose @ np.diag([scale, scale, scale, 1.0]) @ invert(pose)
        points = transform_points(enlarged, keyframe.pointmap.points)
        return replace(keyframe, pointmap=replace(keyframe.pointmap, points=points))
