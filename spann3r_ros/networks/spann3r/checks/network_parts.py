# SPDX-License-Identifier: Apache-2.0
"""The parts that make up a step of the network: their time, operations and weights."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from spann3r_ros.networks.blocks import layers
from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.networks.stopwatch import Stopwatch

from .plain_schedule import PlainSchedule, plain_attention


def parts(model: Spann3R, reader: Spann3R | PlainSchedule) -> dict[str, list[tuple[object, str]]]:
    """Return the methods that make up a step, by the name of the component."""
    return {'image encoder': [(model.dust3r, 'encode')], 'memory read': [(reader, 'fuse')],
            'decoders': [(model.dust3r, 'decode')],
            'refined head': [(model, 'predict_reference')],
            'provisional head': [(model, 'predict_target')],
            'key and query': [(model, 'key'), (model, 'query')],
            'value encoder': [(model, 'encode_value')]}


def time_parts(model: Spann3R, reader: Spann3R | PlainSchedule, watch: Stopwatch) -> None:
    """Let a stopwatch count what the parts of a model take."""
    def clocked(method: Callable, name: str) -> Callable:
        def timed(*arguments: object) -> object:
            began = watch.mark()
            result = method(*arguments)
            watch.lap(name, began)
            return result
        return timed

    for name, methods in parts(model, reader).items():
        for owner, method in methods:
            setattr(owner, method, clocked(getattr(owner, method), name))


# The bytes of a number; what dense heads and memory reads compute in where that is another kind.
BYTES = {'fp32': 4, 'tf32': 4, 'bf16': 2, 'int8': 1}
HEADS = {('cpu', 'int8'): 'bf16', ('cuda', 'bf16'): 'tf32'}
READS = {('cpu', 'int8'): 'fp32', ('cpu', 'bf16'): 'fp32', ('cuda', 'bf16'): 'tf32'}


def count_operations(model: Spann3R, image: Tensor, tokens: int) -> dict[str, float]:
    """Return the operations (two per multiplication) of each component of a step.

    The memory holds `tokens`.
    """
    counted: dict[str, float] = defaultdict(float)

    def counting(method: Callable, part: str) -> Callable:
        def run(*arguments: object) -> object:
            with FlopCounterMode(display=False) as counter:
                result = method(*arguments)
            counted[part] += counter.get_total_flops()
            return result
        return run

    state = model.start(*image.shape[-2:], MemoryConfig())
    model.step(state, image)
    for part, methods in parts(model, model).items():
        for owner, method in methods:
            setattr(owner, method, counting(getattr(owner, method), part))
    # What is fused is not counted.
    with mock.patch.object(layers, 'attend', plain_attention):
        model.step(state, image, provisional=True)
    queries = state.memory.tokens_per_frame
    counted['memory read'] = 4.0 * queries * tokens * model.config.encoder_width
    return dict(counted)


def limits(operations: dict[str, float], numbers: dict[str, int], kind: str,
           rates: dict[str, float], device: str) -> dict[str, float]:
    """Return the least seconds of each component: of its operations, or of reading its numbers.

    `numbers` counts the weights, and for the memory read keys and values.
    """
    def least(part: str) -> float:
        others = HEADS if part.endswith('head') else READS if part == 'memory read' else {}
        narrow = others.get((device, kind), kind)
        return max(operations[part] / rates[narrow],
                   numbers[part] * BYTES[narrow] / rates['bytes'])
    return {part: least(part) for part in operations}


def count_numbers(model: Spann3R, tokens: int) -> dict[str, int]:
    """Return how many weights each component reads, and numbers of a memory of `tokens`."""
    def total(*modules: torch.nn.Module) -> int:
        return sum(item.numel() for module in modules for item in module.parameters())

    net = model.dust3r
    return {'image encoder': total(net.patch_embed, net.enc_blocks),
            'memory read': 2 * tokens * model.config.encoder_width,
            'decoders': total(net.decoder_embed, net.dec_blocks, net.dec_blocks2),
            'refined head': total(net.downstream_head1),
            'provisional head': total(net.downstream_head2),
            'key and query': total(model.attn_head_1, model.attn_head_2),
            'value encoder': total(model.value_encoder, model.value_out, model.pos_patch_embed)}
