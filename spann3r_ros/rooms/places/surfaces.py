# SPDX-License-Identifier: Apache-2.0
"""The triangles of a place, and the shapes they are built from."""
from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

# Corners of the faces of a box, each counter-clockwise seen from outside: -x, +x, -y, +y, -z, +z.
_BOX = ((0, 4, 6, 2), (5, 1, 3, 7), (1, 5, 4, 0), (2, 6, 7, 3), (1, 0, 2, 3), (4, 5, 7, 6))
_ROUND_SIDES = 12


@dataclass(frozen=True)
class Look:
    """How a surface looks: a texture of the bank, its tint RGB, shares of gloss and own light.

    `tile` is the side of one tile of the texture in metres; None: the texture covers the surface
    once.
    """

    texture: int
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tile: float | None = None
    gloss: float = 0.0
    glow: float = 0.0


@dataclass(frozen=True)
class Surfaces:
    """T triangles in world coordinates, metres, z up.

    `corners` float32 [T, 3, 3]; `uv` float32 [T, 3, 2] in tiles; `texture` int32 [T]; `tint`
    float32 [T, 3]; `gloss` and `glow` float32 [T]. Both sides are visible.
    """

    corners: Tensor
    uv: Tensor
    texture: Tensor
    tint: Tensor
    gloss: Tensor
    glow: Tensor

    def __len__(self) -> int:
        return len(self.corners)

    def to(self, device: torch.device) -> Surfaces:
        """Move to another device."""
        return Surfaces(**{item.name: getattr(self, item.name).to(device)
                           for item in fields(self)})


class SurfaceBuilder:
    """Collects triangles."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, corners: np.ndarray, uv: np.ndarray, texture: np.ndarray, tint: np.ndarray,
            gloss: float = 0.0, glow: float = 0.0) -> None:
        """Add triangles: corners [T, 3, 3], uv [T, 3, 2], texture [T], tint [T, 3]."""
        count = len(corners)
        self._parts.append((corners, uv, texture, tint, np.full(count, gloss),
                            np.full(count, glow)))

    def quad(self, origin: np.ndarray, across: np.ndarray, up: np.ndarray, look: Look,
             offset: tuple[float, float] = (0.0, 0.0)) -> None:
        """Add a parallelogram: a corner and two edges [3]; v of the texture runs against `up`."""
        points = np.stack((origin, origin + across, origin + across + up, origin + up))
        if look.tile is None:
            width, height = 1.0, 1.0
        else:
            width, height = np.linalg.norm(across) / look.tile, np.linalg.norm(up) / look.tile
        uv = np.array(((0.0, height), (width, height), (width, 0.0), (0.0, 0.0))) + offset
        order = np.array(((0, 1, 2), (0, 2, 3)))
        self.add(points[order], uv[order], np.full(2, look.texture), np.tile(look.tint, (2, 1)),
                 look.gloss, look.glow)

    def box(self, centre: np.ndarray, half: np.ndarray, yaw: float, look: Look,
            faces: tuple[int, ...] = (0, 1, 2, 3, 4, 5)) -> None:
        """Add faces of a box with half sizes [3], turned by `yaw` about z."""
        signs = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)])
        corners = centre + (signs * half) @ rotation(yaw).T
        for index in faces:
            first, second, _, last = (corners[item] for item in _BOX[index])
            self.quad(first, second - first, last - first, look)

    def cylinder(self, centre: np.ndarray, radius: float, height: float, look: Look) -> None:
        """Add an upright cylinder that stands on `centre` [3]."""
        angle = np.linspace(0.0, 2 * np.pi, _ROUND_SIDES + 1)
        ring = centre + radius * np.stack((np.cos(angle), np.sin(angle), 0 * angle), 1)
        up = np.array((0.0, 0.0, height))
        share = np.arange(_ROUND_SIDES + 1) / _ROUND_SIDES
        low, high = np.stack((share, 0 * share + 1), 1), np.stack((share, 0 * share), 1)
        corners = np.concatenate((
            np.stack((ring[:-1], ring[1:], ring[1:] + up), 1),
            np.stack((ring[:-1], ring[1:] + up, ring[:-1] + up), 1),
            np.stack((np.broadcast_to(centre, ring[1:].shape) + up, ring[:-1] + up,
                      ring[1:] + up), 1)))
        cap = 0.5 + 0.5 * np.stack((np.cos(angle), np.sin(angle)), 1)
        uv = np.concatenate((
            np.stack((low[:-1], low[1:], high[1:]), 1),
            np.stack((low[:-1], high[1:], high[:-1]), 1),
            np.stack((np.full_like(cap[1:], 0.5), cap[:-1], cap[1:]), 1)))
        count = len(corners)
        self.add(corners, uv, np.full(count, look.texture), np.tile(look.tint, (count, 1)),
                 look.gloss, look.glow)

    def build(self) -> Surfaces:
        """Return all triangles."""
        whole = [np.concatenate(part) for part in zip(*self._parts, strict=True)]
        kinds = (np.float32, np.float32, np.int32, np.float32, np.float32, np.float32)
        return Surfaces(*(torch.from_numpy(np.ascontiguousarray(item, dtype=kind))
                          for item, kind in zip(whole, kinds, strict=True)))


def rotation(yaw: float) -> np.ndarray:
    """Return the rotation [3, 3] by `yaw` about z."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array(((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0)))
