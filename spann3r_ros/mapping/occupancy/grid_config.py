# SPDX-License-Identifier: Apache-2.0
"""Settings of the occupancy grid."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.settings import RUNNING, check_settings, setting


@dataclass(frozen=True)
class GridConfig:
    """The occupancy grid of the map, for navigation; lengths are in metres."""

    enabled: bool = setting(
        True, 'Collect evidence of free and occupied space, from which ~/map is made')
    resolution: float = setting(
        0.05, 'Edge of a cell in metres; new fragments collect evidence at this size once the '
        'scale is known', 0.01, 1.0)
    min_height: float = setting(
        0.15, 'Lowest height above the floor, in metres, at which something is an obstacle',
        -10.0, 100.0, applies=RUNNING)
    max_height: float = setting(
        1.8, 'Height above the floor, in metres, above which nothing is an obstacle', -10.0, 100.0,
        applies=RUNNING)
    max_range: float = setting(
        5.0, 'How far from the camera evidence is collected, in metres; before the scale is known '
        'max_range / resolution cells', 0.2, 100.0, applies=RUNNING)
    floor: str = setting(
        'auto', 'auto: the floor is estimated as the lowest large surface, tilted by 5 degrees at '
        'most; fixed: it is at floor_height', choices=('auto', 'fixed'), applies=RUNNING)
    floor_height: float = setting(
        0.0, 'z of the floor in the map, in metres, with floor: fixed', -100.0, 100.0,
        applies=RUNNING)
    min_free_share: float = setting(
        0.3, 'Share of the cells between min_height and max_height that must be known to be free '
        'before a cell of the grid is free', 0.01, 1.0, applies=RUNNING)
    period_sec: float = setting(
        1.0, 'Least time between two messages on ~/map; it is made longer if publishing would '
        'take more than 5 % of it; 0: with every keyframe', 0.0, 3600.0, applies=RUNNING)
    force: bool = setting(
        False, 'Also publish the grid of a map that is not metric or not level, with one unit of '
        'the map as a metre', applies=RUNNING)
    max_cells: int = setting(
        32_000_000, 'Most cells of evidence, one byte each; beyond, the blocks observed least '
        'recently are removed, down to 95 %', 100_000, 2_000_000_000)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.min_height >= self.max_height:
            raise ValueError('GridConfig.min_height: expected less than max_height, got '
                             f'{self.min_height} and {self.max_height}')

    @property
    def cell_size(self) -> float:
        """Return the resolution as the grid's message has it, rounded to float32.

        A multiple of it is exact, so that the origin of a grid is a whole number of cells.
        """
        return float(np.float32(self.resolution))
