# SPDX-License-Identifier: Apache-2.0
"""The static step as CUDA graphs: one launch per frame, and one wait for the result.

No line of this file has run on a CUDA device yet.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.memory import COUNTERS
from spann3r_ros.networks.spann3r.spann3r import NotFiniteError, Spann3R
from spann3r_ros.networks.spann3r.streams import fetched, mean_feature

from .static import StaticStream

WARM_UPS = 3
CHECKED_IMAGES = 8
# As a share of the largest value: recording may select other kernels.
TOLERANCE = 0.02


class GraphedStream:
    """A sequence of images whose steps are replayed CUDA graphs, with their transfers.

    The constructor records two graphs: the step, and the newest image's prediction. Raises
    ValueError unless the network is on CUDA, and torch's error when a step cannot be recorded.
    """

    def __init__(self, model: Spann3R, height: int, width: int, memory: MemoryConfig) -> None:
        device = model.norm_k.weight.device
        if device.type != 'cuda':
            raise ValueError(f'graph: expected a network on CUDA, got {device}')
        self._stream = StaticStream(model, height, width, memory)
        # Pinned memory is transferred asynchronously.
        self._image = _pinned(self._stream.image)
        self._refined, self._provisional, self._report = (
            _pinned(item) for item in (self._stream.refined, self._stream.provisional,
                                       self._stream.report))
        self._recording = torch.cuda.Stream(device)
        self._warm_up()
        # The graphs share memory, as no intermediate value is needed after a replay.
        pool = torch.cuda.graph_pool_handle()
        self._step_graph = record(self._run_step, self._recording, pool)
        self._newest_graph = record(self._run_newest, self._recording, pool)
        self._check()
        self.clear()

    @property
    def device_bytes(self) -> int:
        """Return the bytes of the memory."""
        return self._stream.memory.device_bytes

    @property
    def counters(self) -> dict[str, int]:
        """Return the memory's `COUNTERS` after the last image."""
        return dict(zip(COUNTERS, self._report[1:].tolist(), strict=True))

    def clear(self) -> None:
        """Begin a new sequence."""
        self._stream.clear()
        self._report.zero_()
        self._images = 0

    def step(self, image: np.ndarray) -> np.ndarray | None:
        """Take an image uint8 [height, width, 3]; return the prediction of the one before it."""
        self._image.numpy()[:] = image
        with torch.cuda.device(self._stream.image.device):
            if self._images == 0:
                self._stream.image.copy_(self._image, non_blocking=True)
                self._stream.begin()
            else:
                self._step_graph.replay()
            torch.cuda.current_stream().synchronize()
        if self._images and not self._report[0]:
            raise NotFiniteError('refined points: expected finite numbers')
        self._images += 1
        # A copy, because the next replay overwrites the buffer.
        return None if self._images == 1 else self._refined.numpy().copy()

    def newest(self) -> np.ndarray | None:
        """Return the newest image's prediction by the target head; None before two images."""
        if self._images < 2:
            return None
        with torch.cuda.device(self._stream.image.device):
            self._newest_graph.replay()
            torch.cuda.current_stream().synchronize()
        return self._provisional.numpy().copy()

    def descriptor(self) -> np.ndarray | None:
        """Return the mean feature, float32 [n], of the newest image; None before the first one."""
        return None if self._images == 0 else mean_feature(self._stream.feature)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of the sequence's state."""
        if self._images == 0:
            return {}
        held = {name: fetched(item) for name, item in self._stream.arrays().items()}
        return {**held, 'images': np.array(self._images)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a result of `arrays`; ValueError, without a change, if it does not fit."""
        if not arrays:
            self.clear()
            return
        arrays = dict(arrays)
        images = int(arrays.pop('images'))
        device = self._stream.image.device
        self._stream.restore({name: torch.from_numpy(item).to(device)
                              for name, item in arrays.items()})
        self._report.copy_(self._stream.report)
        self._images = images

    def _warm_up(self) -> None:
        """Run some steps before any recording, so that kernels are selected and caches filled."""
        def both() -> None:
            self._run_step()
            self._run_newest()
        for work in (self._stream.begin, both):
            warm_up(work, self._recording)

    def _check(self) -> None:
        """Raise RuntimeError unless replays give the predictions of the normal step."""
        run = self._test_predictions(self._run_step, self._run_newest)
        replayed = self._test_predictions(self._step_graph.replay, self._newest_graph.replay)
        difference = float((run - replayed).abs().max() / run.abs().max())
        if not difference < TOLERANCE:  # also for NaN
            raise RuntimeError(f'graph: expected replays within {TOLERANCE} of the largest value, '
                               f'got a difference of {difference:.3g}')

    def _test_predictions(self, step: Callable[[], object],
                          newest: Callable[[], object]) -> Tensor:
        """Return the predictions of the last of some random images, the others in memory."""
        self.clear()
        for item in (self._refined, self._provisional):
            item.zero_()
        draw = torch.Generator().manual_seed(0)
        for index in range(CHECKED_IMAGES):
            self._image.random_(256, generator=draw)
            if index == 0:
                self._stream.image.copy_(self._image)
                self._stream.begin()
            else:
                step()
                newest()
            torch.cuda.synchronize(self._recording.device)
        return torch.cat((self._refined, self._provisional, self._report[:1].expand(
            *self._refined.shape[:2], 1)), dim=-1)

    def _run_step(self) -> None:
        """Upload the image, compute the step and download the results, on the current stream."""
        self._stream.image.copy_(self._image, non_blocking=True)
        self._stream.advance()
        for host, held in ((self._refined, self._stream.refined),
                           (self._report, self._stream.report)):
            host.copy_(held, non_blocking=True)

    def _run_newest(self) -> None:
        """Compute the newest image's prediction and download it."""
        self._stream.predict_newest()
        self._provisional.copy_(self._stream.provisional, non_blocking=True)


def record(work: Callable[[], object], stream: torch.cuda.Stream,
           pool: tuple[int, int] | None = None) -> torch.cuda.CUDAGraph:
    """Return a graph of work that has run on the stream before."""
    graph = torch.cuda.CUDAGraph()
    # The outer context selects the device, and restores the stream if the recording fails.
    with torch.cuda.stream(stream), torch.cuda.graph(graph, pool=pool, stream=stream):
        work()
    return graph


def capture(work: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Run some work on a stream of its own, then return a graph of it."""
    stream = torch.cuda.Stream(device)
    warm_up(work, stream)
    return record(work, stream)


def warm_up(work: Callable[[], object], stream: torch.cuda.Stream) -> None:
    """Run some work on a stream, after what the current stream has been given."""
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    stream.synchronize()


def _pinned(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, pin_memory=True)
