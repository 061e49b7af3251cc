# SPDX-License-Identifier: Apache-2.0
"""Mixed precision (torch autocast): bfloat16 in blocks, float32 in memory reads and heads."""
from __future__ import annotations

import torch
from torch import Tensor


def half_precision(device: torch.device, enabled: bool = True) -> torch.autocast:
    """Return an autocast context in which matrix products run in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def full_precision(device: torch.device) -> torch.autocast:
    """Return a context without autocast, inside one with it."""
    return torch.autocast(device.type, enabled=False)


def to_float32(values: Tensor) -> Tensor:
    """Convert bfloat16 and float16 to float32; other types are returned unchanged."""
    return values.float() if values.element_size() < 4 else values
