# SPDX-License-Identifier: Apache-2.0
"""Spatial memory: keys encode the appearance of past frames, values also their geometry.

Working and long-term memory share one token list, as in the reference implementation: two
counters hold how many of its tokens count as which (paper, section 3.3).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .config import MemoryConfig

# The newest frames, this many beyond the working frames, are protected from a prune.
PROTECTED_EXTRA_FRAMES = 5
STORES = ('raw_keys', 'keys', 'values', 'count', 'mass')
COUNTERS = ('tokens', 'working_frames', 'long_term_tokens', 'prunings', 'rejected_frames')
# Queries of one chunk of a read: fewer make matrix products slow, more take memory.
READ_CHUNK = 256


@dataclass(frozen=True)
class MemoryEntry:
    """One frame's tokens [batch, tokens, width]: raw key, normalised key, normalised value."""

    raw_key: Tensor
    key: Tensor
    value: Tensor


class Memory(Protocol):
    """The memory of a sequence, as the streaming step uses it."""

    def read(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return the readout of normalised queries [batch, queries, width], and the attention."""

    def admits(self, raw_key: Tensor) -> bool:
        """Return whether a frame with this key [batch, tokens, width] is to be stored."""

    def write(self, attention: Tensor | None, entry: MemoryEntry | None) -> None:
        """Add up a read's attention and store a frame; None: the frame was not admitted."""


def attend_memory(query: Tensor, key: Tensor, value: Tensor,
                  threshold: float) -> tuple[Tensor, Tensor]:
    """Return readout [..., queries, width] and attention [..., queries, tokens] (paper, Eq. 8-9).

    Weights below `threshold` are set to zero and the rest renormalised. A row without any weight
    above it stays unchanged; the reference implementation divides zero by zero there.
    """
    attention = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1)
    if threshold > 0.0:
        kept = attention.masked_fill(attention < threshold, 0.0)
        total = kept.sum(dim=-1, keepdim=True)
        attention = torch.where(total > 0.0, kept / total, attention)
    return attention @ value, attention


def read_memory(query: Tensor, key: Tensor, value: Tensor, threshold: float,
                valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return readout [queries, width] and attention per token [tokens], as `attend_memory` does.

    Only tokens where `valid`, bool [tokens], is set are read (None: all); there must be one. It
    has no gradients: it computes the weights of `READ_CHUNK` queries at a time, in place.
    """
    query = query / math.sqrt(query.shape[-1])
    readout, received = torch.empty_like(query), torch.zeros_like(key[:, 0])
    for queries, output in zip(query.split(READ_CHUNK), readout.split(READ_CHUNK), strict=True):
        weights = queries @ key.mT
        if valid is not None:
            weights.masked_fill_(~valid, -math.inf)
        weights.sub_(weights.amax(dim=-1, keepdim=True)).exp_()
        if threshold > 0.0:
            least = weights.sum(dim=-1, keepdim=True).mul_(threshold)
            # The largest weight is 1; where even this one is below the threshold, all are kept.
            weights.masked_fill_(weights < least.masked_fill_(least > 1.0, 0.0), 0.0)
        share = weights.sum(dim=-1).reciprocal_()
        torch.mm(weights, value, out=output).mul_(share[:, None])
        received.addmv_(weights.mT, share)
    return readout, received


def prune_order(count: Tensor, mass: Tensor, keep: int, working_frames: int) -> Tensor:
    """Return the indices of the `keep` tokens that survive a prune, best first.

    The score of a token is the attention it received per frame inserted after it. Tokens of the
    newest frames, which few frames have read, are always kept.
    """
    score = mass / count
    score = score.masked_fill(count < working_frames + PROTECTED_EXTRA_FRAMES, 1e8)
    return score.topk(keep).indices


def check_budget(config: MemoryConfig, tokens_per_frame: int) -> None:
    """Raise ValueError for a long-term memory smaller than the working frames."""
    least = config.working_frames * tokens_per_frame
    if 0 < config.long_term_tokens < least:
        raise ValueError(f'long_term_tokens: expected 0 or at least {least}, the tokens of '
                         f'{config.working_frames} working frames, got {config.long_term_tokens}')


class SpatialMemory:
    """Token store of fixed capacity for one image sequence.

    Reading is pure; `write` is the only method that changes anything.
    """

    def __init__(self, config: MemoryConfig, tokens_per_frame: int, width: int,
                 device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32) -> None:
        check_budget(config, tokens_per_frame)
        self.config = config
        self.tokens_per_frame = tokens_per_frame
        self.capacity = config.capacity(tokens_per_frame)
        self._raw_keys, self._keys, self._values = torch.zeros(
            3, self.capacity, width, device=device, dtype=dtype)
        self._count, self._mass = torch.zeros(2, self.capacity, device=device)
        self.tokens = 0
        self.working_frames = 0
        self.long_term_tokens = 0
        self.prunings = 0
        self.rejected_frames = 0

    @property
    def raw_keys(self) -> Tensor:
        """Return the keys as they were written [tokens, width]."""
        return self._raw_keys[:self.tokens]

    @property
    def values(self) -> Tensor:
        """Return the normalised values [tokens, width]."""
        return self._values[:self.tokens]

    @property
    def count(self) -> Tensor:
        """Return how many frames were inserted after each token [tokens]."""
        return self._count[:self.tokens]

    @property
    def mass(self) -> Tensor:
        """Return the attention each token has received [tokens]."""
        return self._mass[:self.tokens]

    @property
    def device_bytes(self) -> int:
        """Return the bytes of the stores, which are allocated once."""
        held = (self._raw_keys, self._keys, self._values, self._count, self._mass)
        return sum(item.nbytes for item in held)

    def read(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return the readout of normalised queries [1, queries, width], attention per token.

        There must be a token in memory.
        """
        readout, attention = read_memory(query.flatten(0, -2), self._keys[:self.tokens],
                                         self.values, self.config.attention_threshold)
        return readout.view_as(query), attention

    def similarity(self, raw_key: Tensor) -> float:
        """Return the largest mean cosine between a key and the working frames, patch by patch.

        Minus infinity for an empty memory. The working frames are the last tokens of the list;
        right after a prune, which sorts the list by score, these are the least attended tokens,
        as in the reference implementation.
        """
        if self.tokens == 0:
            return -math.inf
        span = self.working_frames * self.tokens_per_frame
        recent = self.raw_keys[-span:].unflatten(0, (self.working_frames, -1))
        cosine = functional.cosine_similarity(recent, raw_key, dim=-1, eps=1e-12)
        return float(cosine.mean(dim=-1).max())  # [working_frames, tokens] -> scalar

    def admits(self, raw_key: Tensor) -> bool:
        """Return whether a frame differs enough from the working frames to be stored."""
        threshold = self.config.similarity_threshold
        return threshold == 1.0 or self.similarity(raw_key) <= threshold

    def write(self, attention: Tensor | None, entry: MemoryEntry | None) -> None:
        """Add up a read's attention per token and store a frame; None: it was not admitted."""
        if attention is not None:
            self.mass.add_(attention)
        if entry is None:
            self.rejected_frames += 1
            return
        self._append(entry)
        self.working_frames += 1
        if self.working_frames > self.config.working_frames:
            self.working_frames = self.config.working_frames
            if self.config.long_term_tokens == 0:
                self._keep(torch.arange(self.tokens_per_frame, self.tokens,
                                        device=self._keys.device))
            else:
                self.long_term_tokens += self.tokens_per_frame
        if self.long_term_tokens > self.config.long_term_tokens:
            self._prune()

    def _append(self, entry: MemoryEntry) -> None:
        self.count.add_(1.0)
        start, end = self.tokens, self.tokens + self.tokens_per_frame
        for store, new in ((self._raw_keys, entry.raw_key), (self._keys, entry.key),
                           (self._values, entry.value), (self._count, 0.0), (self._mass, 0.0)):
            store[start:end] = new
        self.tokens = end

    def _prune(self) -> None:
        limit, working = self.config.long_term_tokens, self.config.working_frames
        self._keep(prune_order(self.count, self.mass, limit, working))
        self.long_term_tokens = limit - working * self.tokens_per_frame
        self.prunings += 1

    def _keep(self, index: Tensor) -> None:
        stores = (self._raw_keys, self._keys, self._values, self._count, self._mass)
        # All copies are made before any is stored, as device memory may run out in between.
        kept = [store[index] for store in stores]
        for store, rows in zip(stores, kept, strict=True):
            store[:len(index)] = rows
        self.tokens = len(index)

    def arrays(self) -> dict[str, Tensor]:
        """Return the filled part of the stores, and the counters, for `restore`."""
        filled = {name: getattr(self, f'_{name}')[:self.tokens] for name in STORES}
        counters = torch.tensor([getattr(self, name) for name in COUNTERS])
        return {**filled, 'counters': counters}

    def restore(self, arrays: dict[str, Tensor]) -> None:
        """Take over what `arrays` returned; ValueError, without a change, if it does not fit."""
        counters = dict(zip(COUNTERS, arrays['counters'].tolist(), strict=True))
        tokens, working, long_term = (counters[name] for name in COUNTERS[:3])
        if (tokens > self.capacity or min(counters.values()) < 0
                or working > self.config.working_frames
                or tokens != working * self.tokens_per_frame + long_term):
            raise ValueError(f'counters: expected at most {self.capacity} tokens, of at most '
                             f'{self.config.working_frames} working frames of '
                             f'{self.tokens_per_frame} and long-term ones, got {counters}')
        for name in STORES:
            expected = (tokens, *getattr(self, f'_{name}').shape[1:])
            if arrays[name].shape != expected:
                raise ValueError(f'{name}: expected shape {expected}, '
                                 f'got {tuple(arrays[name].shape)}')
        for name in STORES:
            getattr(self, f'_{name}')[:tokens] = arrays[name]
        for name, value in counters.items():
            setattr(self, name, value)
