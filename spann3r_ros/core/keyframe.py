# SPDX-License-Identifier: Apache-2.0
"""A keyframe and the points that its depth, camera and pose imply."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .camera import Intrinsics, pixel_grid
from .transforms import invert, transform_points
from .types import Pointmap, StampedPose


@dataclass(frozen=True)
class Keyframe:
    """A frame admitted to the map, after cropping to the network's input size.

    `image` is uint8 [h, w, 3]; `pointmap.points` are in the map frame (REP-103, z up), NaN with
    confidence 0 where the network gave none; with a pose they lie on the rays of their pixels.
    `pose.world_from_camera` maps optical-frame points
    to the map frame; `pose` is None when the pointmap admits no pose, never an identity.
    """

    stamp_ns: int
    frame_id: str
    pose: StampedPose | None
    image: np.ndarray
    intrinsics: Intrinsics
    pointmap: Pointmap
    fragment_id: int


def depth_of(keyframe: Keyframe) -> np.ndarray:
    """Return z in the camera's optical frame [h, w] of a posed keyframe's points; NaN as there."""
    camera_from_world = invert(keyframe.pose.world_from_camera)
    return transform_points(camera_from_world, keyframe.pointmap.points)[..., 2]


def on_rays(keyframe: Keyframe) -> Keyframe:
    """Return a posed keyframe whose points keep their depth, but lie on the rays of their pixels.

    Cloud, depth image, intrinsics and pose then tell the same. What lies behind the camera, where
    no ray leads, is taken out.
    """
    camera, there = keyframe.intrinsics, keyframe.pose.world_from_camera
    depth = depth_of(keyframe)[..., None]
    ahead = depth > 0.0  # not NaN
    columns, rows = pixel_grid(*depth.shape[:2]).astype(np.float32).T.reshape(2, *depth.shape)
    seen = np.concatenate([(columns - np.float32(camera.cx)) / np.float32(camera.fx),
                           (rows - np.float32(camera.cy)) / np.float32(camera.fy),
                           np.ones_like(depth)], axis=-1) * np.where(ahead, depth, np.nan)
    return replace(keyframe, pointmap=Pointmap(
        transform_points(there, seen),
        np.where(ahead[..., 0], keyframe.pointmap.confidence, np.float32(0.0))))
