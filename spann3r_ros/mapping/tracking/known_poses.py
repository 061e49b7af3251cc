# SPDX-License-Identifier: Apache-2.0
"""Mapping with given camera poses: the network provides the depth only."""
from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe, depth_of_points
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import FragmentPose, Frame, FrameError
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.admitted import Admitted
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.mapper_config import MapperConfig, PoseConfig
from spann3r_ros.mapping.scale.map_scale import Scale
from spann3r_ros.mapping.scale.parallax import ScaleFromParallax, View
from spann3r_ros.mapping.storage.saved_tree import SavedNode
from spann3r_ros.mapping.storage.saved_values import keyframe_tree, read_keyframe, read_rigid

from .corner_tracks import to_gray
from .measured_pose import measure_pose
from .pnp import PoseError
from .pose_source import PoseSource

# Most keyframes that wait until the camera has moved enough to measure the scale.
MAX_WAITING = 50
# After so many keyframes in a row without a pose in the sequence, a new fragment begins.
MAX_FAILURES = 2
LOST = 'the network lost the camera'
# The origin of a fragment is the origin of the map moved by a multiple of this, in metres, so that
# a map frame whose origin is far away, such as UTM, costs no precision.
ORIGIN_GRID_M = 1000.0
# A camera that is farther than its speed explains, by this distance in metres and by this
# acceleration in m/s^2, was placed anew.
LEAST_JUMP_M = 0.3
MAX_ACCELERATION = 50.0

logger = logging.getLogger(__name__)


class KnownPoses(PoseSource):
    """Places the keyframes of a fragment by their given poses, in metres.

    Each keyframe is placed by its own pose, so the map does not drift with the network. Keyframes
    wait until the camera has moved enough to measure the scale of the network's sequence. At most
    the newest `MAX_WAITING` wait.
    """

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        self._config = config
        self._waiting: deque[Keyframe] = deque(maxlen=MAX_WAITING)
        self._scales = ScaleFromParallax()
        self._failures = 0
        # The stamp, the place and the speed of the last keyframe.
        self._last: tuple[int, np.ndarray, float] | None = None
        # Where the given poses place the current fragment, whatever moves it later.
        self._given_place: np.ndarray | None = None

    def configure(self, config: MapperConfig) -> None:
        """Use other thresholds from the next frame on."""
        self._config = config.pose

    @property
    def waiting(self) -> int:
        """Return the number of keyframes that wait for a scale."""
        return len(self._waiting)

    @property
    def keyframes(self) -> list[Keyframe]:
        """Return the keyframes that wait for a scale."""
        return list(self._waiting)

    @property
    def scale(self) -> Scale:
        """Return the map's scale: 1, since all keyframes are placed in metres."""
        scale = self._scales.scale
        return replace(scale, value=1.0, variance=scale.variance / scale.value**2)

    def begin_fragment(self, fragment: Fragment, new_from_former: np.ndarray,
                       seen_again: bool = True) -> None:
        """Leave the waiting keyframes out of the map; measure another scale."""
        if self._waiting:
            logger.warning('%d keyframes are left out of the map: the camera did not move enough '
                           'to measure their scale', len(self._waiting))
        self._waiting.clear()
        self._scales, self._failures, self._given_place = ScaleFromParallax(), 0, None

    def place(self, admitted: Admitted, estimate: Estimate, intrinsics: Intrinsics,
              fragment: Fragment) -> list[Keyframe]:
        """Take an estimate; return the keyframes that can be placed now.

        Raises FrameError if the network's own pose of the camera, which is needed for the depth,
        cannot be measured.
        """
        frame = admitted.frame
        try:
            solution = measure_pose(estimate, intrinsics, self._config)
        except PoseError as error:
            self.failed += 1
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                # A new fragment costs nothing here: its keyframes are placed by given poses.
                self.restart_reason = LOST
            raise FrameError(str(error)) from error
        self._failures = 0
        self._report_jump(frame)
        self._set_origin(frame.world_from_camera, fragment)
        depth = depth_of_points(invert(solution.fragment_from_camera), estimate.pointmap.points)
        keyframe = Keyframe(
            frame.stamp_ns, frame.frame_id, fragment.id, admitted.network_input.image, intrinsics,
            depth, np.where(np.isfinite(depth), estimate.pointmap.confidence, np.float32(0.0)),
            FragmentPose(frame.stamp_ns, frame.frame_id, fragment.id,
                         invert(self._given_place) @ frame.world_from_camera),
            descriptor=estimate.descriptor)
        metric = frame.world_from_camera.copy()
        metric[:3, 3] -= self._given_place[:3, 3]
        self._scales.add(View(to_gray(keyframe.image), depth, intrinsics, metric))
        if len(self._waiting) == MAX_WAITING:
            logger.warning('the camera does not move enough to measure the scale: '
                           'a keyframe is left out of the map')
        self._waiting.append(keyframe)
        if not self._scales.scale.metric:
            return []
        fragment.scale = self.scale
        metres = np.float32(self._scales.scale.value)
        placed = [replace(one, depth=one.depth * metres) for one in self._waiting]
        self._waiting.clear()
        return placed

    def live_pose(self, frame: Frame, fragment: Fragment) -> FragmentPose:
        """Return the given pose of a frame."""
        self._set_origin(frame.world_from_camera, fragment)
        return FragmentPose(frame.stamp_ns, frame.frame_id, fragment.id,
                            invert(self._given_place) @ frame.world_from_camera)

    def passing_pose(self, frame: Frame, view: Preprocessed, intrinsics: Intrinsics | None,
                     fragment: Fragment) -> FragmentPose:
        """Return the given pose of a frame that is no keyframe."""
        return self.live_pose(frame, fragment)

    def finish(self) -> None:
        """Leave the waiting keyframes out of the map, because the recording ends."""
        self.begin_fragment(Fragment(0), np.eye(4))

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {**super().tree(), 'waiting': [keyframe_tree(one) for one in self._waiting],
                'scales': self._scales.tree(), 'failures': self._failures,
                'given_place': self._given_place}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        super().restore(node)
        self._waiting.extend(read_keyframe(one) for one in node.nodes('waiting'))
        if any(one.pose is None for one in self._waiting):
            raise node.fault('waiting', 'keyframes with a pose', 'one without')
        self._scales.restore(node.node('scales'))
        self._failures = node.integer('failures')
        if node.has('given_place'):
            self._given_place = read_rigid(node, 'given_place')

    def _report_jump(self, frame: Frame) -> None:
        """Write a warning if the localisation has moved the camera faster than it can move."""
        place, speed = frame.world_from_camera[:3, 3], 0.0
        # A frame after a jump back of the stamps is compared with none.
        if self._last is not None and frame.stamp_ns > self._last[0]:
            last_ns, last_place, last_speed = self._last
            distance = float(np.linalg.norm(place - last_place))
            seconds = (frame.stamp_ns - last_ns) * 1e-9
            speed = distance / seconds
            if (distance - last_speed * seconds > LEAST_JUMP_M
                    and speed - last_speed > MAX_ACCELERATION * seconds):
                logger.warning('the given poses jumped by %.1f m: what was mapped before stays '
                               'where it is; poses in a frame without jumps, such as odom, give '
                               'a map in one piece (map_frame)', distance)
                speed = last_speed
        self._last = frame.stamp_ns, place, speed

    def _set_origin(self, world_from_camera: np.ndarray, fragment: Fragment) -> None:
        if self._given_place is None:
            place = np.eye(4)
            place[:3, 3] = ORIGIN_GRID_M * np.round(world_from_camera[:3, 3] / ORIGIN_GRID_M)
            fragment.map_from_fragment = fragment.map_from_fragment @ place
            self._given_place = place
