# SPDX-License-Identifier: Apache-2.0
"""How much the reconstructor may remember, when it forgets, and what it holds."""
from __future__ import annotations

import logging
from dataclasses import dataclass

from spann3r_ros.core.network import MemoryStatus, Reconstructor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryReport:
    """The reconstructor's counters and how often it was made to forget."""

    status: MemoryStatus
    resets: int
    last_reset_reason: str


class MemoryManager:
    """The only one that makes a reconstructor forget."""

    def __init__(self, reconstructor: Reconstructor) -> None:
        self._reconstructor = reconstructor
        self._resets = 0
        self._last_reset_reason = ''

    def reset(self, reason: str) -> None:
        """Forget every image; `reason` goes to the log and the report."""
        self._reconstructor.reset()
        self._resets += 1
        self._last_reset_reason = reason
        logger.info('memory reset: %s', reason)

    def report(self) -> MemoryReport:
        """Return what is held now."""
        return MemoryReport(self._reconstructor.status(), self._resets, self._last_reset_reason)
