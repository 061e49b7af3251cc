# SPDX-License-Identifier: Apache-2.0
"""Images of a building with their true depth."""
from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, to_rigid
from spann3r_ros.rooms.places.place_generator import LitPlace
from spann3r_ros.rooms.raycast import Rays
from spann3r_ros.rooms.textures import TextureBank, build_bank, draw_textures

from .building import TEXTURES, Building
from .robot_walk import RobotWalk

TEXTURES_SEED, TEXTURE_SIZE = 71, 128
# What is left of the colours and of the contrast of the procedural textures.
COLOURS, CONTRAST = 0.4, 0.75
CHUNK = 8  # images that are rendered at once
CAMERA_PLACE, CAMERA_PITCH_DEG = (0.12, 0.0, 0.42), 6.0


class BuildingViews:
    """Renders a building; ValueError without the package that casts rays (extra `places`)."""

    def __init__(self, building: Building) -> None:
        self._place = LitPlace.of(building.place, torch.device('cpu'))
        self._bank = _load_bank()

    def render(self, world_from_camera: np.ndarray, camera: Intrinsics
               ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield an image uint8 [h, w, 3] and its depth float32 [h, w] for each pose [n, 4, 4].

        The depth of a pixel is that of its centre, along the optical axis, in metres.
        """
        columns = torch.from_numpy((np.arange(camera.width) - camera.cx) / camera.fx).float()
        rows = torch.from_numpy((np.arange(camera.height) - camera.cy) / camera.fy).float()
        poses = torch.from_numpy(world_from_camera).float()
        for part in poses.split(CHUNK):
            rays = Rays(part[:, :3, 3].contiguous(), part[:, :3, :3].contiguous(),
                        columns.expand(len(part), -1), rows.expand(len(part), -1))
            light, depth = self._place.view(self._bank, rays)
            images = (255 * light.clamp(0, 1).sqrt()).round().byte().permute(0, 2, 3, 1)
            yield from zip(images.numpy(), depth.numpy(), strict=True)


def base_from_camera() -> np.ndarray:
    """Return where the robot carries its camera: `base_from_optical` [4, 4]."""
    pitch = np.radians(CAMERA_PITCH_DEG)
    upwards = np.array(((1.0, 0.0, 0.0), (0.0, np.cos(pitch), -np.sin(pitch)),
                        (0.0, np.sin(pitch), np.cos(pitch))))
    return to_rigid(MAP_FROM_OPTICAL[:3, :3] @ upwards, np.array(CAMERA_PLACE))


def on_floor(poses: np.ndarray) -> np.ndarray:
    """Return transforms [n, 4, 4] of poses on the floor [n, 3]: x, y, yaw."""
    x, y, yaw = np.asarray(poses, float).T
    found = np.tile(np.eye(4), (len(x), 1, 1))
    found[:, 0, 0], found[:, 0, 1], found[:, 0, 3] = np.cos(yaw), -np.sin(yaw), x
    found[:, 1, 0], found[:, 1, 1], found[:, 1, 3] = np.sin(yaw), np.cos(yaw), y
    return found


def camera_poses(walk: RobotWalk) -> np.ndarray:
    """Return the true `world_from_camera` [n, 4, 4] of a walk."""
    return on_floor(walk.poses) @ base_from_camera()


@lru_cache(maxsize=1)
def _load_bank() -> TextureBank:
    drawn = draw_textures(TEXTURES, TEXTURE_SIZE, TEXTURES_SEED)
    grey = drawn.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    drawn = mean + CONTRAST * (grey + COLOURS * (drawn - grey) - mean)
    # The middle brightness of all textures is that of a painted wall.
    drawn = (drawn * (0.68 / mean).clamp(0.7, 2.0)).clamp(0, 1)
    return build_bank(torch.cat((drawn, torch.ones(1, *drawn.shape[1:]))))
