# SPDX-License-Identifier: Apache-2.0
"""A room of boards with random textures, drawn in milliseconds; nothing in it repeats.

    room = BoardRoom()
    rgb = room.draw(pose, camera)            # uint8 [h, w, 3]; pose: world_from_camera [4, 4]
    rgb, depth = room.draw_with_depth(pose, camera)

World: z up, metres, floor at z = 0. Cameras: optical frame.
"""
from __future__ import annotations

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics

TEXELS_PER_METRE = 48
# Widths of the spots of a texture in metres.
SPOTS_M = (0.06, 0.15, 0.5)
# Corner, side, side: the walls, floor and ceiling of a room of 6 x 5 x 2.6 m, and boards in it.
BOARDS = np.array([
    [[-3, -2.5, 0], [6, 0, 0], [0, 0, 2.6]], [[-3, 2.5, 0], [6, 0, 0], [0, 0, 2.6]],
    [[-3, -2.5, 0], [0, 5, 0], [0, 0, 2.6]], [[3, -2.5, 0], [0, 5, 0], [0, 0, 2.6]],
    [[-3, -2.5, 0], [6, 0, 0], [0, 5, 0]], [[-3, -2.5, 2.6], [6, 0, 0], [0, 5, 0]],
    [[-0.4, 1.6, 0], [0.9, 0.2, 0], [0, 0, 1.5]], [[2.0, -0.6, 0.4], [0.1, 0.8, 0], [0, 0, 1.2]],
    [[-2.3, -1.0, 0], [0.2, 0.9, 0], [0, 0, 1.8]], [[0.5, -2.0, 0.7], [0.8, -0.1, 0], [0, 0, 1]],
    [[-1.6, 1.9, 0.9], [0.5, 0, 0], [0, 0, 0.9]], [[2.2, 1.3, 0], [-0.6, 0.6, 0], [0, 0, 1.1]]],
    float)


class BoardRoom:
    """The boards of `BOARDS` with textures of a seed."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._textures = [_texture(rng, *np.linalg.norm(board[1:], axis=1)) for board in BOARDS]

    def draw(self, pose: np.ndarray, camera: Intrinsics) -> np.ndarray:
        return self.draw_with_depth(pose, camera)[0]

    def draw_with_depth(self, pose: np.ndarray,
                        camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
        columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy,
                         np.ones_like(columns, float)], axis=-1) @ pose[:3, :3].T  # [h, w, 3]
        rgb = np.zeros((*columns.shape, 3), np.uint8)
        depth = np.full(columns.shape, np.inf)
        for (corner, across, up), texture in zip(BOARDS, self._textures, strict=True):
            normal, start = np.cross(across, up), pose[:3, 3] - corner
            with np.errstate(divide='ignore', invalid='ignore'):
                reach = -(start @ normal) / (rays @ normal)
                places = [(start @ side + reach * (rays @ side)) / (side @ side)
                          for side in (across, up)]
            inside = (reach > 0.01) & (reach < depth)
            for place in places:
                inside &= (place >= 0.0) & (place <= 1.0)
            seen = cv2.remap(texture, *(
                np.where(inside, place, 0.0).astype(np.float32) * (size - 1)
                for place, size in zip(places, texture.shape[1::-1], strict=True)),
                cv2.INTER_LINEAR)
            rgb[inside], depth[inside] = seen[inside], reach[inside]
        return rgb, depth


def _texture(rng: np.random.Generator, width: float, height: float) -> np.ndarray:
    shape = tuple(max(8, round(side * TEXELS_PER_METRE)) for side in (height, width))
    gray = np.zeros(shape, np.float32)
    for spot in SPOTS_M:
        noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0),
                                 0.5 * spot * TEXELS_PER_METRE)
        gray += noise / noise.std()
    tint = rng.uniform(0.7, 1.0, 3)
    return np.clip((120 + 30 * gray[..., None]) * tint, 0, 255).astype(np.uint8)
