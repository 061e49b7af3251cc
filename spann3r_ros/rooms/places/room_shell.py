# SPDX-License-Identifier: Apache-2.0
"""Walls, doorways, windows, lamps, pictures and carpets of places."""
from __future__ import annotations

import numpy as np

from .place import INWARDS, Lamp, PlaceDrawing
from .surfaces import Look


def add_shell(drawing: PlaceDrawing) -> None:
    """Add floor, ceiling and walls."""
    axes = np.eye(3) * drawing.size
    zero = np.zeros(3)
    drawing.builder.quad(zero, axes[0], axes[1], drawing.decorator.floor())
    drawing.builder.quad(axes[2], axes[0], axes[1], drawing.decorator.paint(0.6, 1.0, 0.1))
    same = drawing.decorator.wall()
    for origin, along in (
        (zero, axes[0]),
        (axes[1], axes[0]),
        (zero, axes[1]),
        (axes[0], axes[1]),
    ):
        look = same if drawing.rng.random() < 0.7 else drawing.decorator.wall()
        drawing.builder.quad(origin, along, axes[2], look, tuple(drawing.rng.uniform(0, 1, 2)))
        if drawing.rng.random() < 0.5:
            _add_skirting(drawing, origin, along)
    for _ in range(drawing.rng.integers(0, 3)):
        _add_pillar(drawing, same)


def _add_skirting(drawing: PlaceDrawing, origin: np.ndarray, along: np.ndarray) -> None:
    length = np.linalg.norm(along) / 2
    turned = abs(along[1]) > 0
    half = np.array((0.012, length, 0.05) if turned else (length, 0.012, 0.05))
    drawing.builder.box(
        origin + along / 2 + (0, 0, 0.05), half, 0.0, drawing.decorator.paint(0.1, 1.0, 0.3)
    )


def _add_pillar(drawing: PlaceDrawing, look: Look) -> None:
    half = np.array((*drawing.rng.uniform(0.1, 0.45, 2), drawing.size[2] / 2))
    wall = drawing.rng.integers(4)
    centre = drawing.at_wall(wall, half[:2], drawing.rng.random(), 0.0)
    if drawing.free(centre, half[:2]):
        drawing.builder.box(np.array((*centre, half[2])), half, 0.0, look, (0, 1, 2, 3))
        drawing.block(centre, half[:2], 0.0, drawing.size[2])


def add_partition(drawing: PlaceDrawing) -> None:
    """Add a wall with a doorway across the room."""
    axis = int(drawing.rng.integers(2))
    length, place = drawing.size[1 - axis], drawing.size[axis] * drawing.rng.uniform(0.35, 0.65)
    thick = drawing.rng.uniform(0.05, 0.1)
    opening, lintel = drawing.rng.uniform(0.45, 0.9), drawing.rng.uniform(2.0, 2.2)
    middle = drawing.rng.uniform(opening + 0.1, length - opening - 0.1)
    look, height = drawing.decorator.wall(), drawing.size[2]
    for start, stop, bottom in (
        (0.0, middle - opening, 0.0),
        (middle + opening, length, 0.0),
        (middle - opening, middle + opening, lintel),
    ):
        half, centre = np.empty(3), np.empty(3)
        half[axis], half[1 - axis], half[2] = thick, (stop - start) / 2, (height - bottom) / 2
        centre[axis], centre[1 - axis], centre[2] = (
            place,
            (start + stop) / 2,
            (height + bottom) / 2,
        )
        drawing.builder.box(centre, half, 0.0, look)
        if bottom == 0.0:
            drawing.block(centre[:2], half[:2], 0.0, height)


def add_windows(drawing: PlaceDrawing, count: int) -> None:
    """Add windows with a view, bright, each with a lamp of daylight before it."""
    for _ in range(count):
        wall = int(drawing.rng.integers(4))
        half = np.array((drawing.rng.uniform(0.35, 1.0), drawing.rng.uniform(0.4, 0.8)))
        height = min(drawing.rng.uniform(1.3, 1.7), drawing.size[2] - half[1] - 0.1)
        glow = drawing.rng.uniform(0.8, 2.5)
        look = Look(drawing.decorator.photograph(), glow=glow)
        centre = _add_on_wall(
            drawing, wall, half, height, look, drawing.decorator.paint(0.1, 1.0, 0.2)
        )
        # One window lights a room well enough; each lamp costs as much as a texture.
        if centre is not None and not drawing.lamps:
            daylight = np.array((0.9, 0.97, 1.1)) * drawing.rng.uniform(0.5, 2.5)
            drawing.lamps.append(Lamp(centre + 0.25 * np.array((*INWARDS[wall], 0.0)), daylight))


def add_pictures(drawing: PlaceDrawing, count: int) -> None:
    """Add pictures, posters and boards to the walls."""
    for _ in range(count):
        half = np.exp(drawing.rng.uniform(np.log(0.1), np.log(0.7), 2))
        look = (
            drawing.decorator.picture()
            if drawing.rng.random() < 0.8
            else drawing.decorator.paint(0.05, 1.0)
        )
        frame = drawing.decorator.paint(0.05, 0.9, 0.6) if drawing.rng.random() < 0.6 else None
        _add_on_wall(
            drawing, int(drawing.rng.integers(4)), half, drawing.rng.uniform(1.0, 1.9), look, frame
        )


def _add_on_wall(
    drawing: PlaceDrawing,
    wall: int,
    half: np.ndarray,
    height: float,
    look: Look,
    frame: Look | None,
) -> np.ndarray | None:
    """Add a picture with half sizes [2] to a wall; return its centre, None: no space."""
    along = drawing.size[1] if wall < 2 else drawing.size[0]
    if (
        half[0] * 2 > along - 0.2
        or height - half[1] < 0.3
        or (height + half[1] > drawing.size[2] - 0.05)
    ):
        return None
    inward = np.array((*INWARDS[wall], 0.0))
    flat = np.array((0.0, 0.0))
    share = drawing.rng.uniform(half[0] + 0.1, along - half[0] - 0.1) / along
    # Where pictures overlap, one is in front of the other.
    centre = np.array(
        (*drawing.at_wall(wall, flat, share, drawing.rng.uniform(0.01, 0.04)), height)
    )
    # Seen from the room, x of the picture runs to the right.
    across = np.cross(inward, (0.0, 0.0, -1.0))
    up = np.array((0.0, 0.0, 2 * half[1]))
    drawing.builder.quad(
        centre - across * half[0] - up / 2 + 0.01 * inward, 2 * half[0] * across, up, look
    )
    if frame is not None:
        width = drawing.rng.uniform(0.015, 0.05)
        yaw = np.arctan2(across[1], across[0])
        for side in (-1, 1):
            drawing.builder.box(
                centre + side * across * half[0],
                np.array((width, 0.03, half[1] + width)),
                yaw,
                frame,
            )
            drawing.builder.box(
                centre + side * up / 2, np.array((half[0] + width, 0.03, width)), yaw, frame
            )
    return centre


def add_lights(drawing: PlaceDrawing, count: int) -> None:
    """Add lamps below the ceiling."""
    for _ in range(count):
        spot = np.array(
            (
                *(drawing.size[:2] * drawing.rng.uniform(0.2, 0.8, 2)),
                drawing.size[2] - drawing.rng.uniform(0.12, 0.5),
            )
        )
        warm = np.array((1.1, 0.98, drawing.rng.uniform(0.65, 1.0)))
        drawing.lamps.append(Lamp(spot, warm * drawing.rng.uniform(0.5, 2.0)))
        half = np.array((*drawing.rng.uniform(0.05, 0.35, 2), 0.03))
        drawing.builder.box(
            spot + (0.0, 0.0, 0.08), half, 0.0, Look(drawing.decorator.white, glow=2.0)
        )


def add_rugs(drawing: PlaceDrawing, count: int) -> None:
    """Add carpets, each a little above the one before."""
    for index in range(count):
        half = drawing.rng.uniform(0.4, 1.2, 2)
        spot = drawing.size[:2] * drawing.rng.uniform(0.3, 0.7, 2)
        low, high = np.maximum(spot - half, 0.05), np.minimum(spot + half, drawing.size[:2] - 0.05)
        look = Look(
            drawing.decorator.photograph()
            if drawing.rng.random() < 0.5
            else drawing.decorator.pattern(),
            drawing.decorator.shade(),
        )
        drawing.builder.quad(
            np.array((*low, 0.006 + 0.004 * index)),
            np.array((high[0] - low[0], 0.0, 0.0)),
            np.array((0.0, high[1] - low[1], 0.0)),
            look,
        )
