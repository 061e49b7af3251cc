# SPDX-License-Identifier: Apache-2.0
"""What is known about the length of one map unit."""
from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Metres per map unit; without a metric source the value means nothing."""

    value: float = 1.0
    metric: bool = False
    variance: float = math.inf
    source: str = 'none'
