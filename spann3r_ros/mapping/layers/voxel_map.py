# SPDX-License-Identifier: Apache-2.0
"""A bounded map of voxels, each the confidence-weighted mean of the points that fell into it."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import FrameError, finite_points
from spann3r_ros.mapping.mapper_config import VoxelMapConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of

from .saved_voxels import MAX_TICK, read_rows
from .voxel_store import (
    COLUMNS,
    CONFIDENCE,
    WEIGHT,
    VoxelRows,
    VoxelStore,
    gather,
    voxel_keys,
)

AUTOMATIC_SHARE = 0.01
# After an eviction the map is full to this share. The smaller the rest, the shorter an eviction.
EVICTION_TARGET = 0.98

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VoxelCloud:
    """One point per voxel: `points` f32 [n, 3], `colors` u8 [n, 3], `confidence` f32 [n]."""

    points: np.ndarray
    colors: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)


@dataclass(frozen=True)
class VoxelPart:
    """The voxels of one fragment, and its place: `map_from_fragment` [4, 4], a similarity."""

    rows: VoxelRows
    map_from_fragment: np.ndarray


@dataclass(frozen=True)
class VoxelSnapshot:
    """The voxels of all fragments at one time; any thread may use it.

    `voxel_size` is in map units. A voxel is shown if `min_observations` keyframes observed it.
    """

    parts: Sequence[VoxelPart]
    voxel_size: float
    min_observations: int

    def cloud(self) -> VoxelCloud:
        """Return the voxels as points in the map.

        Voxels of several fragments that fall into one voxel of the map are joined.
        """
        parts = [part for part in self.parts if len(part.rows)]
        sums = np.concatenate([_moved_sums(part) for part in parts] or [np.zeros((0, COLUMNS))])
        observations = np.concatenate(
            [part.rows.observations for part in parts] or [np.zeros(0, np.int32)])
        if len(parts) > 1:
            sums, observations = _joined(sums, observations, self.voxel_size)
        if self.min_observations > 1:
            shown = observations >= self.min_observations
            sums, observations = sums[shown], observations[shown]
        # numpy is slow at many rows of three: it computes one column at a time.
        weight = sums[:, WEIGHT]
        points, colors = np.empty((len(sums), 3), np.float32), np.empty((len(sums), 3), np.uint8)
        for axis in range(3):
            points[:, axis] = sums[:, axis] / weight
            colors[:, axis] = np.clip(np.rint(sums[:, 3 + axis] / weight), 0, 255)
        return VoxelCloud(points, colors,
                          (sums[:, CONFIDENCE] / observations).astype(np.float32))


@dataclass(frozen=True)
class VoxelCounters:
    """What the layer counts over all fragments; `tick` is the number of the newest keyframe."""

    voxel_size: float
    evicted: int
    out_of_reach: int
    tick: int


class VoxelMap:
    """The layer of voxels: one `VoxelStore` for each fragment, and the bounds over all of them.

    Eviction: if the new voxels of a keyframe would exceed `max_voxels`, the least recently
    observed voxels of all fragments are removed, down to 98 % of the bound. Of voxels of the same
    age, those with the least weight are removed. Voxels that the keyframe observes are never
    removed. If the new voxels still do not fit, the most confident of them are kept.
    """

    name = 'voxels'

    def __init__(self, config: VoxelMapConfig) -> None:
        self._config = config
        self.clear()

    def configure(self, config: VoxelMapConfig) -> None:
        """Use other thresholds from the next keyframe and the next snapshot on."""
        self._config = config

    def clear(self) -> None:
        """Forget an automatic voxel size and the counters."""
        # `out_of_reach` points were too far from the origin of their fragment.
        self.restore(VoxelCounters(self._config.voxel_size, 0, 0, 0))

    def new_store(self) -> VoxelStore:
        """Return the empty store of a new fragment."""
        return VoxelStore()

    def integrate(self, store: VoxelStore, stores: Sequence[VoxelStore], keyframe: Keyframe,
                  points: np.ndarray) -> None:
        """Merge the points [h, w, 3] of a keyframe, as `Layer.integrate` describes."""
        # The depth of a keyframe without a pose is not known.
        depth = keyframe.depth if keyframe.pose is not None else np.linalg.norm(points, axis=-1)
        self.merge(store, stores, points.reshape(-1, 3), keyframe.image.reshape(-1, 3),
                   keyframe.confidence.reshape(-1), depth.reshape(-1))

    def merge(self, store: VoxelStore, stores: Sequence[VoxelStore], points: np.ndarray,
              colors: np.ndarray, confidence: np.ndarray, depth: np.ndarray) -> int:
        """Merge points [n, 3], colours uint8 [n, 3] and confidence [n] that one keyframe observed.

        The points are in the frame of the fragment of `store`; `stores` are those of all
        fragments. An automatic voxel size depends on the `depth` [n] of the points.

        Points that are not finite, below `min_confidence` or more than a million voxels from the
        origin of the fragment are left out. Returns the number of merged points. The first call
        fixes an automatic voxel size; it raises FrameError if all points lie at depth zero.
        """
        _check_shapes(points, colors, confidence)
        # A weight of zero would divide by zero; NaN fails both comparisons.
        usable = (confidence >= self._config.min_confidence) & (confidence > 0.0)
        usable &= finite_points(points)
        if not usable.all():
            points, colors, confidence = points[usable], colors[usable], confidence[usable]
            depth = depth[usable]
        if not len(points):
            return 0
        if self.voxel_size == 0.0:
            self.voxel_size = automatic_voxel_size(depth)
        batch, left_out = gather(points, colors, confidence, self.voxel_size)
        if left_out:
            self.out_of_reach += left_out
            logger.warning('%d points are not in the map: they are more than a million voxels of '
                           'edge %.3g from the origin of their fragment', left_out,
                           self.voxel_size)
        if len(batch):
            self.tick += 1
            fresh = store.update(batch, self.tick)
            room = self._config.max_voxels - sum(map(len, stores))
            if len(fresh) > room:
                self._evict(stores, len(fresh))
                room = self._config.max_voxels - sum(map(len, stores))
            if len(fresh) > room:
                best = np.argsort(-fresh.sums[:, CONFIDENCE], kind='stable')[:room]
                fresh = fresh.take(np.sort(best))
            store.insert(fresh, self.tick)
        return len(points) - left_out

    def snapshot(self, parts: Iterable[tuple[VoxelStore, np.ndarray]]) -> VoxelSnapshot:
        """Return the present voxels of stores, each with its `map_from_fragment` [4, 4]."""
        return VoxelSnapshot([VoxelPart(store.rows(), place) for store, place in parts],
                             self.voxel_size, self._config.min_observations)

    def tree(self) -> dict[str, Any]:
        """Return the counters for a saved map."""
        return vars_of(self.counters())

    def counters(self) -> VoxelCounters:
        """Return the counters, which `restore` takes."""
        return VoxelCounters(self.voxel_size, self.evicted, self.out_of_reach, self.tick)

    def read(self, node: SavedNode) -> VoxelCounters:
        """Return saved counters; raise ValueError if they do not fit the settings."""
        size, wanted = node.number('voxel_size', 0.0), self._config.voxel_size
        if wanted not in (0.0, size):
            raise node.fault('voxel_size', f'{wanted} as configured', size)
        return VoxelCounters(size, node.integer('evicted'), node.integer('out_of_reach'),
                             node.integer('tick', 0, MAX_TICK))

    def restore(self, counters: VoxelCounters) -> None:
        """Take over counters that `read` returned."""
        self.voxel_size, self.tick = counters.voxel_size, counters.tick
        self.evicted, self.out_of_reach = counters.evicted, counters.out_of_reach

    def store_tree(self, store: VoxelStore) -> dict[str, Any]:
        """Return a store for a saved map."""
        return vars_of(store.rows())

    def read_store(self, node: SavedNode, counters: VoxelCounters) -> VoxelStore:
        """Return a saved store; raise ValueError if it does not fit the settings or counters."""
        return VoxelStore.of(read_rows(node, counters.voxel_size, counters.tick))

    def check_stores(self, stores: Sequence[VoxelStore]) -> None:
        """Raise ValueError if the stores have more voxels than the map may have."""
        voxels = sum(map(len, stores))
        if voxels > self._config.max_voxels:
            raise ValueError(f'voxels: expected {self._config.max_voxels} voxels at most '
                             f'(max_voxels), got {voxels}')

    def _evict(self, stores: Sequence[VoxelStore], fresh: int) -> None:
        """Remove the least recently observed voxels, so that `fresh` new ones fill 98 %."""
        # Most fragments of a long path have lost all their voxels.
        stores = [store for store in stores if len(store)]
        if not stores:
            return
        # How many voxels each keyframe observed last, from the oldest of these keyframes on.
        oldest = min(int(store.observed_at.min(initial=self.tick)) for store in stores)
        newest = self.tick - oldest
        ages = np.zeros(newest + 1, np.int64)
        for store in stores:
            ages += np.bincount(store.observed_at - oldest, minlength=newest + 1)
        if not newest:
            return
        stale = np.cumsum(ages[:newest])  # what this keyframe observes stays
        surplus = (sum(map(len, stores)) + fresh
                   - int(EVICTION_TARGET * self._config.max_voxels))
        surplus = min(surplus, int(stale[-1]))
        if surplus <= 0:
            return
        last = int(np.searchsorted(stale, surplus))
        tied = [np.flatnonzero(store.observed_at == oldest + last) for store in stores]
        weights = [store.weights[rows] for store, rows in zip(stores, tied, strict=True)]
        wanted = surplus - int(stale[last] - ages[last])
        chosen = np.zeros(sum(map(len, tied)), bool)
        chosen[np.argsort(np.concatenate(weights), kind='stable')[:wanted]] = True
        by_store = np.split(chosen, np.cumsum([len(rows) for rows in tied])[:-1])
        for store, rows, which in zip(stores, tied, by_store, strict=True):
            older = np.flatnonzero(store.observed_at < oldest + last)
            store.remove(np.sort(np.concatenate([older, rows[which]])))
        self.evicted += surplus


def _moved_sums(part: VoxelPart) -> np.ndarray:
    """Return the sums of a fragment's voxels with the points moved into the map."""
    sums, place = part.rows.sums, part.map_from_fragment
    if np.array_equal(place, np.eye(4)):
        return sums
    moved = sums.copy()
    x, y, z = sums[:, 0], sums[:, 1], sums[:, 2]
    for axis in range(3):
        a, b, c, shift = place[axis]
        moved[:, axis] = a * x + b * y + c * z + shift * sums[:, WEIGHT]
    return moved


def _joined(sums: np.ndarray, observations: np.ndarray,
            voxel_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return one row for each voxel of the map; points out of its reach keep rows of their own."""
    keys, near = voxel_keys(sums[:, :3] / sums[:, WEIGHT, None], voxel_size)
    if near is not None:
        within, beyond = np.flatnonzero(near), np.flatnonzero(~near)
    else:
        within, beyond = np.arange(len(sums)), np.zeros(0, np.intp)
    order = np.argsort(keys, kind='stable')
    starts = np.flatnonzero(np.diff(keys.take(order), prepend=-1))
    if not len(starts):
        return sums, observations
    # Each row of the sparse matrix adds up one voxel of the map. A reduction in numpy takes longer
    # and lets no other Python code run meanwhile.
    bounds = np.append(starts, len(order))
    adding = csr_array((np.ones(len(order)), within.take(order), bounds),
                       (len(starts), len(sums)))
    return (np.concatenate([adding @ sums, sums[beyond]]),
            np.concatenate([adding @ observations, observations[beyond]]))


def automatic_voxel_size(depths: np.ndarray) -> float:
    """Return 1 % of the median of depths [n]; raise FrameError if that is 0."""
    size = AUTOMATIC_SHARE * float(np.median(np.abs(depths)))
    if not np.isfinite(size) or size <= 0.0:
        raise FrameError(f'points: expected a median depth above zero, got voxel size {size}')
    return size


def _check_shapes(points: np.ndarray, colors: np.ndarray, confidence: np.ndarray) -> None:
    n = len(confidence)
    for name, array, shape in (('points', points, (n, 3)), ('colors', colors, (n, 3)),
                               ('confidence', confidence, (n,))):
        if array.shape != shape:
            raise ValueError(f'{name}: expected shape {shape}, got {array.shape}')
    if colors.dtype != np.uint8:
        raise ValueError(f'colors: expected uint8, got {colors.dtype}')
