# SPDX-License-Identifier: Apache-2.0
"""The interface between the trainer and a kind of network."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .blocks.heads import DensePrediction


class NetworkSizes(Protocol):
    """The sizes of a network: a frozen dataclass of plain values."""

    @property
    def image_height(self) -> int:
        """Return the height of the input images, in pixels."""

    @property
    def image_width(self) -> int:
        """Return the width of the input images, in pixels."""

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return (height, width) of all images that the weights are trained for."""

    @property
    def patch_size(self) -> int:
        """Return the side of the square patch that becomes one token, in pixels."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""


@dataclass(frozen=True)
class Unrolled:
    """Predictions of a sequence of n frames.

    `reference[t]` is frame t's map (t = 0 .. n-2), `target[t]` is frame t+1's map, and
    `attention[t]` [batch, tokens, (t+1) * tokens] is the attention of frame t+1's memory read
    (t = 0 .. n-3).
    """

    reference: list[DensePrediction]
    target: list[DensePrediction]
    attention: list[Tensor]


@dataclass(frozen=True)
class StoredPoints:
    """The points that a sequence stores in memory in place of its predictions.

    The first frame's points are stored as if its camera stood at `map_from_first` [batch, 4, 4].
    The true points of every prediction but the first two (`reference[0]`, `target[0]`) are then
    `map_points` [batch, frames, height, width, 3], in that map frame, which the network can only
    read from the memory. Sequences where `replaced`, bool [batch], is set store `points`, of the
    same shape, in place of all their predictions: the true points, or points with errors.
    """

    map_from_first: Tensor
    map_points: Tensor
    points: Tensor
    replaced: Tensor

    def of(self, t: int, predicted: Tensor) -> Tensor:
        """Return what to store for frame t's predicted points [batch, height, width, 3]."""
        if t == 0:
            predicted = move(self.map_from_first, predicted)
        return torch.where(self.replaced[:, None, None, None], self.points[:, t], predicted)


class Trainable(Protocol):
    """The module that `NetworkKind.training` returns.

    Every network that `build` or `load` returns has its sizes in the attribute `config`.
    """

    # Names of the parts that can be frozen, and the prefixes of their weights' names.
    PARTS: Mapping[str, tuple[str, ...]]

    def default_sizes(self) -> NetworkSizes:
        """Return the sizes of a run that names none."""

    def sizes_from_dict(self, values: Mapping[str, Any]) -> NetworkSizes:
        """Build sizes from plain values; ValueError for an unknown name or a bad value."""

    def read_sizes(self, path: Path) -> NetworkSizes:
        """Return the sizes of a checkpoint's network; CheckpointError for a bad file."""

    def build(self, sizes: NetworkSizes) -> nn.Module:
        """Return a network of these sizes; its weights wait for `initialise` or for a state."""

    def initialise(self, model: nn.Module) -> None:
        """Draw the initial weights of a network, in place, from torch's global random state."""

    def takes_weights(self, sizes: NetworkSizes, source: NetworkSizes) -> bool:
        """Return whether a network of these sizes can begin with the weights of another one."""

    def copy_weights(self, model: nn.Module, source: nn.Module) -> None:
        """Give a network with initial weights those of another one, as `takes_weights` allows it.

        ValueError for other sizes.
        """

    def freeze(self, model: nn.Module, parts: tuple[str, ...]) -> None:
        """Exclude parts from training, and all weights that no loss reaches.

        ValueError for a part that is not in `PARTS`, and when nothing is left to train.
        """

    def split_parameters(self, model: nn.Module) -> tuple[list[nn.Parameter],
                                                          list[nn.Parameter]]:
        """Return (hidden matrices, all other parameters) of what is trained in a network."""

    def unroll(self, model: nn.Module, images: Tensor, stored: StoredPoints | None = None,
               dropout: float = 0.0, half: bool = False) -> Unrolled:
        """Run sequences [batch, frames, 3, height, width] in [-1, 1], with gradients.

        `dropout` is the share of the memory's attention weights that is dropped. `half` computes
        in bfloat16 where the network allows it.
        """

    def load_model(self, path: Path, device: torch.device | str = 'cpu') -> nn.Module:
        """Return a checkpoint's network in float32; CheckpointError for a bad file."""

    def save_model(self, path: Path, model: nn.Module, dtype: torch.dtype,
                   metadata: dict[str, str]) -> None:
        """Write a checkpoint with weights of a dtype and text metadata, whole or not at all."""

    def read_history(self, path: Path) -> dict[str, str]:
        """Return the licence, the training data and other recorded facts of a checkpoint."""


def freeze_parts(model: nn.Module, parts: tuple[str, ...],
                 prefixes: Mapping[str, tuple[str, ...]], unreached: tuple[str, ...]) -> None:
    """Exclude parts, by their prefixes, and the weights named in `unreached` from training.

    ValueError for a part without prefixes, and when nothing is left to train.
    """
    unknown = sorted(set(parts) - set(prefixes))
    if unknown:
        raise ValueError(f'frozen: expected parts of {sorted(prefixes)}, got {unknown[0]!r}')
    frozen = tuple(prefix for part in parts for prefix in prefixes[part])
    for name, parameter in model.named_parameters():
        if name.startswith(frozen) or name in unreached:
            parameter.requires_grad_(False)
    if not any(item.requires_grad for item in model.parameters()):
        raise ValueError('frozen: expected something left to train, got every part')


def move(transform: Tensor, points: Tensor) -> Tensor:
    """Apply affine transforms [batch, 4, 4] to points [batch, ..., 3]."""
    flat = points.flatten(1, -2) @ transform[:, :3, :3].mT + transform[:, None, :3, 3]
    return flat.view_as(points)
