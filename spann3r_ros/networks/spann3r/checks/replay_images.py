# SPDX-License-Identifier: Apache-2.0
"""Run recorded image sequences and watch the intermediate results from outside."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.spann3r.memory import MemoryEntry, SpatialMemory
from spann3r_ros.networks.spann3r.offline import reconstruct_offline

from .recipe import build_model, image, network_input
from .recording import Arrays, Recording
from .replay_parts import (
    CPU,
    Layout,
    final_memory,
    finite_or_nan,
    on_host,
    raw_confidence,
    stack,
    unchanged,
    zero_fraction,
)


class Calls:
    """What the watched methods were given and what they returned, by method name."""

    def __init__(self) -> None:
        self.made: dict[str, list[tuple[tuple[Any, ...], Any]]] = {}

    @contextmanager
    def watching(self, *methods: tuple[object, str]) -> Iterator[None]:
        """Record the calls of (owner, method name) made inside the block."""
        self.made = {name: [] for _, name in methods}
        with ExitStack() as stack_:
            for owner, name in methods:
                recorder = self._recorder(name, getattr(owner, name))
                stack_.enter_context(mock.patch.object(owner, name, recorder))
            yield

    def _recorder(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: object) -> object:
            result = method(*arguments)
            self.made[name].append((arguments, result))
            return result

        return record


class OnlineRun:
    """A streamed sequence; `rows` holds, by array name, one item a step."""

    def __init__(self, recording: Recording, device: torch.device, layout: Layout) -> None:
        self.model = layout(build_model(recording.network_config, recording.meta['salt'], device))
        height, width = recording.meta['frames'][0][1:3]
        self.state = self.model.start(height, width, recording.memory_config)
        self.rows: dict[str, list] = {}
        self._meta = recording.meta
        self._pixels = slice(self._meta['pixel_start'], None, self._meta['pixel_stride'])
        self._calls = Calls()

    def step(self, frame: Tensor) -> None:
        """Advance by one image and note everything the format has."""
        model, state = self.model, self.state
        newest = state.feature
        if state.query is not None:
            self._note_read()
        methods = ((model.dust3r, 'decode'), (model, 'key'), (model, 'query'),
                   (model, 'encode_value'), (state.memory, 'similarity'), (state.memory, 'admits'))
        reads = state.query is not None
        with self._calls.watching(*methods):
            output = model.step(state, frame, provisional=True)
        if output.refined is None:
            return
        self._note_prediction('', output.refined)
        self._note_prediction('_head2', output.provisional)
        self._note_intermediates(newest, output.refined.points, reads)
        self._note_write()

    def flush(self) -> None:
        """Note the last image's result."""
        self._note_prediction('', self.model.flush(self.state))

    def _note(self, name: str, item: Tensor | float) -> None:
        self.rows.setdefault(name, []).append(item)

    def _note_read(self) -> None:
        memory = self.state.memory
        self._note('read_tokens', memory.tokens)
        self._note('read_zero_frac', zero_fraction(
            self.model.norm_q(self.state.query[0]), self.model.norm_k(memory.raw_keys),
            memory.config.attention_threshold))

    def _note_prediction(self, suffix: str, prediction: DensePrediction) -> None:
        points, confidence = prediction.points[0], raw_confidence(prediction)[0]
        self._note(f'pts{suffix}', points[self._pixels, self._pixels])
        self._note(f'conf{suffix}', confidence[self._pixels, self._pixels])
        if not suffix:
            self._note('pts_mean', points.flatten(0, 1).mean(dim=0))
            self._note('pts_std', points.flatten(0, 1).std(dim=0))
            self._note('conf_mean', confidence.mean())
            self._note('conf_std', confidence.std())

    def _note_intermediates(self, newest: Tensor, points: Tensor, reads: bool) -> None:
        made = self._calls.made
        (reference, target, _), (outputs, target_outputs) = made['decode'][0]
        # The original encodes the value of dropped frames too; here nothing does.
        value = made['encode_value'][0][1] if made['encode_value'] else (
            self.model.encode_value(points))
        items = {'x_feat1': newest, 'x_feat2': target, 'x_dec1': outputs[-1],
                 'x_dec2': target_outputs[-1], 'x_key': made['key'][0][1],
                 'x_query': made['query'][0][1], 'x_value': value}
        if reads:
            items['x_fused'] = reference
        tokens, channels = self._meta['token_stride'], self._meta['channel_stride']
        for name, item in items.items():
            self._note(name, item[0, ::tokens, ::channels])

    def _note_write(self) -> None:
        made, memory = self._calls.made, self.state.memory
        similarity = made['similarity'][0][1] if made['similarity'] else math.nan
        self._note('sim', finite_or_nan(similarity))
        self._note('skipped', int(not made['admits'][0][1]))
        self._note('tokens', memory.tokens)
        self._note('wm', memory.working_frames)
        self._note('lm', memory.long_term_tokens)


@torch.no_grad()
def replay_online(recording: Recording, device: torch.device = CPU,
                  layout: Layout = unchanged) -> Arrays:
    """Stream the recorded images."""
    run = OnlineRun(recording, device, layout)
    for arguments in recording.meta['frames']:
        run.step(network_input(image(*arguments)).to(device))
    run.flush()
    order, arrays = final_memory(run.state.memory)
    arrays['final_k0'] = on_host(run.state.memory.raw_keys[:, 0])[order]
    return arrays | {name: stack(items) for name, items in run.rows.items()}


def replay_offline(recording: Recording, device: torch.device = CPU,
                   layout: Layout = unchanged) -> Arrays:
    """Reconstruct the recorded images in the order the network chooses."""
    model = layout(build_model(recording.network_config, recording.meta['salt'], device))
    images = torch.cat([network_input(image(*item))
                        for item in recording.meta['frames']]).to(device)
    tokens: list[int] = []
    similarities: list[float] = []
    original_write, original_similarity = SpatialMemory.write, SpatialMemory.similarity

    def write(memory: SpatialMemory, attention: Tensor | None,
              entry: MemoryEntry | None) -> None:
        original_write(memory, attention, entry)
        tokens.append(memory.tokens)

    def similarity(memory: SpatialMemory, key: Tensor) -> float:
        similarities.append(original_similarity(memory, key))
        return similarities[-1]

    with mock.patch.multiple(SpatialMemory, write=write, similarity=similarity):
        result = reconstruct_offline(model, images, recording.memory_config)
    pixels = slice(recording.meta['pixel_start'], None, recording.meta['pixel_stride'])
    points = [item.points[0] for item in result.predictions]
    confidence = [raw_confidence(item)[0] for item in result.predictions]
    return {
        'order': np.array(result.order), 'nbv_conf': np.array(result.scores),
        'conf_matrix': on_host(result.pair_confidence), 'tokens': np.array(tokens),
        'sim': stack([finite_or_nan(item) for item in similarities]),
        'pts': stack([item[pixels, pixels] for item in points]),
        'conf': stack([item[pixels, pixels] for item in confidence]),
        'pts_mean': stack([item.flatten(0, 1).mean(dim=0) for item in points]),
        'conf_mean': stack([item.mean() for item in confidence]),
    }
