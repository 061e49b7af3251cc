# SPDX-License-Identifier: Apache-2.0
"""The network run as its authors' code runs it: nothing fused, nothing left out, nothing kept.

Both dense heads on every frame, the value of frames that are dropped as well, memory that grows by
concatenation and is normalised anew at every read, explicit softmax attention, 1x1 convolutions
after the upsampling. The results are those of the package to rounding.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from spann3r_ros.networks.blocks import layers
from spann3r_ros.networks.blocks.heads import FusionStage
from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.memory import attend_memory, prune_order
from spann3r_ros.networks.spann3r.spann3r import Spann3R, StepOutput


class PlainSchedule:
    """One image sequence."""

    def __init__(self, model: Spann3R, memory: MemoryConfig) -> None:
        if not memory.long_term_tokens:
            raise ValueError('long_term_tokens: expected some, got 0')
        self._model, self._memory = model, memory
        self._grid = model.config.grid(model.config.image_height, model.config.image_width)
        self._frame_tokens = self._grid[0] * self._grid[1]
        width = model.config.encoder_width
        device = model.norm_k.weight.device
        self.keys, self.values = torch.zeros(2, 0, width, device=device)
        self._count, self._mass = torch.zeros(2, 0, device=device)
        self._working = self._long = 0
        self._feature: Tensor | None = None
        self._query: Tensor | None = None

    @torch.inference_mode()
    def step(self, image: Tensor) -> StepOutput:
        """Take the next image [1, 3, height, width]."""
        model = self._model
        with _plain_layers():
            feature = model.dust3r.encode(image)
            if self._feature is None:
                self._feature = feature
                return StepOutput()
            fused = self.fuse()
            pair = model.dust3r.decode(fused, feature, self._grid)
            refined = model.predict_reference(pair[0], self._grid)
            provisional = model.predict_target(pair[1], self._grid)
            key = model.key(self._feature, pair[0])
            value = model.encode_value(refined.points) + key
            query = model.query(feature, pair[1])
        self._write(key[0], value[0])
        self._feature, self._query = feature, query
        return StepOutput(refined, provisional)

    def fill(self, keys: Tensor, values: Tensor, query: Tensor | None = None) -> None:
        """Begin with keys and values [tokens, width] in long-term memory.

        `query` [1, tokens, width] is that of the newest image; None: it stays as it is.
        """
        self._query = self._query if query is None else query
        self.keys, self.values = keys, values
        self._count, self._mass = torch.ones(2, len(keys), device=keys.device)
        self._long = len(keys)

    def fuse(self) -> Tensor:
        """Return the newest image's memory readout."""
        if self._query is None:
            return self._feature
        model = self._model
        readout, attention = attend_memory(
            model.norm_q(self._query[0]), model.norm_k(self.keys), model.norm_v(self.values),
            self._memory.attention_threshold)
        self._mass = self._mass + attention.sum(dim=0)
        return readout[None] + self._query

    def _write(self, key: Tensor, value: Tensor) -> None:
        if len(self.keys):
            recent = self.keys[-self._working * self._frame_tokens:].unflatten(
                0, (self._working, -1))
            cosine = functional.cosine_similarity(recent, key[None], dim=-1, eps=1e-12)
            threshold = self._memory.similarity_threshold
            if threshold < 1.0 and float(cosine.mean(dim=-1).max()) > threshold:
                return
        fresh = torch.zeros(self._frame_tokens, device=key.device)
        self._count = torch.cat((self._count + 1.0, fresh))
        self._mass = torch.cat((self._mass, fresh))
        self.keys, self.values = torch.cat((self.keys, key)), torch.cat((self.values, value))
        if self._working < self._memory.working_frames:
            self._working += 1
        else:
            self._long += self._frame_tokens
        if self._long > self._memory.long_term_tokens:
            index = prune_order(self._count, self._mass, self._memory.long_term_tokens,
                                self._working)
            self.keys, self.values = self.keys[index], self.values[index]
            self._count, self._mass = self._count[index], self._mass[index]
            self._long = self._memory.long_term_tokens - self._working * self._frame_tokens


@contextmanager
def _plain_layers() -> Iterator[None]:
    with mock.patch.object(layers, 'attend', plain_attention), \
            mock.patch.object(FusionStage, 'forward', _fuse_late):
        yield


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention of [batch, heads, tokens, head_dim], its weights written out."""
    return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1) @ value


def _fuse_late(stage: FusionStage, coarse: Tensor, skip: Tensor | None = None) -> Tensor:
    if skip is not None:
        coarse = coarse + stage.resConfUnit1(skip)
    wide = functional.interpolate(stage.resConfUnit2(coarse), scale_factor=2, mode='bilinear',
                                  align_corners=True)
    return stage.out_conv(wide)
