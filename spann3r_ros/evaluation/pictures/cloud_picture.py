# SPDX-License-Identifier: Apache-2.0
"""The picture of a map of photographs: cloud and cameras from above and from the side."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud

from .map_picture import Content, below_cut, draw_orbit, draw_views
from .photo_picture import AZIMUTH_DEG, ELEVATION_DEG

# Cameras that are held upright have their up within this angle of the map's, in the median.
MOST_TILT_DEG = 20.0


def draw_cloud(target: Path, cloud: VoxelCloud, trajectory: Sequence[StampedPose],
               follows_path: bool) -> None:
    """Write a PNG of a map without truth; its path is drawn if the images are in their order."""
    content, is_cut = cloud_content(cloud, trajectory, follows_path)
    draw_views(target, content,
               partial(draw_orbit, azimuth_deg=AZIMUTH_DEG, elevation_deg=ELEVATION_DEG),
               f'{len(cloud):,} voxels, {len(trajectory)} poses',
               'scale is arbitrary' + ('; without the ceiling' if is_cut else ''))


def cloud_content(cloud: VoxelCloud, trajectory: Sequence[StampedPose],
                  follows_path: bool) -> tuple[Content, bool]:
    """Return the content, and whether it is without the ceiling.

    A map of images in no order whose axes may be tilted is drawn whole.
    """
    poses = np.array([pose.world_from_camera for pose in trajectory]).reshape(-1, 4, 4)
    nothing, path = np.zeros((0, 3)), poses[:, :3, 3]
    content = Content(cloud.points.astype(float), cloud.colors, path if follows_path else nothing,
                      nothing, nothing, 'map units')
    if not (follows_path or is_upright(poses)):
        return content, False
    keep = below_cut(content.points, path)
    return replace(content, points=content.points[keep], colors=content.colors[keep]), True


def is_upright(poses: np.ndarray) -> bool:
    """Return whether the map's z is the up of several cameras, poses [n, 4, 4].

    One camera alone gives the axes, and cannot confirm them.
    """
    if len(poses) < 2:
        return False
    tilts = np.degrees(np.arccos(np.clip(-poses[:, 2, 1], -1.0, 1.0)))
    return bool(np.median(tilts) < MOST_TILT_DEG)
