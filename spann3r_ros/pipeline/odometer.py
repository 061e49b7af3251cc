# SPDX-License-Identifier: Apache-2.0
"""The camera's motion as odometry, which does not jump when a new map begins."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.transforms import invert, move_covariance, rotation_vector

UNKNOWN_VARIANCE = 1e6


@dataclass(frozen=True)
class Motion:
    """The pose of the base in `odom` and its twist in its own axes.

    `odom_from_base` [4, 4] has the covariance [6, 6] along the axes of `odom`. `twist` [6] is
    velocity (map units per second) and rotation (rad/s), with the covariance [6, 6].
    """

    stamp_ns: int
    odom_from_base: np.ndarray
    covariance: np.ndarray
    twist: np.ndarray
    twist_covariance: np.ndarray


class Odometer:
    """Turns poses in the map into odometry; `odom_from_map` [4, 4] changes only in `restart`."""

    def __init__(self) -> None:
        self.odom_from_map = np.eye(4)
        self._last: Motion | None = None
        self._restarting = False

    @property
    def has_begun(self) -> bool:
        """Return whether the odometer has a pose in `odom`."""
        return self._last is not None

    def begin_at(self, odom_from_base: np.ndarray) -> None:
        """Let the next pose of the base in the map be this pose in `odom`."""
        unknown = UNKNOWN_VARIANCE * np.eye(6)
        self._last = Motion(0, odom_from_base, unknown, np.zeros(6), unknown)
        self._restarting = True

    def restart(self) -> None:
        """Let the next pose in the map be the last pose in `odom`, because the map has changed."""
        self._restarting = self._last is not None

    def move(self, stamp_ns: int, map_from_base: np.ndarray, covariance: np.ndarray | None
             ) -> Motion:
        """Return the motion from the last pose of the base in the map to this one."""
        if covariance is None:
            covariance = UNKNOWN_VARIANCE * np.eye(6)
        last = self._last
        if self._restarting:
            self.odom_from_map = last.odom_from_base @ invert(map_from_base)
            self._restarting, last = False, None
        odom_from_base = self.odom_from_map @ map_from_base
        covariance = move_covariance(self.odom_from_map, covariance)
        twist, twist_covariance = np.zeros(6), UNKNOWN_VARIANCE * np.eye(6)
        if last is not None and stamp_ns > last.stamp_ns:
            seconds = (stamp_ns - last.stamp_ns) * 1e-9
            step = invert(last.odom_from_base) @ odom_from_base
            twist = np.concatenate([step[:3, 3], rotation_vector(step[:3, :3])]) / seconds
            base_from_odom = np.eye(4)
            base_from_odom[:3, :3] = odom_from_base[:3, :3].T
            twist_covariance = move_covariance(
                base_from_odom, covariance + last.covariance) / seconds**2
        self._last = Motion(stamp_ns, odom_from_base, covariance, twist, twist_covariance)
        return self._last
