# SPDX-License-Identifier: Apache-2.0
"""The length of one map unit in metres and its variance."""
from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Metres per map unit; `value` has no meaning while `metric` is false."""

    value: float = 1.0
    metric: bool = False
    variance: float = math.inf
    source: str = 'none'
