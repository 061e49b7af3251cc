# SPDX-License-Identifier: Apache-2.0
"""Keyframes that share one memory, one origin and one scale."""
from __future__ import annotations

from dataclasses import dataclass, field

from .scale import Scale


@dataclass(frozen=True)
class Fragment:
    """The run of keyframes being recorded."""

    id: int = 0
    scale: Scale = field(default_factory=Scale)
