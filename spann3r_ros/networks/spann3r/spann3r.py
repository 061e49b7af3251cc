# SPDX-License-Identifier: Apache-2.0
"""Spann3R: incremental pointmap regression with a spatial memory (Wang and Agapito, 2024)."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spann3r_ros.networks.blocks.heads import DensePrediction, activate
from spann3r_ros.networks.blocks.layers import BLOCK_EPS, EncoderBlock, PatchEmbed
from spann3r_ros.networks.blocks.precision import full_precision, half_precision, to_float32

from .backbone import Backbone
from .config import MemoryConfig, Spann3RConfig
from .memory import Memory, MemoryEntry, SpatialMemory


class NotFiniteError(ArithmeticError):
    """The network predicted points that are not finite; the sequence is unchanged."""


@dataclass
class StreamState:
    """The state of a sequence between two frames; a new one is a reset.

    `feature` is the newest frame's encoder output, `query` its memory query and `target_tokens`
    its decoder outputs, from which its provisional pointmap can be computed on demand.
    """

    grid: tuple[int, int]
    memory: Memory
    feature: Tensor | None = None
    query: Tensor | None = None
    target_tokens: list[Tensor] | None = None


@dataclass(frozen=True)
class StepOutput:
    """Predictions of one step: refined for the previous frame, provisional for the newest."""

    refined: DensePrediction | None = None
    provisional: DensePrediction | None = None


def _predict(head: nn.Module, tokens: list[Tensor], grid: tuple[int, int]) -> DensePrediction:
    with full_precision(tokens[0].device):
        return activate(head([to_float32(item) for item in tokens], grid))


def _projector(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, inputs), nn.GELU(), nn.Linear(inputs, outputs))


class Spann3R(nn.Module):
    """The network; attribute names are the keys of the official checkpoint."""

    def __init__(self, config: Spann3RConfig) -> None:
        super().__init__()
        self.config = config
        self.identity = ''  # of the weights, see checkpoint.weights_identity
        self.uses_bfloat16 = False  # in blocks and projections, see inference.prepare
        width = config.encoder_width
        self.dust3r = Backbone(config)
        self.value_encoder = nn.ModuleList(
            EncoderBlock(width, config.value_heads, config.mlp_ratio)
            for _ in range(config.value_depth))
        self.value_norm = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.value_out = nn.Linear(width, width)
        self.pos_patch_embed = PatchEmbed(config.patch_size, width)
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(width) for _ in range(3))
        self.attn_head_1 = _projector(width + config.decoder_width, width)
        self.attn_head_2 = _projector(width + config.decoder_width, width)

    def key(self, feature: Tensor, tokens: list[Tensor]) -> Tensor:
        """Return the memory key [batch, tokens, width] of a reference frame."""
        return to_float32(self.attn_head_1(torch.cat((feature, tokens[-1]), dim=-1)))

    def query(self, feature: Tensor, tokens: list[Tensor]) -> Tensor:
        """Return the memory query [batch, tokens, width] of a target frame."""
        return to_float32(self.attn_head_2(torch.cat((feature, tokens[-1]), dim=-1)))

    def encode_value(self, points: Tensor) -> Tensor:
        """Encode a pointmap [batch, height, width, 3] to [batch, tokens, width], without key."""
        tokens = to_float32(self.pos_patch_embed(points.permute(0, 3, 1, 2)))
        for block in self.value_encoder:
            tokens = block(tokens)
        return self.value_out(self.value_norm(tokens))

    def predict_reference(self, tokens: list[Tensor], grid: tuple[int, int]) -> DensePrediction:
        """Return the dense prediction of the reference view."""
        return _predict(self.dust3r.downstream_head1, tokens, grid)

    def predict_target(self, tokens: list[Tensor], grid: tuple[int, int]) -> DensePrediction:
        """Return the dense prediction of the target view."""
        return _predict(self.dust3r.downstream_head2, tokens, grid)

    def arithmetic(self) -> torch.autocast:
        """Return the autocast context of the precision that the network was prepared for."""
        return half_precision(self.norm_k.weight.device, self.uses_bfloat16)

    def start(self, height: int, width: int, memory: MemoryConfig) -> StreamState:
        """Begin a sequence of images of one size with an empty memory."""
        grid = self.config.grid(height, width)
        weight = self.norm_k.weight
        return StreamState(grid, SpatialMemory(memory, grid[0] * grid[1],
                                               self.config.encoder_width, weight.device,
                                               weight.dtype))

    @torch.inference_mode()
    def step(self, state: StreamState, image: Tensor, provisional: bool = False) -> StepOutput:
        """Take the next image [1, 3, height, width] in [-1, 1] and advance the sequence.

        The first image yields nothing. Every later one yields the refined prediction of the
        image before it and, with `provisional`, a provisional prediction of itself. On an error
        the state is unchanged: ValueError for another size, NotFiniteError.
        """
        self._check_image(state, image)
        with self.arithmetic():
            return self._step(state, image, provisional)

    def _step(self, state: StreamState, image: Tensor, provisional: bool) -> StepOutput:
        feature = self.dust3r.encode(image)
        if state.feature is None:
            state.feature = feature
            return StepOutput()

        reference, attention = self.fuse(state)
        pair = self.dust3r.decode(reference, feature, state.grid)
        refined = self.predict_reference(pair[0], state.grid)
        # Stored in memory they would spoil every later frame.
        if not refined.points.isfinite().all():
            raise NotFiniteError('refined points: expected finite numbers')
        preview = self.predict_target(pair[1], state.grid) if provisional else None
        self.advance(state, feature, pair, refined.points, attention)
        return StepOutput(refined, preview)

    def fuse(self, state: StreamState) -> tuple[Tensor, Tensor | None]:
        """Return the newest image's readout plus query [batch, tokens, width], and the attention.

        The first image of a sequence has no query; its feature is returned instead.
        """
        if state.query is None:
            return state.feature, None
        with full_precision(state.query.device):
            readout, attention = state.memory.read(self.norm_q(state.query))
        return readout + state.query, attention

    def advance(self, state: StreamState, feature: Tensor,
                pair: tuple[list[Tensor], list[Tensor]], points: Tensor,
                attention: Tensor | None) -> None:
        """Store the newest image with its points in memory and make `feature` the newest.

        `pair` are the decoder outputs of the two, `attention` is what `fuse` returned.
        """
        entry = self._memory_entry(state, pair[0], points)
        query = self.query(feature, pair[1])
        state.memory.write(attention, entry)
        state.feature, state.query, state.target_tokens = feature, query, pair[1]

    @torch.inference_mode()
    def pair(self, first: Tensor, second: Tensor) -> tuple[DensePrediction, DensePrediction]:
        """Return the predictions of two images [1, 3, height, width] alone, in the first's frame.

        No memory is read: the feature of the first image takes the place of the readout.
        """
        grid = self.config.grid(*first.shape[-2:])
        with self.arithmetic():
            features = [self.dust3r.encode(image) for image in (first, second)]
            tokens = self.dust3r.decode(*features, grid)
            return self.predict_reference(tokens[0], grid), self.predict_target(tokens[1], grid)

    @torch.inference_mode()
    def flush(self, state: StreamState) -> DensePrediction | None:
        """Return the newest image's prediction by the target head; None before two images."""
        if state.target_tokens is None:
            return None
        return self.predict_target(state.target_tokens, state.grid)

    def _check_image(self, state: StreamState, image: Tensor) -> None:
        expected = (1, 3, *(cells * self.config.patch_size for cells in state.grid))
        if image.shape != expected:
            raise ValueError(f'image: expected shape {expected}, got {tuple(image.shape)}')

    def _memory_entry(self, state: StreamState, tokens: list[Tensor],
                      points: Tensor) -> MemoryEntry | None:
        key = self.key(state.feature, tokens)
        # The value costs a tenth of a step, so it is computed only for a frame that is stored.
        if not state.memory.admits(key):
            return None
        value = self.encode_value(points) + key
        return MemoryEntry(key, self.norm_k(key), self.norm_v(value))
