# SPDX-License-Identifier: Apache-2.0
"""Random furnished rooms."""
from __future__ import annotations

import numpy as np

from spann3r_ros.rooms.assets.asset_pack import AssetPack

from .camera_walks import USUAL_HEIGHT, FreeSpace
from .decoration import Decorator
from .furnishing import add_clutter, add_furniture, add_shelves
from .place import Place, PlaceDrawing
from .room_shell import (
    add_lights,
    add_partition,
    add_pictures,
    add_rugs,
    add_shell,
    add_windows,
)

# Of 256 spots in a room.
LEAST_FREE_SPOTS = 3


def draw_place(pack: AssetPack, patterns: int, rng: np.random.Generator) -> Place:
    """Draw a room of 2.5 to 8 metres, its furniture, things, pictures, windows and lamps.

    A camera at the usual height finds free space in it.
    """
    while True:
        place = _drawn(pack, patterns, rng)
        if len(FreeSpace(place, USUAL_HEIGHT).spots(rng)) > LEAST_FREE_SPOTS:
            return place


def _drawn(pack: AssetPack, patterns: int, rng: np.random.Generator) -> Place:
    size = np.array((*np.exp(rng.uniform(np.log(2.5), np.log(8.0), 2)), rng.uniform(2.3, 3.3)))
    drawing = PlaceDrawing(pack, Decorator.of(pack, patterns, rng), rng, size)
    area = size[0] * size[1]
    add_shell(drawing)
    if size[:2].max() > 4.5 and rng.random() < 0.4:
        add_partition(drawing)
    add_windows(drawing, int(rng.integers(0, 3)))
    add_lights(drawing, int(rng.integers(1, 3)))
    add_furniture(drawing, int(round(rng.uniform(0.3, 1.0) * area)))
    for _ in range(int(rng.integers(0, 4))):
        add_shelves(drawing)
    add_pictures(drawing, int(rng.integers(0, 12)))
    add_rugs(drawing, int(rng.integers(0, 3)))
    add_clutter(drawing, int(round(rng.uniform(0.3, 2.5) * area)))
    return Place(drawing.builder.build(), tuple(drawing.lamps), tuple(drawing.obstacles), size,
                 float(rng.uniform(0.25, 0.7)))
