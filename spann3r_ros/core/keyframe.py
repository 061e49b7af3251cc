# SPDX-License-Identifier: Apache-2.0
"""A keyframe, its depth and its points."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .camera import Intrinsics, pixel_grid
from .transforms import invert, transform_points
from .types import Pointmap, StampedPose


@dataclass(frozen=True)
class Keyframe:
    """A frame admitted to the map, after cropping to the network's input size.

    `image` is uint8 [h, w, 3]. `pointmap.points` are in the map frame (REP-103, z up); they are
    NaN, with confidence 0, where the network gave no point. With a pose they lie on the rays of
    their pixels. `pose.world_from_camera` moves points from the optical frame to the map frame.
    `pose` is None when it could not be solved; it is never a placeholder such as an identity.
    """

    stamp_ns: int
    frame_id: str
    pose: StampedPose | None
    image: np.ndarray
    intrinsics: Intrinsics
    pointmap: Pointmap
    fragment_id: int


def depth_of(keyframe: Keyframe) -> np.ndarray:
    """Return the depth [h, w] of a posed keyframe's points in the optical frame, or NaN."""
    camera_from_world = invert(keyframe.pose.world_from_camera)
    return transform_points(camera_from_world, keyframe.pointmap.points)[..., 2]


def on_rays(keyframe: Keyframe) -> Keyframe:
    """Return a posed keyframe whose points keep their depth, but lie on the rays of their pixels.

    Cloud, depth image, intrinsics and pose are then consistent. Points behind the camera are
    removed, since no ray reaches them.
    """
    camera, world_from_camera = keyframe.intrinsics, keyframe.pose.world_from_camera
    depth = depth_of(keyframe)[..., None]
    ahead = depth > 0.0  # False for NaN
    columns, rows = pixel_grid(*depth.shape[:2]).astype(np.float32).T.reshape(2, *depth.shape)
    seen = np.concatenate([(columns - np.float32(camera.cx)) / np.float32(camera.fx),
                           (rows - np.float32(camera.cy)) / np.float32(camera.fy),
                           np.ones_like(depth)], axis=-1) * np.where(ahead, depth, np.nan)
    return replace(keyframe, pointmap=Pointmap(
        transform_points(world_from_camera, seen),
        np.where(ahead[..., 0], keyframe.pointmap.confidence, np.float32(0.0))))
