# SPDX-License-Identifier: Apache-2.0
"""The static step as CUDA graphs: one launch a frame, and one wait, for the result.

No line of this file has run on a CUDA device yet.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.spann3r import NotFiniteError, Spann3R

from .static import COUNTERS, StaticStream

WARM_UPS = 3
CHECKED_IMAGES = 8
# Kernels may be others when recorded; the share is of the largest number.
TOLERANCE = 0.02


class GraphedStream:
    """A sequence of images whose steps CUDA replays, from the image to the result in host memory.

    Building it records two graphs, with the provisional head and without. Raises ValueError
    unless the network is on CUDA, and what torch raises when a step cannot be recorded.
    """

    def __init__(self, model: Spann3R, height: int, width: int, memory: MemoryConfig) -> None:
        device = model.norm_k.weight.device
        if device.type != 'cuda':
            raise ValueError(f'graph: expected a network on CUDA, got {device}')
        self._stream = StaticStream(model, height, width, memory)
        # The device reads and writes pinned memory while the host does something else.
        self._image = _pinned(self._stream.image)
        self._refined, self._provisional, self._report = (
            _pinned(item) for item in (self._stream.refined, self._stream.provisional,
                                       self._stream.report))
        self._recording = torch.cuda.Stream(device)
        self._warm_up()
        # Nothing in their memory outlives a replay: they may share it.
        pool = torch.cuda.graph_pool_handle()
        self._graphs = {provisional: self._record(provisional, pool)
                        for provisional in (False, True)}
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

    def step(self, image: np.ndarray, provisional: bool
             ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Take an image uint8 [height, width, 3], as `Spann3R.step` does, with its errors."""
        self._image.numpy()[:] = image
        with torch.cuda.device(self._stream.image.device):
            if self._images == 0:
                self._stream.image.copy_(self._image, non_blocking=True)
                self._stream.found()
            else:
                self._graphs[provisional].replay()
            torch.cuda.current_stream().synchronize()
        if self._images and not self._report[0]:
            raise NotFiniteError('refined points: expected finite numbers')
        self._images += 1
        if self._images == 1:
            return None, None
        # Copies: the next replay writes to the same place.
        return (self._refined.numpy().copy(),
                self._provisional.numpy().copy() if provisional else None)

    def flush(self) -> np.ndarray | None:
        """Return the newest image's prediction by the target head; None before two images."""
        return self._stream.flush().cpu().numpy() if self._images > 1 else None

    def _warm_up(self) -> None:
        """Let libraries choose their kernels and caches fill, outside of any recording."""
        side = self._recording
        side.wait_stream(torch.cuda.current_stream(side.device))
        with torch.cuda.stream(side):
            self._stream.found()
            for _ in range(WARM_UPS):
                self._whole_step(provisional=True)
                self._whole_step(provisional=False)
        side.synchronize()

    def _record(self, provisional: bool, pool: tuple[int, int]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # The stream outside selects its device, and is left again when the recording fails.
        with (torch.cuda.stream(self._recording),
              torch.cuda.graph(graph, pool=pool, stream=self._recording)):
            self._whole_step(provisional)
        return graph

    def _check(self) -> None:
        """Raise RuntimeError unless replays give what the step gives when it is run."""
        for provisional, graph in self._graphs.items():
            run = self._outcome(lambda asked=provisional: self._whole_step(asked))
            replayed = self._outcome(graph.replay)
            off = float((run - replayed).abs().max() / run.abs().max())
            if not off < TOLERANCE:  # nor NaN
                raise RuntimeError(f'graph: replays differ from the steps they recorded by '
                                   f'{off:.3g} of what comes out')

    def _outcome(self, step: Callable[[], object]) -> Tensor:
        """Return what comes out for the last of some images, with others in memory."""
        self.clear()
        for item in (self._refined, self._provisional):
            item.zero_()
        draw = torch.Generator().manual_seed(0)
        for index in range(CHECKED_IMAGES):
            self._image.random_(256, generator=draw)
            if index == 0:
                self._stream.image.copy_(self._image)
                self._stream.found()
            else:
                step()
            torch.cuda.synchronize(self._recording.device)
        return torch.cat((self._refined, self._provisional, self._report[:1].expand(
            *self._refined.shape[:2], 1)), dim=-1)

    def _whole_step(self, provisional: bool) -> None:
        """Upload, compute and download, all in the order of the current CUDA stream."""
        self._stream.image.copy_(self._image, non_blocking=True)
        self._stream.advance(provisional)
        for host, held in ((self._refined, self._stream.refined),
                           (self._report, self._stream.report)):
            host.copy_(held, non_blocking=True)
        if provisional:
            self._provisional.copy_(self._stream.provisional, non_blocking=True)


def _pinned(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, pin_memory=True)
