# SPDX-License-Identifier: Apache-2.0
"""The layer of occupancy evidence: cells that keyframes saw through, or in which a surface is."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import similarity_scale
from spann3r_ros.core.types import finite_points
from spann3r_ros.mapping.layers.saved_voxels import MAX_TICK
from spann3r_ros.mapping.layers.voxel_store import KEY_REACH
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of

from .free_space import DepthView, free_cells
from .grid_config import GridConfig
from .occupancy_store import CELLS, EDGE, EvidenceBlocks, OccupancyStore, cells_of_indices

# Evidence is in steps of 1 / 32 of a unit of the logarithm of odds. A point of confidence 1 adds
# HIT, a free cell seen with confidence 1 loses MISS. The bounds are such that six misses of
# confidence 0.9 free a cell, whatever was seen before.
HIT, MISS = 27, 18
GAIN_BITS = 5
LOWEST, HIGHEST = -64, 80
# A cell counts as free in front of a surface if it is nearer by this share of a cell and of depth.
MARGIN_CELLS, MARGIN_SHARE = 0.5, 0.01
# The points of large images are thinned out, to this distance in cells.
PIXEL_SHARE = 0.6
# Without a metric scale a cell is this share of the median depth of the map's first keyframe.
AUTOMATIC_SHARE = 0.02
# After an eviction the evidence fills this share of the bound.
EVICTION_TARGET = 0.95


@dataclass(frozen=True)
class OccupancyPart:
    """The evidence of one fragment, and its place: `map_from_fragment` [4, 4], a similarity."""

    blocks: EvidenceBlocks
    map_from_fragment: np.ndarray


@dataclass(frozen=True)
class OccupancySnapshot:
    """The evidence of all fragments at one time, oldest first; any thread may use it."""

    parts: Sequence[OccupancyPart]
    config: GridConfig


@dataclass(frozen=True)
class OccupancyCounters:
    """What the layer counts over all fragments; `tick` is the number of the newest keyframe.

    `cell_size` is that of fragments that begin without a metric scale; 0.0: not known yet.
    """

    cell_size: float
    evicted: int
    tick: int


class Occupancy:
    """The layer of occupancy evidence: one `OccupancyStore` for each fragment.

    The cell size of a store is fixed by its first keyframe: `resolution` if the fragment has a
    metric scale, otherwise 2 % of the median depth of the first keyframe of the map. Beyond
    `max_cells` the blocks observed least recently are removed.
    """

    name = 'occupancy'
    optional = True

    def __init__(self, config: GridConfig, min_confidence: float) -> None:
        self.configure(config, min_confidence)
        self.clear()

    def configure(self, config: GridConfig, min_confidence: float) -> None:
        """Use other settings from the next keyframe and the next snapshot on."""
        self._config, self._min_confidence = config, min_confidence

    def clear(self) -> None:
        """Begin a new map: reset the counters."""
        self.restore(None)

    def new_store(self) -> OccupancyStore:
        """Return the empty store of a new fragment."""
        return OccupancyStore()

    def integrate(self, store: OccupancyStore,
                  located: Sequence[tuple[OccupancyStore, np.ndarray]], keyframe: Keyframe,
                  points: np.ndarray, metric: bool = False) -> None:
        """Add what a keyframe saw, as `Layer.integrate` describes.

        Pixels without a depth, or below the confidence of the map, add nothing. Where the keyframe
        has a point in a cell, it does not count as free, whatever other pixels saw.
        """
        confidence = keyframe.confidence
        with np.errstate(invalid='ignore'):
            known = (confidence >= self._min_confidence) & (confidence > 0.0) & (
                keyframe.depth > 0.0) & np.isfinite(keyframe.depth)
        # Without a pose nobody knows where the rays begin.
        if keyframe.pose is None or not known.any():
            return
        if not store.cell_size:
            place = next(place for one, place in located if one is store)
            store.cell_size = (self._config.cell_size / similarity_scale(place) if metric
                               else self._automatic_size(keyframe.depth[known]))
        cell_size = store.cell_size
        reach = np.float32(self._config.max_range / self._config.resolution * cell_size)
        keys, misses = free_cells(self._view(keyframe, known, reach, cell_size), cell_size)
        # At the reach the pixels that are used are apart by this share of a cell at most.
        focal = max(keyframe.intrinsics.fx, keyframe.intrinsics.fy)
        stride = max(1, int(PIXEL_SHARE * focal * cell_size / reach))
        some = np.s_[::stride, ::stride]
        ends = (known & (keyframe.depth <= reach))[some]
        hits = _gathered(points[some][ends], confidence[some][ends], cell_size)
        self.tick += 1
        _add(store, keys, misses, hits, self.tick)
        self._bound([one for one, _ in located])

    def snapshot(self, parts: Iterable[tuple[OccupancyStore, np.ndarray]]) -> OccupancySnapshot:
        """Return the present evidence of stores, each with its `map_from_fragment` [4, 4]."""
        return OccupancySnapshot([OccupancyPart(store.blocks(), place) for store, place in parts
                                  if len(store)], self._config)

    def counters(self) -> OccupancyCounters:
        """Return the counters, which `restore` takes."""
        return OccupancyCounters(self._automatic, self.evicted, self.tick)

    def restore(self, counters: OccupancyCounters | None) -> None:
        """Take over counters that `read` or `counters` returned; None: those of a new map."""
        counters = counters or OccupancyCounters(0.0, 0, 0)
        self._automatic, self.evicted, self.tick = (counters.cell_size, counters.evicted,
                                                    counters.tick)

    def tree(self) -> dict[str, Any]:
        """Return the counters for a saved map."""
        return vars_of(self.counters())

    def read(self, node: SavedNode) -> OccupancyCounters:
        """Return saved counters; raise ValueError for wrong ones."""
        return OccupancyCounters(node.number('cell_size', 0.0), node.integer('evicted'),
                                 node.integer('tick', 0, MAX_TICK))

    def check_stores(self, stores: Sequence[OccupancyStore]) -> None:
        """Raise ValueError if the stores have more cells than the map may have."""
        cells = CELLS * sum(map(len, stores))
        if cells > self._config.max_cells:
            raise ValueError(f'occupancy: expected {self._config.max_cells} cells at most '
                             f'(grid.max_cells), got {cells}')

    def store_tree(self, store: OccupancyStore) -> dict[str, Any]:
        """Return a store for a saved map."""
        return {**vars_of(store.blocks()), 'observed_at': store.observed_at}

    def read_store(self, node: SavedNode, counters: OccupancyCounters) -> OccupancyStore:
        """Return a saved store; raise ValueError if it is wrong."""
        keys = node.array('keys', np.int64, (None,))
        evidence = node.array('evidence', np.int8, (len(keys), CELLS))
        observed_at = node.array('observed_at', np.int32, (len(keys),))
        size = node.number('cell_size', 0.0)
        if not len(keys):
            return OccupancyStore(size)
        if keys.min() < 0 or not (np.diff(keys) > 0).all():
            raise node.fault('keys', 'ascending keys', 'others')
        if evidence.min() < LOWEST or evidence.max() > HIGHEST:
            raise node.fault('evidence', f'values from {LOWEST} to {HIGHEST}', 'others')
        if not 1 <= observed_at.min() <= observed_at.max() <= counters.tick:
            raise node.fault('observed_at', f'keyframes from 1 to {counters.tick}', 'others')
        if not size:
            raise node.fault('cell_size', 'a size above zero', size)
        return OccupancyStore.of(EvidenceBlocks(keys, evidence, size), observed_at)

    def _automatic_size(self, depths: np.ndarray) -> float:
        if not self._automatic:
            self._automatic = AUTOMATIC_SHARE * float(np.median(depths))
        return self._automatic

    def _view(self, keyframe: Keyframe, known: np.ndarray, reach: np.float32,
              cell_size: float) -> DepthView:
        """Return up to which depth each pixel of a keyframe is free, and how much that counts."""
        depth = np.minimum(keyframe.depth, reach)
        # Beside an edge the nearer depth counts: a pixel there may show either side.
        nearest = cv2.erode(np.where(known, depth, np.float32(np.inf)), np.ones((3, 3), np.uint8))
        limit = nearest * np.float32(1.0 - MARGIN_SHARE) - np.float32(MARGIN_CELLS * cell_size)
        limit = np.where(known, np.maximum(limit, np.float32(0.0)), np.float32(0.0))
        weight = np.zeros(known.shape, np.uint8)
        weight[known] = np.rint(MISS * keyframe.confidence[known])
        return DepthView(keyframe.pose.fragment_from_camera, keyframe.intrinsics, limit, weight)

    def _bound(self, stores: Sequence[OccupancyStore]) -> None:
        """Remove the blocks observed least recently, beyond the bound."""
        blocks, most = sum(map(len, stores)), self._config.max_cells // CELLS
        if blocks <= most:
            return
        ages = np.concatenate([store.observed_at for store in stores])
        surplus = blocks - int(EVICTION_TARGET * most)
        chosen = np.zeros(blocks, bool)
        chosen[np.argsort(ages, kind='stable')[:surplus]] = True
        self.evicted += int(chosen.sum())
        ends = np.cumsum([len(store) for store in stores])[:-1]
        for store, removed in zip(stores, np.split(chosen, ends), strict=True):
            if removed.any():
                store.keep(~removed)


def _add(store: OccupancyStore, keys: np.ndarray, misses: np.ndarray,
         hits: tuple[np.ndarray, np.ndarray, np.ndarray], tick: int) -> None:
    """Add the misses uint8 [n, 512] of blocks with keys [n], and hits (blocks, cells, gain)."""
    blocks, cells, gain = hits
    if len(keys):
        # A cell with a point is not free, though other pixels may see past the point.
        places = np.minimum(np.searchsorted(keys, blocks), len(keys) - 1)
        seen = keys[places] == blocks
        misses[places[seen], cells[seen]] = 0
    rows = store.rows_of(np.union1d(keys, blocks))
    free_rows, hit_rows = store.rows_of(keys), store.rows_of(blocks)
    evidence, observed_at = store.change()
    observed_at[rows] = tick
    loss = misses.view(np.int8)
    evidence[free_rows] = np.maximum(evidence[free_rows], LOWEST + loss) - loss
    evidence[hit_rows, cells] = np.minimum(evidence[hit_rows, cells], HIGHEST - gain) + gain


def _gathered(points: np.ndarray, confidence: np.ndarray,
              cell_size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return blocks [n], cells [n] and gain int8 [n] of the cells with points [m, 3].

    The most confident point of a cell counts. Points out of reach of the keys are left out.
    """
    near = finite_points(points)
    for axis in range(3):
        near &= np.abs(points[:, axis]) < (KEY_REACH - 1) * EDGE * cell_size
    if not near.all():
        points, confidence = points[near], confidence[near]
    if not len(points):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int8)
    gain = np.maximum(np.rint(HIT * confidence), 1.0).astype(np.int64)
    cells = [np.floor(points[:, axis] / cell_size).astype(np.int64) for axis in range(3)]
    least = [one.min() for one in cells]
    sizes = [int(one.max() - low) + 1 for one, low in zip(cells, least, strict=True)]
    number = ((cells[0] - least[0]) * sizes[1] + cells[1] - least[1]) * sizes[2] + (
        cells[2] - least[2])
    # Cell and gain in one number: one sort brings the points of a cell together, the best last.
    number = np.sort((number << GAIN_BITS) | gain)
    cell = number >> GAIN_BITS
    last = np.ones(len(cell), bool)
    np.not_equal(cell[1:], cell[:-1], out=last[:-1])
    gain = (number[last] & ((1 << GAIN_BITS) - 1)).astype(np.int8)
    cell = cell[last]
    blocks, inside = cells_of_indices(
        (cell // (sizes[1] * sizes[2]) + least[0], cell // sizes[2] % sizes[1] + least[1],
         cell % sizes[2] + least[2]))
    order = np.argsort(blocks, kind='stable')
    return blocks[order], inside[order], gain[order]
