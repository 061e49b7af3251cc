# SPDX-License-Identifier: Apache-2.0
"""Camera poses that pointmaps imply, each alone or along a path as the mapper solves them."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe, on_rays
from spann3r_ros.core.transforms import transform_points
from spann3r_ros.core.types import Pointmap
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.tracking.camera_track import CameraTrack, solve_in_map
from spann3r_ros.mapping.tracking.pnp import PoseError, solve_pose


def solve_poses(pointmaps: Sequence[Pointmap],
                cameras: Sequence[Intrinsics]) -> tuple[np.ndarray, list[int]]:
    """Return first-camera-from-camera [n, 4, 4] of the frames that can be solved, and which.

    The first frame is the origin by definition.
    """
    solved, frames = [np.eye(4)], [0]
    for index, (pointmap, camera) in enumerate(zip(pointmaps, cameras, strict=True)):
        if index == 0:
            continue
        try:
            solved.append(solve_pose(pointmap, camera, PoseConfig()).fragment_from_camera)
        except PoseError:
            continue
        frames.append(index)
    return np.stack(solved), frames


def follow_camera(images: np.ndarray, pointmaps: Sequence[Pointmap],
                  camera: Intrinsics) -> tuple[np.ndarray, list[int]]:
    """Return first-camera-from-camera [n, 4, 4] along the path, and of which frames."""
    keyframes = [keyframe for keyframe in map_along_path(images, pointmaps, camera)
                 if keyframe.pose is not None]
    poses = [keyframe.pose.world_from_camera for keyframe in keyframes]
    return np.array(poses).reshape(-1, 4, 4), [keyframe.stamp_ns for keyframe in keyframes]


def map_along_path(images: np.ndarray, pointmaps: Sequence[Pointmap],
                   camera: Intrinsics) -> list[Keyframe]:
    """Return the keyframes with their points as the mapper places them.

    `images` uint8 [frames, h, w, 3] are those of the pointmaps; corners are tracked through them.
    Stamps are the numbers of the frames; points are in the first camera's frame.
    """
    track, keyframes = CameraTrack(PoseConfig()), []
    for index, pointmap in enumerate(pointmaps):
        solved, _ = solve_in_map(index, '', pointmap, camera, PoseConfig(), np.eye(4))
        placed = track.place(index, solved)
        moved = Pointmap(transform_points(placed.correction, pointmap.points),
                         pointmap.confidence)
        keyframe = Keyframe(index, '', placed.pose, images[index], camera, moved, 0)
        track.advance(keyframe)
        keyframes.append(keyframe if placed.pose is None else on_rays(keyframe))
        if index + 1 < len(images):
            track.predict(index + 1, images[index + 1], camera)
    return keyframes
