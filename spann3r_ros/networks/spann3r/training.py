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

__all__ = ['PARTS', 'build', 'copy_weights', 'default_sizes', 'differ_in_images_only', 'freeze',
           'initialise', 'load_model', 'read_history', 'read_sizes', 'save_model',
           'sizes_from_dict', 'split_parameters', 'unroll']

PARTS = {
    'encoder': ('dust3r.patch_embed.', 'dust3r.enc_'),
    'decoders': ('dust3r.decoder_embed.', 'dust3r.dec_'),
    'heads': ('dust3r.downstream_head',),
    'value_encoder': ('value_', 'pos_patch_embed.'),
    'memory_attention': ('attn_head_', 'norm_'),
}
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


def differ_in_images_only(one: Spann3RConfig, other: Spann3RConfig) -> bool:
    """Return whether sizes are equal but for those of the images, and learned positions."""
    images = {name: getattr(one, name) for name in (
        'image_height', 'image_width', 'learned_positions', 'other_sizes')}
    return replace(other, **images) == one


def copy_weights(model: Spann3R, source: Spann3R) -> None:
    """Give a network the weights of another one, whose images may have another size.

    Positions are copied only to a network with learned positions of as many tokens. ValueError for
    a network that differs in other sizes.
    """
    if not differ_in_images_only(model.config, source.config):
        raise ValueError(f'expected {model.config} but for the image size and the positions, got '
                         f'{source.config}')
    weights = source.state_dict()
    positions = weights.pop('dust3r.enc_pos_embed', None)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    own = getattr(model.dust3r, 'enc_pos_embed', None)
    if missing and (positions is None or positions.shape != own.shape):
        raise ValueError('learned_positions: expected those of as many tokens, got '
                         f'{None if positions is None else tuple(positions.shape)}')
    if missing:
        own.data.copy_(positions)


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
