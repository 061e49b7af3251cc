# SPDX-License-Identifier: Apache-2.0
"""A room with a thin pole and boxes that come and go, and the maps of true or spoilt depth.

A `MovingScene` makes keyframes; `Mapped` is the map of some.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from synthetic import SyntheticScene

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.layers.voxel_store import VoxelStore
from spann3r_ros.mapping.mapper_config import CarvingConfig, MapperConfig, VoxelMapConfig

VOXEL = 0.05
ON, OFF = CarvingConfig(), CarvingConfig(enabled=False)
POLE = np.array([[-0.025, -0.025, 0.0], [0.025, 0.025, 2.2]])


class MovingScene(SyntheticScene):
    """A room of which `keyframe` shows true depth, with further boxes if they are given."""

    def __init__(self, boxes: Sequence[np.ndarray] = (), **size: float) -> None:
        super().__init__(**size)
        self.boxes = np.array(list(boxes)).reshape(-1, 2, 3)

    def with_boxes(self, boxes: Sequence[np.ndarray]) -> MovingScene:
        """Return the same room with further boxes."""
        other = MovingScene([*self.boxes, *boxes])
        other.room = self.room
        return other

    def keyframe(self, time_sec: float, pose: np.ndarray, camera: Intrinsics,
                 fragment_id: int = 0) -> Keyframe:
        """Return a keyframe of true depth whose pose is in the scene's world."""
        image, points = self.render(pose, camera)
        depth = points[..., 2].astype(np.float32)
        stamp_ns = round(1e9 * (10.0 + time_sec))
        return Keyframe(stamp_ns, 'camera', fragment_id, image, camera, depth,
                        np.full(depth.shape, 0.9, np.float32),
                        FragmentPose(stamp_ns, 'camera', fragment_id, pose))


class Mapped:
    """The voxel map of keyframes, in an atlas."""

    def __init__(self, carving: CarvingConfig, keyframes: Sequence[Keyframe] = (),
                 **voxel_map: float) -> None:
        config = MapperConfig(voxel_map=VoxelMapConfig(voxel_size=VOXEL, **voxel_map),
                              carving=carving)
        self.layer = VoxelMap(config.voxel_map, config.carving)
        self.atlas = Atlas(config, (self.layer,))
        for keyframe in keyframes:
            self.add(keyframe)

    def add(self, keyframe: Keyframe) -> None:
        """Add a keyframe with its points."""
        self.atlas.add(keyframe, keyframe.points)

    @property
    def store(self) -> VoxelStore:
        """Return the voxels of the first fragment."""
        return self.atlas.fragments[0].stores[self.layer.name]

    def points(self) -> np.ndarray:
        """Return the points of the map."""
        located = self.atlas.located_stores(self.layer.name)
        return self.layer.snapshot(located).cloud().points.astype(float)


def cells_of(points: np.ndarray) -> set[tuple[int, ...]]:
    """Return the cells of points [n, 3]."""
    return set(map(tuple, np.floor(points / VOXEL).astype(int)))
