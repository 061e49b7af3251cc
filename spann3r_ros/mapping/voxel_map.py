# SPDX-License-Identifier: Apache-2.0
"""A bounded map of voxels, each the confidence-weighted mean of the points that fell into it."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import VoxelMapConfig
from .geometry import MAP_FROM_OPTICAL
from .types import FrameError, finite_points

AUTOMATIC_SHARE = 0.01
EVICTION_TARGET = 0.9
# A key packs three signed 21-bit cell indices into one int64.
KEY_BITS = 21
KEY_REACH = 1 << (KEY_BITS - 1)


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
class _Batch:
    """One keyframe's points, gathered by voxel; rows are in ascending key order."""

    keys: np.ndarray  # int64 [n]
    weights: np.ndarray  # [n]
    features: np.ndarray  # x y z r g b, weighted mean, [n, 6]
    confidence: np.ndarray  # mean [n]

    def take(self, which: np.ndarray) -> _Batch:
        """Return the rows of indices `which`."""
        return _Batch(self.keys.take(which), self.weights.take(which),
                      self.features.take(which, axis=0), self.confidence.take(which))


class VoxelMap:
    """Voxels in preallocated rows, found through a sorted index of their keys.

    Eviction: a keyframe that would carry the map past `max_voxels` first removes the voxels
    observed least recently (of one age, those of least weight), down to 90 % of the bound, never
    those it sees itself; if it alone has too many new ones, its most confident are kept.
    """

    def __init__(self, config: VoxelMapConfig) -> None:
        self._config = config
        rows = config.max_voxels
        self._features = np.zeros((rows, 6), np.float32)
        self._weights = np.zeros(rows, np.float32)
        self._confidence = np.zeros(rows, np.float32)
        self._observations = np.zeros(rows, np.int32)
        self._observed_at = np.zeros(rows, np.int64)
        self.clear()

    def clear(self) -> None:
        """Forget every voxel, and an automatic voxel size with them."""
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

        `world_from_camera` [4, 4] says where their depth is measured from; None: the origin,
        along x.

        Points that are not finite, below `min_confidence` or more than a million voxels from the
        origin are left out; returns how many were merged. The first call fixes an automatic voxel
        size; FrameError if its points all lie at depth zero.
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
        """Return a copy of the voxels observed `min_observations` times, in key order."""
        rows = self._index_rows
        if self._config.min_observations > 1:
            rows = rows[self._observations[rows] >= self._config.min_observations]
        features = self._features[rows]
        colors = np.clip(np.rint(features[:, 3:]), 0, 255).astype(np.uint8)
        return VoxelCloud(np.ascontiguousarray(features[:, :3]), colors, self._confidence[rows])

    def _gather(
        self, points: np.ndarray, colors: np.ndarray, confidence: np.ndarray
    ) -> tuple[_Batch, int]:
        with np.errstate(over='ignore'):  # what overflows is out of reach
            cells = np.floor(points / (self.voxel_size or 1.0))
        if np.abs(cells).max(initial=0.0) >= KEY_REACH:
            near = (np.abs(cells) < KEY_REACH).all(axis=1)
            points, colors, confidence = points[near], colors[near], confidence[near]
            cells = cells[near]
        x, y, z = cells.T.astype(np.int64) + KEY_REACH
        keys = (x << 2 * KEY_BITS) | (y << KEY_BITS) | z
        order = np.argsort(keys)
        keys = keys.take(order)
        weights = confidence.astype(np.float32).take(order)
        features = np.empty((len(keys), 6), np.float32)
        features[:, :3], features[:, 3:] = points, colors
        features = features.take(order, axis=0)
        begins = np.diff(keys, prepend=-1) != 0
        starts = np.flatnonzero(begins)
        if len(starts) == len(keys):  # a voxel for each point, or no points at all
            return _Batch(keys, weights, features, weights), len(keys)
        voxel = np.cumsum(begins) - 1  # of each point
        totals = np.bincount(voxel, weights)
        means = np.empty((len(starts), 6), np.float32)
        for column in range(6):  # half the time of a reduction over rows
            means[:, column] = np.bincount(voxel, weights * features[:, column]) / totals
        totals = totals.astype(np.float32)
        counts = np.diff(starts, append=len(order)).astype(np.float32)
        return _Batch(keys.take(starts), totals, means, totals / counts), len(order)

    def _merge(self, batch: _Batch) -> None:
        rows, known = self._find(batch.keys)
        seen_before = np.flatnonzero(known)
        self._update(rows.take(seen_before), batch.take(seen_before))
        fresh = batch.take(np.flatnonzero(~known))
        if self._size + len(fresh.keys) > self._config.max_voxels:
            self._evict(len(fresh.keys))
            room = self._config.max_voxels - self._size
            if len(fresh.keys) > room:
                best = np.argsort(-fresh.confidence, kind='stable')[:room]
                fresh = fresh.take(np.sort(best))
        self._insert(fresh)

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of each key [n] and whether the key is known [n]."""
        if not self._size:
            return np.zeros(len(keys), np.int32), np.zeros(len(keys), bool)
        places = np.minimum(np.searchsorted(self._index_keys, keys), self._size - 1)
        return self._index_rows.take(places), self._index_keys.take(places) == keys

    def _update(self, rows: np.ndarray, batch: _Batch) -> None:
        weights = self._weights.take(rows) + batch.weights
        means = self._features.take(rows, axis=0)
        means += (batch.weights / weights)[:, None] * (batch.features - means)
        observations = self._observations.take(rows) + 1
        confidence = self._confidence.take(rows)
        confidence += (batch.confidence - confidence) / observations.astype(np.float32)
        self._features[rows] = means
        self._weights[rows] = weights
        self._confidence[rows] = confidence
        self._observations[rows] = observations
        self._observed_at[rows] = self._tick

    def _insert(self, fresh: _Batch) -> None:
        size = self._size + len(fresh.keys)
        added = slice(self._size, size)
        self._features[added] = fresh.features
        self._weights[added] = fresh.weights
        self._confidence[added] = fresh.confidence
        self._observations[added] = 1
        self._observed_at[added] = self._tick
        rows = np.arange(self._size, size, dtype=np.int32)
        places = np.searchsorted(self._index_keys, fresh.keys)
        self._index_keys = np.insert(self._index_keys, places, fresh.keys)
        self._index_rows = np.insert(self._index_rows, places, rows)
        self._size = size

    def _evict(self, fresh: int) -> None:
        """Remove stale voxels so that `fresh` new ones bring the map to 90 % of the bound."""
        target = int(EVICTION_TARGET * self._config.max_voxels)
        observed_at = self._observed_at[: self._size]
        stale = np.flatnonzero(observed_at < self._tick)
        surplus = min(self._size + fresh - target, len(stale))
        if surplus < len(stale):
            last = np.partition(observed_at[stale], surplus - 1)[surplus - 1]
            older = stale[observed_at[stale] < last]
            tied = stale[observed_at[stale] == last]
            by_weight = np.argsort(self._weights[tied], kind='stable')
            stale = np.concatenate([older, tied[by_weight[: surplus - len(older)]]])
        keep = np.ones(self._size, bool)
        keep[stale] = False
        self._compact(keep)
        self.evicted += len(stale)

    def _compact(self, keep: np.ndarray) -> None:
        """Move the kept rows [size] to the front and renumber the index."""
        size = int(keep.sum())
        for column in (self._features, self._weights, self._confidence, self._observations,
                       self._observed_at):
            column[:size] = column[: self._size][keep]
        renumbered = np.cumsum(keep, dtype=np.int32) - 1
        staying = keep[self._index_rows]
        self._index_keys = self._index_keys[staying]
        self._index_rows = renumbered[self._index_rows[staying]]
        self._size = size


def automatic_voxel_size(depths: np.ndarray) -> float:
    """Return 1 % of the median of depths [n]; FrameError if that is 0."""
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
