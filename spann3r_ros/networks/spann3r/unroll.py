# SPDX-License-Identifier: Apache-2.0
"""Training-time forward pass: whole sequences, gradients through the memory."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.blocks.precision import half_precision

from .memory import MemoryEntry, attend_memory
from .spann3r import Spann3R, StreamState


@dataclass(frozen=True)
class Unrolled:
    """Predictions of a sequence of n frames.

    `reference[t]` is frame t's map (t = 0 .. n-2), `target[t]` is frame t+1's map, and
    `attention[t]` [batch, tokens, (t+1) * tokens] is frame t+1's memory read (t = 0 .. n-3).
    """

    reference: list[DensePrediction]
    target: list[DensePrediction]
    attention: list[Tensor]


@dataclass(frozen=True)
class Lesson:
    """What is stored instead of predictions, so that a map is there to find one's way in.

    The first frame's points are stored as if its camera stood at `map_from_first` [batch, 4, 4]:
    every prediction but the first two (`reference[0]`, `target[0]`) is then to be in that map
    frame, which only the memory tells. Sequences of `shown` [batch] bool store `shown_points`
    [batch, frames, height, width, 3] instead of their own: `map_points`, the true ones in that
    frame, or some that are wrong on purpose.
    """

    map_from_first: Tensor
    map_points: Tensor
    shown_points: Tensor
    shown: Tensor

    def stored(self, t: int, points: Tensor) -> Tensor:
        """Return what to store for frame t's predicted points [batch, height, width, 3]."""
        if t == 0:
            points = move(self.map_from_first, points)
        return torch.where(self.shown[:, None, None, None], self.shown_points[:, t], points)


def unroll(model: Spann3R, images: Tensor, lesson: Lesson | None = None,
           dropout: float = 0.0, half: bool = False) -> Unrolled:
    """Run sequences [batch, frames, 3, height, width] in [-1, 1] through the network.

    As in the paper's training every frame is written to memory and no weight is cut; a share
    `dropout` of the attention's weights is dropped. `half` computes blocks and projections in
    bfloat16, but memory reads and heads in float32.
    """
    with half_precision(images.device, half):
        return _unroll(model, images, lesson, dropout)


def _unroll(model: Spann3R, images: Tensor, lesson: Lesson | None, dropout: float) -> Unrolled:
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
            stored = prediction.points if lesson is None else lesson.stored(t, prediction.points)
            model.advance(state, features[t + 1], pair, stored, attention)
    return result


class UnrolledMemory:
    """Every frame's tokens in a list, so that gradients reach them; nothing is cut or dropped."""

    def __init__(self, dropout: float) -> None:
        self._dropout = dropout
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.attention: list[Tensor] = []

    def read(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return the readout [batch, queries, width] and the attention, which is kept."""
        value = torch.cat(self._values, dim=1)
        readout, attention = attend_memory(query, torch.cat(self._keys, dim=1), value,
                                           threshold=0.0)
        if self._dropout:
            readout = functional.dropout(attention, self._dropout) @ value
        self.attention.append(attention)
        return readout, attention

    def admits(self, _: Tensor) -> bool:
        """Return that every frame is stored."""
        return True

    def write(self, _: Tensor | None, entry: MemoryEntry) -> None:
        """Append a frame's tokens."""
        self._keys.append(entry.key)
        self._values.append(entry.value)


def move(transform: Tensor, points: Tensor) -> Tensor:
    """Apply affine transforms [batch, 4, 4] to points [batch, ..., 3]."""
    flat = points.flatten(1, -2) @ transform[:, :3, :3].mT + transform[:, None, :3, 3]
    return flat.view_as(points)
