# SPDX-License-Identifier: Apache-2.0
"""The settings of the metric scale."""
from __future__ import annotations

from dataclasses import dataclass

from spann3r_ros.core.settings import RUNNING, check_settings, setting

SOURCES = ('none', 'auto', 'odometry', 'depth', 'number')


@dataclass(frozen=True)
class ScaleConfig:
    """Where the length of a map unit comes from, if the poses are solved."""

    source: str = setting(
        'none', "none: the unit of the map is unknown; odometry: from the robot's odometry in TF "
        '(odom_frame -> camera, published by another node), for which each image waits; auto: the '
        'same, if TF has it; depth: from depth images in metres on the topic depth; number: '
        'scale.metres_per_unit', choices=SOURCES)
    metres_per_unit: float = setting(
        1.0, 'With the source number: metres per unit of the map as it began, for example a '
        'distance in metres by the same distance in the map', 1e-6, 1e6, applies=RUNNING)
    max_deviation: float = setting(
        0.06, 'The map becomes metric when the relative standard deviation of its scale is below',
        0.001, 0.5, applies=RUNNING)
    source_deviation: float = setting(
        0.02, 'Relative standard deviation of an error that all measurements have in common, such '
        'as that of the radius of the wheels', 0.0, 0.5, applies=RUNNING)
    mount_deviation: float = setting(
        0.05, "Standard deviation, in metres and along each axis, of the camera's place on the "
        'robot in TF', 0.0001, 10.0, applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)
