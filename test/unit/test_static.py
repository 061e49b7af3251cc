# SPDX-License-Identifier: Apache-2.0
"""The step without control flow on the host equals the normal step."""
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import HEIGHT, TOKENS, WIDTH, tiny_model
from torch import Tensor

from spann3r_ros.core.network import Compute
from spann3r_ros.core.types import Pointmap
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.fast.graph import GraphedStream
from spann3r_ros.networks.spann3r.fast.inference import prepare
from spann3r_ros.networks.spann3r.fast.static import StaticMemory, StaticStream
from spann3r_ros.networks.spann3r.memory import COUNTERS, SpatialMemory, read_memory
from spann3r_ros.networks.spann3r.spann3r import NotFiniteError, Spann3R, StepOutput
from spann3r_ros.networks.spann3r.spann3r_network import Spann3RNetwork, open_network
from spann3r_ros.networks.spann3r.streams import PlainStream

# Two working frames and ten more: more than the eight frames that are protected.
SMALL = MemoryConfig(working_frames=2, long_term_tokens=12 * TOKENS, similarity_threshold=0.98)


def walk(count: int) -> Tensor:
    """Return images uint8 [count, height, width, 3], every fourth one as the one before."""
    images = torch.randint(0, 256, (count, HEIGHT, WIDTH, 3), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    images[3::4] = images[2::4][:len(images[3::4])]
    return images


def as_input(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None].float().div(127.5).sub(1.0)


def advanced(stream: StaticStream, image: Tensor, first: bool = False) -> None:
    stream.image.copy_(image)
    if first:
        stream.begin()
    else:
        stream.advance()
        stream.predict_newest()


def assert_same(stream: StaticStream, output: StepOutput) -> None:
    for packed, prediction in ((stream.refined, output.refined),
                               (stream.provisional, output.provisional)):
        torch.testing.assert_close(packed[..., :3], prediction.points[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(packed[..., 3], prediction.confidence[0])


@pytest.mark.parametrize('memory', [
    SMALL,
    MemoryConfig(working_frames=2, long_term_tokens=0, similarity_threshold=1.0),
    MemoryConfig(working_frames=3, long_term_tokens=12 * TOKENS, similarity_threshold=1.0,
                 attention_threshold=0.05),
    MemoryConfig(similarity_threshold=-1.0),
])
def test_static_stream_equals_the_step(memory: MemoryConfig) -> None:
    model, images = tiny_model(), walk(40)
    state, stream = model.start(HEIGHT, WIDTH, memory), StaticStream(model, HEIGHT, WIDTH, memory)
    assert stream.memory.device_bytes == state.memory.device_bytes
    for _ in range(2):  # a second sequence in the same buffers
        state = model.start(HEIGHT, WIDTH, memory)
        stream.clear()
        for index, image in enumerate(images):
            output = model.step(state, as_input(image), provisional=True)
            advanced(stream, image, first=index == 0)
            if index:
                assert_same(stream, output)
                assert stream.report.tolist() == [1, *(
                    getattr(state.memory, name) for name in COUNTERS)]
    assert (state.memory.prunings > 0) == (memory.long_term_tokens == 12 * TOKENS)
    assert (state.memory.rejected_frames > 0) == (memory.similarity_threshold < 1.0)
    last = model.flush(state)
    torch.testing.assert_close(stream.provisional[..., :3], last.points[0], rtol=1e-4, atol=1e-5)


def read_whole_buffer(memory: SpatialMemory, query: Tensor) -> tuple[Tensor, Tensor]:
    """Read as `StaticMemory` does: products over all places of the buffer, the empty ones cut."""
    known = torch.arange(memory.capacity) < memory.tokens
    readout, attention = read_memory(query.flatten(0, -2), memory._keys, memory._values,
                                     memory.config.attention_threshold, known)
    return readout.view_as(query), attention[:memory.tokens]


@pytest.mark.usefixtures('eight_bits')
@pytest.mark.parametrize('precision', ['int8', 'bf16'])
def test_static_stream_equals_the_step_of_a_rounding_network(
        precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both round the same numbers to 8 bits, or to bfloat16, if they read memory alike.

    The sums over a buffer and over its tokens differ in the last bit of float32, by 1e-7 of them.
    A number that lies so near the middle of two steps falls to either, and then differs by a whole
    step: 1/127 of its token's largest in 8 bits, 2**-8 of itself in bfloat16. No tolerance finer
    than the rounding itself holds for that, so the order of the sums is made the same.
    """
    monkeypatch.setattr(SpatialMemory, 'read', read_whole_buffer)
    model, images = prepare(tiny_model(), precision), walk(24)
    state, stream = model.start(HEIGHT, WIDTH, SMALL), StaticStream(model, HEIGHT, WIDTH, SMALL)
    for index, image in enumerate(images):
        output = model.step(state, as_input(image), provisional=True)
        advanced(stream, image, first=index == 0)
        if index:
            assert_same(stream, output)


def test_points_that_are_not_finite_leave_the_state_unchanged(
        monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny_model(), walk(12)
    state, stream = model.start(HEIGHT, WIDTH, SMALL), StaticStream(model, HEIGHT, WIDTH, SMALL)
    for index, image in enumerate(images):
        if index in (1, 6):
            with monkeypatch.context() as patch:
                spoil(model, patch)
                with pytest.raises(NotFiniteError):
                    model.step(state, as_input(image))
                advanced(stream, image)
            assert stream.report[0] == 0
            continue
        output = model.step(state, as_input(image), provisional=True)
        advanced(stream, image, first=index == 0)
        if index:
            assert_same(stream, output)
            assert stream.report.tolist()[:3] == [1, state.memory.tokens,
                                                  state.memory.working_frames]


def spoil(model: Spann3R, patch: pytest.MonkeyPatch) -> None:
    predict = model.predict_reference

    def spoilt(*arguments: object) -> object:
        prediction = predict(*arguments)
        prediction.points[0, 0, 0] = torch.nan
        return prediction
    patch.setattr(model, 'predict_reference', spoilt)


def test_stream_that_has_run_continues_from_a_state() -> None:
    images = walk(12)
    streams = [StaticStream(tiny_model(), HEIGHT, WIDTH, SMALL) for _ in range(2)]
    for index, image in enumerate(images[:6]):
        advanced(streams[0], image, first=index == 0)
    # As the warm-up of a graph: what the first steps allocate is there already.
    for index, image in enumerate(images[6:8]):
        advanced(streams[1], image, first=index == 0)
    streams[1].restore({name: item.clone() for name, item in streams[0].arrays().items()})
    for image in images[6:]:
        for stream in streams:
            advanced(stream, image)
        torch.testing.assert_close(streams[1].refined, streams[0].refined)
        torch.testing.assert_close(streams[1].provisional, streams[0].provisional)


def test_budget_below_the_working_frames_is_refused() -> None:
    with pytest.raises(ValueError, match='long_term_tokens: expected 0 or at least 12'):
        StaticMemory(MemoryConfig(working_frames=2, long_term_tokens=11), TOKENS, 32)


def test_graph_on_a_cpu_is_refused_and_the_network_runs_without(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, images = tiny_model(), walk(6).numpy()
    with pytest.raises(ValueError, match='graph: expected a network on CUDA, got cpu'):
        GraphedStream(model, HEIGHT, WIDTH, SMALL)
    save_model(tmp_path / 'tiny.safetensors', model)
    plain, graphed = (open_network(tmp_path / 'tiny.safetensors', MemoryConfig(),
                                           Compute('cpu', cuda_graph=graph))
                      for graph in (False, True))
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == [
        'cuda_graph: graph: expected a network on CUDA, got cpu; running step by step']
    for image in images:
        for one, other in zip(outputs(plain, image), outputs(graphed, image), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one.points, other.points)
    assert plain.status() == graphed.status()


def outputs(network: Spann3RNetwork, image: np.ndarray) -> tuple[Pointmap | None, ...]:
    refined, newest = network.step(image, 0), network.provisional()
    return refined[0].pointmap if refined else None, newest.pointmap if newest else None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('precision', ['fp32', 'tf32', 'bf16'])
def test_graph_equals_the_step_on_cuda(precision: str) -> None:
    model, images = prepare(tiny_model().cuda(), precision), walk(40).numpy()
    plain, graphed = (kind(model, HEIGHT, WIDTH, SMALL) for kind in (PlainStream, GraphedStream))
    for _ in range(2):
        for index, image in enumerate(images):
            for one, other in ((plain.step(image), graphed.step(image)),
                               (plain.newest(), graphed.newest())):
                assert (one is None) == (other is None)
                if one is not None:
                    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)
            if index:
                assert graphed.counters == plain.counters
        plain.clear()
        graphed.clear()
