# SPDX-License-Identifier: Apache-2.0
"""The picture of a map of photographs: cloud and cameras from above and from the side."""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud

from .map_picture import Content, draw_orbit, draw_views
from .photo_picture import AZIMUTH_DEG, ELEVATION_DEG


def draw_cloud(target: Path, cloud: VoxelCloud, trajectory: Sequence[StampedPose],
               follows_path: bool) -> None:
    """Write a PNG of a map without truth; its path is drawn if the images are in their order."""
    path = np.array([pose.world_from_camera[:3, 3] for pose in trajectory]).reshape(-1, 3)
    nothing = np.zeros((0, 3))
    content = Content(cloud.points.astype(float), cloud.colors, path if follows_path else nothing,
                      nothing, nothing, 'map units')
    draw_views(target, content,
               partial(draw_orbit, azimuth_deg=AZIMUTH_DEG, elevation_deg=ELEVATION_DEG),
               f'{len(cloud):,} voxels, {len(trajectory)} poses', 'scale is arbitrary')
