# SPDX-License-Identifier: Apache-2.0
"""Occupancy evidence of one fragment, in its frame: blocks of cells, found by sorted keys."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spann3r_ros.mapping.layers.voxel_store import KEY_BITS, KEY_REACH

# A block has EDGE^3 cells; the cell (i, j, k) of a block is at (i EDGE + j) EDGE + k.
EDGE_BITS = 3
EDGE = 1 << EDGE_BITS
CELLS = EDGE**3
GROWTH = 1.5
LEAST_CAPACITY = 16


@dataclass(frozen=True)
class EvidenceBlocks:
    """Blocks of evidence: `keys` int64 [n], ascending, `evidence` int8 [n, 512].

    Evidence is the logarithm of the odds that a cell is occupied, in steps of 1 / 32; 0 is
    unknown. The edge of a cell is `cell_size`.
    """

    keys: np.ndarray
    evidence: np.ndarray
    cell_size: float

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.keys)


class OccupancyStore:
    """Evidence of one fragment. `cell_size`, in units of the fragment, is 0.0 until it is known.

    A method that raises MemoryError has changed nothing.
    """

    def __init__(self, cell_size: float = 0.0) -> None:
        self.cell_size = cell_size
        self._keys = np.zeros(0, np.int64)  # ascending
        self._rows = np.zeros(0, np.int32)
        self._evidence = np.zeros((LEAST_CAPACITY, CELLS), np.int8)
        self._observed_at = np.zeros(LEAST_CAPACITY, np.int32)
        self._shared = False
        self._blocks: EvidenceBlocks | None = None  # as `blocks` returned them last

    @classmethod
    def of(cls, blocks: EvidenceBlocks, observed_at: np.ndarray) -> OccupancyStore:
        """Return a store with a copy of blocks; `observed_at` int32 [n] is in their order."""
        store = cls(blocks.cell_size)
        rows = store.rows_of(blocks.keys)
        store._evidence[rows], store._observed_at[rows] = blocks.evidence, observed_at
        return store

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._keys)

    def __deepcopy__(self, _: dict[int, object]) -> OccupancyStore:
        """Return a copy; the evidence is shared until one of both changes it."""
        other = OccupancyStore(self.cell_size)
        for name in ('_keys', '_rows', '_evidence', '_observed_at', '_blocks'):
            setattr(other, name, getattr(self, name))
        self._shared = other._shared = True
        return other

    @property
    def observed_at(self) -> np.ndarray:
        """Return the number of the last keyframe that observed each block, in order of keys."""
        return self._observed_at[self._rows]

    def blocks(self) -> EvidenceBlocks:
        """Return the evidence; the same object as before if nothing has changed."""
        if self._blocks is None:
            self._blocks = EvidenceBlocks(self._keys, self._evidence[self._rows], self.cell_size)
        return self._blocks

    def rows_of(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows [n] of blocks with ascending keys [n]; new ones are unknown."""
        places = np.searchsorted(self._keys, keys)
        known = places < len(self)
        known[known] = self._keys[places[known]] == keys[known]
        fresh = ~known
        if fresh.any():
            old, size = len(self), len(self) + int(fresh.sum())
            added = places[fresh]
            all_keys = np.insert(self._keys, added, keys[fresh])
            all_rows = np.insert(self._rows, added, np.arange(old, size, dtype=np.int32))
            self._grow(size)
            self._keys, self._rows = all_keys, all_rows
            places = np.searchsorted(self._keys, keys)
        return self._rows[places]

    def change(self) -> tuple[np.ndarray, np.ndarray]:
        """Return evidence [rows, 512] and observed_at [rows] to be changed in place."""
        if self._shared:
            self._evidence, self._observed_at = self._evidence.copy(), self._observed_at.copy()
            self._shared = False
        self._blocks = None
        return self._evidence, self._observed_at

    def keep(self, kept: np.ndarray) -> None:
        """Remove the blocks that are not `kept`, bool [n] in order of keys."""
        rows = self._rows[kept]
        keys, evidence = self._keys[kept], self._evidence[rows]
        self._observed_at = self._observed_at[rows]
        self._keys, self._evidence = keys, evidence
        self._rows = np.arange(len(keys), dtype=np.int32)
        self._shared, self._blocks = False, None

    def _grow(self, size: int) -> None:
        if size <= len(self._evidence):
            return
        capacity = max(size, int(GROWTH * len(self._evidence)))
        evidence = np.zeros((capacity, CELLS), np.int8)
        observed_at = np.zeros(capacity, np.int32)
        evidence[:len(self._evidence)] = self._evidence
        observed_at[:len(self._observed_at)] = self._observed_at
        self._evidence, self._observed_at, self._shared = evidence, observed_at, False


def pack(blocks: np.ndarray) -> np.ndarray:
    """Return the keys int64 [n] of blocks, whole coordinates [n, 3] below 2^20."""
    x, y, z = (blocks[:, axis].astype(np.int64) + KEY_REACH for axis in range(3))
    return (x << 2 * KEY_BITS) | (y << KEY_BITS) | z


def unpack(keys: np.ndarray) -> np.ndarray:
    """Return the coordinates int64 [n, 3] of blocks."""
    mask = 2 * KEY_REACH - 1
    return np.stack([keys >> 2 * KEY_BITS, (keys >> KEY_BITS) & mask, keys & mask],
                    axis=1) - KEY_REACH


def column_bits(cells: np.ndarray) -> np.ndarray:
    """Return cells bool [n, 512] as bits uint8 [n, 64] of their columns, the lowest cell first."""
    # A reduction over an axis of eight cells takes numpy many times as long.
    return np.packbits(cells.reshape(-1), bitorder='little').reshape(-1, EDGE * EDGE)


def cells_of(points: np.ndarray, cell_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return for points [n, 3] the keys of their blocks [n] and their cells in these [n].

    All points have to be less than 2^20 blocks from the origin.
    """
    return cells_of_indices([np.floor(points[:, axis] / cell_size).astype(np.int64)
                             for axis in range(3)])


def cells_of_indices(indices: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return as `cells_of` for the whole coordinates of cells, three arrays int64 [n]."""
    keys = inside = np.int64(0)
    for cell in indices:
        keys = (keys << KEY_BITS) | ((cell >> EDGE_BITS) + KEY_REACH)
        inside = (inside << EDGE_BITS) | (cell & (EDGE - 1))
    return keys, inside
