# SPDX-License-Identifier: Apache-2.0
"""The network laid out for inference: fewer and larger products, on a CPU weights packed once."""
from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from spann3r_ros.networks.blocks.heads import DptHead
from spann3r_ros.networks.blocks.layers import CrossAttention, Mlp, SelfAttention
from spann3r_ros.networks.spann3r.spann3r import Spann3R

from .laid_out import (
    EightBitLinear,
    HalfDptNet,
    InferenceCrossAttention,
    InferenceMlp,
    InferenceSelfAttention,
    LinearMaker,
    PackedLinear,
)

PRECISIONS = ('fp32', 'tf32', 'bf16', 'int8')
# Where nothing is laid out; heads and norms stay in float32.
HALVED = ('dust3r.patch_embed', 'dust3r.enc_blocks', 'dust3r.decoder_embed', 'dust3r.dec_blocks',
          'value_encoder', 'value_out', 'pos_patch_embed', 'attn_head_')
# Smaller weights stay in the caches, and packing them gains nothing.
LEAST_PACKED = 2**20


def prepare(model: Spann3R, precision: str = 'fp32', lay_out: bool = True) -> Spann3R:
    """Lay out a network in float32 for inference, in place, and return it.

    It cannot be trained or saved afterwards. With 'fp32' results change by rounding only. With
    'bf16' blocks and projections compute in bfloat16, memory reads in float32; the convolutions
    of dense heads in bfloat16 on a CPU that has it, else in float32, on CUDA as with 'tf32'. That
    is for CUDA: float32 whose products round their factors to 10 bits, also in memory reads.
    There every precision sets for the whole process whether products do. With 'int8', for CPUs,
    the linear layers multiply in 8 bits: weights are rounded per output, inputs per token; where
    the CPU multiplies bfloat16, the convolutions of dense heads do so. Without `lay_out` the
    modules run as they are, which `compile_blocks` needs. Raises
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
    # Every CPU without bfloat16 emulates the plain product, only some the packed one.
    possible = precision != 'bf16' or (
        weight.device.type == 'cpu' and can_pack(torch.bfloat16) and computes_in_bfloat16())
    if lay_out and possible:
        return _lay_out(model, precision)
    return _halve(model) if precision == 'bf16' else model


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
    rows = math.prod(model.config.grid(model.config.image_height, model.config.image_width))

    def full(linear: nn.Linear) -> nn.Module:
        packs = linear.weight.device.type == 'cpu' and can_pack()
        large = linear.weight.numel() >= LEAST_PACKED
        return PackedLinear(linear, rows) if packs and large else linear

    def narrow(linear: nn.Linear) -> nn.Module:
        if precision == 'int8':
            return EightBitLinear(linear)
        return PackedLinear(linear, rows, torch.bfloat16)

    heads = model.dust3r.downstream_head1, model.dust3r.downstream_head2
    for head in heads:
        # Points that are the outcome of a narrow product would lie on steps that show.
        _replace(head, full)
        if precision == 'bf16' or (precision == 'int8' and computes_in_bfloat16()):
            if isinstance(head, DptHead):
                head.dpt = HalfDptNet(head.dpt)
    _replace(model, narrow if precision in ('bf16', 'int8') else full, done=heads)
    return model


def computes_in_bfloat16() -> bool:
    """Return whether this CPU has instructions for products of bfloat16 that oneDNN may use.

    ONEDNN_MAX_CPU_ISA keeps it from using them.
    """
    return (has_bfloat16(torch.cpu.get_capabilities())
            and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_bfloat16(capabilities: Mapping[str, object]) -> bool:
    """Return whether a CPU of these `torch.cpu.get_capabilities` multiplies bfloat16."""
    return bool(capabilities.get('avx512_bf16') or capabilities.get('amx_bf16'))


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Return whether weights are packed: without AVX another library does, which is untried.

    In bfloat16 oneDNN refuses where there is neither AVX-512 nor AVX-NE-CONVERT.
    """
    return torch.backends.cpu.get_cpu_capability().startswith('AVX') and (
        dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_in_eight_bits() -> bool:
    """Return whether products of 8-bit integers come out right: old CPUs cut them at 16 bits."""
    most = torch.full((4, 4), 127, dtype=torch.int8)
    return bool((torch._int_mm(most, most) == 4 * 127**2).all())


def _replace(module: nn.Module, make: LinearMaker, done: tuple[nn.Module, ...] = ()) -> None:
    """Lay out what is below a module, but for what is done."""
    kinds = {SelfAttention: InferenceSelfAttention, CrossAttention: InferenceCrossAttention,
             Mlp: InferenceMlp}
    for name, child in module.named_children():
        if child in done:
            continue
        if isinstance(child, nn.Linear):
            setattr(module, name, make(child))
        elif type(child) in kinds:
            setattr(module, name, kinds[type(child)](child, make))
        else:
            _replace(child, make, done)
