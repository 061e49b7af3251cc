# SPDX-License-Identifier: Apache-2.0
"""Camera poses that pointmaps imply, each alone or along a path as the mapper solves them."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spann3r_ros.mapping.camera_track import CameraTrack, solve_in_map
from spann3r_ros.mapping.config import PoseConfig
from spann3r_ros.mapping.geometry import transform_points
from spann3r_ros.mapping.pose import PoseError, solve_pose
from spann3r_ros.mapping.types import Intrinsics, Keyframe, Pointmap


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
    """Return first-camera-from-camera [n, 4, 4] along the path, and of which frames.

    `images` uint8 [frames, h, w, 3] are those of the pointmaps; corners are tracked through them.
    """
    track, poses, frames = CameraTrack(PoseConfig()), [], []
    for index, pointmap in enumerate(pointmaps):
        solved, _ = solve_in_map(index, '', pointmap, camera, PoseConfig(), np.eye(4))
        placed = track.place(index, solved)
        moved = Pointmap(transform_points(placed.correction, pointmap.points),
                         pointmap.confidence)
        track.advance(Keyframe(index, '', placed.pose, images[index], camera, moved, 0))
        if placed.pose is not None:
            poses.append(placed.pose.world_from_camera)
            frames.append(index)
        if index + 1 < len(images):
            track.predict(index + 1, images[index + 1], camera)
    return np.array(poses).reshape(-1, 4, 4), frames
