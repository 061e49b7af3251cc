# SPDX-License-Identifier: Apache-2.0
"""One sequence of images, numpy in and numpy out; how the steps are run is up to the class."""
from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.core.types import DeviceMemoryError
from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.devices import out_of_memory_reported

from .config import MemoryConfig, Spann3RConfig
from .memory import COUNTERS
from .spann3r import Spann3R, StreamState

# Prefix of the memory's arrays in a state.
MEMORY = 'memory_'


class Stream(Protocol):
    """A sequence of steps; predictions are [height, width, 4]: points and confidence."""

    @property
    def device_bytes(self) -> int:
        """Return the bytes of the memory."""

    @property
    def counters(self) -> dict[str, int]:
        """Return the memory's `COUNTERS`."""

    def clear(self) -> None:
        """Begin a new sequence."""

    def step(self, image: np.ndarray) -> np.ndarray | None:
        """Take an image uint8 [height, width, 3]; return the prediction of the one before it.

        Raises what `Spann3R.step` raises.
        """

    def newest(self) -> np.ndarray | None:
        """Return the newest image's prediction by the target head; None before two images."""

    def descriptor(self) -> np.ndarray | None:
        """Return the mean feature, float32 [n], of the newest image; None before the first one."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of the sequence's state."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a result of `arrays`; ValueError, without a change, if it does not fit."""


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
        # Freed before the next one is allocated; if that fails, `step` tries again.
        self._state = None
        with suppress(DeviceMemoryError), out_of_memory_reported(self._device):
            self._state = self._model.start(*self._arguments)

    def step(self, image: np.ndarray) -> np.ndarray | None:
        """Take an image uint8 [height, width, 3]; return the prediction of the one before it."""
        if self._state is None:
            self._state = self._model.start(*self._arguments)
        return _fetched(self._model.step(self._state, to_input(image, self._device)).refined)

    def newest(self) -> np.ndarray | None:
        """Return the newest image's prediction by the target head; None before two images."""
        return None if self._state is None else _fetched(self._model.flush(self._state))

    def descriptor(self) -> np.ndarray | None:
        """Return the mean feature, float32 [n], of the newest image; None before the first one."""
        if self._state is None or self._state.feature is None:
            return None
        return mean_feature(self._state.feature)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of the sequence's state."""
        state = self._state
        if state is None or state.feature is None:
            return {}
        tensors = {'feature': state.feature}
        if state.query is not None:
            tensors |= {'query': state.query,
                        **{MEMORY + name: item for name, item in state.memory.arrays().items()},
                        **{f'target_tokens_{index}': item
                           for index, item in enumerate(state.target_tokens)}}
        return {name: fetched(item) for name, item in tensors.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a result of `arrays`; ValueError, without a change, if it does not fit."""
        state = self._model.start(*self._arguments)
        tensors = {name: torch.from_numpy(item).to(self._device) for name, item in arrays.items()}
        _check_arrays(tensors, state, self._model.config)
        if tensors:
            state.feature = tensors['feature']
        if 'query' in tensors:
            state.query = tensors['query']
            state.target_tokens = [tensors[f'target_tokens_{index}']
                                   for index in range(self._model.config.decoder_depth + 1)]
            state.memory.restore({name.removeprefix(MEMORY): item for name, item
                                  in tensors.items() if name.startswith(MEMORY)})
        self._state = state


def _check_arrays(tensors: dict[str, Tensor], state: StreamState, config: Spann3RConfig) -> None:
    """Raise ValueError unless names, shapes and values are those of a sequence's state."""
    tokens = state.grid[0] * state.grid[1]
    widths = {'feature': config.encoder_width} if tensors else {}
    if len(tensors) > 1:
        widths |= {'query': config.encoder_width, 'target_tokens_0': config.encoder_width,
                   **{f'target_tokens_{index + 1}': config.decoder_width
                      for index in range(config.decoder_depth)}}
    wrong = widths.keys() ^ {name for name in tensors if not name.startswith(MEMORY)}
    if wrong:
        raise ValueError(f'state: expected the arrays {", ".join(widths)}, and those of the '
                         f'memory; {", ".join(sorted(wrong))} is missing or unknown')
    for name, width in widths.items():
        if tensors[name].shape != (1, tokens, width):
            raise ValueError(f'{name}: expected shape {(1, tokens, width)}, '
                             f'got {tuple(tensors[name].shape)}')
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f'{name}: expected finite numbers')


def to_input(image: np.ndarray, device: torch.device) -> Tensor:
    """Return an image uint8 [height, width, 3] as the network's input [1, 3, height, width]."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).to(device)
    return tensor.permute(2, 0, 1)[None].float().div(127.5).sub(1.0)


def mean_feature(feature: Tensor) -> np.ndarray:
    """Return the mean, float32 [width], of an image's features [1, tokens, width]."""
    return fetched(feature[0].float().mean(0))


def fetched(tensor: Tensor) -> np.ndarray:
    """Return a copy in host memory; half precision becomes float32."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.detach().cpu().numpy().copy()


def _fetched(prediction: DensePrediction | None) -> np.ndarray | None:
    # One transfer for points and confidence.
    return None if prediction is None else prediction.packed().float().cpu().numpy()
