# SPDX-License-Identifier: Apache-2.0
"""What a streaming network is to the rest of the package."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .types import Pointmap


@dataclass(frozen=True)
class Compute:
    """Where and how a network computes: the node's parameters of the same names."""

    device: str = 'auto'
    precision: str = 'auto'
    compile: bool = False
    cuda_graph: bool = False


@dataclass(frozen=True)
class StepResult:
    """What one reconstruction step yields.

    `refined` belongs to the previous frame (None on the first step of a fragment);
    `provisional` belongs to the newest frame (None when not asked for, or on the first step).
    """

    refined: Pointmap | None
    provisional: Pointmap | None


@dataclass(frozen=True)
class MemoryStatus:
    """Counters of the reconstructor's spatial memory."""

    working_frames: int = 0
    long_term_tokens: int = 0
    tokens: int = 0
    capacity_tokens: int = 0
    prunings: int = 0
    rejected_frames: int = 0
    device_bytes: int = 0


class Reconstructor(Protocol):
    """A streaming network that turns images into pointmaps in one fragment frame.

    The fragment frame is the optical frame (x right, y down, z forward) of the fragment's
    first image; its scale is arbitrary unless the reconstructor says otherwise.
    """

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the images `step` takes."""

    def step(self, image: np.ndarray, provisional: bool) -> StepResult:
        """Take one uint8 RGB image [height, width, 3] and return what became known by it.

        Raises DeviceMemoryError when only forgetting helps; the image is not taken then.
        """

    def provisional(self) -> Pointmap | None:
        """Return the newest image's provisional pointmap, None if under two images.

        None also where memory does not suffice: unlike `step` it costs no image.
        """

    def flush(self) -> Pointmap | None:
        """Return the newest image's pointmap and close the fragment; None if under two images."""

    def reset(self) -> None:
        """Forget every image: the next one founds a new fragment."""

    def status(self) -> MemoryStatus:
        """Return the memory's counters."""
