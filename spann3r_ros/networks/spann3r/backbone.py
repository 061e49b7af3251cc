# SPDX-License-Identifier: Apache-2.0
"""Image encoder and the two intertwined decoders."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from spann3r_ros.networks.blocks.heads import build_head
from spann3r_ros.networks.blocks.layers import BLOCK_EPS, DecoderBlock, EncoderBlock, PatchEmbed
from spann3r_ros.networks.blocks.precision import to_float32
from spann3r_ros.networks.blocks.rope import RotaryTable, rotary_table

from .config import Spann3RConfig


class Backbone(nn.Module):
    """Two-view network: shared image encoder, a reference and a target decoder, two heads.

    Attribute names are the keys of the official checkpoint.
    """

    def __init__(self, config: Spann3RConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = config.encoder_width, config.decoder_width
        # Not used by this network; the official checkpoint contains it.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder))
        self.patch_embed = PatchEmbed(config.patch_size, encoder)
        if config.learned_positions:
            rows, columns = config.grid(config.image_height, config.image_width)
            self.enc_pos_embed = nn.Parameter(torch.zeros(1, rows * columns, encoder))
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(encoder, config.encoder_heads, config.mlp_ratio)
            for _ in range(config.encoder_depth))
        self.enc_norm = nn.LayerNorm(encoder, eps=BLOCK_EPS)
        self.decoder_embed = nn.Linear(encoder, decoder)
        self.dec_blocks = self._decoder()
        self.dec_blocks2 = self._decoder()
        self.dec_norm = nn.LayerNorm(decoder, eps=BLOCK_EPS)
        self.downstream_head1 = build_head(config)
        self.downstream_head2 = build_head(config)

    def _decoder(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            DecoderBlock(config.decoder_width, config.decoder_heads, config.mlp_ratio)
            for _ in range(config.decoder_depth))

    def _table(self, grid: tuple[int, int], width: int, heads: int,
               tokens: Tensor) -> RotaryTable:
        return rotary_table(*grid, width // heads, self.config.rope_base, str(tokens.device),
                            tokens.dtype)

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [batch, 3, height, width] in [-1, 1] to [batch, tokens, width]."""
        config = self.config
        grid = config.grid(*images.shape[-2:])
        # The residual stream stays float32, also where the blocks compute in bfloat16.
        tokens = to_float32(self.patch_embed(images))
        if config.learned_positions:
            if tokens.shape[1] != self.enc_pos_embed.shape[1]:
                raise ValueError(
                    f'images: expected {config.image_height}x{config.image_width} for learned '
                    f'positions, got {images.shape[-2]}x{images.shape[-1]}')
            tokens = tokens + self.enc_pos_embed
        table = self._table(grid, config.encoder_width, config.encoder_heads, tokens)
        for block in self.enc_blocks:
            tokens = block(tokens, table)
        return self.enc_norm(tokens)

    def decode(self, reference: Tensor, target: Tensor, grid: tuple[int, int],
               target_grid: tuple[int, int] | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Decode two views jointly and return each view's outputs, decoder_depth + 1 of them.

        Entry 0 is the view's input [batch, tokens, encoder_width]; the last entry is normalised.
        """
        config = self.config
        left = to_float32(self.decoder_embed(reference))
        right = to_float32(self.decoder_embed(target))
        shape = (config.decoder_width, config.decoder_heads)
        table = self._table(grid, *shape, left)
        other = self._table(target_grid or grid, *shape, right)
        outputs, target_outputs = [reference], [target]
        for block, target_block in zip(self.dec_blocks, self.dec_blocks2, strict=True):
            # Both decoders attend to the other one's previous layer.
            left, right = (block(left, right, table, other),
                           target_block(right, left, other, table))
            outputs.append(left)
            target_outputs.append(right)
        outputs[-1] = self.dec_norm(left)
        target_outputs[-1] = self.dec_norm(right)
        return outputs, target_outputs
