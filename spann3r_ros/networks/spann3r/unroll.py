# SPDX-License-Identifier: Apache-2.0
"""Forward pass of training: whole sequences, with gradients through the memory."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from spann3r_ros.networks.blocks.precision import half_precision
from spann3r_ros.networks.trainable import StoredPoints, Unrolled

from .memory import MemoryEntry, attend_memory
from .spann3r import Spann3R, StreamState


def unroll(model: Spann3R, images: Tensor, stored: StoredPoints | None = None,
           dropout: float = 0.0, half: bool = False) -> Unrolled:
    """Run sequences [batch, frames, 3, height, width] in [-1, 1] through the network.

    As in the paper's training every frame is written to memory and the attention has no threshold;
    a share `dropout` of its weights is dropped. `stored` replaces the points that are written to
    memory. With `half`, blocks and projections compute in bfloat16, memory reads and heads in
    float32.
    """
    with half_precision(images.device, half):
        return _unroll(model, images, stored, dropout)


def _unroll(model: Spann3R, images: Tensor, stored: StoredPoints | None,
            dropout: float) -> Unrolled:
    batch, frames = images.shape[:2]
    grid = model.config.grid(*images.shape[-2:])
    features = model.dust3r.encode(images.flatten(0, 1)).unflatten(0, (batch, frames)).unbind(1)
    memory = UnrolledMemory(dropout)
    state = StreamState(grid, memory, features[0])
    result = Unrolled([], [], memory.attention)
    for t in range(frames - 1):
        fused, attention = model.fuse(state)
        pair = model.dust3r.decode(fused, features[t + 1], grid)
        prediction = model.predict_reference(pair[0], grid)
        result.reference.append(prediction)
        result.target.append(model.predict_target(pair[1], grid))
        if t < frames - 2:
            points = prediction.points if stored is None else stored.of(t, prediction.points)
            model.advance(state, features[t + 1], pair, points, attention)
    return result


class UnrolledMemory:
    """Every frame's tokens in a list, with their gradients; none is pruned."""

    def __init__(self, dropout: float) -> None:
        self._dropout = dropout
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.attention: list[Tensor] = []

    def read(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return the readout [batch, queries, width] and the attention; append the latter."""
        value = torch.cat(self._values, dim=1)
        readout, attention = attend_memory(query, torch.cat(self._keys, dim=1), value,
                                           threshold=0.0)
        if self._dropout:
            readout = functional.dropout(attention, self._dropout) @ value
        self.attention.append(attention)
        return readout, attention

    def admits(self, _: Tensor) -> bool:
        """Return True: every frame is stored."""
        return True

    def write(self, _: Tensor | None, entry: MemoryEntry) -> None:
        """Append a frame's tokens."""
        self._keys.append(entry.key)
        self._values.append(entry.value)
