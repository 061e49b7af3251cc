# SPDX-License-Identifier: Apache-2.0
"""Layers for inference, with which `inference.prepare` replaces those of a network."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from spann3r_ros.networks.blocks.heads import DptNet
from spann3r_ros.networks.blocks.layers import CrossAttention, Mlp, SelfAttention
from spann3r_ros.networks.blocks.rope import RotaryTable

LinearMaker = Callable[[nn.Linear], nn.Module]


class PackedLinear(nn.Module):
    """A linear layer with its weights packed in the layout of the matrix product (oneDNN).

    It multiplies in float32 or bfloat16 and returns float32.
    """

    def __init__(self, linear: nn.Linear, rows: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        weight = linear.weight.detach().to(dtype)
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self.register_buffer('weight', weight, persistent=False)
        self.register_buffer('bias', linear.bias.detach().to(dtype), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [..., inputs] to [..., outputs]."""
        return self._product(tokens, 'none').float()

    def activated(self, tokens: Tensor) -> Tensor:
        """Map tokens and apply an exact GELU; the result is the input of another packed layer."""
        return self._product(tokens, 'gelu')

    def _product(self, tokens: Tensor, activation: str) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(
            tokens.to(self.weight.dtype), self.weight, self.bias, activation, [], 'none')


class EightBitLinear(nn.Module):
    """A linear layer quantised to 8 bits: weights scaled per output, inputs per token."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = _scale(weight)
        rounded = (weight / scale).round().to(torch.int8)
        self.register_buffer('weight', rounded.T.contiguous(), persistent=False)
        self.register_buffer('scale', scale[:, 0], persistent=False)
        self.bias = linear.bias.detach()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [..., inputs] to [..., outputs]."""
        flat = tokens.flatten(0, -2)
        scale = _scale(flat)
        rounded = (flat / scale).round_().to(torch.int8)
        product = torch._int_mm(rounded, self.weight)
        # Reuses the memory of the product: new pages cost more time than the arithmetic.
        result = product.view(torch.float32).copy_(product)
        torch.addcmul(self.bias, result.mul_(scale), self.scale, out=result)
        return result.unflatten(0, tokens.shape[:-1])


class HalfDptNet(nn.Module):
    """A convolutional decoder that computes in bfloat16, except its last layer.

    The last layer returns the points; rounded to bfloat16 they would show visible steps.
    """

    def __init__(self, net: DptNet) -> None:
        super().__init__()
        self.last = net.head[-1]
        net.head = net.head[:-1]
        self.net = net.to(torch.bfloat16)

    def forward(self, levels: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Map four levels of tokens to raw channels [batch, 4, height, width]."""
        return self.last(self.net([level.bfloat16() for level in levels], grid).float())


def _scale(values: Tensor) -> Tensor:
    """Return the quantisation scale [rows, 1] of values [rows, n] for 8 bits."""
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    return torch.maximum(low.neg_(), high).clamp_(min=1e-12).div_(127.0)


class InferenceMlp(nn.Module):
    """Two linear layers with an exact GELU between, fused with the first one's product."""

    def __init__(self, mlp: Mlp, make: LinearMaker) -> None:
        super().__init__()
        self.fc1, self.fc2 = make(mlp.fc1), make(mlp.fc2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [..., width] one by one."""
        if isinstance(self.fc1, PackedLinear):
            return self.fc2(self.fc1.activated(tokens))
        return self.fc2(functional.gelu(self.fc1(tokens)))


class InferenceSelfAttention(nn.Module):
    """Multi-head self-attention; queries and keys are rotated as complex numbers."""

    def __init__(self, attention: SelfAttention, make: LinearMaker) -> None:
        super().__init__()
        self.heads = attention.heads
        query, key, value = _parts(attention.qkv, 3)
        self.qkv = make(_stacked(_adjacent(query, self.heads), _adjacent(key, self.heads), value))
        self.proj = make(attention.proj)

    def forward(self, tokens: Tensor, table: RotaryTable | None) -> Tensor:
        """Map tokens [batch, tokens, width], each of which attends to all of them."""
        packed = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        if table is not None:
            _rotate(packed[:, :, :2], table.rotation[:, None, None])
        return self.proj(_attend(*packed.unbind(2)))


class InferenceCrossAttention(nn.Module):
    """Multi-head attention from one view's tokens to the other view's."""

    def __init__(self, attention: CrossAttention, make: LinearMaker) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query = make(_adjacent(attention.projq, self.heads))
        self.key_value = make(_stacked(_adjacent(attention.projk, self.heads), attention.projv))
        self.proj = make(attention.proj)

    def forward(self, tokens: Tensor, other: Tensor, table: RotaryTable,
                other_table: RotaryTable) -> Tensor:
        """Map tokens [batch, tokens, width], which attend to `other` [batch, others, width]."""
        query = self.query(tokens).unflatten(-1, (self.heads, -1))
        packed = self.key_value(other).unflatten(-1, (2, self.heads, -1))
        _rotate(query, table.rotation[:, None])
        key, value = packed.unbind(2)
        _rotate(key, other_table.rotation[:, None])
        return self.proj(_attend(query, key, value))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of [batch, tokens, heads, head_dim], with joined heads."""
    return functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    ).transpose(1, 2).flatten(2)


def _rotate(tokens: Tensor, rotation: Tensor) -> None:
    """Rotate queries or keys [..., head_dim] in place; the channels of a pair are adjacent."""
    torch.view_as_complex(tokens.unflatten(-1, (-1, 2))).mul_(rotation)


def _adjacent(linear: nn.Linear, heads: int) -> nn.Linear:
    """Return a projection to queries or keys with the channels of each pair adjacent.

    Queries and keys must have the same order; their products then do not change.
    """
    order = torch.arange(linear.out_features).view(heads, 2, 2, -1)  # head, axis, pair, channel
    order = order.transpose(2, 3).flatten()
    return _linear(linear.weight[order], linear.bias[order])


def _parts(linear: nn.Linear, count: int) -> list[nn.Linear]:
    """Return a linear layer's outputs as `count` layers."""
    return [_linear(weight, bias) for weight, bias in
            zip(linear.weight.chunk(count), linear.bias.chunk(count), strict=True)]


def _stacked(*linears: nn.Linear) -> nn.Linear:
    """Return one layer with the outputs of several, one after the other."""
    return _linear(torch.cat([linear.weight for linear in linears]),
                   torch.cat([linear.bias for linear in linears]))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(*weight.shape[::-1], device='meta')
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
