# SPDX-License-Identifier: Apache-2.0
"""The layouts in which the network can run, built with the same weights, beside a plain one."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.networks.registry import resolve_checkpoint
from spann3r_ros.networks.spann3r.checkpoint import load_model
from spann3r_ros.networks.spann3r.config import MemoryConfig, Spann3RConfig, scale_memory_budget
from spann3r_ros.networks.spann3r.fast.graph import GraphedStream, capture
from spann3r_ros.networks.spann3r.fast.inference import compile_blocks, prepare
from spann3r_ros.networks.spann3r.fast.static import StaticMemory, StaticStream
from spann3r_ros.networks.spann3r.memory import MemoryEntry, SpatialMemory
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.networks.spann3r.streams import PlainStream, Stream, to_input
from spann3r_ros.networks.stopwatch import median_sec, round_products

from .plain_schedule import PlainSchedule

PLAIN = 'plain'
TINY = {'encoder_width': 64, 'encoder_depth': 2, 'encoder_heads': 2, 'decoder_width': 48,
        'decoder_depth': 4, 'decoder_heads': 2, 'value_depth': 1, 'value_heads': 2,
        'dpt_width': 16, 'dpt_layers': (8, 12, 16, 20)}
# Sizes of networks with random weights; without an entry: the bundled network.
NETWORKS = {'full 224x224': {}, 'full 512x384': {'image_height': 384, 'image_width': 512},
            'tiny 96x96': {**TINY, 'image_height': 96, 'image_width': 96},
            'tiny 96x64': {**TINY, 'image_height': 64, 'image_width': 96}}
BUNDLED = 'bundled'


def _compiled(model: Spann3R) -> Spann3R:
    precision = 'tf32' if model.norm_k.weight.device.type == 'cuda' else 'fp32'
    return compile_blocks(prepare(model, precision, pack=False))


LAYOUTS: dict[str, Callable[[Spann3R], Spann3R]] = {
    'fp32': prepare, 'int8': lambda model: prepare(model, 'int8'),
    'tf32': lambda model: prepare(model, 'tf32'), 'bf16': lambda model: prepare(model, 'bf16'),
    'compiled': _compiled, 'graph': lambda model: prepare(model, 'tf32'),
    'graph bf16': lambda model: prepare(model, 'bf16'), 'graph compiled': _compiled,
    # What a graph records, run without one.
    'static': prepare}
# What products are made of on a device; fp32 where a layout does not say.
KINDS = {'int8': 'int8', 'tf32': 'tf32', 'bf16': 'bf16', 'graph': 'tf32', 'graph bf16': 'bf16',
         'graph compiled': 'tf32', ('compiled', 'cuda'): 'tf32'}


def kind_of_numbers(layout: str, device: torch.device) -> str:
    """Return what the products of a layout are made of."""
    return KINDS.get((layout, device.type), KINDS.get(layout, 'fp32'))


def sizes(network: str) -> Spann3RConfig:
    """Return the sizes of one of `NETWORKS`."""
    return Spann3RConfig(**NETWORKS[network])


def build_model(network: str, device: torch.device) -> Spann3R:
    """Return the bundled network, or one of `NETWORKS` with the same random weights each time."""
    if network == BUNDLED:
        return load_model(resolve_checkpoint(''), device)
    torch.manual_seed(0)
    # Weights are drawn on the device: on a CPU the full size would take seconds.
    with torch.device(device):
        return Spann3R(sizes(network)).eval().requires_grad_(False)


def memory_of(config: Spann3RConfig) -> MemoryConfig:
    """Return the memory of a network of these sizes, which stores every image."""
    return scale_memory_budget(MemoryConfig(similarity_threshold=1.0), tokens_of(config))


def tokens_of(config: Spann3RConfig) -> int:
    """Return the tokens of an image."""
    return math.prod(config.grid(config.image_height, config.image_width))


class PlainVariant:
    """The plain schedule, which computes both predictions in each step, in float32."""

    def __init__(self, model: Spann3R) -> None:
        self.model = model
        self._device = model.norm_k.weight.device
        self._memory = memory_of(model.config)
        self.schedule = PlainSchedule(model, self._memory)
        self._newest: np.ndarray | None = None

    def step(self, image: np.ndarray) -> np.ndarray | None:
        """Take the next image; return the final prediction of the one before it."""
        round_products(False)
        output = self.schedule.step(to_input(image, self._device))
        final, self._newest = (None if item is None else item.packed().cpu().numpy()
                               for item in (output.refined, output.provisional))
        return final

    def newest(self) -> np.ndarray | None:
        """Return the newest image's prediction."""
        return self._newest

    @torch.inference_mode()
    def read_sec(self, tokens: int) -> float:
        """Return the seconds that a read of a memory of so many tokens takes on the device."""
        round_products(False)
        schedule = PlainSchedule(self.model, self._memory)
        width = self.model.config.encoder_width
        keys, values = torch.randn(2, tokens, width, device=self._device)
        query = torch.randn(1, tokens_of(self.model.config), width, device=self._device)
        schedule.fill(keys, values, query)
        return median_sec(schedule.fuse, self._device)


class StreamVariant:
    """A stream of the package; on CUDA `rounded` lets products of float32 be rounded to tf32."""

    def __init__(self, model: Spann3R, stream: Stream, rounded: bool) -> None:
        self.model, self._stream, self._rounded = model, stream, rounded
        self._device = model.norm_k.weight.device

    def step(self, image: np.ndarray) -> np.ndarray | None:
        """Take the next image; return the final prediction of the one before it."""
        round_products(self._rounded)
        return self._stream.step(image)

    def newest(self) -> np.ndarray | None:
        """Return the newest image's prediction."""
        round_products(self._rounded)
        return self._stream.newest()

    @torch.inference_mode()
    def read_sec(self, tokens: int) -> float:
        """Return the seconds that a read of a memory of so many tokens takes on the device."""
        round_products(self._rounded)
        count, width = tokens_of(self.model.config), self.model.config.encoder_width
        config = MemoryConfig(similarity_threshold=1.0, long_term_tokens=max(
            tokens, MemoryConfig().working_frames * count))
        query = torch.randn(1, count, width, device=self._device)
        static = not isinstance(self._stream, PlainStream)
        memory = (StaticMemory if static else SpatialMemory)(config, count, width, self._device)
        for _ in range(math.ceil(tokens / count)):
            entry = MemoryEntry(*torch.randn(3, 1, count, width, device=self._device))
            memory.write(torch.zeros(memory.capacity, device=self._device) if static else None,
                         entry)

        def read() -> tuple[Tensor, Tensor]:
            return memory.read(self.model.norm_q(query))
        if isinstance(self._stream, GraphedStream):
            return median_sec(capture(read, self._device).replay, self._device)
        return median_sec(read, self._device)


class UnrecordedStream:
    """The step that a graph records, run without a graph: for rehearsals on a CPU."""

    def __init__(self, model: Spann3R, height: int, width: int, memory: MemoryConfig) -> None:
        self._static = StaticStream(model, height, width, memory)
        self._images = 0

    def step(self, image: np.ndarray) -> np.ndarray | None:
        """Take the next image; return the final prediction of the one before it."""
        self._static.image.copy_(torch.from_numpy(image))
        self._images += 1
        if self._images == 1:
            self._static.begin()
            return None
        self._static.advance()
        return self._static.refined.cpu().numpy().copy()

    def newest(self) -> np.ndarray | None:
        """Return the newest image's prediction; None before two images."""
        if self._images < 2:
            return None
        self._static.predict_newest()
        return self._static.provisional.cpu().numpy().copy()


def build_variant(network: str, layout: str,
                  device: torch.device) -> PlainVariant | StreamVariant:
    """Build a network in a layout, `PLAIN` or one of `LAYOUTS`."""
    model = build_model(network, device)
    if layout == PLAIN:
        return PlainVariant(model)
    model = LAYOUTS[layout](model)
    make = PlainStream
    if layout == 'static':
        make = UnrecordedStream
    elif layout.startswith('graph'):
        make = GraphedStream
    size = (model.config.image_height, model.config.image_width)
    stream = make(model, *size, memory_of(model.config))
    return StreamVariant(model, stream, kind_of_numbers(layout, device) != 'fp32')
