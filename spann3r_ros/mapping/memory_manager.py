# SPDX-License-Identifier: Apache-2.0
"""How much the reconstructor may remember, when it forgets, and what it holds."""
from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from spann3r_ros.model.config import MemoryConfig

from .types import MemoryStatus, Reconstructor

# The published capacity, 4000 tokens, was chosen for images of 224x224 in patches of 16.
REFERENCE_TOKENS_PER_FRAME = 196

logger = logging.getLogger(__name__)


def scale_memory_budget(config: MemoryConfig, tokens_per_frame: int) -> MemoryConfig:
    """Return the config with a long-term budget that holds as many frames as at 196 tokens each.

    Raises ValueError unless `tokens_per_frame` is positive.
    """
    if tokens_per_frame <= 0:
        raise ValueError(f'tokens_per_frame: expected a positive number, got {tokens_per_frame}')
    tokens = round(config.long_term_tokens * tokens_per_frame / REFERENCE_TOKENS_PER_FRAME)
    return replace(config, long_term_tokens=tokens)


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
