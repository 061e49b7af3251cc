# SPDX-License-Identifier: Apache-2.0
"""The voxels of one fragment, in its frame: rows found through a sorted index of their keys."""
from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from .point_blocks import PointBlocks

# A key packs three signed 21-bit cell indices into one int64.
KEY_BITS = 21
KEY_REACH = 1 << (KEY_BITS - 1)
# Columns of a voxel's sums:
#   0-5  sums of x y z r g b of its points, times their weights (the confidence)
#   6    sum of the weights
#   7    sum of the mean confidences, one for each keyframe that observed the voxel
COLUMNS = 8
WEIGHT, CONFIDENCE = 6, 7
GROWTH = 1.5
LEAST_CAPACITY = 64
# Memory is given back when so many times less suffices.
SHRINKING = 2
# References to an array in a list that `sys.getrefcount` counts: the list's and its own.
UNSEEN_REFERENCES = 2


@dataclass(frozen=True)
class VoxelRows:
    """The voxels of a fragment: `sums` float64 [n, 8], see COLUMNS.

    `observations` int32 [n] is how many keyframes observed a voxel, `observed_at` int32 [n] the
    number of the last one. `balance` int8 [n] is how many more keyframes saw it than saw through
    it, as far as these were compared with it. `sorted_keys` int64 [n] are the keys in ascending
    order, `key_rows` int32 [n] the row of each of them.
    """

    sums: np.ndarray
    observations: np.ndarray
    observed_at: np.ndarray
    balance: np.ndarray
    sorted_keys: np.ndarray
    key_rows: np.ndarray

    def __len__(self) -> int:
        """Return the number of voxels."""
        return len(self.sums)

    @property
    def means(self) -> np.ndarray:
        """Return the mean of each voxel's points, float64 [n, 3], in the frame of the fragment."""
        return self.sums[:, :3] / self.sums[:, WEIGHT, None]


@dataclass(frozen=True)
class VoxelBatch:
    """One keyframe's points, gathered by voxel; rows are in ascending key order."""

    keys: np.ndarray  # int64 [n]
    sums: np.ndarray  # float64 [n, 8], see COLUMNS

    def __len__(self) -> int:
        """Return the number of voxels."""
        return len(self.keys)

    def take(self, which: np.ndarray) -> VoxelBatch:
        """Return the rows of indices `which`."""
        return VoxelBatch(self.keys.take(which), self.sums.take(which, axis=0))


class VoxelStore:
    """Voxels of one fragment. A method that raises MemoryError has changed nothing."""

    def __init__(self) -> None:
        # float64: in float32 many equal terms are rounded to the same side, and the sum drifts.
        self._sums = np.empty((LEAST_CAPACITY, COLUMNS))
        self._observations = np.empty(LEAST_CAPACITY, np.int32)
        self._observed_at = np.empty(LEAST_CAPACITY, np.int32)
        self._balance = np.zeros(0, np.int8)  # replaced and never changed: `rows` gives it away
        self._points = PointBlocks()
        self._index_keys = np.zeros(0, np.int64)  # ascending
        self._index_rows = np.zeros(0, np.int32)
        self._shared = False
        # The arrays that `rows` gave away last. Copying into them is fast, because new memory has
        # to be mapped page by page.
        self._spare: list[np.ndarray] | None = None

    @classmethod
    def of(cls, rows: VoxelRows) -> VoxelStore:
        """Return a store with a copy of these voxels."""
        store = cls()
        store._grow(len(rows))
        store._index_keys, store._index_rows = rows.sorted_keys.copy(), rows.key_rows.copy()
        store._sums[:len(rows)] = rows.sums
        store._observations[:len(rows)] = rows.observations
        store._observed_at[:len(rows)] = rows.observed_at
        store._balance = rows.balance.copy()
        store._points.reserve(len(rows))
        store._points.append(mean_points(rows.sums))
        return store

    def __len__(self) -> int:
        """Return the number of voxels."""
        return len(self._index_keys)

    @property
    def observed_at(self) -> np.ndarray:
        """Return the number of the last keyframe that observed each row, int32 [n]."""
        return self._observed_at[:len(self)]

    @property
    def weights(self) -> np.ndarray:
        """Return the sum of the weights of each row, float64 [n]."""
        return self._sums[:len(self), WEIGHT]

    @property
    def balance(self) -> np.ndarray:
        """Return the balance of each row, int8 [n]; it is not to be changed."""
        return self._balance

    @property
    def points(self) -> PointBlocks:
        """Return the mean points of the rows."""
        return self._points

    def set_balance(self, balance: np.ndarray) -> None:
        """Take over the balance of all rows, int8 [n]."""
        self._balance = balance

    def rows(self) -> VoxelRows:
        """Return the voxels without a copy: the store copies them before it changes them."""
        size = len(self)
        if self._shared:
            self._spare = None  # the voxels have not changed: they are those of an old fragment
        self._shared = True
        return VoxelRows(self._sums[:size], self._observations[:size], self._observed_at[:size],
                         self._balance, self._index_keys, self._index_rows)

    def __deepcopy__(self, _: dict[int, object]) -> VoxelStore:
        """Return a copy; the rows are shared until one of both changes them."""
        other = VoxelStore()
        other._sums, other._observations, other._observed_at = self._columns
        other._index_keys, other._index_rows = self._index_keys, self._index_rows
        other._balance, other._points = self._balance, self._points.copy()
        self._shared = other._shared = True
        return other

    def update(self, batch: VoxelBatch, tick: int) -> VoxelBatch:
        """Merge the voxels of a batch that are known; return those that are not."""
        if not len(self):
            return batch
        places = np.minimum(np.searchsorted(self._index_keys, batch.keys), len(self) - 1)
        known = self._index_keys.take(places) == batch.keys
        seen = np.flatnonzero(known)
        rows = self._index_rows.take(places.take(seen))
        self._own()
        sums = self._sums.take(rows, axis=0)
        sums += batch.sums.take(seen, axis=0)
        points = mean_points(sums)
        # A row that is written as one item takes half the time.
        row = np.dtype((np.void, sums.itemsize * COLUMNS))
        self._sums.view(row)[rows] = sums.view(row)
        self._points.set(rows, points)
        self._observations[rows] += 1
        self._observed_at[rows] = tick
        return batch.take(np.flatnonzero(~known))

    def insert(self, batch: VoxelBatch, tick: int) -> None:
        """Add voxels whose keys are not in the store."""
        if not len(batch):
            return
        old, size = len(self), len(self) + len(batch)
        places = np.searchsorted(self._index_keys, batch.keys)
        keys = np.insert(self._index_keys, places, batch.keys)
        rows = np.insert(self._index_rows, places, np.arange(old, size, dtype=np.int32))
        balance = np.concatenate([self._balance, np.ones(len(batch), np.int8)])
        points = mean_points(batch.sums)
        self._points.reserve(size)
        self._own()
        self._grow(size)
        self._points.append(points)
        self._balance = balance
        self._sums[old:size] = batch.sums
        self._observations[old:size] = 1
        self._observed_at[old:size] = tick
        self._index_keys, self._index_rows = keys, rows

    def remove(self, removed: np.ndarray) -> None:
        """Remove rows [k], ascending; the last rows move into the gaps."""
        if not len(removed):
            return
        size, left = len(self), len(self) - len(removed)
        gaps = removed[removed < left]
        staying = np.ones(size, bool)
        staying[removed] = False
        moved = left + np.flatnonzero(staying[left:])  # as many as there are gaps
        new_row = np.arange(size, dtype=np.int32)
        new_row[moved] = gaps
        kept = staying[self._index_rows]
        keys, rows = self._index_keys[kept], new_row[self._index_rows[kept]]
        balance = self._balance[:left].copy()
        balance[gaps] = self._balance[moved]
        self._own()
        for column in (self._sums, self._observations, self._observed_at):
            column[gaps] = column[moved]
        self._points.remove(gaps, moved, left)
        self._balance = balance
        self._index_keys, self._index_rows = keys, rows
        self._shrink()

    def _own(self) -> None:
        """Copy the rows if `rows` gave them away."""
        if not self._shared:
            return
        columns, spare = self._columns, self._spare
        if spare is None or len(spare[0]) != len(self._sums) or _has_views(spare):
            spare = self._empty(len(self._sums))
        self._take(spare)
        self._spare, self._shared = columns, False

    def _grow(self, size: int) -> None:
        if size > len(self._sums):
            self._take(self._empty(max(size, int(GROWTH * len(self._sums)))))
            self._spare = None

    def _shrink(self) -> None:
        """Give memory back if much less suffices: a fragment may lose all its voxels."""
        capacity = max(LEAST_CAPACITY, int(GROWTH * len(self)))
        if SHRINKING * capacity < len(self._sums):
            with suppress(MemoryError):  # the store is whole in the larger memory, too
                self._take(self._empty(capacity))
                self._spare = None

    @property
    def _columns(self) -> list[np.ndarray]:
        return [self._sums, self._observations, self._observed_at]

    def _empty(self, capacity: int) -> list[np.ndarray]:
        return [np.empty((capacity, *column.shape[1:]), column.dtype)
                for column in self._columns]

    def _take(self, copies: list[np.ndarray]) -> None:
        size = len(self)
        for copy, column in zip(copies, self._columns, strict=True):
            copy[:size] = column[:size]
        self._sums, self._observations, self._observed_at = copies


def _has_views(columns: list[np.ndarray]) -> bool:
    """Return whether there are views of these arrays; each view holds a reference to its array."""
    return max(map(sys.getrefcount, columns)) > UNSEEN_REFERENCES


def gather(points: np.ndarray, colors: np.ndarray, confidence: np.ndarray,
           voxel_size: float) -> tuple[VoxelBatch, int]:
    """Return points [n, 3] gathered by voxel, and how many are too far from the origin.

    Colours are uint8 [n, 3], the confidence [n] is above zero. Points more than a million voxels
    from the origin of their frame are left out.
    """
    keys, near = voxel_keys(points, voxel_size)
    if near is not None:
        points, colors, confidence = points[near], colors[near], confidence[near]
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
    sums = np.empty((len(starts), COLUMNS))
    sums[:, :CONFIDENCE] = adding @ values
    sums[:, CONFIDENCE] = sums[:, WEIGHT] / np.diff(bounds)
    left_out = 0 if near is None else len(near) - int(near.sum())
    return VoxelBatch(keys.take(starts), sums), left_out


def voxel_keys(points: np.ndarray, voxel_size: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the keys int64 of the points [n, 3] within reach, and which these are, bool [n].

    None instead of the latter if all of them are.
    """
    with np.errstate(over='ignore'):  # cells that overflow are out of reach
        cells = np.floor(points / voxel_size)
    near = None
    if np.abs(cells).max(initial=0.0) >= KEY_REACH:
        near = (np.abs(cells) < KEY_REACH).all(axis=1)
        cells = cells[near]
    # numpy is slow at many rows of three: it computes one column at a time.
    x, y, z = (cells[:, axis].astype(np.int64) + KEY_REACH for axis in range(3))
    return (x << 2 * KEY_BITS) | (y << KEY_BITS) | z, near


def mean_points(sums: np.ndarray) -> np.ndarray:
    """Return the mean points of sums [n, 8], float32 [3, n]."""
    return np.stack([sums[:, axis] / sums[:, WEIGHT] for axis in range(3)]).astype(np.float32)
