# SPDX-License-Identifier: Apache-2.0
"""Random furnished rooms."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .asset_pack import AssetPack, PackedMesh
from .decoration import Decorator
from .surfaces import Look, SurfaceBuilder, Surfaces, rotation

THEMES = ('Living room', 'Bedroom', 'Office', 'Kitchen', 'Bathroom')
ANYWHERE = ('Miscellaneous', 'Lights')
SMALL_METRES = 0.6
TRIES = 10
WALL_GAP = 0.03
# Directions into the room of the walls at low x, high x, low y and high y.
INWARDS = np.array(((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)))


@dataclass(frozen=True)
class Obstacle:
    """An upright box that a camera stays out of: bounds [2] of x, y and z in the world."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Lamp:
    """A point light: position [3] in the world, colour RGB, and power relative to the others."""

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
    """A place in the making."""

    pack: AssetPack
    decorator: Decorator
    rng: np.random.Generator
    size: np.ndarray
    builder: SurfaceBuilder = field(default_factory=SurfaceBuilder)
    obstacles: list[Obstacle] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    # Tops on which small things can stand: centre [3], half sizes [2] of the room there.
    tops: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def shell(self) -> None:
        """Add floor, ceiling and walls."""
        x, y, z = self.size
        axes = np.eye(3) * self.size
        zero = np.zeros(3)
        self.builder.quad(zero, axes[0], axes[1], self.decorator.floor())
        self.builder.quad(axes[2], axes[0], axes[1], self.decorator.paint(0.6, 1.0, 0.1))
        same = self.decorator.wall()
        for origin, along in ((zero, axes[0]), (axes[1], axes[0]), (zero, axes[1]),
                              (axes[0], axes[1])):
            look = same if self.rng.random() < 0.7 else self.decorator.wall()
            self.builder.quad(origin, along, axes[2], look, tuple(self.rng.uniform(0, 1, 2)))
            if self.rng.random() < 0.5:
                self._skirting(origin, along)
        for _ in range(self.rng.integers(0, 3)):
            self._pillar(same)

    def _skirting(self, origin: np.ndarray, along: np.ndarray) -> None:
        length = np.linalg.norm(along) / 2
        turned = abs(along[1]) > 0
        half = np.array((0.012, length, 0.05) if turned else (length, 0.012, 0.05))
        self.builder.box(origin + along / 2 + (0, 0, 0.05), half, 0.0,
                         self.decorator.paint(0.1, 1.0, 0.3))

    def _pillar(self, look: Look) -> None:
        half = np.array((*self.rng.uniform(0.1, 0.45, 2), self.size[2] / 2))
        wall = self.rng.integers(4)
        centre = self._at_wall(wall, half[:2], self.rng.random(), 0.0)
        if self._free(centre, half[:2], 0.3):
            self.builder.box(np.array((*centre, half[2])), half, 0.0, look, (0, 1, 2, 3))
            self._block(centre, half[:2], 0.0, self.size[2])

    def partition(self) -> None:
        """Add a wall with a doorway across the room."""
        axis = int(self.rng.integers(2))
        length, place = self.size[1 - axis], self.size[axis] * self.rng.uniform(0.35, 0.65)
        thick = self.rng.uniform(0.05, 0.1)
        opening, lintel = self.rng.uniform(0.45, 0.9), self.rng.uniform(2.0, 2.2)
        middle = self.rng.uniform(opening + 0.1, length - opening - 0.1)
        look, height = self.decorator.wall(), self.size[2]
        for start, stop, bottom in ((0.0, middle - opening, 0.0),
                                    (middle + opening, length, 0.0),
                                    (middle - opening, middle + opening, lintel)):
            half, centre = np.empty(3), np.empty(3)
            half[axis], half[1 - axis], half[2] = thick, (stop - start) / 2, (height - bottom) / 2
            centre[axis], centre[1 - axis], centre[2] = (place, (start + stop) / 2,
                                                         (height + bottom) / 2)
            self.builder.box(centre, half, 0.0, look)
            if bottom == 0.0:
                self._block(centre[:2], half[:2], 0.0, height)

    def windows(self, count: int) -> None:
        """Add windows with a view, bright, each with a lamp of daylight before it."""
        for _ in range(count):
            wall = int(self.rng.integers(4))
            half = np.array((self.rng.uniform(0.35, 1.0), self.rng.uniform(0.4, 0.8)))
            height = min(self.rng.uniform(1.3, 1.7), self.size[2] - half[1] - 0.1)
            glow = self.rng.uniform(0.8, 2.5)
            look = Look(self.decorator.photograph(), glow=glow)
            centre = self._on_wall(wall, half, height, look,
                                   self.decorator.paint(0.1, 1.0, 0.2))
            # One window lights a room well enough; each lamp costs as much as a texture.
            if centre is not None and not self.lamps:
                daylight = np.array((0.9, 0.97, 1.1)) * self.rng.uniform(0.5, 2.5)
                self.lamps.append(Lamp(centre + 0.25 * np.array((*INWARDS[wall], 0.0)), daylight))

    def pictures(self, count: int) -> None:
        """Add pictures, posters and boards to the walls."""
        for _ in range(count):
            half = np.exp(self.rng.uniform(np.log(0.1), np.log(0.7), 2))
            look = (self.decorator.picture() if self.rng.random() < 0.8
                    else self.decorator.paint(0.05, 1.0))
            frame = self.decorator.paint(0.05, 0.9, 0.6) if self.rng.random() < 0.6 else None
            self._on_wall(int(self.rng.integers(4)), half, self.rng.uniform(1.0, 1.9), look, frame)

    def _on_wall(self, wall: int, half: np.ndarray, height: float, look: Look,
                 frame: Look | None) -> np.ndarray | None:
        """Add a picture with half sizes [2] to a wall; return its centre, None: no space."""
        along = self.size[1] if wall < 2 else self.size[0]
        if half[0] * 2 > along - 0.2 or height - half[1] < 0.3 or (
                height + half[1] > self.size[2] - 0.05):
            return None
        inward = np.array((*INWARDS[wall], 0.0))
        flat = np.array((0.0, 0.0))
        share = self.rng.uniform(half[0] + 0.1, along - half[0] - 0.1) / along
        centre = np.array((*self._at_wall(wall, flat, share, 0.02), height))
        # Seen from the room, x of the picture runs to the right.
        across = np.cross(inward, (0.0, 0.0, -1.0))
        up = np.array((0.0, 0.0, 2 * half[1]))
        self.builder.quad(centre - across * half[0] - up / 2 + 0.01 * inward, 2 * half[0] * across,
                          up, look)
        if frame is not None:
            width = self.rng.uniform(0.015, 0.05)
            yaw = np.arctan2(across[1], across[0])
            for side in (-1, 1):
                self.builder.box(centre + side * across * half[0],
                                 np.array((width, 0.03, half[1] + width)), yaw, frame)
                self.builder.box(centre + side * up / 2,
                                 np.array((half[0] + width, 0.03, width)), yaw, frame)
        return centre

    def lights(self, count: int) -> None:
        """Add lamps below the ceiling."""
        for _ in range(count):
            spot = np.array((*(self.size[:2] * self.rng.uniform(0.2, 0.8, 2)),
                             self.size[2] - self.rng.uniform(0.12, 0.5)))
            warm = np.array((1.1, 0.98, self.rng.uniform(0.65, 1.0)))
            self.lamps.append(Lamp(spot, warm * self.rng.uniform(0.5, 2.0)))
            half = np.array((*self.rng.uniform(0.05, 0.35, 2), 0.03))
            self.builder.box(spot + (0.0, 0.0, 0.08), half, 0.0,
                             Look(self.decorator.white, glow=2.0))

    def rug(self) -> None:
        """Add a carpet."""
        half = self.rng.uniform(0.4, 1.2, 2)
        spot = self.size[:2] * self.rng.uniform(0.3, 0.7, 2)
        low, high = np.maximum(spot - half, 0.05), np.minimum(spot + half, self.size[:2] - 0.05)
        look = Look(self.decorator.photograph() if self.rng.random() < 0.5
                    else self.decorator.pattern(), self.decorator.shade())
        self.builder.quad(np.array((*low, 0.008)), np.array((high[0] - low[0], 0.0, 0.0)),
                          np.array((0.0, high[1] - low[1], 0.0)), look)

    def furnish(self, count: int) -> None:
        """Add pieces of furniture, most of one theme, the large ones along the walls."""
        theme = self.rng.choice(THEMES)
        large = [mesh for mesh in self.pack.meshes if mesh.size.max() > SMALL_METRES
                 and mesh.category in THEMES + ANYWHERE]
        doors = [mesh for mesh in self.pack.meshes if mesh.category == 'Doors and windows']
        suited = [mesh for mesh in large if mesh.category in (theme, *ANYWHERE)]
        for _ in range(int(self.rng.integers(0, 3)) if doors else 0):
            self._furniture(doors[self.rng.integers(len(doors))], at_wall=True)
        for _ in range(count if large else 0):
            pool = suited if suited and self.rng.random() < 0.7 else large
            mesh = pool[self.rng.integers(len(pool))]
            self._furniture(mesh, mesh.size[2] > 1.0 or mesh.elevation > 0.2
                            or self.rng.random() < 0.5)

    def _furniture(self, mesh: PackedMesh, at_wall: bool) -> None:
        scale = self.rng.uniform(0.85, 1.15, 3)
        half = mesh.size / 2 * scale
        if half[2] * 2 > self.size[2] - 0.1:
            return
        for _ in range(TRIES):
            if at_wall:
                wall = int(self.rng.integers(4))
                yaw = np.arctan2(INWARDS[wall, 1], INWARDS[wall, 0]) + np.pi / 2
                footprint = half[:2] if wall >= 2 else half[1::-1]
                spot = self._at_wall(wall, footprint, self.rng.random(), WALL_GAP)
            else:
                yaw = self.rng.uniform(0, 2 * np.pi)
                cos, sin = abs(np.cos(yaw)), abs(np.sin(yaw))
                footprint = np.array((half[0] * cos + half[1] * sin,
                                      half[0] * sin + half[1] * cos))
                spot = self.size[:2] * self.rng.uniform(0.1, 0.9, 2)
            bottom = min(mesh.elevation, self.size[2] - 2 * half[2] - 0.05)
            if self._free(spot, footprint, 0.0, bottom, bottom + 2 * half[2]):
                self._mesh(mesh, np.array((*spot, bottom)), yaw, scale)
                self._block(spot, footprint, bottom, bottom + 2 * half[2])
                if np.isfinite(mesh.top) and mesh.elevation == 0.0:
                    self.tops.append((np.array((*spot, mesh.top * scale[2])), footprint * 0.7))
                return

    def shelves(self) -> None:
        """Add a shelf of books and boxes at a wall."""
        half = np.array((self.rng.uniform(0.3, 0.9), self.rng.uniform(0.1, 0.18), 0.0))
        wall, boards = int(self.rng.integers(4)), int(self.rng.integers(2, 6))
        gap = self.rng.uniform(0.22, 0.38)
        bottom = 0.05 if self.rng.random() < 0.7 else max(0.1, 1.9 - boards * gap)
        footprint = half[:2] if wall >= 2 else half[1::-1]
        spot = self._at_wall(wall, footprint, self.rng.random(), WALL_GAP)
        top = bottom + boards * gap
        if top > self.size[2] - 0.1 or not self._free(spot, footprint, 0.0, bottom, top):
            return
        yaw = np.arctan2(INWARDS[wall, 1], INWARDS[wall, 0]) + np.pi / 2
        wood = self.decorator.thing()
        turned = rotation(yaw)
        for board in range(boards + 1):
            level = bottom + board * gap
            self.builder.box(np.array((*spot, level)), half + (0.0, 0.0, 0.01), yaw, wood)
            place = -half[0]
            while board < boards and place < half[0] - 0.05:
                width = self.rng.uniform(0.015, 0.06) if self.rng.random() < 0.8 else (
                    self.rng.uniform(0.06, 0.25))
                if place + width > half[0]:
                    break
                tall = gap * self.rng.uniform(0.5, 0.92)
                if self.rng.random() < 0.85:
                    middle = turned @ (place + width / 2, self.rng.uniform(-0.03, 0.05), 0.0)
                    self.builder.box(np.array((*spot, level + tall / 2 + 0.01)) + middle,
                                     np.array((width / 2, half[1] * 0.7, tall / 2)), yaw,
                                     self.decorator.thing())
                place += width + 0.002
        if self.rng.random() < 0.6:
            for side in (-1, 1):
                middle = turned @ (side * half[0], 0.0, 0.0)
                self.builder.box(np.array((*spot, (bottom + top) / 2)) + middle,
                                 np.array((0.01, half[1], (top - bottom) / 2)), yaw, wood)
        self._block(spot, footprint, bottom, top)

    def clutter(self, count: int) -> None:
        """Add small things, on furniture where there is some, else on the floor."""
        small = [mesh for mesh in self.pack.meshes if mesh.size.max() <= SMALL_METRES
                 and mesh.category != 'Doors and windows']
        for _ in range(count):
            if self.tops and self.rng.random() < 0.75:
                centre, half = self.tops[self.rng.integers(len(self.tops))]
                spot = centre + (*(half * self.rng.uniform(-1, 1, 2)), 0.0)
            else:
                spot = np.array((*(self.size[:2] * self.rng.uniform(0.06, 0.94, 2)), 0.0))
            yaw = self.rng.uniform(0, 2 * np.pi)
            if small and self.rng.random() < 0.6:
                mesh = small[self.rng.integers(len(small))]
                self._mesh(mesh, spot, yaw, np.full(3, self.rng.uniform(0.7, 1.4)))
                half, height = mesh.size[:2] * 0.7, mesh.size[2]
            else:
                half = np.exp(self.rng.uniform(np.log(0.03), np.log(0.2), 3))
                if self.rng.random() < 0.7:
                    self.builder.box(spot + (0.0, 0.0, half[2]), half, yaw,
                                     self.decorator.thing())
                else:
                    self.builder.cylinder(spot, half[0], 2 * half[2], self.decorator.thing())
                half, height = half[:2] * 1.4, 2 * half[2]
            if spot[2] == 0.0:
                self._block(spot[:2], half, 0.0, height)

    def _mesh(self, mesh: PackedMesh, spot: np.ndarray, yaw: float, scale: np.ndarray) -> None:
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

    def _at_wall(self, wall: int, half: np.ndarray, share: float, gap: float) -> np.ndarray:
        """Return the centre [2] of a footprint with half sizes [2] at a wall."""
        spot = half + gap + share * np.maximum(self.size[:2] - 2 * half - 2 * gap, 0.0)
        axis = 0 if wall < 2 else 1
        near = half[axis] + gap
        spot[axis] = near if wall % 2 == 0 else self.size[axis] - near
        return spot

    def _free(self, spot: np.ndarray, half: np.ndarray, margin: float, bottom: float = 0.0,
              top: float = np.inf) -> bool:
        low, high = spot - half - margin, spot + half + margin
        if (low < 0.0).any() or (high > self.size[:2]).any():
            return False
        return not any((low < item.high[:2]).all() and (high > item.low[:2]).all()
                       and bottom < item.high[2] and top > item.low[2]
                       for item in self.obstacles)

    def _block(self, spot: np.ndarray, half: np.ndarray, bottom: float, top: float) -> None:
        self.obstacles.append(Obstacle(np.array((*(spot - half), bottom)),
                                       np.array((*(spot + half), top))))


def draw_place(pack: AssetPack, patterns: int, rng: np.random.Generator) -> Place:
    """Draw a room of 2.5 to 8 metres, its furniture, things, pictures, windows and lamps."""
    size = np.array((*np.exp(rng.uniform(np.log(2.5), np.log(8.0), 2)), rng.uniform(2.3, 3.3)))
    drawing = PlaceDrawing(pack, Decorator.of(pack, patterns, rng), rng, size)
    area = size[0] * size[1]
    drawing.shell()
    if size[:2].max() > 4.5 and rng.random() < 0.4:
        drawing.partition()
    drawing.windows(int(rng.integers(0, 3)))
    drawing.lights(int(rng.integers(1, 3)))
    drawing.furnish(int(round(rng.uniform(0.3, 1.0) * area)))
    for _ in range(int(rng.integers(0, 4))):
        drawing.shelves()
    drawing.pictures(int(rng.integers(0, 12)))
    for _ in range(int(rng.integers(0, 3))):
        drawing.rug()
    drawing.clutter(int(round(rng.uniform(0.3, 2.5) * area)))
    return Place(drawing.builder.build(), tuple(drawing.lamps), tuple(drawing.obstacles), size,
                 float(rng.uniform(0.25, 0.7)))
