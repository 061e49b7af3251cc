# SPDX-License-Identifier: Apache-2.0
"""Random furnished buildings: a plan, a robot's way through it, and the surfaces that it sees."""
from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from spann3r_ros.rooms.places.place import Place
from spann3r_ros.rooms.places.surfaces import Look, SurfaceBuilder

from .floor_plan import DOOR_HEIGHT, DOOR_WIDTH, WALL, BuildingConfig, FloorPlan, draw_shell
from .robot_walk import route

TEXTURES = 96  # procedural ones; the bank has a white one after them
WHITE = TEXTURES
# What a robot leaves free on both sides of its way, metres.
CLEARANCE = 0.5
TRIES = 12
AMBIENT = 0.95
# How bright surfaces are that face -x, +x, -y, +y, -z and +z, as under a lamp in the south-west.
FACES = (0.74, 0.95, 0.82, 1.0, 0.8, 0.92)


@dataclass(frozen=True)
class Building:
    """A building, and the corners [k, 2] of a way through it that stays clear of everything."""

    plan: FloorPlan
    place: Place
    way: np.ndarray


def draw_building(seed: int, config: BuildingConfig | None = None) -> Building:
    """Draw a building; equal arguments give equal buildings."""
    config = config or BuildingConfig()
    rng = np.random.default_rng(seed)
    plan = draw_shell(config, rng)
    way = route(plan)
    plan = replace(plan, furniture=_furniture(plan, way, config, rng))
    builder = SurfaceBuilder()
    for space in plan.spaces:
        _cover_space(builder, plan, space, rng)
    for box in plan.walls:
        _cover_doorway(builder, box, rng)
    for door in (*plan.doors.values(), *plan.passages.values()):
        (left, near), (right, far) = door.floor()
        builder.quad(np.array((left, near, 0.0)), np.array((right - left, 0.0, 0.0)),
                     np.array((0.0, far - near, 0.0)), Look(WHITE, _tint(rng, 0.45, 0.4, 1.0)))
    for box in plan.furniture:
        _cover_furniture(builder, box, rng)
    place = Place(builder.build(), (), (), plan.size, AMBIENT)
    return Building(plan, place, way)


def _furniture(plan: FloorPlan, way: np.ndarray, config: BuildingConfig,
               rng: np.random.Generator) -> np.ndarray:
    """Return boxes [n, 2, 3] that stand at the walls of the rooms and on no way."""
    found: list[np.ndarray] = []
    doors = np.array([one.middle for one in (*plan.doors.values(), *plan.passages.values())])
    for space in plan.spaces[1:]:
        near = _legs_near(way, space)
        inside = [one for one in doors if (np.abs(one - space.mean(0))
                                           < np.ptp(space, axis=0) / 2 + 0.3).all()]
        own: list[np.ndarray] = []
        for _ in range(int(rng.integers(config.furniture[0], config.furniture[1] + 1))):
            for _ in range(TRIES):
                box = _piece(space, config.height, rng)
                low, high = box[0, :2], box[1, :2]
                if (_distance(near, low, high) > CLEARANCE
                        and all(_apart(one - 0.7, one + 0.7, low, high) for one in inside)
                        and all(_apart(one[0, :2], one[1, :2], low, high) for one in own)):
                    own.append(box)
                    break
        found += own
    return np.array(found).reshape(-1, 2, 3)


def _piece(space: np.ndarray, height: float, rng: np.random.Generator) -> np.ndarray:
    """Return a cupboard, desk or chest at a wall of a room, low and high corner [2, 3]."""
    long, deep = rng.uniform(0.5, 1.5), rng.uniform(0.35, 0.6)
    tall = rng.choice([rng.uniform(0.4, 0.55), rng.uniform(0.7, 1.1), rng.uniform(1.5, 2.0)])
    wall = int(rng.integers(4))
    half = np.array((deep, long) if wall < 2 else (long, deep)) / 2
    centre = space[0] + half + rng.random(2) * (np.ptp(space, axis=0) - 2 * half)
    axis = wall // 2
    gap = half[axis] + 0.02
    centre[axis] = space[0, axis] + gap if wall % 2 == 0 else space[1, axis] - gap
    return np.array(((*(centre - half), 0.0), (*(centre + half), min(tall, height - 0.1))))


def _legs_near(way: np.ndarray, space: np.ndarray) -> np.ndarray:
    """Return points [n, 2] of a way inside a space."""
    points = np.concatenate([np.linspace(one, two, max(2, int(np.linalg.norm(two - one) / 0.1)))
                             for one, two in zip(way[:-1], way[1:], strict=True)])
    return points[((points > space[0] - 0.5) & (points < space[1] + 0.5)).all(axis=1)]


def _distance(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    outside = np.maximum(np.maximum(low - points, points - high), 0.0)
    return float(np.linalg.norm(outside, axis=1).min(initial=np.inf))


def _apart(low: np.ndarray, high: np.ndarray, other_low: np.ndarray,
           other_high: np.ndarray) -> bool:
    return bool((low > other_high).any() or (high < other_low).any())


def _cover_space(builder: SurfaceBuilder, plan: FloorPlan, space: np.ndarray,
                 rng: np.random.Generator) -> None:
    """Add floor, ceiling, walls and pictures of the corridor or of a room.

    Each part of a long wall has its own look, so that no two parts of the building are alike.
    """
    parts = max(1, round(np.ptp(space[:, 0]) / 5.0))
    edges = np.linspace(space[0, 0], space[1, 0], parts + 1)
    (low_x, low_y), (high_x, high_y) = space
    height = plan.size[2]
    floor, top = _textured(rng, 0.6, 1.2, 5), _textured(rng, 1.2, 2.4, 4)
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        across, along = np.array((right - left, 0, 0)), np.array((0, high_y - low_y, 0))
        builder.quad(np.array((left, low_y, 0)), across, along, floor)
        builder.quad(np.array((left, low_y, height)), across, along, top)
        for y, facing in ((low_y, 3), (high_y, 2)):
            _cover_wall(builder, plan, np.array((left, y)), np.array((right, y)), facing, rng)
    for x, facing in ((low_x, 1), (high_x, 0)):
        _cover_wall(builder, plan, np.array((x, low_y)), np.array((x, high_y)), facing, rng)


def _cover_wall(builder: SurfaceBuilder, plan: FloorPlan, start: np.ndarray, end: np.ndarray,
                facing: int, rng: np.random.Generator) -> None:
    """Add one side of a wall from `start` to `end` [2], around its doors, with pictures."""
    axis = 0 if start[1] == end[1] else 1
    height, look = plan.size[2], _textured(rng, 0.9, 2.2, facing)
    wall = np.array((start[0], start[1], 0.0))
    gaps = _gaps(plan, start, end, axis)
    cuts = [start[axis], *(place for gap in gaps for place in gap), end[axis]]
    for low, high in zip(cuts[::2], cuts[1::2], strict=True):
        _panel(builder, wall, axis, (low, high), (0.0, height), look)
        _hang(builder, wall, axis, (low, high), facing, rng)
    for low, high in gaps:
        _panel(builder, wall, axis, (low, high), (DOOR_HEIGHT, height), look)


def _gaps(plan: FloorPlan, start: np.ndarray, end: np.ndarray, axis: int
          ) -> list[tuple[float, float]]:
    """Return the doors in one side of a wall, or parts of them, as intervals along it."""
    found = []
    for door in (*plan.doors.values(), *plan.passages.values()):
        if door.along_x != (axis == 0) or abs(door.middle[1 - axis] - start[1 - axis]) > WALL:
            continue
        low = max(door.middle[axis] - DOOR_WIDTH / 2, start[axis])
        high = min(door.middle[axis] + DOOR_WIDTH / 2, end[axis])
        if low < high:
            found.append((low, high))
    return sorted(found)


def _panel(builder: SurfaceBuilder, wall: np.ndarray, axis: int, extent: tuple[float, float],
           heights: tuple[float, float], look: Look, off: float = 0.0) -> None:
    """Add a part of a wall, whose texture goes on from its neighbours."""
    origin = wall.copy()
    origin[axis], origin[2] = extent[0], heights[0]
    origin[1 - axis] += off
    across = np.zeros(3)
    across[axis] = extent[1] - extent[0]
    offset = (0.0, 0.0) if look.tile is None else (extent[0] / look.tile, -heights[1] / look.tile)
    builder.quad(origin, across, np.array((0.0, 0.0, heights[1] - heights[0])), look, offset)


def _hang(builder: SurfaceBuilder, wall: np.ndarray, axis: int, extent: tuple[float, float],
          facing: int, rng: np.random.Generator) -> None:
    """Hang pictures on a part of a wall, and add a skirting board."""
    off = 0.01 if facing % 2 else -0.01
    board = Look(WHITE, _tint(rng, 0.4, 0.4, FACES[facing]))
    _panel(builder, wall, axis, extent, (0.0, 0.08), board, off / 2)
    place = extent[0] + rng.uniform(0.15, 0.6)
    while place < extent[1] - 0.4:
        width = min(rng.uniform(0.3, 0.9), extent[1] - place - 0.1)
        bottom = rng.uniform(0.7, 1.3)
        grey = rng.uniform(0.75, 1.1) * FACES[facing]
        heights = bottom, bottom + rng.uniform(0.3, 0.8)
        _panel(builder, wall, axis, (place, place + width), heights,
               Look(int(rng.integers(TEXTURES)), (grey,) * 3), off)
        place += width + rng.uniform(0.3, 1.2)


def _cover_doorway(builder: SurfaceBuilder, box: np.ndarray, rng: np.random.Generator) -> None:
    """Add the ends of a wall in its doorways, and the lower sides above them."""
    frame = Look(WHITE, _tint(rng, 0.75, 0.3, 0.85))
    half = np.ptp(box, axis=0) / 2
    ends = (0, 1) if half[0] > half[1] else (2, 3)
    builder.box(box.mean(axis=0), half, 0.0, frame, (*ends, 4) if box[0, 2] > 0.0 else ends)


def _cover_furniture(builder: SurfaceBuilder, box: np.ndarray, rng: np.random.Generator) -> None:
    """Add a box whose sides are differently bright."""
    texture = int(rng.integers(TEXTURES)) if rng.random() < 0.8 else WHITE
    tint, tile = np.array(_tint(rng, 0.9, 0.5, 1.0)), float(rng.uniform(0.4, 1.0))
    for face in (0, 1, 2, 3, 5):
        builder.box(box.mean(axis=0), np.ptp(box, axis=0) / 2, 0.0,
                    Look(texture, tuple((tint * FACES[face]).tolist()), tile), (face,))


def _textured(rng: np.random.Generator, low: float, high: float, facing: int) -> Look:
    """Return the look of a large surface: a texture with tiles of `low` to `high` metres."""
    return Look(int(rng.integers(TEXTURES)), _tint(rng, rng.uniform(0.8, 1.1), 0.2, FACES[facing]),
                float(rng.uniform(low, high)))


def _tint(rng: np.random.Generator, value: float, colourful: float, bright: float
          ) -> tuple[float, float, float]:
    colour = colorsys.hsv_to_rgb(rng.random(), colourful * rng.random(), value)
    return tuple((bright * np.array(colour)).tolist())
