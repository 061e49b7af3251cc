# SPDX-License-Identifier: Apache-2.0
"""Mapping with given camera poses: the network provides the depth only."""
from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert, is_rigid, transform_points
from spann3r_ros.core.types import Frame, FrameError, Pointmap
from spann3r_ros.mapping.scale.map_scale import Scale
from spann3r_ros.mapping.scale.parallax import ScaleFromParallax, View

# Most keyframes that wait until the camera has moved enough to measure the scale.
MAX_WAITING = 50
# After so many keyframes in a row without a pose in the fragment, a new fragment begins.
MAX_FAILURES = 2

logger = logging.getLogger(__name__)


class KnownPoses:
    """Places a fragment's keyframes by their given poses, in metres.

    Each keyframe is placed by its own pose, so the map does not drift with the network. Keyframes
    wait until the camera has moved enough to measure the fragment's scale. At most the newest
    `MAX_WAITING` wait.
    """

    def __init__(self) -> None:
        self._waiting: deque[Keyframe] = deque(maxlen=MAX_WAITING)
        self._scales = ScaleFromParallax()
        self._failures = 0

    @property
    def waiting(self) -> int:
        """Return the number of keyframes that wait for a scale."""
        return len(self._waiting)

    @property
    def scale(self) -> Scale:
        """Return the map's scale: 1, since all keyframes are placed in metres."""
        scale = self._scales.scale
        return replace(scale, value=1.0, variance=scale.variance / scale.value**2)

    def place(self, keyframe: Keyframe, fragment_from_camera: np.ndarray) -> list[Keyframe]:
        """Take a keyframe and return those that can be placed now, with their points in the map.

        The keyframe's points are in the fragment, where `fragment_from_camera` [4, 4] is its pose.
        """
        self._failures = 0
        points = transform_points(invert(fragment_from_camera), keyframe.pointmap.points)
        keyframe = replace(keyframe, pointmap=replace(keyframe.pointmap, points=points))
        self._scales.add(View(keyframe.image, points[..., 2], keyframe.intrinsics,
                              keyframe.pose.world_from_camera))
        if len(self._waiting) == MAX_WAITING:
            logger.warning('the camera does not move enough to measure the scale: '
                           'a keyframe is left out of the map')
        self._waiting.append(keyframe)
        if not self._scales.scale.metric:
            return []
        placed = [self._placed(one) for one in self._waiting]
        self._waiting.clear()
        return placed

    def count_failure(self) -> bool:
        """Count a keyframe without a pose in the fragment; return whether the limit is reached."""
        self._failures += 1
        return self._failures >= MAX_FAILURES

    def drop_waiting(self) -> None:
        """Leave the waiting keyframes out of the map, because the fragment ends."""
        if self._waiting:
            logger.warning('%d keyframes are left out of the map: the camera did not move enough '
                           'to measure their scale', len(self._waiting))
        self._waiting.clear()

    def _placed(self, keyframe: Keyframe) -> Keyframe:
        metres = np.diag([*[self._scales.scale.value] * 3, 1.0])
        points = transform_points(keyframe.pose.world_from_camera @ metres,
                                  keyframe.pointmap.points)
        return replace(keyframe, pointmap=Pointmap(points, keyframe.pointmap.confidence))


def check_known_pose(frame: Frame) -> None:
    """Raise FrameError unless a frame's pose, where it has one, is a rigid transform."""
    pose = frame.world_from_camera
    if pose is not None and not is_rigid(pose):
        raise FrameError(f'world_from_camera: expected a rigid transform [4, 4], got {pose}')
