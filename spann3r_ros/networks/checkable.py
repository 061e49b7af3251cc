# SPDX-License-Identifier: Apache-2.0
"""The interface between the device check and a kind of network."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class Deviation:
    """How far one replayed array lies from the recorded one, and how far it may lie."""

    name: str
    worst: float
    typical: float  # at the 99th percentile
    limit: float
    typical_limit: float

    @property
    def acceptable(self) -> bool:
        """Return whether both limits hold; NaN never does."""
        return self.worst <= self.limit and self.typical <= self.typical_limit

    def __str__(self) -> str:
        return (f'{self.name}: {self.worst:.1e} (limit {self.limit:.0e}), '
                f'99th percentile {self.typical:.1e} (limit {self.typical_limit:.0e})')


class Variant(Protocol):
    """A network in one layout on a device, with a sequence; predictions are [height, width, 4].

    Images are uint8 [height, width, 3] in host memory, and predictions come back there: points,
    and confidence.
    """

    def step(self, image: np.ndarray) -> np.ndarray | None:
        """Take the next image; return the final prediction of the one before it."""

    def newest(self) -> np.ndarray | None:
        """Return the newest image's prediction, which the next step replaces."""

    def read_sec(self, tokens: int) -> float:
        """Return the seconds that a read of a memory of so many tokens takes on the device."""


class Checks(Protocol):
    """The module that `NetworkKind.checks` returns."""

    # The layout that fuses nothing and leaves nothing out: others are compared with it.
    PLAIN: str

    def networks(self, rehearsal: bool) -> Mapping[str, tuple[int, int]]:
        """Return height and width of the images of each network of random weights, by name.

        For a rehearsal on a CPU they are small.
        """

    def trained(self) -> Mapping[str, tuple[int, int]]:
        """Return height and width of the images of each bundled network, by name."""

    def layouts(self, device: torch.device) -> Sequence[str]:
        """Return the layouts of a device, `PLAIN` first, compiled ones left out."""

    def compiled_layouts(self, device: torch.device) -> Sequence[str]:
        """Return the layouts that take long to build, as they are compiled."""

    def build(self, network: str, layout: str, device: torch.device) -> Variant:
        """Build a network in a layout on a device, with the same weights for each layout.

        Every image is stored in its memory.
        """

    def floor_sec(self, network: str, layouts: Sequence[str], images: int, device: torch.device,
                  rates: Mapping[str, float]) -> Mapping[str, float]:
        """Return the least seconds of a step with both predictions, of each layout.

        So many images came before it; `rates` is what `stopwatch.machine_rates` measured.
        """

    def recordings(self, folder: Path) -> Mapping[str, Path]:
        """Return a folder's recordings that a device can replay, by name, small ones first."""

    def replay(self, path: Path, device: torch.device) -> Mapping[str, Sequence[Deviation]]:
        """Replay a recording in float32; return the deviations by the layout of the network."""
