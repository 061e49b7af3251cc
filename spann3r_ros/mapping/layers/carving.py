# SPDX-License-Identifier: Apache-2.0
"""Removes voxels that later keyframes see through: what moved away, and points beside surfaces."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert, invert_similarity, similarity_scale
from spann3r_ros.mapping.mapper_config import CarvingConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .point_blocks import BLOCK, BLOCK_BITS
from .ray_votes import View
from .voxel_store import VoxelStore

# A keyframe votes on about this many voxels at most: on every second, third ... block in view.
MOST_TESTED = 128 * BLOCK
# Removal takes a time that depends on all voxels, so it waits this many keyframes for each
# million of them.
KEYFRAMES_PER_MILLION = 8


@dataclass(frozen=True)
class CarvingCounters:
    """`carved` voxels were removed. `times` int64 [n, 2] are keyframes, by number and stamp.

    The first of these is the newest that is at least `gap_sec` old, if there is one.
    """

    carved: int
    times: np.ndarray


class Carver:
    """Lets each keyframe vote on the voxels in its view, and removes voxels by their votes.

    A voxel has a balance: 1 when it is new, one more for each keyframe that sees it, up to
    `max_hits`, and one less for each that sees through it (`free_space.View`). It is removed if
    the balance is -`min_votes` and no keyframe of the last `gap_sec` had a point in it.
    """

    def __init__(self, config: CarvingConfig) -> None:
        self._config = config
        self.clear()

    def configure(self, config: CarvingConfig) -> None:
        """Use other thresholds from the next keyframe on."""
        self._config = config

    def clear(self) -> None:
        """Begin a new map."""
        self.restore(CarvingCounters(0, np.zeros((0, 2), np.int64)))

    def counters(self) -> CarvingCounters:
        """Return the counters, which `restore` takes."""
        return CarvingCounters(self.carved, self._times)

    def restore(self, counters: CarvingCounters) -> None:
        """Take over counters that `counters` or `read_counters` returned."""
        self.carved, self._times = counters.carved, counters.times

    def observe(self, keyframe: Keyframe, usable: np.ndarray, known: np.ndarray, tick: int,
                voxel_size: float, located: Sequence[tuple[VoxelStore, np.ndarray | None]],
                map_from_own: np.ndarray) -> None:
        """Let a keyframe with a pose vote, then remove voxels.

        `usable` bool [h, w] are the pixels whose points enter the map, `known` those whose depth
        is known. `tick` is the number of the keyframe. `located` are the stores of fragments,
        each with its `map_from_fragment` [4, 4], None: no vote. `map_from_own` is the keyframe's.
        """
        located = [(store, place) for store, place in located if place is not None and len(store)]
        if not (self._config.enabled and located):
            return
        stores = [store for store, _ in located]
        view = View.of(keyframe.intrinsics, keyframe.depth, known, usable, self._config.margin)
        camera_from_map = invert(keyframe.pose.fragment_from_camera) @ invert_similarity(
            map_from_own)
        camera_from_points = camera_from_map @ np.stack([place for _, place in located])
        self._vote(view, stores, camera_from_points, voxel_size, tick)
        self._remove(stores, tick, keyframe.stamp_ns)

    def _vote(self, view: View, stores: list[VoxelStore], camera_from_points: np.ndarray,
              voxel_size: float, tick: int) -> None:
        near = view.sees(camera_from_points, np.stack([store.points.box() for store in stores]))
        stores = [store for store, is_near in zip(stores, near, strict=True) if is_near]
        places = camera_from_points[near]
        seen = [np.flatnonzero(view.sees(place, store.points.bounds()))
                for store, place in zip(stores, places, strict=True)]
        every = max(1, -(-sum(map(len, seen)) * BLOCK // MOST_TESTED))
        for store, place, blocks in zip(stores, places, seen, strict=True):
            blocks = blocks[(blocks + tick) % every == 0]
            passed, hit = (
                blocks.take(where >> BLOCK_BITS) * BLOCK + (where & BLOCK - 1)
                for where in view.votes(place, store.points.blocks(blocks),
                                        voxel_size * similarity_scale(place)))
            if len(passed) or len(hit):
                balance = store.balance.copy()
                balance[passed] = np.maximum(balance[passed] - 1, -self._config.min_votes)
                balance[hit] = np.minimum(balance[hit] + 1, self._config.max_hits)
                store.set_balance(balance)

    def _remove(self, stores: list[VoxelStore], tick: int, stamp_ns: int) -> None:
        # Stamps that jumped back do not count: the keyframes before are old.
        age = stamp_ns - self._times[:, 1]
        old = np.flatnonzero((age < 0) | (age >= 1e9 * self._config.gap_sec))
        kept = self._times[old[-1] if len(old) else 0:]
        self._times = np.concatenate([kept, [[tick, stamp_ns]]])
        every = 1 + KEYFRAMES_PER_MILLION * sum(map(len, stores)) // 1_000_000
        if not len(old) or tick % every:
            return
        for store in stores:
            gone = np.flatnonzero(store.balance <= -self._config.min_votes)
            gone = gone[store.observed_at[gone] <= kept[0, 0]]
            store.remove(gone)
            self.carved += len(gone)


def read_counters(layer: SavedNode) -> CarvingCounters:
    """Return the counters saved with a layer; raise ValueError for wrong values."""
    if not layer.has('carving'):  # a map of an earlier version
        return CarvingCounters(0, np.zeros((0, 2), np.int64))
    node = layer.node('carving')
    times = node.array('times', np.int64, (None, 2))
    if (np.diff(times[:, 0]) < 0).any() or times.min(initial=0) < 0:
        raise node.fault('times', 'ascending numbers and stamps of 0 or more', 'others')
    return CarvingCounters(node.integer('carved'), times)
