# SPDX-License-Identifier: Apache-2.0
"""A bounded map of voxels, each the confidence-weighted mean of the points that fell into it."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.core.types import FrameError, finite_points
from spann3r_ros.mapping.mapper_config import VoxelMapConfig

AUTOMATIC_SHARE = 0.01
EVICTION_TARGET = 0.9
# A key packs three signed 21-bit cell indices into one int64.
KEY_BITS = 21
KEY_REACH = 1 << (KEY_BITS - 1)
# Columns of a voxel's row:
#   0-5  sums of x y z r g b of its points, times their weights (the confidence)
#   6    sum of the weights
#   7    sum of the mean confidences, one for each keyframe that observed the voxel
#   8    number of keyframes that observed it
#   9    tick (keyframe number) of the last observation; not a sum
COLUMNS = 10
WEIGHT, CONFIDENCE, OBSERVATIONS, OBSERVED_AT = 6, 7, 8, 9


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
class VoxelRows:
    """All data of a voxel map: `keys` int64 [n] and `sums` [n, 10] of voxels, oldest first."""

    keys: np.ndarray
    sums: np.ndarray
    voxel_size: float
    tick: int


@dataclass(frozen=True)
class _Batch:
    """One keyframe's points, gathered by voxel; rows are in ascending key order."""

    keys: np.ndarray  # int64 [n]
    sums: np.ndarray  # [n, 10], see COLUMNS

    def take(self, which: np.ndarray) -> _Batch:
        """Return the rows of indices `which`."""
        return _Batch(self.keys.take(which), self.sums.take(which, axis=0))


class VoxelMap:
    """Voxels in preallocated rows, found through a sorted index of their keys.

    Eviction: if the new voxels of a keyframe would exceed `max_voxels`, the least recently
    observed voxels are removed first, down to 90 % of the bound. Of voxels of the same age, those
    with the least weight are removed. Voxels that the keyframe observes are never removed. If the
    new voxels still do not fit, the most confident of them are kept.
    """

    def __init__(self, config: VoxelMapConfig) -> None:
        self._config = config
        # float64: in float32 many equal terms are rounded to the same side, and the sum drifts.
        self._voxels = np.zeros((config.max_voxels, COLUMNS))
        self.clear()

    def clear(self) -> None:
        """Remove every voxel, and an automatic voxel size too."""
        self.voxel_size = self._config.voxel_size
        self.evicted = 0
        self._size = 0
        self._tick = 0
        self._index_keys = np.zeros(0, np.int64)  # ascending
        self._index_rows = np.zeros(0, np.int32)

    def __len__(self) -> int:
        """Return the number of voxels, whether observed often enough for the cloud or not."""
        return self._size

    def integrate(self, points: np.ndarray, colors: np.ndarray, confidence: np.ndarray,
                  world_from_camera: np.ndarray | None = None) -> int:
        """Merge one keyframe's points [n, 3], colours uint8 [n, 3] and confidence [n].

        `world_from_camera` [4, 4] is the pose of the camera. If it is None, the camera is at the
        origin and looks along x. Only an automatic voxel size depends on it.

        Points that are not finite, below `min_confidence` or more than a million voxels from the
        origin are left out. Returns the number of merged points. The first call fixes an automatic
        voxel size; it raises FrameError if all its points lie at depth zero.
        """
        _check_shapes(points, colors, confidence)
        # A weight of zero would divide by zero; NaN fails both comparisons.
        usable = (confidence >= self._config.min_confidence) & (confidence > 0.0)
        usable &= finite_points(points)
        if not usable.all():
            points, colors, confidence = points[usable], colors[usable], confidence[usable]
        if len(points) and self.voxel_size == 0.0:
            seen_from = MAP_FROM_OPTICAL if world_from_camera is None else world_from_camera
            self.voxel_size = automatic_voxel_size(
                (points - seen_from[:3, 3]) @ seen_from[:3, 2])
        batch, merged = self._gather(points, colors, confidence)
        if merged:
            self._tick += 1
            self._merge(batch)
        return merged

    def arrays(self) -> VoxelCloud:
        """Return a copy of the voxels observed `min_observations` times, oldest first."""
        voxels = self._voxels[:self._size]
        if self._config.min_observations > 1:
            voxels = voxels[voxels[:, OBSERVATIONS] >= self._config.min_observations]
        features = (voxels[:, :WEIGHT].T / voxels[:, WEIGHT]).T.astype(np.float32)
        colors = np.clip(np.rint(features[:, 3:]), 0, 255).astype(np.uint8)
        confidence = (voxels[:, CONFIDENCE] / voxels[:, OBSERVATIONS]).astype(np.float32)
        return VoxelCloud(np.ascontiguousarray(features[:, :3]), colors, confidence)

    def rows(self) -> VoxelRows:
        """Return a copy of all that `restore` needs."""
        keys = np.empty(self._size, np.int64)
        keys[self._index_rows] = self._index_keys
        return VoxelRows(keys, self._voxels[:self._size].copy(), self.voxel_size, self._tick)

    def restore(self, rows: VoxelRows) -> None:
        """Replace the voxels by those of another map.

        Raises ValueError, and changes nothing, if they do not fit the configuration.
        """
        n, wanted = len(rows.keys), self._config.voxel_size
        if rows.sums.shape != (n, COLUMNS) or rows.sums.dtype != self._voxels.dtype:
            raise ValueError(f'voxels: expected float64 [{n}, {COLUMNS}], got {rows.sums.dtype} '
                             f'{list(rows.sums.shape)}')
        if n > len(self._voxels):
            raise ValueError(f'voxels: expected {len(self._voxels)} at most (max_voxels), got {n}')
        if wanted not in (0.0, rows.voxel_size):
            raise ValueError(f'voxel_size: expected {wanted} as configured, '
                             f'got {rows.voxel_size}')
        self.clear()
        order = np.argsort(rows.keys)
        self._index_keys, self._index_rows = rows.keys[order], order.astype(np.int32)
        self._voxels[:n] = rows.sums
        self._size, self._tick, self.voxel_size = n, rows.tick, rows.voxel_size

    def _gather(
        self, points: np.ndarray, colors: np.ndarray, confidence: np.ndarray
    ) -> tuple[_Batch, int]:
        with np.errstate(over='ignore'):  # cells that overflow are left out below
            cells = np.floor(points / (self.voxel_size or 1.0))
        if np.abs(cells).max(initial=0.0) >= KEY_REACH:
            near = (np.abs(cells) < KEY_REACH).all(axis=1)
            points, colors, confidence = points[near], colors[near], confidence[near]
            cells = cells[near]
        # numpy is slow at many rows of three: here and below it computes one column at a time.
        x, y, z = (cells[:, axis].astype(np.int64) + KEY_REACH for axis in range(3))
        keys = (x << 2 * KEY_BITS) | (y << KEY_BITS) | z
        order = np.argsort(keys, kind='stable')  # fast where neighbours are nearly in order
        keys = keys.take(order)
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        bounds = np.append(starts, len(keys))
        values = np.empty((len(keys), WEIGHT + 1), np.float32)
        for axis in range(3):
            values[:, axis], values[:, 3 + axis] = points[:, axis], colors[:, axis]
        values[:, WEIGHT] = 1.0
        # Each row of the sparse matrix adds up the points of one voxel. This is faster than any
        # reduction in numpy.
        adding = csr_array((confidence.astype(np.float32).take(order), order, bounds),
                           (len(starts), len(keys)))
        sums = np.zeros((len(starts), COLUMNS))
        sums[:, :WEIGHT + 1] = adding @ values
        sums[:, CONFIDENCE] = sums[:, WEIGHT] / np.diff(bounds)
        sums[:, OBSERVATIONS] = 1.0
        return _Batch(keys.take(starts), sums), len(keys)

    def _merge(self, batch: _Batch) -> None:
        rows, known = self._find(batch.keys)
        seen_before = np.flatnonzero(known)
        self._update(rows.take(seen_before), batch.take(seen_before))
        fresh = batch.take(np.flatnonzero(~known))
        if self._size + len(fresh.keys) > self._config.max_voxels:
            self._evict(len(fresh.keys))
            room = self._config.max_voxels - self._size
            if len(fresh.keys) > room:
                best = np.argsort(-fresh.sums[:, CONFIDENCE], kind='stable')[:room]
                fresh = fresh.take(np.sort(best))
        self._insert(fresh)

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of each key [n] and whether the key is known [n]."""
        if not self._size:
            return np.zeros(len(keys), np.int32), np.zeros(len(keys), bool)
        places = np.minimum(np.searchsorted(self._index_keys, keys), self._size - 1)
        return self._index_rows.take(places), self._index_keys.take(places) == keys

    def _update(self, rows: np.ndarray, batch: _Batch) -> None:
        voxels = self._voxels.take(rows, axis=0)
        voxels += batch.sums
        voxels[:, OBSERVED_AT] = self._tick
        # A row that is written as one item takes half the time.
        row = np.dtype((np.void, voxels.itemsize * COLUMNS))
        self._voxels.view(row)[rows] = voxels.view(row)

    def _insert(self, fresh: _Batch) -> None:
        size = self._size + len(fresh.keys)
        self._voxels[self._size:size] = fresh.sums
        self._voxels[self._size:size, OBSERVED_AT] = self._tick
        rows = np.arange(self._size, size, dtype=np.int32)
        places = np.searchsorted(self._index_keys, fresh.keys) + np.arange(len(rows))
        old = np.ones(size, bool)
        old[places] = False
        self._index_keys = _spliced(self._index_keys, old, fresh.keys)
        self._index_rows = _spliced(self._index_rows, old, rows)
        self._size = size

    def _evict(self, fresh: int) -> None:
        """Remove the least recently observed voxels, so that `fresh` new ones fill 90 %."""
        target = int(EVICTION_TARGET * self._config.max_voxels)
        observed_at = self._voxels[:self._size, OBSERVED_AT]
        stale = np.flatnonzero(observed_at < self._tick)
        surplus = min(self._size + fresh - target, len(stale))
        if surplus < len(stale):
            last = np.partition(observed_at[stale], surplus - 1)[surplus - 1]
            older = stale[observed_at[stale] < last]
            tied = stale[observed_at[stale] == last]
            by_weight = np.argsort(self._voxels[tied, WEIGHT], kind='stable')
            stale = np.concatenate([older, tied[by_weight[: surplus - len(older)]]])
        keep = np.ones(self._size, bool)
        keep[stale] = False
        self._compact(keep)
        self.evicted += len(stale)

    def _compact(self, keep: np.ndarray) -> None:
        """Move the kept rows [size] to the front and renumber the index."""
        size = int(keep.sum())
        self._voxels[:size] = self._voxels[:self._size][keep]
        renumbered = np.cumsum(keep, dtype=np.int32) - 1
        staying = keep[self._index_rows]
        self._index_keys = self._index_keys[staying]
        self._index_rows = renumbered[self._index_rows[staying]]
        self._size = size


def _spliced(values: np.ndarray, old: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Return `values` where `old` [n] is true and `fresh` elsewhere, both in their order."""
    both = np.empty(len(old), values.dtype)
    both[old], both[~old] = values, fresh
    return both


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
