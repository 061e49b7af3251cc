# SPDX-License-Identifier: Apache-2.0
"""Where half precision ends: memory reads and dense heads are not narrowed to bfloat16."""
from __future__ import annotations

import torch
from torch import Tensor


def half_precision(device: torch.device, enabled: bool = True) -> torch.autocast:
    """Return a context in which products of blocks and projections run in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def full_precision(device: torch.device) -> torch.autocast:
    """Return a context in which nothing is narrowed to bfloat16."""
    return torch.autocast(device.type, enabled=False)


def widen(values: Tensor) -> Tensor:
    """Return bfloat16 and float16 as float32, the others as they are."""
    return values.float() if values.element_size() < 4 else values
