# SPDX-License-Identifier: Apache-2.0
"""Which voxels go when the map is full."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .voxel_store import VoxelStore


def evict(stores: Sequence[VoxelStore], surplus: int, tick: int) -> int:
    """Remove the `surplus` least recently observed voxels; return how many were removed.

    Of voxels of the same age, those with the least weight go. Voxels that keyframe number `tick`
    observed stay.
    """
    # Most fragments of a long path have lost all their voxels.
    stores = [store for store in stores if len(store)]
    if not stores:
        return 0
    # How many voxels each keyframe observed last, from the oldest of these keyframes on.
    oldest = min(int(store.observed_at.min(initial=tick)) for store in stores)
    newest = tick - oldest
    ages = np.zeros(newest + 1, np.int64)
    for store in stores:
        ages += np.bincount(store.observed_at - oldest, minlength=newest + 1)
    if not newest:
        return 0
    stale = np.cumsum(ages[:newest])
    surplus = min(surplus, int(stale[-1]))
    if surplus <= 0:
        return 0
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
    return surplus
