# SPDX-License-Identifier: Apache-2.0
"""The mean points of a store's voxels, in blocks of rows that a camera's view selects."""
from __future__ import annotations

from contextlib import suppress

import numpy as np

# A camera tests a block as a whole. Rows that were added together are near each other.
BLOCK_BITS = 10
BLOCK = 1 << BLOCK_BITS
# Memory is given back when so many times less suffices.
SHRINKING = 2


class PointBlocks:
    """The mean point of each row: float32, as [blocks, 3, BLOCK], NaN beyond the last row.

    They are in the frame of the fragment, and depend on nothing but the sums of the row.
    """

    def __init__(self) -> None:
        self._points = np.full((1, 3, BLOCK), np.nan, np.float32)
        self._size = 0
        self._bounds = np.zeros((1, 2, 3), np.float32)
        self._stale = np.ones(1, bool)
        self._box: np.ndarray | None = None

    def copy(self) -> PointBlocks:
        """Return a copy."""
        other = PointBlocks()
        other._points, other._size = self._points.copy(), self._size
        other._bounds, other._stale = self._bounds.copy(), self._stale.copy()
        return other

    def reserve(self, size: int) -> None:
        """Make room for `size` rows; MemoryError changes nothing."""
        wanted, count = -(-size // BLOCK), len(self._points)
        if wanted > count:
            wanted = max(wanted, count * 3 // 2)
            points = np.full((wanted, 3, BLOCK), np.nan, np.float32)
            bounds, stale = np.zeros((wanted, 2, 3), np.float32), np.ones(wanted, bool)
            points[:count], bounds[:count] = self._points, self._bounds
            stale[:count] = self._stale
            self._points, self._bounds, self._stale = points, bounds, stale

    def append(self, points: np.ndarray) -> None:
        """Add rows of points [3, n]; there is room for them."""
        begin, self._size = self._size, self._size + points.shape[1]
        self.set(np.arange(begin, self._size), points)

    def set(self, rows: np.ndarray, points: np.ndarray) -> None:
        """Replace the points [3, n] of rows [n]."""
        block, within = rows >> BLOCK_BITS, rows & BLOCK - 1
        self._box = None
        for axis in range(3):
            self._points[block, axis, within] = points[axis]
        self._stale[block] = True

    def remove(self, gaps: np.ndarray, moved: np.ndarray, left: int) -> None:
        """Move rows `moved` to the rows `gaps`; `left` rows remain."""
        block, within = moved >> BLOCK_BITS, moved & BLOCK - 1
        self.set(gaps, self._points[block, :, within].T)
        self.set(np.arange(left, self._size), np.full((3, self._size - left), np.nan, np.float32))
        self._size = left
        self._shrink()

    def _shrink(self) -> None:
        """Give memory back if much less suffices: a fragment may lose all its voxels."""
        wanted = max(1, -(-self._size // BLOCK) * 3 // 2)
        if SHRINKING * wanted < len(self._points):
            with suppress(MemoryError):  # they are whole in the larger memory, too
                points, bounds, stale = (one[:wanted].copy() for one in (
                    self._points, self._bounds, self._stale))
                self._points, self._bounds, self._stale = points, bounds, stale

    def bounds(self) -> np.ndarray:
        """Return the least and the largest corner of each block's points, [blocks, 2, 3]."""
        count = -(-self._size // BLOCK)
        whole = np.flatnonzero(self._stale[:self._size // BLOCK])
        points = self._points[whole]
        self._bounds[whole, 0], self._bounds[whole, 1] = points.min(axis=2), points.max(axis=2)
        self._stale[whole] = False
        if self._size % BLOCK:
            points = self._points[count - 1, :, :self._size % BLOCK]
            self._bounds[count - 1] = points.min(axis=1), points.max(axis=1)
        return self._bounds[:count]

    def box(self) -> np.ndarray:
        """Return the least and the largest corner of all points [2, 3]; there are some."""
        if self._box is None:
            bounds = self.bounds()
            self._box = np.stack([bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)])
        return self._box

    def blocks(self, which: np.ndarray) -> np.ndarray:
        """Return the points [k, 3, BLOCK] of some blocks."""
        return self._points.take(which, axis=0)
