# SPDX-License-Identifier: Apache-2.0
"""The streaming step without control flow on the host, so that CUDA can record and replay it.

Shapes and addresses are constant and every branch is a selection between two tensors: the host
never waits for the device within a step. The results are those of `Spann3R.step`, on any device.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.memory import (
    COUNTERS,
    STORES,
    MemoryEntry,
    check_budget,
    prune_order,
    read_memory,
)
from spann3r_ros.networks.spann3r.spann3r import Spann3R, StreamState


class StaticMemory:
    """`SpatialMemory` with its counters on the device."""

    def __init__(self, config: MemoryConfig, tokens_per_frame: int, width: int,
                 device: torch.device | str = 'cpu') -> None:
        check_budget(config, tokens_per_frame)
        self.config = config
        self.tokens_per_frame = tokens_per_frame
        self.capacity = config.capacity(tokens_per_frame)
        self._places = torch.arange(self.capacity, device=device)
        self._frame = torch.arange(tokens_per_frame, device=device)
        self._working = torch.arange(config.working_frames, device=device)
        self._raw_keys, self._keys, self._values = torch.zeros(
            3, self.capacity, width, device=device)
        self._count, self._mass = torch.zeros(2, self.capacity, device=device)
        self.counters = torch.zeros(len(COUNTERS), dtype=torch.int64, device=device)

    @property
    def device_bytes(self) -> int:
        """Return the bytes of the stores, which are allocated once."""
        return sum(store.nbytes for store in self._stores)

    def clear(self) -> None:
        """Empty the memory and set its counters to zero."""
        for tensor in (*self._stores, self.counters):
            tensor.zero_()

    def read(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return readout [1, queries, width] and attention [capacity] as `SpatialMemory.read`.

        Both are zero for an empty memory.
        """
        tokens = self.counters[0]
        # At least one token must be valid, else the softmax divides zero by zero.
        valid = self._places < tokens.clamp(min=1)
        readout, attention = read_memory(query.flatten(0, -2), self._keys, self._values,
                                         self.config.attention_threshold, valid)
        empty = tokens == 0
        return readout.masked_fill(empty, 0.0).view_as(query), attention.masked_fill(empty, 0.0)

    def admits(self, _: Tensor) -> bool:
        """Return True: the value of every frame is computed; `write` decides what is stored."""
        return True

    def write(self, attention: Tensor, entry: MemoryEntry) -> None:
        """Add up a read's attention and store a frame, if it differs enough from the others.

        If its value is not finite, nothing changes.
        """
        usable = entry.value.isfinite().all()
        tokens, working, long_term, prunings, rejected = self.counters.unbind()
        admitted = usable & self._admits(entry.raw_key)
        self._mass += attention.masked_fill(~usable, 0.0)
        self._count += admitted & (self._places < tokens)
        places = tokens + self._frame
        zeros = torch.zeros_like(self._frame, dtype=self._count.dtype)
        for store, new in zip(self._stores, (entry.raw_key, entry.key, entry.value, zeros, zeros),
                              strict=True):
            held = store[places]
            store.index_copy_(0, places, torch.where(admitted, new.view_as(held), held))
        tokens = tokens + admitted * self.tokens_per_frame
        working = working + admitted
        leaving = (working > self.config.working_frames) * self.tokens_per_frame
        working = working.clamp(max=self.config.working_frames)
        rejected = rejected + (usable & ~admitted)
        if self.config.long_term_tokens == 0:
            order = (self._places + leaving).clamp(max=self.capacity - 1)
            tokens = tokens - leaving
        else:
            long_term = long_term + leaving
            full = long_term > self.config.long_term_tokens
            order = torch.where(full, self._pruned(tokens), self._places)
            limit = self.config.long_term_tokens
            tokens = tokens.masked_fill(full, limit)
            long_term = long_term.masked_fill(
                full, limit - self.config.working_frames * self.tokens_per_frame)
            prunings = prunings + full
        for store in self._stores:
            store.copy_(store[order])
        self.counters.copy_(torch.stack((tokens, working, long_term, prunings, rejected)))

    def arrays(self) -> dict[str, Tensor]:
        """Return the whole stores and the counters; they are not copies."""
        return dict(zip((*STORES, 'counters'), (*self._stores, self.counters), strict=True))

    @property
    def _stores(self) -> tuple[Tensor, ...]:
        return self._raw_keys, self._keys, self._values, self._count, self._mass

    def _admits(self, raw_key: Tensor) -> Tensor:
        """Return whether a frame differs enough from the working frames, a scalar."""
        tokens, working = self.counters[0], self.counters[1]
        if self.config.similarity_threshold == 1.0:
            return tokens >= 0
        back = (self.config.working_frames - self._working) * self.tokens_per_frame
        places = (tokens - back)[:, None] + self._frame
        cosine = functional.cosine_similarity(self._raw_keys[places.clamp(min=0)], raw_key,
                                              dim=-1, eps=1e-12).mean(dim=-1)
        there = self._working >= self.config.working_frames - working
        similarity = cosine.masked_fill(~there, -math.inf).max()
        return similarity <= self.config.similarity_threshold

    def _pruned(self, tokens: Tensor) -> Tensor:
        """Return the order [capacity] with the tokens that survive a prune at its beginning."""
        # An empty place gets a score below that of any token, and is not protected as new.
        empty = self._places >= tokens
        mass, count = self._mass.masked_fill(empty, -1.0), self._count.masked_fill(empty, 1e9)
        limit = self.config.long_term_tokens
        kept = prune_order(count, mass, limit, self.config.working_frames)
        return torch.cat((kept, self._places[limit:]))


class StaticStream:
    """One sequence of images of one size; its inputs and outputs are buffers.

    `image` uint8 [height, width, 3] is the input. `refined` and `provisional` [height, width, 4]
    are the outputs: points, and confidence in [0, 1). `report` int64 [6] is 1 if the points are
    finite (if not, the sequence is unchanged), then the memory's `COUNTERS`.
    """

    def __init__(self, model: Spann3R, height: int, width: int, memory: MemoryConfig) -> None:
        config, device = model.config, model.norm_k.weight.device
        self._model = model
        self._grid = config.grid(height, width)
        count = math.prod(self._grid)
        self.memory = StaticMemory(memory, count, config.encoder_width, device)
        self.image = torch.zeros(height, width, 3, dtype=torch.uint8, device=device)
        self.refined, self.provisional = torch.zeros(2, height, width, 4, device=device)
        self.report = torch.zeros(1 + len(COUNTERS), dtype=torch.int64, device=device)
        self._feature, self._query = torch.zeros(2, 1, count, config.encoder_width, device=device)
        self._target_tokens: list[Tensor] | None = None

    @property
    def feature(self) -> Tensor:
        """Return the features [1, tokens, width] of the newest image, a buffer."""
        return self._feature

    def clear(self) -> None:
        """Begin a new sequence."""
        self.memory.clear()
        self.report.zero_()

    @torch.inference_mode()
    def begin(self) -> None:
        """Take the first image of a sequence."""
        with self._model.arithmetic():
            self._feature.copy_(self._encode())
        # The readout of an empty memory is zero, so `fuse` returns the first image's feature.
        self._query.copy_(self._feature)

    @torch.inference_mode()
    def advance(self) -> None:
        """Take the next image."""
        with self._model.arithmetic():
            self._advance()

    @torch.inference_mode()
    def predict_newest(self) -> None:
        """Write the newest image's prediction by the target head to `provisional`."""
        self.provisional.copy_(self._model.predict_target(self._target_tokens,
                                                          self._grid).packed())

    def arrays(self) -> dict[str, Tensor]:
        """Return the sequence's state."""
        tokens = self._target_tokens or []
        return {'feature': self._feature, 'query': self._query, 'report': self.report,
                **{f'memory_{name}': item for name, item in self.memory.arrays().items()},
                **{f'target_tokens_{index}': item for index, item in enumerate(tokens)}}

    # Buffers that a step has allocated can be changed in inference mode only.
    @torch.inference_mode()
    def restore(self, arrays: dict[str, Tensor]) -> None:
        """Continue from a result of `arrays`; ValueError, without a change, if it does not fit."""
        given = [item for name, item in arrays.items() if name.startswith('target_tokens_')]
        if given and self._target_tokens is None:
            self._target_tokens = [torch.zeros_like(item) for item in given]
        held = self.arrays()
        wrong = sorted(name for name in held.keys() | arrays.keys() if name not in held
                       or name not in arrays or held[name].shape != arrays[name].shape)
        if wrong:
            raise ValueError(f'{wrong[0]}: expected the arrays of a stream of these sizes')
        for name, tensor in held.items():
            tensor.copy_(arrays[name])

    def _encode(self) -> Tensor:
        image = self.image.permute(2, 0, 1)[None].float().div(127.5).sub(1.0)
        return self._model.dust3r.encode(image)

    def _advance(self) -> None:
        model = self._model
        feature = self._encode()
        state = StreamState(self._grid, self.memory, self._feature, self._query)
        reference, attention = model.fuse(state)
        pair = model.dust3r.decode(reference, feature, self._grid)
        refined = model.predict_reference(pair[0], self._grid)
        self.refined.copy_(refined.packed())
        model.advance(state, feature, pair, refined.points, attention)
        finite = refined.points.isfinite().all()
        if self._target_tokens is None:
            self._target_tokens = [torch.zeros_like(item) for item in pair[1]]
        for held, new in ((self._feature, state.feature), (self._query, state.query),
                          *zip(self._target_tokens, pair[1], strict=True)):
            held.copy_(torch.where(finite, new, held))
        self.report[0], self.report[1:] = finite, self.memory.counters
