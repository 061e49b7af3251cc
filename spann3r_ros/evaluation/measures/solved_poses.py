# SPDX-License-Identifier: Apache-2.0
"""Camera poses solved from pointmaps, one by one."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.types import Pointmap
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.tracking.pnp import PoseError, solve_pose


def solve_poses(pointmaps: Sequence[Pointmap],
                cameras: Sequence[Intrinsics]) -> tuple[np.ndarray, list[int]]:
    """Return first-camera-from-camera [n, 4, 4] of the solved frames, and their numbers.

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
