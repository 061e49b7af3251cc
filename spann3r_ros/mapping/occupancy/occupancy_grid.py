# SPDX-License-Identifier: Apache-2.0
"""The occupancy grid: a view of the evidence of all fragments, projected along z."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spann3r_ros.mapping.layers.voxel_store import KEY_BITS

from .evidence_layer import OccupancyPart, OccupancySnapshot
from .floor_plane import Floor, find_floor
from .grid_config import GridConfig
from .moved_evidence import moved_blocks
from .occupancy_store import CELLS, EDGE, EvidenceBlocks, column_bits, unpack

# Evidence of an occupied cell, more than one keyframe can give, and of a free cell.
OCCUPIED_EVIDENCE, FREE_EVIDENCE = 28, -8
# Nav2's static layer takes any value below 100 for free, so there is none between 0 and 100.
UNKNOWN, FREE, OCCUPIED = -1, 0, 100
# The border of a grid lies on multiples of so many blocks, so that it seldom grows.
TILE_BLOCKS = 4
# A free cell of the grid is seen to be free this close above `min_height`, or its floor is seen:
# otherwise a low obstacle may be hidden there.
LOW_M = 0.15
# By a number n up to 8: the lowest n bits. By a byte: how many bits are set.
BITS_BELOW = (2 ** np.arange(EDGE + 1) - 1).astype(np.uint8)
BIT_COUNTS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(
    axis=1, dtype=np.uint8)
NO_FLOOR = 'no floor is seen'


class NoFloorError(ValueError):
    """The floor, above which obstacles are measured, is not seen."""


@dataclass(frozen=True)
class Grid:
    """A grid of the map: `values` int8 [rows, columns], -1 unknown, 0 free, 100 occupied.

    Rows are along y, columns along x. `origin` [3] is the lower corner of the first cell, in
    metres; x and y are whole numbers of cells, z is the height of the floor at the map's origin.
    """

    values: np.ndarray
    resolution: float
    origin: tuple[float, float, float]


class GridView:
    """Computes the grid of snapshots; it keeps what it made of fragments that have not changed."""

    def __init__(self) -> None:
        self._moved: list[tuple[OccupancyPart, float, EvidenceBlocks]] = []

    def __call__(self, snapshot: OccupancySnapshot) -> Grid:
        """Return the grid of a snapshot; raise NoFloorError if the floor is to be estimated."""
        config = snapshot.config
        moved = [(part, config.cell_size, self._in_map(part, config.cell_size))
                 for part in snapshot.parts]
        self._moved = moved
        blocks = joined([one for _, _, one in moved], config.cell_size)
        if config.floor == 'fixed':
            floor = Floor(config.floor_height, 0.0, 0.0)
        else:
            floor = find_floor(blocks, OCCUPIED_EVIDENCE, FREE_EVIDENCE)
            if floor is None:
                raise NoFloorError(NO_FLOOR)
        return project(blocks, floor, config)

    def _in_map(self, part: OccupancyPart, cell_size: float) -> EvidenceBlocks:
        for known, size, blocks in self._moved:
            if (known.blocks is part.blocks and size == cell_size
                    and np.array_equal(known.map_from_fragment, part.map_from_fragment)):
                return blocks
        return moved_blocks(part.blocks, part.map_from_fragment, cell_size, OCCUPIED_EVIDENCE)


def joined(parts: Sequence[EvidenceBlocks], cell_size: float) -> EvidenceBlocks:
    """Return the evidence of parts that are in one frame, oldest first.

    What the newer part is certain of counts alone: an old obstacle that is gone stays gone.
    """
    if len(parts) == 1:
        return parts[0]
    keys = np.unique(np.concatenate([one.keys for one in parts] or [np.zeros(0, np.int64)]))
    evidence = np.zeros((len(keys), CELLS), np.int8)
    for one in parts:
        rows, new = np.searchsorted(keys, one.keys), one.evidence
        certain = (new >= OCCUPIED_EVIDENCE) | (new <= FREE_EVIDENCE)
        # Neither exceeds 127 in sum if the newer one is not certain.
        evidence[rows] = np.where(certain, new, evidence[rows] + np.where(certain, 0, new))
    return EvidenceBlocks(keys, evidence, cell_size)


def project(blocks: EvidenceBlocks, floor: Floor, config: GridConfig) -> Grid:
    """Return the grid of evidence in the map whose cells have the size of the grid's.

    A cell is occupied if the evidence of any cell between the heights is. It is free if none is,
    enough of them are free, and its floor or a free cell close above `min_height` is seen.
    """
    size, evidence = config.cell_size, blocks.evidence
    place, x, y = columns_of(blocks)
    # The floor in cells above the lowest of each column [n, 64].
    ground = floor.height_at(x, y) / size - place[:, 2:] * EDGE
    band = _levels(ground, config.min_height / size, config.max_height / size)
    low = _levels(ground, config.min_height / size,
                  (config.min_height + max(LOW_M, size)) / size)
    on_floor = _levels(ground, -config.min_height / size, config.min_height / size)
    free = column_bits(evidence <= FREE_EVIDENCE)
    starts = np.flatnonzero(np.diff(blocks.keys >> KEY_BITS, prepend=-1))
    occupied, free, low = (_by_column(one, starts) for one in (
        column_bits(evidence >= OCCUPIED_EVIDENCE) & band, free & band,
        (free & low) | (column_bits(evidence > 0) & on_floor)))
    needed = config.min_free_share * (config.max_height - config.min_height) / size
    values = np.where(occupied > 0, OCCUPIED,
                      np.where((free >= needed) & (low > 0), FREE, UNKNOWN)).astype(np.int8)
    return _placed(values, place[starts, :2], size, floor.height)


def columns_of(blocks: EvidenceBlocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the blocks' coordinates [n, 3], and x and y [n, 64] of the centres of columns."""
    place = unpack(blocks.keys)
    inside = np.arange(EDGE) + 0.5
    x = np.repeat(place[:, :1] * EDGE + inside, EDGE, axis=1) * blocks.cell_size
    y = np.tile(place[:, 1:2] * EDGE + inside, EDGE) * blocks.cell_size
    return place, x, y


def _levels(ground: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return bits uint8 [n, 64] of the cells whose centres are between two heights over ground.

    All are in cells. `ground` [n, 64] is that of columns of eight cells.
    """
    first, end = (np.clip(np.ceil(ground + one - 0.5), 0, EDGE).astype(np.uint8)
                  for one in (low, high))
    return BITS_BELOW[end] & ~BITS_BELOW[first]


def _by_column(bits: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return how many bits of uint8 [n, 64] are set in the blocks above each other."""
    if not len(starts):
        return np.zeros((0, EDGE * EDGE), np.int32)
    return np.add.reduceat(BIT_COUNTS[bits], starts, axis=0, dtype=np.int32)


def _placed(tiles: np.ndarray, places: np.ndarray, size: float, height: float) -> Grid:
    """Return the grid of tiles int8 [n, 64] at block coordinates [n, 2]."""
    known = (tiles != UNKNOWN).any(axis=1)
    tiles, places = tiles[known], places[known]
    if not len(places):
        return Grid(np.zeros((0, 0), np.int8), size, (0.0, 0.0, height))
    low = places.min(axis=0) // TILE_BLOCKS * TILE_BLOCKS
    high = -(-(places.max(axis=0) + 1) // TILE_BLOCKS) * TILE_BLOCKS
    across, along = high - low
    values = np.full((along, across, EDGE, EDGE), UNKNOWN, np.int8)
    column, row = (places - low).T
    values[row, column] = tiles.reshape(-1, EDGE, EDGE).transpose(0, 2, 1)
    values = values.transpose(0, 2, 1, 3).reshape(along * EDGE, across * EDGE)
    x, y = (float(one) * EDGE * size for one in low)
    return Grid(values, size, (x, y, height))
