# SPDX-License-Identifier: Apache-2.0
"""The owner of a network's memory: what the network takes, when it forgets, and what it holds."""
from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.network import Estimate, Network, NetworkStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryReport:
    """The network's counters and how often it was made to forget.

    `recoveries` counts the resets that nobody asked for: mapping went on after a failure.
    """

    network: str
    status: NetworkStatus
    resets: int
    recoveries: int
    last_reset_reason: str


class MemoryManager:
    """Feeds a network and is the only one that makes it forget.

    It lives from configure to cleanup of the node: `release` gives the memory back.
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
        """Give the next image; return the final estimates. Raises what `Network.step` raises."""
        return self._network.step(image, image_id)

    def provisional(self) -> Estimate | None:
        """Return an estimate of the newest image whose final one is still to come, or None."""
        return self._network.provisional()

    def flush(self) -> list[Estimate]:
        """Return the estimates still to come, and forget the sequence, which ends here."""
        try:
            return self._network.flush()
        finally:
            self._network.reset()

    def reset(self, reason: str, recovery: bool = False) -> None:
        """Forget every image; `reason` goes to the log and the report."""
        self._network.reset()
        self._resets += 1
        self._recoveries += recovery
        self._last_reset_reason = reason
        logger.info('memory reset: %s', reason)

    def release(self) -> None:
        """Forget the sequence for good: the node is cleaned up."""
        self._network.reset()

    def report(self) -> MemoryReport:
        """Return what is held now."""
        return MemoryReport(self._network.name, self._network.status(), self._resets,
                            self._recoveries, self._last_reset_reason)
