# SPDX-License-Identifier: Apache-2.0
"""Training of Spann3R: implements `networks.trainable.Trainable`."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from spann3r_ros.networks.trainable import freeze_parts

from . import checkpoint
from .checkpoint import load_model, read_history, save_model
from .config import Spann3RConfig
from .spann3r import Spann3R
from .unroll import unroll

__all__ = ['PARTS', 'build', 'copy_weights', 'default_sizes', 'freeze', 'initialise', 'load_model',
           'read_history', 'read_sizes', 'save_model', 'sizes_from_dict', 'split_parameters',
           'takes_weights', 'unroll']

PARTS = {
    'encoder': ('dust3r.patch_embed.', 'dust3r.enc_'),
    'decoders': ('dust3r.decoder_embed.', 'dust3r.dec_'),
    'heads': ('dust3r.downstream_head',),
    'value_encoder': ('value_', 'pos_patch_embed.'),
    'memory_attention': ('attn_head_', 'norm_'),
}
# What may differ in a network that begins with the weights of another one.
IMAGES = ('image_height', 'image_width', 'learned_positions', 'other_sizes')
DEPTHS = ('encoder_depth', 'decoder_depth', 'value_depth')
# The layers whose outputs a block adds to its input.
BLOCK_OUTPUTS = ('attn.proj', 'mlp.fc2')
# In the official checkpoint because of the encoder's pre-training.
UNREACHED = ('dust3r.mask_token',)


def default_sizes() -> Spann3RConfig:
    """Return the sizes of the bundled network."""
    return Spann3RConfig(
        image_height=96, image_width=96, patch_size=12, encoder_width=192, encoder_depth=4,
        encoder_heads=4, decoder_width=192, decoder_depth=3, decoder_heads=4, value_depth=2,
        value_heads=4, head='linear', learned_positions=True)


def sizes_from_dict(values: Mapping[str, Any]) -> Spann3RConfig:
    """Build sizes from plain values, the rest as in the official checkpoint."""
    return Spann3RConfig.from_dict(dict(values))


def read_sizes(path: Path) -> Spann3RConfig:
    """Return the sizes of a checkpoint's network; CheckpointError for a bad file."""
    return checkpoint.read_checkpoint(path)[0]


def build(sizes: Spann3RConfig) -> Spann3R:
    """Return a network of these sizes; its weights wait for `initialise` or for a state."""
    return Spann3R(sizes)


def initialise(model: Spann3R) -> None:
    """Draw small initial weights: Xavier for matrices, tiny for outputs and positions."""
    if model.config.learned_positions:
        nn.init.normal_(model.dust3r.enc_pos_embed, std=0.02)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith(('downstream_head1.proj', 'downstream_head2.proj')):
                module.weight.data.mul_(0.1)


def takes_weights(sizes: Spann3RConfig, source: Spann3RConfig) -> bool:
    """Return whether a network of these sizes can begin with the weights of another one.

    Its images may have another size. It may have more blocks, with the dense head no more in the
    decoders, from whose outputs this head takes some by their place.
    """
    deeper = all(getattr(sizes, name) >= getattr(source, name) for name in DEPTHS) and (
        sizes.head == 'linear' or sizes.decoder_depth == source.decoder_depth)
    same = {name: getattr(sizes, name) for name in (*IMAGES, *DEPTHS)}
    return deeper and replace(source, **same) == sizes


def copy_weights(model: Spann3R, source: Spann3R) -> None:
    """Give a network with initial weights those of another one, as `takes_weights` allows it.

    Further blocks change nothing at first: what they add to their input is 0. Positions are copied
    only to a network with learned positions of as many tokens. ValueError for other sizes.
    """
    if not takes_weights(model.config, source.config):
        raise ValueError(f'expected {model.config} but for the image size, the positions and '
                         f'fewer blocks, got {source.config}')
    weights = source.state_dict()
    positions = weights.pop('dust3r.enc_pos_embed', None)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    own = getattr(model.dust3r, 'enc_pos_embed', None)
    if own is not None:
        if positions is None or positions.shape != own.shape:
            raise ValueError('learned_positions: expected those of as many tokens, got '
                             f'{None if positions is None else tuple(positions.shape)}')
        own.data.copy_(positions)
    parameters = dict(model.named_parameters())
    for name in missing:
        if name.rpartition('.')[0].endswith(BLOCK_OUTPUTS):
            nn.init.zeros_(parameters[name])


def freeze(model: Spann3R, parts: tuple[str, ...]) -> None:
    """Exclude parts of the network from training; ValueError for an unknown part."""
    freeze_parts(model, parts, PARTS, UNREACHED)


def split_parameters(model: Spann3R) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return (hidden matrices, all other parameters) of what is trained; heads are no matrices."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, item in model.named_parameters():
        if item.requires_grad:
            matrix = item.ndim == 2 and 'downstream_head' not in name
            (hidden if matrix else rest).append(item)
    return hidden, rest
