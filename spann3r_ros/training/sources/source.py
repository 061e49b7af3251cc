# SPDX-License-Identifier: Apache-2.0
"""What every source of training sequences has in common."""
from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from spann3r_ros.training.schedule import Moment


@dataclass(frozen=True)
class TrainingBatch:
    """B sequences of F frames.

    `images` uint8 [B, F, 3, H, W]; `points` float32 [B, F, H, W, 3] in metres in the frame of the
    first camera; `valid` bool [B, F, H, W] marks the pixels that have a point.
    """

    images: Tensor
    points: Tensor
    valid: Tensor


class Source(Protocol):
    """An endless source of batches, whose random state can be saved and restored."""

    def batch(self, batch_size: int, frames: int, size: tuple[int, int], moment: Moment,
              draw: random.Random) -> TrainingBatch:
        """Return new sequences of images of a size (height, width).

        `draw` is equal for all shards of a step.
        """

    def state(self) -> Tensor:
        """Return the random state, uint8."""

    def restore(self, state: Tensor) -> None:
        """Continue with the batches that followed a saved state."""
