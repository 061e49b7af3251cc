# SPDX-License-Identifier: Apache-2.0
"""The check of saved voxels."""
from __future__ import annotations

import numpy as np

from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .voxel_store import COLUMNS, CONFIDENCE, KEY_BITS, KEY_REACH, WEIGHT, VoxelRows

MAX_TICK = 2**31 - 2
# Rounding may move the mean of points near a face of their cell by this share of its edge.
ROUNDING = 1e-3


def read_rows(node: SavedNode, voxel_size: float, tick: int) -> VoxelRows:
    """Return the voxels of a node; raise ValueError unless keys, sums and counts are consistent.

    `tick` is the number of the newest keyframe.
    """
    sums = node.array('sums', np.float64, (None, COLUMNS))
    n = len(sums)
    rows = VoxelRows(sums, node.array('observations', np.int32, (n,)),
                     node.array('observed_at', np.int32, (n,)),
                     _balance(node, n),
                     node.array('sorted_keys', np.int64, (n,)),
                     node.array('key_rows', np.int32, (n,)))
    if not n:
        return rows
    if not (np.diff(rows.sorted_keys) > 0).all():
        raise node.fault('sorted_keys', 'ascending keys', 'others')
    if not np.array_equal(np.sort(rows.key_rows), np.arange(n)):
        raise node.fault('key_rows', f'each row below {n} once', 'others')
    if rows.observations.min() < 1:
        raise node.fault('observations', '1 or more', rows.observations.min())
    if not 1 <= rows.observed_at.min() <= rows.observed_at.max() <= tick:
        raise node.fault('observed_at', f'keyframes from 1 to {tick}',
                         f'{rows.observed_at.min()} to {rows.observed_at.max()}')
    weights, confidence = sums[:, WEIGHT], sums[:, CONFIDENCE]
    if weights.min() <= 0.0 or not (
            (confidence > 0.0) & (confidence <= rows.observations * (1 + ROUNDING))).all():
        raise node.fault('sums', 'weights and confidences above zero', 'others')
    keys = np.empty(n, np.int64)
    keys[rows.key_rows] = rows.sorted_keys
    mask = 2 * KEY_REACH - 1
    cells = np.stack([keys >> 2 * KEY_BITS, (keys >> KEY_BITS) & mask, keys & mask], axis=1)
    offset = rows.means / voxel_size - (cells - KEY_REACH) if voxel_size else np.full(1, np.inf)
    # The points are float32: far from the origin their rounding exceeds the share above.
    slack = ROUNDING + 1e-6 * np.abs(cells - KEY_REACH).max()
    if not (-slack <= offset.min() and offset.max() <= 1.0 + slack):
        raise node.fault('sums', 'means inside their voxels', 'others')
    return rows


def _balance(node: SavedNode, n: int) -> np.ndarray:
    """Return the balance of the voxels; each voxel of an earlier version was seen once."""
    return node.array('balance', np.int8, (n,)) if node.has('balance') else np.ones(n, np.int8)
