# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the transformers: patch embedding, attention, encoder and decoder block."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .rope import RotaryTable, rotate

BLOCK_EPS = 1e-6


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of [batch, heads, tokens, head_dim] tensors."""
    # The fused CPU kernel has a slow backward pass, so training on a CPU does not use it.
    if torch.is_grad_enabled() and query.device.type == 'cpu':
        weights = (query @ key.mT) * (1.0 / math.sqrt(query.shape[-1]))
        return weights.softmax(dim=-1) @ value
    return functional.scaled_dot_product_attention(query, key, value)


class PatchEmbed(nn.Module):
    """Image or pointmap [batch, 3, height, width] to tokens [batch, rows * columns, width]."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Cut into patches, row by row, and project each."""
        return self.proj(image).flatten(2).mT


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width * ratio)
        self.fc2 = nn.Linear(width * ratio, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [..., width] one by one."""
        return self.fc2(functional.gelu(self.fc1(tokens)))


class SelfAttention(nn.Module):
    """Multi-head self-attention, with rotary positions when a table is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, table: RotaryTable | None) -> Tensor:
        """Map tokens [batch, tokens, width], each of which attends to all of them."""
        packed = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each [batch, heads, tokens, head_dim]
        if table is not None:
            query, key = rotate(query, table), rotate(key, table)
        return self.proj(attend(query, key, value).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention from one view's tokens to the other view's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [batch, heads, tokens, d]

    def forward(self, tokens: Tensor, other: Tensor, table: RotaryTable,
                other_table: RotaryTable) -> Tensor:
        """Map tokens [batch, tokens, width], which attend to `other` [batch, others, width]."""
        query = rotate(self._split(self.projq(tokens)), table)
        key = rotate(self._split(self.projk(other)), other_table)
        value = self._split(self.projv(other))
        return self.proj(attend(query, key, value).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, tokens: Tensor, table: RotaryTable | None = None) -> Tensor:
        """Map tokens [batch, tokens, width] to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens), table)
        return tokens + self.mlp(self.norm2(tokens))


class DecoderBlock(nn.Module):
    """Transformer block that also attends to the other view's tokens."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.attn = SelfAttention(width, heads)
        self.norm_y = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.cross_attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.norm3 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, tokens: Tensor, other: Tensor, table: RotaryTable,
                other_table: RotaryTable) -> Tensor:
        """Map tokens [batch, tokens, width]; `other` are the other view's, of the same layer."""
        tokens = tokens + self.attn(self.norm1(tokens), table)
        tokens = tokens + self.cross_attn(self.norm2(tokens), self.norm_y(other), table,
                                          other_table)
        return tokens + self.mlp(self.norm3(tokens))
