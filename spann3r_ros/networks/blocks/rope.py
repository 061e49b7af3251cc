# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding over a two-dimensional token grid."""
from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class RotaryTable(NamedTuple):
    """Cosines and sines [tokens, 2 axes (y, x), head_dim / 4] of a token grid, row-major.

    `rotation`, complex [tokens, head_dim / 2], is cos + i sin, for channels whose pairs are
    adjacent.
    """

    cos: Tensor
    sin: Tensor
    rotation: Tensor


# Never evicted: recorded CUDA graphs keep the addresses of the tables.
@cache
def rotary_table(rows: int, columns: int, head_dim: int, base: float = 100.0,
                 device: str = 'cpu', dtype: torch.dtype = torch.float32) -> RotaryTable:
    """Return the rotation table of a grid; positions are grid indices."""
    count = head_dim // 4
    with torch.inference_mode(False):
        steps = torch.arange(count, device=device, dtype=torch.float32)
        frequency = base ** (-steps / count)
        y, x = torch.meshgrid(torch.arange(rows, device=device, dtype=torch.float32),
                              torch.arange(columns, device=device, dtype=torch.float32),
                              indexing='ij')
        position = torch.stack((y.flatten(), x.flatten()), dim=1)  # [tokens, 2]
        angle = position[:, :, None] * frequency  # [tokens, 2, head_dim / 4]
        rotation = torch.polar(torch.ones_like(angle), angle).flatten(1)
        return RotaryTable(angle.cos().to(dtype), angle.sin().to(dtype), rotation)


def rotate(tokens: Tensor, table: RotaryTable) -> Tensor:
    """Rotate queries or keys [..., tokens, head_dim] by their positions.

    The first half of the channels is rotated by y, the second by x; channel i of a half forms a
    pair with channel i + head_dim / 4.
    """
    halves = tokens.unflatten(-1, (2, 2, -1))  # [..., tokens, axis, pair, head_dim / 4]
    u, v = halves.unbind(-2)
    turned = torch.stack((u * table.cos - v * table.sin, v * table.cos + u * table.sin), dim=-2)
    return turned.flatten(-3)
