# SPDX-License-Identifier: Apache-2.0
"""Spann3R behind the `Reconstructor` protocol: images in, pointmaps out, numpy at both ends."""
from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from spann3r_ros.core.network import Compute, MemoryStatus, StepResult
from spann3r_ros.core.types import DeviceMemoryError, FrameError, Pointmap
from spann3r_ros.networks.devices import resolve_device
from spann3r_ros.networks.spann3r.fast.graph import GraphedStream

from .checkpoint import load_model
from .config import MemoryConfig, scale_memory_budget
from .fast import inference
from .spann3r import NotFiniteError, Spann3R
from .streams import PlainStream, Stream

PRECISIONS = ('auto', *inference.PRECISIONS)

logger = logging.getLogger(__name__)


def create_reconstructor(checkpoint: Path | str, memory: MemoryConfig,
                         compute: Compute | None = None) -> Spann3RReconstructor:
    """Load a checkpoint as `load_network` does, ready for a first image."""
    compute = compute or Compute()
    reconstructor = Spann3RReconstructor(load_network(checkpoint, compute), memory,
                                         compute.cuda_graph)
    if compute.compile:
        reconstructor.warm_up()
    return reconstructor


def load_network(checkpoint: Path | str, compute: Compute | None = None) -> Spann3R:
    """Return a checkpoint's network, laid out for inference on 'auto', 'cpu', 'cuda' or 'cuda:N'.

    The precision is one of `inference.PRECISIONS` or 'auto': fp32 on a CPU, tf32 on CUDA. int8
    falls back to fp32 with a warning where the CPU gets it wrong, and is not compiled. Raises
    CheckpointError for a bad file, ValueError for a device that is not there or does not compute
    so.
    """
    compute = compute or Compute()
    device, precision = resolve_device(compute.device), compute.precision
    if precision not in PRECISIONS:
        raise ValueError(f'precision: expected one of {PRECISIONS}, got {precision!r}')
    if precision == 'auto':
        precision = 'fp32' if device.type == 'cpu' else 'tf32'
    if device.type == 'cpu' and precision == 'int8' and not inference.multiplies_in_eight_bits():
        logger.warning('precision: this CPU multiplies wrongly in 8 bits; using fp32')
        precision = 'fp32'
    if device.type == 'cpu' and precision == 'bf16' and not inference.computes_in_bfloat16():
        logger.warning('precision: this CPU emulates bfloat16, which is slow')
    inference.check_precision(precision, device)
    model = load_model(checkpoint, device)
    if not compute.compile:
        return inference.prepare(model, precision)
    if precision == 'int8':
        logger.warning('compile: products in 8 bits are not compiled; running them as they are')
        return inference.prepare(model, precision)
    return inference.compile_blocks(inference.prepare(model, precision, lay_out=False))


class Spann3RReconstructor:
    """Stateful owner of a network and one sequence.

    With `cuda_graph` steps are recorded once and replayed; where that cannot be, they run as they
    are, with a warning.
    """

    def __init__(self, model: Spann3R, memory: MemoryConfig, cuda_graph: bool = False) -> None:
        self.input_size = (model.config.image_height, model.config.image_width)
        rows, columns = model.config.grid(*self.input_size)
        memory = scale_memory_budget(memory, rows * columns)
        self._device = model.norm_k.weight.device
        self._weight_bytes = sum(item.nbytes for item in chain(model.parameters(),
                                                               model.buffers()))
        self._capacity = memory.capacity(rows * columns)
        make = _graphed if cuda_graph else PlainStream
        self._stream = make(model, *self.input_size, memory)

    def step(self, image: np.ndarray, provisional: bool) -> StepResult:
        """Take one uint8 RGB image [height, width, 3] and return what became known by it.

        Raises FrameError for an image of another size or type, and when the network returns
        points that are not finite; the sequence then stands where it stood. Raises
        DeviceMemoryError when memory runs out: `reset` frees what the sequence holds.
        """
        expected = (*self.input_size, 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise FrameError(f'image: expected uint8 {expected}, got {image.dtype} {image.shape}')
        try:
            refined, newest = self._stream.step(image, provisional)
        except NotFiniteError as error:
            raise FrameError(str(error)) from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise DeviceMemoryError(f'out of memory on {self._device}: {error}') from error
        return StepResult(_to_pointmap(refined), _to_pointmap(newest))

    def provisional(self) -> Pointmap | None:
        """Return the newest image's provisional pointmap; None without two images, or memory."""
        try:
            return _to_pointmap(self._stream.flush())
        except (torch.OutOfMemoryError, MemoryError) as error:
            logger.warning('no provisional points: out of memory on %s: %s', self._device, error)
            return None

    def warm_up(self) -> None:
        """Take two blank images and forget them: what is compiled at first use is compiled now."""
        logger.info('compiling the network, which takes a minute or more')
        for _ in range(2):
            self.step(np.zeros((*self.input_size, 3), np.uint8), provisional=True)
        self.reset()

    def flush(self) -> Pointmap | None:
        """Return the newest image's pointmap and close the fragment; None if under two images."""
        pointmap = _to_pointmap(self._stream.flush())
        self.reset()
        return pointmap

    def reset(self) -> None:
        """Forget every image: the next one founds a new fragment."""
        self._stream.clear()

    def status(self) -> MemoryStatus:
        """Return the memory's counters."""
        return MemoryStatus(capacity_tokens=self._capacity, **self._stream.counters,
                            device_bytes=self._weight_bytes + self._stream.device_bytes)


def _graphed(model: Spann3R, height: int, width: int, memory: MemoryConfig) -> Stream:
    try:
        return GraphedStream(model, height, width, memory)
    except (ValueError, RuntimeError) as error:
        logger.warning('cuda_graph: %s; running step by step', error)
    # Out here nothing holds what the failed recording had allocated any more.
    return PlainStream(model, height, width, memory)


def _to_pointmap(packed: np.ndarray | None) -> Pointmap | None:
    return None if packed is None else Pointmap(packed[..., :3], packed[..., 3])
