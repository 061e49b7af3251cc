# SPDX-License-Identifier: Apache-2.0
"""Furniture of places, shelves of books, small things."""
from __future__ import annotations

import numpy as np

from spann3r_ros.rooms.assets.asset_pack import PackedMesh

from .place import PlaceDrawing
from .surfaces import rotation

THEMES = ('Living room', 'Bedroom', 'Office', 'Kitchen', 'Bathroom')
ANYWHERE = ('Miscellaneous', 'Lights')
SMALL_METRES = 0.6
TRIES = 10
WALL_GAP = 0.03


def add_furniture(drawing: PlaceDrawing, count: int) -> None:
    """Add pieces of furniture, most of one theme, the large ones along the walls."""
    theme = drawing.rng.choice(THEMES)
    large = [
        mesh
        for mesh in drawing.pack.meshes
        if mesh.size.max() > SMALL_METRES and mesh.category in THEMES + ANYWHERE
    ]
    doors = [mesh for mesh in drawing.pack.meshes if mesh.category == 'Doors and windows']
    suited = [mesh for mesh in large if mesh.category in (theme, *ANYWHERE)]
    for _ in range(int(drawing.rng.integers(0, 3)) if doors else 0):
        _add_piece(drawing, doors[drawing.rng.integers(len(doors))], at_wall=True)
    for _ in range(count if large else 0):
        pool = suited if suited and drawing.rng.random() < 0.7 else large
        mesh = pool[drawing.rng.integers(len(pool))]
        _add_piece(
            drawing, mesh, mesh.size[2] > 1.0 or mesh.elevation > 0.2 or drawing.rng.random() < 0.5
        )


def _add_piece(drawing: PlaceDrawing, mesh: PackedMesh, at_wall: bool) -> None:
    scale = drawing.rng.uniform(0.85, 1.15, 3)
    half = mesh.size / 2 * scale
    if half[2] * 2 > drawing.size[2] - 0.1:
        return
    for _ in range(TRIES):
        if at_wall:
            spot, footprint, yaw = drawing.wall_spot(half, WALL_GAP)
        else:
            yaw = drawing.rng.uniform(0, 2 * np.pi)
            cos, sin = abs(np.cos(yaw)), abs(np.sin(yaw))
            footprint = np.array((half[0] * cos + half[1] * sin, half[0] * sin + half[1] * cos))
            spot = drawing.size[:2] * drawing.rng.uniform(0.1, 0.9, 2)
        bottom = min(mesh.elevation, drawing.size[2] - 2 * half[2] - 0.05)
        if drawing.free(spot, footprint, bottom, bottom + 2 * half[2]):
            drawing.mesh(mesh, np.array((*spot, bottom)), yaw, scale)
            drawing.block(spot, footprint, bottom, bottom + 2 * half[2])
            if np.isfinite(mesh.top) and mesh.elevation == 0.0:
                drawing.tops.append((np.array((*spot, mesh.top * scale[2])), footprint * 0.7))
            return


def add_shelves(drawing: PlaceDrawing) -> None:
    """Add a shelf of books and boxes at a wall."""
    half = np.array((drawing.rng.uniform(0.3, 0.9), drawing.rng.uniform(0.1, 0.18), 0.0))
    boards = int(drawing.rng.integers(2, 6))
    gap = drawing.rng.uniform(0.22, 0.38)
    bottom = 0.05 if drawing.rng.random() < 0.7 else max(0.1, 1.9 - boards * gap)
    spot, footprint, yaw = drawing.wall_spot(half, WALL_GAP)
    top = bottom + boards * gap
    if top > drawing.size[2] - 0.1 or not drawing.free(spot, footprint, bottom, top):
        return
    wood = drawing.decorator.thing()
    turned = rotation(yaw)
    for board in range(boards + 1):
        level = bottom + board * gap
        drawing.builder.box(np.array((*spot, level)), half + (0.0, 0.0, 0.01), yaw, wood)
        place = -half[0]
        while board < boards and place < half[0] - 0.05:
            width = (
                drawing.rng.uniform(0.015, 0.06)
                if drawing.rng.random() < 0.8
                else drawing.rng.uniform(0.06, 0.25)
            )
            if place + width > half[0]:
                break
            tall = gap * drawing.rng.uniform(0.5, 0.92)
            if drawing.rng.random() < 0.85:
                middle = turned @ (place + width / 2, drawing.rng.uniform(-0.03, 0.05), 0.0)
                drawing.builder.box(
                    np.array((*spot, level + tall / 2 + 0.01)) + middle,
                    np.array((width / 2, half[1] * 0.7, tall / 2)),
                    yaw,
                    drawing.decorator.thing(),
                )
            place += width + 0.002
    if drawing.rng.random() < 0.6:
        for side in (-1, 1):
            middle = turned @ (side * half[0], 0.0, 0.0)
            drawing.builder.box(
                np.array((*spot, (bottom + top) / 2)) + middle,
                np.array((0.01, half[1], (top - bottom) / 2)),
                yaw,
                wood,
            )
    drawing.block(spot, footprint, bottom, top)


def add_clutter(drawing: PlaceDrawing, count: int) -> None:
    """Add small things, on furniture where there is some, else on the floor."""
    small = [
        mesh
        for mesh in drawing.pack.meshes
        if mesh.size.max() <= SMALL_METRES and mesh.category != 'Doors and windows'
    ]
    for _ in range(count):
        if drawing.tops and drawing.rng.random() < 0.75:
            centre, half = drawing.tops[drawing.rng.integers(len(drawing.tops))]
            spot = centre + (*(half * drawing.rng.uniform(-1, 1, 2)), 0.0)
        else:
            spot = np.array((*(drawing.size[:2] * drawing.rng.uniform(0.06, 0.94, 2)), 0.0))
        yaw = drawing.rng.uniform(0, 2 * np.pi)
        if small and drawing.rng.random() < 0.6:
            mesh = small[drawing.rng.integers(len(small))]
            drawing.mesh(mesh, spot, yaw, np.full(3, drawing.rng.uniform(0.7, 1.4)))
            half, height = mesh.size[:2] * 0.7, mesh.size[2]
        else:
            half = np.exp(drawing.rng.uniform(np.log(0.03), np.log(0.2), 3))
            if drawing.rng.random() < 0.7:
                drawing.builder.box(
                    spot + (0.0, 0.0, half[2]), half, yaw, drawing.decorator.thing()
                )
            else:
                drawing.builder.cylinder(spot, half[0], 2 * half[2], drawing.decorator.thing())
            half, height = half[:2] * 1.4, 2 * half[2]
        drawing.block(spot[:2], half, spot[2], spot[2] + height)
