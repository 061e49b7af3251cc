# SPDX-License-Identifier: Apache-2.0
"""Preparation of a network for inference: fused and packed layers, reduced precision."""
from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from spann3r_ros.networks.blocks.heads import DptHead
from spann3r_ros.networks.blocks.layers import CrossAttention, Mlp, SelfAttention
from spann3r_ros.networks.spann3r.spann3r import Spann3R

from .packed_layers import (
    EightBitLinear,
    HalfDptNet,
    InferenceCrossAttention,
    InferenceMlp,
    InferenceSelfAttention,
    LinearMaker,
    PackedLinear,
)

PRECISIONS = ('fp32', 'tf32', 'bf16', 'int8')
# What computes in bfloat16 where layers are not packed; heads and norms stay in float32.
BFLOAT16_MODULES = ('dust3r.patch_embed', 'dust3r.enc_blocks', 'dust3r.decoder_embed',
                    'dust3r.dec_blocks', 'value_encoder', 'value_out', 'pos_patch_embed',
                    'attn_head_')
# Smaller weight matrices stay in the CPU's caches; packing them gains nothing.
LEAST_PACKED = 2**20


def prepare(model: Spann3R, precision: str = 'fp32', pack: bool = True) -> Spann3R:
    """Prepare a network in float32 for inference, in place, and return it.

    It cannot be trained or saved afterwards. With `pack` the layers are fused and, on a CPU, their
    weights packed; without it the modules stay, which `compile_blocks` needs. The precisions:

    - fp32: results change by rounding only.
    - tf32, for CUDA: products round their factors to 10 bits of mantissa, also in memory reads.
    - bf16: blocks and projections compute in bfloat16, memory reads in float32. The convolutions
      of dense heads compute in bfloat16 on a CPU that supports it, in float32 on other CPUs, and
      as with tf32 on CUDA.
    - int8, for CPUs: linear layers are quantised, weights per output and inputs per token; the
      convolutions of dense heads compute in bfloat16 on a CPU that supports it.

    On CUDA every precision sets for the whole process whether products use TF32. Raises ValueError
    for a network that is not in float32, a precision that is unknown or not for the device, and
    int8 on a CPU whose 8-bit products overflow.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision: expected one of {PRECISIONS}, got {precision!r}')
    weight = model.norm_k.weight
    if weight.dtype != torch.float32:
        raise ValueError(f'model: expected float32, got {weight.dtype} on {weight.device}')
    check_precision(precision, weight.device)
    model.eval().requires_grad_(False)
    # Convolutions run faster with channels last in memory.
    model.to(memory_format=torch.channels_last)
    if weight.device.type == 'cuda':
        torch.set_float32_matmul_precision('highest' if precision == 'fp32' else 'high')
        torch.backends.cudnn.allow_tf32 = precision != 'fp32'
    # Without bfloat16 instructions all CPUs emulate the plain product, not all the packed one.
    can_replace = precision != 'bf16' or (
        weight.device.type == 'cpu' and can_pack(torch.bfloat16) and computes_in_bfloat16())
    if pack and can_replace:
        return _pack(model, precision)
    return _convert_to_bfloat16(model) if precision == 'bf16' else model


def compile_blocks(model: Spann3R, backend: str = 'inductor') -> Spann3R:
    """Have encoder and decoders compiled at their first use, in place, and return the network.

    What cannot be compiled runs normally, with a warning. CUDA graphs of the compiler are not
    used: they would overwrite outputs that are still needed in the next step.
    """
    torch._dynamo.config.suppress_errors = True
    for owner, name in ((model.dust3r, 'encode'), (model.dust3r, 'decode'),
                        (model, 'encode_value')):
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False, backend=backend))
    return model


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError for a precision that a device does not support."""
    for name, kind in (('int8', 'cpu'), ('tf32', 'cuda')):
        if precision == name and device.type != kind:
            raise ValueError(f'precision: {name} is for {kind.upper()}, the device is {device}')
    if precision == 'int8' and not multiplies_in_eight_bits():
        raise ValueError('precision: int8 is not supported, 8-bit products overflow on this CPU')


def _convert_to_bfloat16(model: Spann3R) -> Spann3R:
    for name, module in model.named_modules():
        if name.startswith(BFLOAT16_MODULES) and isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(torch.bfloat16)
    model.uses_bfloat16 = True
    return model


def _pack(model: Spann3R, precision: str) -> Spann3R:
    rows = math.prod(model.config.grid(model.config.image_height, model.config.image_width))

    def float32_layer(linear: nn.Linear) -> nn.Module:
        packs = linear.weight.device.type == 'cpu' and can_pack()
        large = linear.weight.numel() >= LEAST_PACKED
        return PackedLinear(linear, rows) if packs and large else linear

    def reduced_layer(linear: nn.Linear) -> nn.Module:
        if precision == 'int8':
            return EightBitLinear(linear)
        return PackedLinear(linear, rows, torch.bfloat16)

    heads = model.dust3r.downstream_head1, model.dust3r.downstream_head2
    for head in heads:
        # Rounded to bfloat16 or 8 bits, the points themselves would show visible steps.
        _replace(head, float32_layer)
        if precision == 'bf16' or (precision == 'int8' and computes_in_bfloat16()):
            if isinstance(head, DptHead):
                head.dpt = HalfDptNet(head.dpt)
    reduced = precision in ('bf16', 'int8')
    _replace(model, reduced_layer if reduced else float32_layer, done=heads)
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
    """Return whether weights of a type can be packed: by oneDNN on x86; no other is tested.

    oneDNN refuses bfloat16 where there is neither AVX-512 nor AVX-NE-CONVERT.
    """
    return torch.backends.cpu.get_cpu_capability().startswith('AVX') and (
        dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_in_eight_bits() -> bool:
    """Return whether 8-bit products are correct: on old CPUs their 16-bit sums saturate."""
    most = torch.full((4, 4), 127, dtype=torch.int8)
    return bool((torch._int_mm(most, most) == 4 * 127**2).all())


def _replace(module: nn.Module, make: LinearMaker, done: tuple[nn.Module, ...] = ()) -> None:
    """Replace the layers below a module, except those in `done`."""
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
