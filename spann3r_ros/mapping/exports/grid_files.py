# SPDX-License-Identifier: Apache-2.0
"""Occupancy grids as PGM and YAML, as map_server of Nav2 reads them."""
from __future__ import annotations

import numpy as np

from spann3r_ros.mapping.occupancy.occupancy_grid import FREE, OCCUPIED, Grid

# Gray levels of the image of a grid: map_server takes 1 - gray / 255 for the probability of an
# obstacle. Unknown cells are half way. The usual 205 is free unless the threshold is below 0.2.
WHITE, GRAY, BLACK = 254, 127, 0
OCCUPIED_THRESHOLD, FREE_THRESHOLD = 0.65, 0.25


def encode_pgm(grid: Grid) -> bytes:
    """Return a grid as a binary PGM image, whose first row has the largest y."""
    gray = np.full(grid.values.shape, GRAY, np.uint8)
    gray[grid.values == FREE], gray[grid.values == OCCUPIED] = WHITE, BLACK
    height, width = gray.shape
    return f'P5\n{width} {height}\n255\n'.encode() + gray[::-1].tobytes()


def encode_grid_yaml(grid: Grid, image: str) -> bytes:
    """Return the description of a grid's image, as map_server of Nav2 reads it."""
    x, y, _ = grid.origin
    return (f'image: {image}\nmode: trinary\nresolution: {np.float32(grid.resolution)!s}\n'
            f'origin: [{x!r}, {y!r}, 0.0]\nnegate: 0\n'
            f'occupied_thresh: {OCCUPIED_THRESHOLD}\nfree_thresh: {FREE_THRESHOLD}\n').encode()
