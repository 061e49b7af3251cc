# SPDX-License-Identifier: Apache-2.0
"""Spann3R behind the `Network` protocol: images in, pointmaps out, numpy at both ends."""
from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from spann3r_ros.core.network import Compute, Estimate, NetworkStatus
from spann3r_ros.core.types import DeviceMemoryError, FrameError, Pointmap
from spann3r_ros.networks.devices import out_of_memory_reported, resolve_device
from spann3r_ros.networks.threads import set_threads

from .checkpoint import load_model
from .config import MemoryConfig, scale_memory_budget
from .fast import inference
from .fast.graph import GraphedStream
from .offline import OfflineSequence
from .spann3r import NotFiniteError, Spann3R
from .streams import PlainStream, Stream, mean_feature, to_input

PRECISIONS = ('auto', *inference.PRECISIONS)
# The counters in the status that only this network has.
OWN_COUNTERS = ('working_frames', 'long_term_tokens', 'prunings')

logger = logging.getLogger(__name__)


def open_network(checkpoint: Path | str, memory: MemoryConfig | None = None,
                 compute: Compute | None = None) -> Spann3RNetwork:
    """Load a checkpoint as `load_network` does, ready for a first image."""
    compute = compute or Compute()
    network = Spann3RNetwork(load_network(checkpoint, compute), memory, compute.cuda_graph)
    if compute.compile:
        network.warm_up()
    return network


def load_network(checkpoint: Path | str, compute: Compute | None = None) -> Spann3R:
    """Return a checkpoint's network, prepared for inference on 'auto', 'cpu', 'cuda' or 'cuda:N'.

    The precision is one of `inference.PRECISIONS` or 'auto': fp32 on a CPU, tf32 on CUDA. int8
    falls back to fp32 with a warning on a CPU whose 8-bit products overflow; it is not compiled.
    Sets the number of CPU threads of the process.
    Raises CheckpointError for a bad file, ValueError for a device that is missing or does not
    support the precision.
    """
    compute = compute or Compute()
    device, precision = resolve_device(compute.device), compute.precision
    if precision not in PRECISIONS:
        raise ValueError(f'precision: expected one of {PRECISIONS}, got {precision!r}')
    if precision == 'auto':
        precision = 'fp32' if device.type == 'cpu' else 'tf32'
    if device.type == 'cpu' and precision == 'int8' and not inference.multiplies_in_eight_bits():
        logger.warning('precision: 8-bit products overflow on this CPU; using fp32')
        precision = 'fp32'
    if device.type == 'cpu' and precision == 'bf16' and not inference.computes_in_bfloat16():
        logger.warning('precision: this CPU emulates bfloat16, which is slow')
    inference.check_precision(precision, device)
    model = load_model(checkpoint, device)
    set_threads(compute.threads, sum(item.numel() for item in model.parameters()))
    logger.info('weights: %s on %s in %s', checkpoint, device, precision)
    if not compute.compile:
        return inference.prepare(model, precision)
    if precision == 'int8':
        logger.warning('compile: products in 8 bits are not compiled; running without compilation')
        return inference.prepare(model, precision)
    return inference.compile_blocks(inference.prepare(model, precision, pack=False))


class Spann3RNetwork:
    """The network with the state of one sequence.

    A step returns the final estimate of the image before the one it takes. With `cuda_graph` the
    steps are recorded once and replayed; if recording fails, they run normally, with a warning.
    """

    name = 'spann3r'
    measures_pose = False

    def __init__(self, model: Spann3R, memory: MemoryConfig | None = None,
                 cuda_graph: bool = False) -> None:
        self.model = model
        self.identity = model.identity
        self._budget = memory or MemoryConfig()
        self._device = model.norm_k.weight.device
        self._weight_bytes = sum(item.nbytes for item in chain(model.parameters(),
                                                               model.buffers()))
        self._make = _graphed if cuda_graph else PlainStream
        self._size = model.config.sizes[0]
        self._stream = self._new_stream(self._size)
        # Ids of the first and of the newest image of the sequence.
        self._ids: tuple[int, int] | None = None

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return (height, width) of images the weights were trained for, nearest in aspect."""
        return min(self.model.config.sizes,
                   key=lambda size: abs(math.log(aspect * size[0] / size[1])))

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Take one uint8 RGB image [height, width, 3]; return the estimate of the one before it.

        The first image of a sequence has one of the sizes of `input_size`, the others have the
        same. Raises FrameError for an image of another size or type, and when the network returns
        points that are not finite; the sequence is then unchanged. Raises DeviceMemoryError when
        memory runs out: `reset` frees the memory of the sequence.
        """
        self._check_image(image, self.model.config.sizes if self._ids is None else (self._size,))
        try:
            with out_of_memory_reported(self._device):
                if image.shape[:2] != self._size:
                    self._stream = self._new_stream(image.shape[:2])
                    self._size = image.shape[:2]
                # The features of the image before this one; the step replaces them.
                descriptor = self._stream.descriptor()
                refined = self._stream.step(image)
        except NotFiniteError as error:
            raise FrameError(str(error)) from error
        first, newest = self._ids or (image_id, image_id)
        self._ids = first, image_id
        if refined is None:
            return []
        return [Estimate(newest, first, _to_pointmap(refined), descriptor=descriptor)]

    def provisional(self) -> Estimate | None:
        """Return the newest image's provisional estimate; None if there is none, or no memory."""
        try:
            with out_of_memory_reported(self._device):
                return self._newest(final=False)
        except DeviceMemoryError as error:
            logger.warning('no provisional points: %s', error)
            return None

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images alone, in the first one's frame."""
        self._check_image(first, self.model.config.sizes)
        self._check_image(second, (first.shape[:2],))
        with out_of_memory_reported(self._device):
            predictions = self.model.pair(to_input(first, self._device),
                                          to_input(second, self._device))
            packed = [item.packed().float().cpu().numpy() for item in predictions]
        return Estimate(0, 0, _to_pointmap(packed[0])), Estimate(1, 0, _to_pointmap(packed[1]))

    def arrange(self, images: Sequence[np.ndarray]) -> Spann3RArrangement:
        """Return the arrangement of unordered images (paper, 3.4)."""
        if not len(images):
            raise ValueError('images: expected at least one, got none')
        self._check_image(images[0], self.model.config.sizes)
        for image in images:
            self._check_image(image, (images[0].shape[:2],))
        return Spann3RArrangement(self.model, images, scale_memory_budget(
            self._budget, self._tokens(images[0].shape[:2])))

    def flush(self) -> list[Estimate]:
        """Return the newest image's estimate by the target head; nothing before two images."""
        with out_of_memory_reported(self._device):
            newest = self._newest(final=True)
        return [] if newest is None else [newest]

    def reset(self) -> None:
        """Begin a new sequence with the next image."""
        self._stream.clear()
        self._ids = None

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of the sequence's state."""
        if self._ids is None:
            return self._stream.arrays()
        return {**self._stream.arrays(), 'image_ids': np.array(self._ids, np.int64),
                'image_size': np.array(self._size, np.int64)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a result of `state`; ValueError, without a change, if it does not fit."""
        arrays = dict(arrays)
        ids = arrays.pop('image_ids', None)
        if (ids is None) != (not arrays) or np.shape(ids) not in ((), (2,)):
            raise ValueError('image_ids: expected 2 numbers with the arrays of a sequence, '
                             f'got {ids!r}')
        if ids is not None and not (np.issubdtype(np.asarray(ids).dtype, np.integer)
                                    and np.shape(ids) == (2,)):
            raise ValueError(f'image_ids: expected two integers, got {ids!r}')
        # States that were saved before there were several sizes have no size.
        size = tuple(np.ravel(arrays.pop('image_size', self.model.config.sizes[0])).tolist())
        if size not in self.model.config.sizes:
            raise ValueError(f'image_size: expected one of {self.model.config.sizes}, got {size}')
        stream = self._stream if size == self._size else self._new_stream(size)
        try:
            stream.restore(arrays)
        except KeyError as error:
            raise ValueError(f'state: expected the array {error}') from error
        self._stream, self._size = stream, size
        self._ids = None if ids is None else (int(ids[0]), int(ids[1]))

    def status(self) -> NetworkStatus:
        """Return the memory's counters."""
        counters = self._stream.counters
        threads = torch.get_num_threads() if self._device.type == 'cpu' else 0
        return NetworkStatus(
            counters['tokens'], self._capacity(), counters['rejected_frames'],
            self._weight_bytes + self._stream.device_bytes, threads,
            tuple((name, counters[name]) for name in OWN_COUNTERS))

    def warm_up(self) -> None:
        """Run two blank images and reset, so that what compiles at first use is compiled now."""
        logger.info('compiling the network, which takes a minute or more')
        for index in range(2):
            self.step(np.zeros((*self._size, 3), np.uint8), index)
        self.provisional()
        self.reset()

    def _new_stream(self, size: tuple[int, int]) -> Stream:
        memory = scale_memory_budget(self._budget, self._tokens(size))
        return self._make(self.model, *size, memory)

    def _capacity(self) -> int:
        tokens = self._tokens(self._size)
        return scale_memory_budget(self._budget, tokens).capacity(tokens)

    def _tokens(self, size: tuple[int, int]) -> int:
        rows, columns = self.model.config.grid(*size)
        return rows * columns

    def _check_image(self, image: np.ndarray, sizes: tuple[tuple[int, int], ...]) -> None:
        if image.dtype != np.uint8 or image.shape not in [(*size, 3) for size in sizes]:
            expected = ' or '.join(str((*size, 3)) for size in sizes)
            raise FrameError(f'image: expected uint8 {expected}, got {image.dtype} {image.shape}')

    def _newest(self, final: bool) -> Estimate | None:
        packed = self._stream.newest()
        if packed is None:
            return None
        first, newest = self._ids
        return Estimate(newest, first, _to_pointmap(packed), final,
                        descriptor=self._stream.descriptor() if final else None)


class Spann3RArrangement:
    """Unordered images and a sequence of them, numpy at both ends; see `core.network`."""

    def __init__(self, model: Spann3R, images: Sequence[np.ndarray],
                 memory: MemoryConfig) -> None:
        self._device = model.norm_k.weight.device
        with out_of_memory_reported(self._device):
            self._sequence = OfflineSequence(
                model, (to_input(image, self._device)[0] for image in images),
                images[0].shape[:2], memory)

    def descriptor(self, index: int) -> np.ndarray:
        """Return the mean feature of an image."""
        return mean_feature(self._sequence.features[index])

    def pair(self, first: int, second: int) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images alone."""
        with out_of_memory_reported(self._device):
            _, *predictions = self._sequence.pair(first, second)
            packed = [item.packed().float().cpu().numpy() for item in predictions]
        return Estimate(0, 0, _to_pointmap(packed[0])), Estimate(1, 0, _to_pointmap(packed[1]))

    def begin(self, first: int, second: int) -> None:
        """Begin the sequence with two images."""
        with out_of_memory_reported(self._device):
            self._sequence.begin(first, second)

    def confidences(self, indices: Sequence[int]) -> list[float]:
        """Return the confidence of each image if it comes next."""
        with out_of_memory_reported(self._device):
            return self._sequence.weigh(indices)

    def take(self, index: int) -> None:
        """Let an image come next."""
        with out_of_memory_reported(self._device):
            self._sequence.take(index)


def _graphed(model: Spann3R, height: int, width: int, memory: MemoryConfig) -> Stream:
    try:
        return GraphedStream(model, height, width, memory)
    except (ValueError, RuntimeError) as error:
        logger.warning('cuda_graph: %s; running step by step', error)
    # Outside the handler, so that the memory of the failed recording is already freed.
    return PlainStream(model, height, width, memory)


def _to_pointmap(packed: np.ndarray) -> Pointmap:
    return Pointmap(packed[..., :3], packed[..., 3])
