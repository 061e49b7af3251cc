# SPDX-License-Identifier: Apache-2.0
"""The owner of a network's memory: steps, resets and reports of what the memory holds."""
from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from spann3r_ros.core.network import Estimate, Network, NetworkStatus

from .storage.saved_tree import SavedNode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryReport:
    """The network's counters, and how often its memory was emptied or replaced.

    `resets` counts once each new map, each loaded map and each new fragment. `recoveries` counts
    those among them that no user requested: mapping went on after a failure.
    """

    network: str
    status: NetworkStatus
    resets: int
    recoveries: int
    last_reset_reason: str


@dataclass(frozen=True)
class MemorySnapshot:
    """The arrays of a network's state and the counters of its manager."""

    arrays: dict[str, np.ndarray]
    resets: int
    recoveries: int
    last_reset_reason: str


class MemoryManager:
    """Passes images to a network; no other part of the mapper resets the network.

    It lives from configure to cleanup of the node; `release` frees the memory.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._resets = 0
        self._recoveries = 0
        self._last_reset_reason = ''
        network.reset()

    @property
    def measures_pose(self) -> bool:
        """Return whether the network's estimates carry the camera's pose."""
        return self._network.measures_pose

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return (height, width) of the network's input for cameras of this width / height."""
        return self._network.input_size(aspect)

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Process the next image; return the final estimates. Raises as `Network.step` does."""
        return self._network.step(image, image_id)

    def provisional(self) -> Estimate | None:
        """Return the provisional estimate of the newest image, or None if there is none."""
        return self._network.provisional()

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images alone. Raises as `Network.step` does."""
        return self._network.pair(first, second)

    def flush(self) -> list[Estimate]:
        """Return the estimates that are still to come; end the sequence and empty the memory."""
        try:
            return self._network.flush()
        finally:
            self._network.reset()

    @property
    def name(self) -> str:
        """Return the network's name."""
        return self._network.name

    @property
    def identity(self) -> str:
        """Return a text that differs between the network's weights."""
        return self._network.identity

    def tree(self) -> dict[str, Any]:
        """Return the network and its state for a saved map."""
        return {'name': self._network.name, 'identity': self._network.identity,
                'state': self._network.state()}

    def check(self, node: SavedNode) -> None:
        """Raise ValueError unless a saved map is one of this network with these weights."""
        node.text('name', [self._network.name])
        if node.text('identity') != self._network.identity:
            raise node.fault('identity', f'the weights {self._network.identity}, with which this '
                             'mapper runs', node.text('identity'))

    def restore(self, saved: SavedNode) -> bool:
        """Return whether the network continues the sequence of a saved map.

        If it does not, because the map has none or its memory has other settings, it has to be
        reset.
        """
        if not saved.has('network'):
            return False
        arrays = saved.node('network').node('state').arrays()
        if not arrays:
            return False
        try:
            self._network.restore(arrays)
        # Whatever the network makes of wrong arrays, the map goes on with a new sequence.
        except Exception as error:
            logger.warning('the network does not continue the saved sequence: %s: %s',
                           type(error).__name__, error)
            return False
        return True

    def snapshot(self) -> MemorySnapshot:
        """Return what `go_back` needs."""
        return MemorySnapshot(self._network.state(), self._resets, self._recoveries,
                              self._last_reset_reason)

    def go_back(self, snapshot: MemorySnapshot) -> bool:
        """Go back to a snapshot of this network; return whether the network can."""
        self._resets, self._recoveries = snapshot.resets, snapshot.recoveries
        self._last_reset_reason = snapshot.last_reset_reason
        try:
            self._network.restore(snapshot.arrays)
        # Whatever the network raises, it needs a new sequence.
        except Exception:
            logger.exception('the network does not go back to its sequence')
            return False
        return True

    def reset(self, reason: str, recovery: bool = False, counts: bool = True) -> None:
        """Empty the memory; unless it was counted before, count it and log the reason."""
        self._network.reset()
        if counts:
            self.count_reset(reason, recovery)

    def count_reset(self, reason: str, recovery: bool = False) -> None:
        """Count that the memory was emptied or replaced; log and report the reason."""
        self._resets += 1
        self._recoveries += recovery
        self._last_reset_reason = reason
        logger.info('memory reset: %s', reason)

    def release(self) -> None:
        """Empty the memory without a report, because the node is cleaned up."""
        self._network.reset()

    def report(self) -> MemoryReport:
        """Return the current counters."""
        return MemoryReport(self._network.name, self._network.status(), self._resets,
                            self._recoveries, self._last_reset_reason)
