# SPDX-License-Identifier: Apache-2.0
"""A furnished room, finished or while it is drawn."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spann3r_ros.rooms.assets.asset_pack import AssetPack, PackedMesh

from .decoration import Decorator
from .surfaces import SurfaceBuilder, Surfaces, rotation

# Directions into the room of the walls at low x, high x, low y and high y.
INWARDS = np.array(((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)))


@dataclass(frozen=True)
class Obstacle:
    """An upright box that a camera stays out of: bounds [2] of x, y and z in the world."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Lamp:
    """A point light: position [3] in the world, and its RGB power relative to the others."""

    position: np.ndarray
    color: np.ndarray


@dataclass(frozen=True)
class Place:
    """A room: triangles, lamps, what a camera must avoid, and its size [3]; it begins at 0."""

    surfaces: Surfaces
    lamps: tuple[Lamp, ...]
    obstacles: tuple[Obstacle, ...]
    size: np.ndarray
    ambient: float


@dataclass
class PlaceDrawing:
    """A place while it is drawn."""

    pack: AssetPack
    decorator: Decorator
    rng: np.random.Generator
    size: np.ndarray
    builder: SurfaceBuilder = field(default_factory=SurfaceBuilder)
    obstacles: list[Obstacle] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    # Tops on which small things can stand: centre [3], half sizes [2] of the room there.
    tops: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def mesh(self, mesh: PackedMesh, spot: np.ndarray, yaw: float, scale: np.ndarray) -> None:
        """Add a mesh that stands on `spot` [3], its axes scaled, then turned by `yaw`."""
        points = (mesh.vertices * scale) @ rotation(yaw).T + spot
        texture, tint = mesh.texture, mesh.tint * self.rng.uniform(0.7, 1.15, 3)
        plain = texture < 0
        texture = np.where(plain, self.decorator.white, texture)
        if self.rng.random() < 0.35:
            # Another finish: what has one plain colour gets a texture, or another colour.
            look = self.decorator.thing()
            texture = np.where(plain, look.texture, texture)
            tint = np.where(plain[:, None], look.tint, tint)
        gloss = self.rng.uniform(0.1, 0.5) if self.rng.random() < 0.25 else 0.0
        self.builder.add(points[mesh.faces], mesh.uv[mesh.faces], texture, tint.clip(0.0, 1.0),
                         gloss)

    def at_wall(self, wall: int, half: np.ndarray, share: float, gap: float) -> np.ndarray:
        """Return the centre [2] of a footprint with half sizes [2] at a wall."""
        spot = half + gap + share * np.maximum(self.size[:2] - 2 * half - 2 * gap, 0.0)
        axis = 0 if wall < 2 else 1
        near = half[axis] + gap
        spot[axis] = near if wall % 2 == 0 else self.size[axis] - near
        return spot

    def wall_spot(self, half: np.ndarray, gap: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Return where a thing with half sizes [2] stands at any wall, its front into the room.

        The centre [2], the half sizes [2] of the footprint, and the yaw of the thing.
        """
        wall = int(self.rng.integers(4))
        footprint = half[:2] if wall >= 2 else half[1::-1]
        yaw = np.arctan2(INWARDS[wall, 1], INWARDS[wall, 0]) + np.pi / 2
        return self.at_wall(wall, footprint, self.rng.random(), gap), footprint, yaw

    def free(self, spot: np.ndarray, half: np.ndarray, bottom: float = 0.0,
             top: float = np.inf) -> bool:
        """Return whether a footprint with half sizes [2] is in the room and nothing is there."""
        low, high = spot - half, spot + half
        if (low < 0.0).any() or (high > self.size[:2]).any():
            return False
        return not any((low < item.high[:2]).all() and (high > item.low[:2]).all()
                       and bottom < item.high[2] and top > item.low[2]
                       for item in self.obstacles)

    def block(self, spot: np.ndarray, half: np.ndarray, bottom: float, top: float) -> None:
        """Mark a footprint with half sizes [2] as occupied between two heights."""
        self.obstacles.append(Obstacle(np.array((*(spot - half), bottom)),
                                       np.array((*(spot + half), top))))
