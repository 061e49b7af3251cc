# SPDX-License-Identifier: Apache-2.0
"""The network laid out for inference: on a CPU fewer and larger products, weights packed once."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .heads import DptHead, DptNet
from .layers import CrossAttention, SelfAttention
from .rope import RotaryTable
from .spann3r import Spann3R

PRECISIONS = ('fp32', 'tf32', 'bf16', 'int8')
# Heads and norms stay in float32.
HALVED = ('dust3r.patch_embed', 'dust3r.enc_blocks', 'dust3r.decoder_embed', 'dust3r.dec_blocks',
          'value_encoder', 'value_out', 'pos_patch_embed', 'attn_head_')
# Smaller weights stay in the caches, and packing them gains nothing.
LEAST_PACKED = 2**20
LinearMaker = Callable[[nn.Linear], nn.Module]


def prepare(model: Spann3R, precision: str = 'fp32', lay_out: bool = True) -> Spann3R:
    """Lay out a network in float32 for inference, in place, and return it.

    It cannot be trained or saved afterwards. With 'fp32' results change by rounding only. With
    'bf16' blocks and projections compute in bfloat16, memory reads and heads in float32, on CUDA
    as with 'tf32'. That is for CUDA: float32 whose products round their factors to 10 bits. There
    every precision sets for the whole process whether products do. With 'int8', for CPUs, the
    linear layers multiply in 8 bits: weights are rounded per output, inputs per token; where the
    CPU multiplies bfloat16, the convolutions of dense heads do so. Without
    `lay_out` a CPU runs float32 by the modules as they are, which `compile_blocks` needs. Raises
    ValueError for another network or precision, for one that is not for its device, and for int8
    where a CPU gets it wrong.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision: expected one of {PRECISIONS}, got {precision!r}')
    weight = model.norm_k.weight
    if weight.dtype != torch.float32:
        raise ValueError(f'model: expected float32, got {weight.dtype} on {weight.device}')
    check_precision(precision, weight.device)
    model.eval().requires_grad_(False)
    # Convolutions run faster over channels that lie together.
    model.to(memory_format=torch.channels_last)
    if weight.device.type == 'cuda':
        torch.set_float32_matmul_precision('highest' if precision == 'fp32' else 'high')
        torch.backends.cudnn.allow_tf32 = precision != 'fp32'
    if precision == 'bf16':
        return _halve(model)
    return _lay_out(model, precision) if lay_out and weight.device.type == 'cpu' else model


def compile_blocks(model: Spann3R, backend: str = 'inductor') -> Spann3R:
    """Have encoder and decoders compiled at their first use, in place, and return the network.

    What cannot be compiled runs as it is, with a warning. Fusion only: graphs recorded by CUDA
    would overwrite the outputs that live from step to step.
    """
    torch._dynamo.config.suppress_errors = True
    for owner, name in ((model.dust3r, 'encode'), (model.dust3r, 'decode'),
                        (model, 'encode_value')):
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False, backend=backend))
    return model


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError for a precision that a device does not compute in."""
    for name, kind in (('int8', 'cpu'), ('tf32', 'cuda')):
        if precision == name and device.type != kind:
            raise ValueError(f'precision: {name} is for {kind.upper()}, the device is {device}')
    if precision == 'int8' and not multiplies_in_eight_bits():
        raise ValueError('precision: this CPU multiplies wrongly in 8 bits')


def _halve(model: Spann3R) -> Spann3R:
    for name, module in model.named_modules():
        if name.startswith(HALVED) and isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(torch.bfloat16)
    model.narrow = True
    return model


def _lay_out(model: Spann3R, precision: str) -> Spann3R:
    rows, columns = model.config.grid(model.config.image_height, model.config.image_width)
    # Elsewhere the library that packs is another one, which has not been tried.
    can_pack = torch.backends.cpu.get_cpu_capability().startswith('AVX')

    def make(linear: nn.Linear) -> nn.Module:
        if precision == 'int8':
            return EightBitLinear(linear)
        if can_pack and linear.weight.numel() >= LEAST_PACKED:
            return PackedLinear(linear, rows * columns)
        return linear

    _replace(model, make)
    if precision == 'int8' and computes_in_bfloat16():
        for head in (model.dust3r.downstream_head1, model.dust3r.downstream_head2):
            if isinstance(head, DptHead):
                head.dpt = HalfDptNet(head.dpt)
    return model


def computes_in_bfloat16() -> bool:
    """Return whether this CPU has instructions for products of bfloat16."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def multiplies_in_eight_bits() -> bool:
    """Return whether products of 8-bit integers come out right: old CPUs cut them at 16 bits."""
    most = torch.full((4, 4), 127, dtype=torch.int8)
    return bool((torch._int_mm(most, most) == 4 * 127**2).all())


def _replace(module: nn.Module, make: LinearMaker) -> None:
    kinds = {SelfAttention: InferenceSelfAttention, CrossAttention: InferenceCrossAttention}
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, make(child))
        elif type(child) in kinds:
            setattr(module, name, kinds[type(child)](child, make))
        else:
            _replace(child, make)


class PackedLinear(nn.Module):
    """A linear layer whose weights lie as the matrix product reads them."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.register_buffer('weight', weight, persistent=False)
        self.bias = linear.bias

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [..., inputs] to [..., outputs]."""
        return torch.ops.mkldnn._linear_pointwise(tokens, self.weight, self.bias, 'none', [], '')


class EightBitLinear(nn.Module):
    """A linear layer that multiplies in 8 bits: weights scaled per output, inputs per token."""

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
        # In the memory of the product: fetching fresh pages takes longer than the arithmetic.
        result = product.view(torch.float32).copy_(product)
        torch.addcmul(self.bias, result.mul_(scale), self.scale, out=result)
        return result.unflatten(0, tokens.shape[:-1])


class HalfDptNet(nn.Module):
    """A convolutional decoder that multiplies in bfloat16, but for its last layer.

    That one would round the points themselves, to steps that show.
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
    """Return what a row of values [rows, n] must be divided by to fit 8 bits, [rows, 1]."""
    return values.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12).div_(127.0)


class InferenceSelfAttention(nn.Module):
    """Multi-head self-attention; queries and keys turn as complex numbers."""

    def __init__(self, attention: SelfAttention, make: LinearMaker) -> None:
        super().__init__()
        self.heads = attention.heads
        query, key, value = _parts(attention.qkv, 3)
        self.qkv = make(_stacked(_paired(query, self.heads), _paired(key, self.heads), value))
        self.proj = make(attention.proj)

    def forward(self, tokens: Tensor, table: RotaryTable | None) -> Tensor:
        """Let tokens [batch, tokens, width] attend to each other."""
        packed = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        if table is not None:
            _turn(packed[:, :, :2], table.turn[:, None, None])
        return self.proj(_attend(*packed.unbind(2)))


class InferenceCrossAttention(nn.Module):
    """Multi-head attention from one view's tokens to the other view's."""

    def __init__(self, attention: CrossAttention, make: LinearMaker) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query = make(_paired(attention.projq, self.heads))
        self.key_value = make(_stacked(_paired(attention.projk, self.heads), attention.projv))
        self.proj = make(attention.proj)

    def forward(self, tokens: Tensor, other: Tensor, table: RotaryTable,
                other_table: RotaryTable) -> Tensor:
        """Let tokens [batch, tokens, width] attend to `other` [batch, others, width]."""
        query = self.query(tokens).unflatten(-1, (self.heads, -1))
        packed = self.key_value(other).unflatten(-1, (2, self.heads, -1))
        _turn(query, table.turn[:, None])
        key, value = packed.unbind(2)
        _turn(key, other_table.turn[:, None])
        return self.proj(_attend(query, key, value))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of [batch, tokens, heads, head_dim]; heads are joined."""
    return functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    ).transpose(1, 2).flatten(2)


def _turn(tokens: Tensor, turn: Tensor) -> None:
    """Rotate queries or keys [..., head_dim] in place; channels that pair lie side by side."""
    torch.view_as_complex(tokens.unflatten(-1, (-1, 2))).mul_(turn)


def _paired(linear: nn.Linear, heads: int) -> nn.Linear:
    """Return a projection to queries or keys with the channels that pair side by side.

    Both must be ordered alike: then their products stay what they were.
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
