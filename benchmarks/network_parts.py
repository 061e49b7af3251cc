# SPDX-License-Identifier: Apache-2.0
"""The parts that make up a step of the network: their time, operations and weights."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from plain_schedule import PlainSchedule
from stopwatch import Stopwatch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from spann3r_ros.model.config import MemoryConfig
from spann3r_ros.model.spann3r import Spann3R


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


def count_operations(model: Spann3R, image: Tensor) -> dict[str, float]:
    """Return the operations (two per multiplication) of each component but the memory read."""
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
    model.step(state, image, provisional=True)
    del counted['memory read']  # nothing is in memory yet
    return dict(counted)


def weight_bytes(model: Spann3R) -> dict[str, int]:
    """Return the bytes of weights that each component reads."""
    def total(*modules: torch.nn.Module) -> int:
        return sum(item.nbytes for module in modules for item in module.parameters())

    net = model.dust3r
    return {'image encoder': total(net.patch_embed, net.enc_blocks),
            'decoders': total(net.decoder_embed, net.dec_blocks, net.dec_blocks2),
            'refined head': total(net.downstream_head1),
            'provisional head': total(net.downstream_head2),
            'key and query': total(model.attn_head_1, model.attn_head_2),
            'value encoder': total(model.value_encoder, model.value_out, model.pos_patch_embed)}
