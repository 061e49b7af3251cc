# SPDX-License-Identifier: Apache-2.0
"""The camera's motion as odometry: it does not jump when the map begins anew or is moved."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.transforms import (
    invert,
    move_covariance,
    rotation_vector,
    shift_covariance,
)
from spann3r_ros.core.types import FragmentPose, StampedPose

UNKNOWN_VARIANCE = 1e6
# Fragments before that of the newest pose whose places are kept: poses of them may still come.
MAX_FRAGMENTS = 100


@dataclass(frozen=True)
class Motion:
    """The pose of a child frame, the robot's base or the camera, in `odom`, and its twist.

    `odom_from_child` and `odom_from_camera` [4, 4] are of the same stamp. `covariance` [6, 6] of
    the child's pose is along the axes of `odom`. `twist` [6] is velocity (units of `odom` per
    second) and rotation (rad/s) along the child's own axes, with the covariance [6, 6].
    """

    stamp_ns: int
    child_frame: str
    odom_from_child: np.ndarray
    odom_from_camera: np.ndarray
    covariance: np.ndarray
    twist: np.ndarray
    twist_covariance: np.ndarray


class Odometer:
    """Turns poses in fragments into odometry.

    The frame `odom` follows the camera: the pose of another child is that of the camera with its
    mount, so `odom` stays where it is when the child changes. `odom_from_fragment` is a similarity
    with the unit of `odom`. It is constant while the poses are in one fragment, wherever that
    fragment moves in the map. The next fragment gets its own from the places of both fragments in
    the map at that time.
    """

    def __init__(self) -> None:
        self._places: dict[int, np.ndarray] = {}
        # Of the fragment of the last pose, and of newer ones from the time when they began.
        self._odom_from: dict[int, np.ndarray] = {}
        # Where the camera is in `odom` when the next pose comes; None: at its place in the map.
        self._start: np.ndarray | None = None
        self._last: Motion | None = None

    @property
    def has_begun(self) -> bool:
        """Return whether the odometer has a pose in `odom`."""
        return self._start is not None or self._last is not None

    def begin_at(self, odom_from_camera: np.ndarray) -> None:
        """Let the next pose of the camera be this pose [4, 4] in `odom`."""
        self._start = odom_from_camera

    def restart(self) -> None:
        """Let the next pose be the last pose in `odom`, because another map begins."""
        if self._last is not None:
            self._start = self._last.odom_from_camera
        self._places.clear()
        self._odom_from.clear()
        self._last = None

    def take_places(self, places: Mapping[int, np.ndarray]) -> None:
        """Take `map_from_fragment` [4, 4] of new and of moved fragments, by fragment id."""
        self._places |= places
        self._extend()

    def in_map(self, pose: FragmentPose) -> StampedPose:
        """Return a pose in the map, where its fragment is now."""
        return pose.in_map(self._place(pose.fragment_id))

    def move(self, pose: FragmentPose, child_frame: str,
             camera_from_child: np.ndarray) -> Motion:
        """Return the motion from the last pose of the camera to this one, for a child frame."""
        self._enter(pose)
        camera = pose.in_map(self._odom_from[pose.fragment_id])
        odom_from_camera = camera.world_from_camera
        odom_from_child = odom_from_camera @ camera_from_child
        covariance = UNKNOWN_VARIANCE * np.eye(6)
        if camera.covariance is not None:
            covariance = shift_covariance(
                camera.covariance, odom_from_child[:3, 3] - odom_from_camera[:3, 3])
        twist, twist_covariance = self._twist(
            pose.stamp_ns, child_frame, odom_from_child, covariance)
        self._last = Motion(pose.stamp_ns, child_frame, odom_from_child, odom_from_camera,
                            covariance, twist, twist_covariance)
        return self._last

    def _place(self, fragment_id: int) -> np.ndarray:
        if fragment_id not in self._places:
            raise ValueError(f'fragment {fragment_id}: expected its place in the map before a '
                             f'pose in it, got those of {sorted(self._places)}')
        return self._places[fragment_id]

    def _extend(self) -> None:
        """Find `odom_from_fragment` of fragments that are newer than those that have it.

        Both fragments are where they are when the newer one begins: what moves later does not
        change its place in `odom`.
        """
        for fragment_id in sorted(set(self._places) - set(self._odom_from)):
            before = max((one for one in self._odom_from if one < fragment_id), default=None)
            if before is not None:
                self._odom_from[fragment_id] = self._odom_from[before] @ np.linalg.inv(
                    self._place(before)) @ self._place(fragment_id)

    def _enter(self, pose: FragmentPose) -> None:
        """Find `odom_from_fragment` of the first pose; forget fragments long before a pose."""
        place = self._place(pose.fragment_id)
        if self._start is not None:
            odom_from_map = self._start @ invert(self.in_map(pose).world_from_camera)
            self._odom_from = {pose.fragment_id: odom_from_map @ place}
            self._start = None
            self._extend()
        elif pose.fragment_id not in self._odom_from:
            self._odom_from = {pose.fragment_id: place}
            self._extend()
        for old in [one for one in self._places if one < pose.fragment_id - MAX_FRAGMENTS]:
            self._places.pop(old)
            self._odom_from.pop(old, None)

    def _twist(self, stamp_ns: int, child_frame: str, odom_from_child: np.ndarray,
               covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the twist [6] since the last pose of the same child, and its covariance."""
        last = self._last
        if last is None or last.child_frame != child_frame or stamp_ns <= last.stamp_ns:
            return np.zeros(6), UNKNOWN_VARIANCE * np.eye(6)
        seconds = (stamp_ns - last.stamp_ns) * 1e-9
        step = invert(last.odom_from_child) @ odom_from_child
        twist = np.concatenate([step[:3, 3], rotation_vector(step[:3, :3])]) / seconds
        child_from_odom = np.eye(4)
        child_from_odom[:3, :3] = odom_from_child[:3, :3].T
        return twist, move_covariance(
            child_from_odom, covariance + last.covariance) / seconds**2
