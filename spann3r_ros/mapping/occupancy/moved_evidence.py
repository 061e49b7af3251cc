# SPDX-License-Identifier: Apache-2.0
"""Evidence of a fragment in the cells of the map: turned, scaled and shifted by its place."""
from __future__ import annotations

import numpy as np

from spann3r_ros.core.transforms import invert_similarity, similarity_scale, transform_points
from spann3r_ros.mapping.layers.voxel_store import KEY_REACH

from .occupancy_store import CELLS, EDGE, EDGE_BITS, EvidenceBlocks, cells_of, pack, unpack

CHUNK = 128
LAST = EDGE - 1
# A place that differs by this share from a shift by whole blocks needs no other cells.
EXACT = 1e-6
# The largest table of rows by block coordinates; larger fragments are searched by key.
MOST_TABLE = 8_000_000


def moved_blocks(blocks: EvidenceBlocks, map_from_fragment: np.ndarray, cell_size: float,
                 occupied_evidence: int) -> EvidenceBlocks:
    """Return evidence in cells of the map, which have the edge `cell_size`.

    A cell of the map has the evidence of the cell of the fragment that contains its centre, so
    that the result has no holes. Where cells of the fragment are smaller, an occupied one makes
    the cell of the map that contains it occupied, so that nothing thin is lost.
    """
    if not len(blocks):
        return EvidenceBlocks(blocks.keys, blocks.evidence, cell_size)
    shift = map_from_fragment[:3, 3] / (EDGE * cell_size)
    ratio = map_from_fragment[:3, :3] * (blocks.cell_size / cell_size)
    if (np.abs(ratio - np.eye(3)).max() < EXACT
            and np.abs(shift - np.rint(shift)).max() < EXACT):
        place = unpack(blocks.keys) + np.rint(shift).astype(np.int64)
        return EvidenceBlocks(pack(place), blocks.evidence, cell_size)
    targets = _targets(blocks, map_from_fragment, cell_size)
    evidence = _sampled(blocks, invert_similarity(map_from_fragment), targets, cell_size)
    if similarity_scale(map_from_fragment) * blocks.cell_size < (1.0 - EXACT) * cell_size:
        _add_occupied(evidence, pack(targets), blocks, map_from_fragment, cell_size,
                      occupied_evidence)
    some = evidence.any(axis=1)
    return EvidenceBlocks(pack(targets[some]), evidence[some], cell_size)


def _targets(blocks: EvidenceBlocks, map_from_fragment: np.ndarray,
             cell_size: float) -> np.ndarray:
    """Return the map's blocks [n, 3] that blocks of a fragment may reach, by ascending key."""
    edge = EDGE * cell_size
    centres = transform_points(map_from_fragment, (unpack(blocks.keys) + 0.5)
                               * EDGE * blocks.cell_size)
    half = 0.5 * EDGE * blocks.cell_size * np.abs(map_from_fragment[:3, :3]).sum(axis=1)
    low = np.floor((centres - half) / edge).astype(np.int64)
    reach = np.floor((centres + half) / edge).astype(np.int64) - low
    found = []
    for step in np.ndindex(*(reach.max(axis=0) + 1)):
        found.append(np.unique(pack(low[(reach >= step).all(axis=1)] + step)))
    return unpack(np.unique(np.concatenate(found)))


def _sampled(blocks: EvidenceBlocks, fragment_from_map: np.ndarray, targets: np.ndarray,
             cell_size: float) -> np.ndarray:
    """Return the evidence int8 [n, 512] at the centres of the cells of the map's blocks [n, 3]."""
    # From here on lengths are in cells of the fragment, from the first of its blocks on.
    place = unpack(blocks.keys)
    first = place.min(axis=0)
    turn = fragment_from_map[:3, :3] * (cell_size / blocks.cell_size)
    start = (targets * EDGE) @ turn.T + fragment_from_map[:3, 3] / blocks.cell_size - first * EDGE
    start = start.astype(np.float32)
    inside = ((np.indices((EDGE, EDGE, EDGE)).reshape(3, CELLS).T + 0.5) @ turn.T).astype(
        np.float32)
    shape = place.max(axis=0) - first + 1
    look_up = _Rows(place - first, shape)
    padded = np.concatenate([blocks.evidence.reshape(-1), np.zeros(CELLS, np.int8)])
    evidence = np.empty((len(targets), CELLS), np.int8)
    for begin in range(0, len(targets), CHUNK):
        part = np.s_[begin:begin + CHUNK]
        cell = [np.floor(start[part, axis, None] + inside[:, axis]).astype(np.int32)
                for axis in range(3)]
        rows = look_up([one >> EDGE_BITS for one in cell])
        offset = ((cell[0] & LAST) * EDGE + (cell[1] & LAST)) * EDGE + (cell[2] & LAST)
        evidence[part] = padded.take(rows * CELLS + offset)
    return evidence


class _Rows:
    """Finds the rows of blocks by their coordinates; unknown ones have the row after the last."""

    def __init__(self, place: np.ndarray, shape: np.ndarray) -> None:
        self._shape, self._count = shape, len(place)
        self._table = self._keys = None
        # One more on each side: what is outside is clipped to there.
        if np.prod(shape + 2.0) <= MOST_TABLE:
            self._table = np.full(shape + 2, self._count, np.int64)
            self._table[tuple((place + 1).T)] = np.arange(self._count)
        else:
            self._keys = pack(place)

    def __call__(self, blocks: list[np.ndarray]) -> np.ndarray:
        if self._table is not None:
            x, y, z = (np.clip(one + 1, 0, size + 1)
                       for one, size in zip(blocks, self._shape, strict=True))
            strides = self._shape + 2
            return self._table.reshape(-1).take((x * strides[1] + y) * strides[2] + z)
        keys = pack(np.stack([np.clip(one, -1, KEY_REACH - 1).reshape(-1) for one in blocks], 1))
        rows = np.minimum(np.searchsorted(self._keys, keys), self._count - 1)
        return np.where(self._keys[rows] == keys, rows, self._count).reshape(blocks[0].shape)


def _add_occupied(evidence: np.ndarray, keys: np.ndarray, blocks: EvidenceBlocks,
                  map_from_fragment: np.ndarray, cell_size: float,
                  occupied_evidence: int) -> None:
    """Put the occupied cells of a fragment into the cells of the map that contain them."""
    row, cell = np.nonzero(blocks.evidence >= occupied_evidence)
    inside = np.stack(np.unravel_index(cell, (EDGE, EDGE, EDGE)), axis=1)
    centres = (unpack(blocks.keys)[row] * EDGE + inside + 0.5) * blocks.cell_size
    target, where = cells_of(transform_points(map_from_fragment, centres), cell_size)
    rows = np.searchsorted(keys, target)
    np.maximum.at(evidence, (rows, where), blocks.evidence[row, cell])
