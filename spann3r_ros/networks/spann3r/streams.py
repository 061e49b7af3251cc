# SPDX-License-Identifier: Apache-2.0
"""One sequence of images, numpy in and numpy out, whatever way the steps are run."""
from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import numpy as np
import torch

from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.spann3r.fast.static import COUNTERS

from .config import MemoryConfig
from .spann3r import Spann3R, StreamState


class Stream(Protocol):
    """What a reconstructor runs; predictions are [height, width, 4], points and confidence."""

    @property
    def device_bytes(self) -> int:
        """Return the bytes of the memory."""

    @property
    def counters(self) -> dict[str, int]:
        """Return the memory's `COUNTERS`."""

    def clear(self) -> None:
        """Begin a new sequence."""

    def step(self, image: np.ndarray, provisional: bool
             ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Take an image uint8 [height, width, 3], as `Spann3R.step` does, with its errors."""

    def flush(self) -> np.ndarray | None:
        """Return the newest image's prediction by the target head; None before two images."""


class PlainStream:
    """Runs step by step, on any device."""

    def __init__(self, model: Spann3R, height: int, width: int, memory: MemoryConfig) -> None:
        self._model = model
        self._arguments = (height, width, memory)
        self._device = model.norm_k.weight.device
        self._state: StreamState | None = model.start(*self._arguments)

    @property
    def device_bytes(self) -> int:
        """Return the bytes of the memory."""
        return 0 if self._state is None else self._state.memory.device_bytes

    @property
    def counters(self) -> dict[str, int]:
        """Return the memory's `COUNTERS`."""
        memory = None if self._state is None else self._state.memory
        return {name: getattr(memory, name, 0) for name in COUNTERS}

    def clear(self) -> None:
        """Begin a new sequence."""
        # Freed before the next one is allocated; without room for that, `step` tries again.
        self._state = None
        with suppress(torch.OutOfMemoryError, MemoryError):
            self._state = self._model.start(*self._arguments)

    def step(self, image: np.ndarray, provisional: bool
             ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Take an image uint8 [height, width, 3], as `Spann3R.step` does, with its errors."""
        if self._state is None:
            self._state = self._model.start(*self._arguments)
        tensor = torch.from_numpy(np.ascontiguousarray(image)).to(self._device)
        tensor = tensor.permute(2, 0, 1)[None].float().div(127.5).sub(1.0)
        output = self._model.step(self._state, tensor, provisional)
        return _fetched(output.refined), _fetched(output.provisional)

    def flush(self) -> np.ndarray | None:
        """Return the newest image's prediction by the target head; None before two images."""
        return None if self._state is None else _fetched(self._model.flush(self._state))


def _fetched(prediction: DensePrediction | None) -> np.ndarray | None:
    # One transfer for points and confidence.
    return None if prediction is None else prediction.packed().float().cpu().numpy()
