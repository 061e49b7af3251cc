# SPDX-License-Identifier: Apache-2.0
"""Which weights are trained, and by what."""
from __future__ import annotations

from typing import Any

from torch import nn, optim

from spann3r_ros.networks.spann3r.spann3r import Spann3R

from .muon import Muon
from .training_config import TrainingConfig

BETAS = (0.9, 0.95)
# What `frozen` may name, and how the keys of its weights begin.
PARTS = {
    'encoder': ('dust3r.patch_embed.', 'dust3r.enc_'),
    'decoders': ('dust3r.decoder_embed.', 'dust3r.dec_'),
    'heads': ('dust3r.downstream_head',),
    'value_encoder': ('value_', 'pos_patch_embed.'),
    'memory_attention': ('attn_head_', 'norm_'),
}


def freeze(model: Spann3R, parts: tuple[str, ...]) -> None:
    """Keep the weights of parts of a network as they are; ValueError for an unknown part."""
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f'frozen: expected parts of {sorted(PARTS)}, got {unknown[0]!r}')
    prefixes = tuple(prefix for part in parts for prefix in PARTS[part])
    for name, parameter in model.named_parameters():
        # No loss reaches it: the official checkpoint has it from another training.
        if name.startswith(prefixes) or name == 'dust3r.mask_token':
            parameter.requires_grad_(False)
    if not any(item.requires_grad for item in model.parameters()):
        raise ValueError('frozen: expected something left to train, got every part')


def build_optimisers(model: Spann3R, config: TrainingConfig,
                     share: tuple[int, int]) -> tuple[optim.Optimizer, ...]:
    """Return the optimisers of what is not frozen, their learning rate in `peak_lr`.

    `muon` is Muon for hidden matrices and AdamW without decay for the rest; `adamw` decays what
    has two dimensions or more, as the paper does. `share` is this process among all, for Muon.
    """
    hidden, rest = split_parameters(model)
    made: list[optim.Optimizer] = []
    if config.optimiser == 'adamw':
        every = [*hidden, *rest]
        hidden = []
        rest = [{'params': [item for item in every if item.ndim > 1],
                 'weight_decay': config.weight_decay},
                {'params': [item for item in every if item.ndim <= 1]}]
    if hidden:
        made.append(Muon(hidden, lr=config.muon_lr, weight_decay=config.weight_decay,
                         share=share))
    if rest:
        made.append(optim.AdamW(rest, lr=config.adam_lr, betas=BETAS, weight_decay=0.0))
    for optimiser in made:
        for group in optimiser.param_groups:
            group['peak_lr'] = group['lr']
    return tuple(made)


def restore(optimiser: optim.Optimizer, values: dict[str, Any]) -> None:
    """Load an optimiser's momenta, but keep the rates that it was built with."""
    built = [{name: value for name, value in group.items() if name != 'params'}
             for group in optimiser.param_groups]
    optimiser.load_state_dict(values)
    for group, kept in zip(optimiser.param_groups, built, strict=True):
        group.update(kept)


def split_parameters(model: Spann3R) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return (hidden matrices, everything else) of what is trained in a network."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, item in model.named_parameters():
        if item.requires_grad:
            matrix = item.ndim == 2 and 'downstream_head' not in name
            (hidden if matrix else rest).append(item)
    return hidden, rest
