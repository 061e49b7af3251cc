# SPDX-License-Identifier: Apache-2.0
"""Spann3R behind the network protocol, plain and with fixed shapes."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import HEIGHT, TOKENS, WIDTH, tiny_model

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import DeviceMemoryError, FrameError
from spann3r_ros.mapping.memory_manager import MemoryManager
from spann3r_ros.networks.arrangement import all_pairs, choose_order
from spann3r_ros.networks.spann3r import memory as memory_module
from spann3r_ros.networks.spann3r.config import MemoryConfig, scale_memory_budget
from spann3r_ros.networks.spann3r.fast.static import StaticStream
from spann3r_ros.networks.spann3r.memory import SpatialMemory
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.networks.spann3r.spann3r_network import Spann3RNetwork

SIZE = (HEIGHT, WIDTH)
# The network scales a budget of 12 frames of 196 tokens to 12 of its own.
PRUNED = MemoryConfig(working_frames=2, long_term_tokens=12 * 196, similarity_threshold=1.0)
SCALED = replace(PRUNED, long_term_tokens=12 * TOKENS)


def test_budget_holds_as_many_frames_at_any_size() -> None:
    config = MemoryConfig(long_term_tokens=4000)
    assert scale_memory_budget(config, 196) == config
    assert scale_memory_budget(config, 784).long_term_tokens == 16_000
    assert scale_memory_budget(replace(config, long_term_tokens=0), 64).long_term_tokens == 0
    with pytest.raises(ValueError, match='tokens_per_frame'):
        scale_memory_budget(config, 0)


@pytest.fixture
def network() -> Spann3RNetwork:
    return Spann3RNetwork(tiny_model(), MemoryConfig())


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def test_a_descriptor_is_the_mean_feature_of_its_own_image(network: Spann3RNetwork) -> None:
    def expected(seed: int) -> np.ndarray:
        image = torch.from_numpy(picture(seed)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        with torch.inference_mode():
            return network.model.dust3r.encode(image)[0].mean(0).numpy()
    network.step(picture(0), 0)
    saved = network.state()
    for seed in (1, 2):
        estimate, = network.step(picture(seed), seed)
        assert estimate.descriptor.dtype == np.float32
        np.testing.assert_allclose(estimate.descriptor, expected(seed - 1), rtol=1e-5, atol=1e-6)
    last, = network.flush()
    np.testing.assert_allclose(last.descriptor, expected(2), rtol=1e-5, atol=1e-6)
    network.restore(saved)
    estimate, = network.step(picture(3), 3)
    np.testing.assert_allclose(estimate.descriptor, expected(0), rtol=1e-5, atol=1e-6)


def test_step_returns_the_image_before_and_flush_the_newest(network: Spann3RNetwork) -> None:
    assert network.step(picture(0), 7) == []
    assert network.provisional() is None and network.flush() == []
    estimate, = network.step(picture(1), 9)
    assert (estimate.image_id, estimate.reference_id, estimate.final) == (7, 7, True)
    newest = network.provisional()
    assert (newest.image_id, newest.reference_id, newest.final) == (9, 7, False)
    for pointmap in (estimate.pointmap, newest.pointmap):
        assert pointmap.points.shape == (*SIZE, 3)
        assert 0.0 <= pointmap.confidence.min() <= pointmap.confidence.max() < 1.0
    last, = network.flush()
    assert (last.image_id, last.final) == (9, True)
    np.testing.assert_array_equal(last.pointmap.points, newest.pointmap.points)
    network.reset()
    assert network.flush() == []


def test_input_size_is_that_of_the_weights(network: Spann3RNetwork) -> None:
    assert {network.input_size(aspect) for aspect in (0.5, 1.0, 1.8)} == {SIZE}


def test_pair_equals_a_sequence_of_two_and_keeps_the_sequence(network: Spann3RNetwork) -> None:
    alone = Spann3RNetwork(tiny_model(), MemoryConfig())
    alone.step(picture(1), 0)
    first, second = alone.step(picture(2), 1)[0], alone.flush()[0]
    for seed in range(5):
        network.step(picture(seed), seed)
    before = network.state()
    pair = network.pair(picture(1), picture(2))
    assert [(one.image_id, one.reference_id) for one in pair] == [(0, 0), (1, 0)]
    for one, other in zip(pair, (first, second), strict=True):
        np.testing.assert_array_equal(one.pointmap.points, other.pointmap.points)
    after = network.state()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize('cut', [0, 1, 2, 9, 20])
@pytest.mark.parametrize('memory', [MemoryConfig(), PRUNED])
def test_restored_state_continues_bit_by_bit(cut: int, memory: MemoryConfig) -> None:
    whole, other = (Spann3RNetwork(tiny_model(), memory) for _ in range(2))
    for index in range(cut):
        whole.step(picture(index), index)
    other.step(picture(99), 5)  # what was there before must not matter
    other.step(picture(98), 6)
    other.restore(whole.state())
    assert other.status() == whole.status()
    for index in range(cut, cut + 4):
        one, again = (item.step(picture(index), index) for item in (whole, other))
        assert [item.image_id for item in one] == [item.image_id for item in again]
        for item, twin in zip(one, again, strict=True):
            np.testing.assert_array_equal(item.pointmap.points, twin.pointmap.points)
    np.testing.assert_array_equal(whole.flush()[0].pointmap.points,
                                  other.flush()[0].pointmap.points)
    assert (whole.status().tokens, whole.status().values) == (
        other.status().tokens, other.status().values)


def test_static_stream_restores_bit_by_bit() -> None:
    one, other = (StaticStream(tiny_model(), *SIZE, SCALED) for _ in range(2))
    for index in range(24):
        one.image.copy_(torch.from_numpy(picture(index)))
        if index == 0:
            one.begin()
        else:
            one.advance()
        if index == 15:
            other.restore({name: item.clone() for name, item in one.arrays().items()})
        elif index > 15:
            other.image.copy_(one.image)
            other.advance()
    assert torch.equal(one.refined, other.refined) and torch.equal(one.report, other.report)
    with pytest.raises(ValueError, match='feature: expected the arrays'):
        other.restore({**one.arrays(), 'feature': torch.zeros(1, 2, 3)})


@pytest.mark.parametrize(('change', 'message'), [
    ({'feature': np.zeros((1, 2, 32), np.float32)}, 'feature: expected shape'),
    ({'memory_values': np.zeros((2, 32), np.float32)}, 'values: expected shape'),
    ({'memory_counters': np.array([10**9, 0, 0, 0, 0])}, 'counters: expected at most'),
    ({'memory_counters': np.array([24, 9, 0, 0, 0])}, 'counters: expected at most'),
    ({'feature': np.zeros((1, 6, 99), np.float32)}, 'feature: expected shape'),
    ({'feature': np.full((1, 6, 32), np.nan, np.float32)}, 'feature: expected finite'),
    ({'target_tokens_4': None}, 'target_tokens_4 is missing'),
    ({'query': None}, 'query is missing'),
    ({'image_ids': None}, 'image_ids: expected 2 numbers'),
    ({'image_ids': np.array([1])}, 'image_ids: expected 2 numbers'),
    ({'memory_mass': None}, "expected the array 'mass'")])
def test_state_that_does_not_fit_changes_nothing(
        network: Spann3RNetwork, change: dict, message: str) -> None:
    for index in range(4):
        network.step(picture(index), index)
    kept = network.state()
    spoilt = {name: item for name, item in {**kept, **change}.items() if item is not None}
    with pytest.raises(ValueError, match=message):
        network.restore(spoilt)
    assert all(np.array_equal(item, network.state()[name]) for name, item in kept.items())


def test_another_size_is_refused_and_the_sequence_continues(network: Spann3RNetwork) -> None:
    network.step(picture(0), 0)
    with pytest.raises(FrameError, match=r'image: expected uint8 .* got uint8 \(8, 8, 3\)'):
        network.step(np.zeros((8, 8, 3), np.uint8), 1)
    assert network.step(picture(1), 2)[0].image_id == 0


def test_points_that_are_not_finite_are_a_frame_error() -> None:
    model = tiny_model()
    network = Spann3RNetwork(model, MemoryConfig())
    network.step(picture(0), 0)
    healthy = model.dust3r.decoder_embed.bias.clone()
    with torch.no_grad():
        model.dust3r.decoder_embed.bias.fill_(float('nan'))
    with pytest.raises(FrameError, match='finite'):
        network.step(picture(1), 1)
    with torch.no_grad():
        model.dust3r.decoder_embed.bias.copy_(healthy)
    assert network.step(picture(1), 2)[0].image_id == 0


CPU_EXHAUSTED = RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: "
                             "can't allocate memory: no room")


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('no room'), MemoryError('no room'),
                                   CPU_EXHAUSTED,
                                   RuntimeError('DefaultCPUAllocator: not enough memory: no room'),
                                   RuntimeError('CUDA error: out of memory: no room'),
                                   RuntimeError('CUBLAS_STATUS_ALLOC_FAILED: no room'),
                                   RuntimeError('CUDNN_STATUS_ALLOC_FAILED: no room')])
def test_out_of_memory_is_reported_and_a_reset_recovers(
        network: Spann3RNetwork, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    network.step(picture(0), 0)
    held = network.status().device_bytes

    def exhausted(*_: object) -> None:
        raise error

    monkeypatch.setattr(Spann3R, 'step', exhausted)
    with pytest.raises(DeviceMemoryError, match='out of memory on cpu: .*no room'):
        network.step(picture(1), 1)
    monkeypatch.setattr(Spann3R, 'start', exhausted)
    network.reset()  # there is no room for an empty memory either
    assert 0 < network.status().device_bytes < held
    assert network.flush() == []
    with pytest.raises(DeviceMemoryError):
        network.step(picture(1), 2)
    monkeypatch.undo()
    network.reset()
    network.step(picture(0), 3)
    assert network.step(picture(1), 4)[0].image_id == 3
    assert network.status().device_bytes == held


def test_real_exhaustion_of_a_cpu_is_reported(network: Spann3RNetwork,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spann3R, 'step', lambda *_: torch.empty(2**50))
    with pytest.raises(DeviceMemoryError, match='out of memory on cpu'):
        network.step(picture(0), 0)


def test_other_runtime_errors_are_raised(network: Spann3RNetwork,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError('a defect')
    monkeypatch.setattr(Spann3R, 'step', broken)
    with pytest.raises(RuntimeError, match='a defect'):
        network.step(picture(0), 0)


def test_provisional_estimate_out_of_memory_is_none(
        network: Spann3RNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    network.step(picture(0), 0)
    network.step(picture(1), 1)

    def exhausted(*_: object) -> None:
        raise MemoryError('no room')
    monkeypatch.setattr(Spann3R, 'predict_target', exhausted)
    assert network.provisional() is None


def test_prune_that_runs_out_of_memory_leaves_every_store_whole(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """With stores of different length, keys of one frame would meet values of another."""
    model = tiny_model()
    state = model.start(HEIGHT, WIDTH, SCALED)
    images = torch.from_numpy(np.stack([picture(seed) for seed in range(13)])).permute(
        0, 3, 1, 2)[:, None].float().div(127.5).sub(1.0)
    for image in images[:12]:
        model.step(state, image)
    memory = state.memory
    before = {name: item.clone() for name, item in memory.arrays().items()}
    copies = 0
    get = torch.Tensor.__getitem__

    def failing(tensor: torch.Tensor, index: object) -> torch.Tensor:
        nonlocal copies
        if isinstance(index, torch.Tensor):
            copies += 1
            if copies == 3:
                raise MemoryError('no room')
        return get(tensor, index)
    monkeypatch.setattr(torch.Tensor, '__getitem__', failing)
    with pytest.raises(MemoryError):
        memory._keep(torch.arange(memory.tokens).flip(0))
    monkeypatch.undo()
    assert all(torch.equal(item, memory.arrays()[name]) for name, item in before.items())


@pytest.mark.parametrize('place', ['append', 'prune_order', 'keep'])
def test_a_write_that_runs_out_of_memory_on_a_cpu_leaves_the_tokens_in_order(
        place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `state` returns before the reset is a memory that could have been read."""
    network = Spann3RNetwork(tiny_model(), PRUNED)
    for seed in range(12):
        network.step(picture(seed), seed)
    memory = network._stream._state.memory
    copied = 0

    def exhausted(*_: object) -> None:
        raise CPU_EXHAUSTED

    def third_copy(tensor: torch.Tensor, index: object) -> torch.Tensor:
        nonlocal copied
        copied += isinstance(index, torch.Tensor)
        return exhausted() if copied == 3 else get(tensor, index)

    get = torch.Tensor.__getitem__
    if place == 'append':
        monkeypatch.setattr(SpatialMemory, '_append', exhausted)
    elif place == 'prune_order':
        monkeypatch.setattr(memory_module, 'prune_order', exhausted)
    else:
        monkeypatch.setattr(torch.Tensor, '__getitem__', third_copy)
    failures = []
    for seed in range(12, 24):
        before = {name: item.clone() for name, item in memory.arrays().items()}
        try:
            network.step(picture(seed), seed)
        except DeviceMemoryError as error:
            failures.append(str(error))
            break
    assert failures and 'no room' in failures[0]
    monkeypatch.undo()
    after, held = memory.arrays(), len(before['values'])
    assert {len(item) for name, item in after.items() if name != 'counters'} == {memory.tokens}
    for name in ('raw_keys', 'keys', 'values'):
        assert torch.equal(after[name][:held], before[name]), name
    assert (after['count'][:held] - before['count']).unique().numel() == 1
    assert (after['mass'][:held] >= before['mass']).all()
    network.reset()
    fresh = Spann3RNetwork(tiny_model(), PRUNED)
    for one in (network, fresh):
        one.step(picture(0), 0)
    again, expected = (one.step(picture(1), 1)[0].pointmap for one in (network, fresh))
    assert np.array_equal(again.points, expected.points)


def test_memory_manager_reports_the_counters(network: Spann3RNetwork) -> None:
    manager = MemoryManager(network)
    for seed in range(4):
        manager.step(picture(seed), seed)
    before = manager.report()
    manager.reset('a test')
    manager.reset('another', recovery=True)
    after = manager.report()
    assert 0 < before.status.tokens <= before.status.capacity_tokens
    assert before.status.device_bytes > 0 and before.status.threads > 0
    assert dict(before.status.values)['working_frames'] == 3
    assert (after.status.tokens, after.resets, after.recoveries, after.last_reset_reason) == (
        0, 2, 1, 'another')


def test_only_the_memory_manager_resets_a_network(network: Spann3RNetwork) -> None:
    for seed in range(3):
        network.step(picture(seed), seed)
    network.flush()
    assert network.status().tokens > 0
    manager = MemoryManager(network)
    assert network.status().tokens == 0
    for seed in range(3):
        manager.step(picture(seed), seed)
    assert isinstance(manager.flush()[0], Estimate)
    assert network.status().tokens == 0



SIZES = ((32, 48), (48, 48), (32, 64))


@pytest.fixture
def adaptable() -> Spann3RNetwork:
    """A network for images of several sizes."""
    model = tiny_model()
    model.config = replace(model.config, image_height=32, image_width=48, other_sizes=SIZES[1:])
    return Spann3RNetwork(model, MemoryConfig())


def images(size: tuple[int, int], count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3), np.uint8)


def test_input_size_has_the_nearest_aspect(adaptable: Spann3RNetwork) -> None:
    aspects = (0.5, 1.0, 1.2, 1.3, 1.5, 1.7, 1.8, 3.0)
    assert [adaptable.input_size(aspect) for aspect in aspects] == [
        SIZES[index] for index in (1, 1, 1, 0, 0, 0, 2, 2)]


@pytest.mark.parametrize('size', SIZES)
def test_a_sequence_has_one_of_the_sizes(adaptable: Spann3RNetwork, size: tuple[int, int]) -> None:
    alone = tiny_model()
    alone.config = replace(alone.config, image_height=size[0], image_width=size[1])
    expected, walk = Spann3RNetwork(alone, MemoryConfig()), images(size, 4)
    adaptable.step(images(SIZES[1], 1)[0], 0)
    adaptable.reset()
    for number, image in enumerate(walk):
        got, other = adaptable.step(image, number), expected.step(image, number)
        assert len(got) == len(other) == min(number, 1)
        for one, two in zip(got, other, strict=True):
            np.testing.assert_array_equal(one.pointmap.points, two.pointmap.points)
    assert adaptable.status() == expected.status()
    with pytest.raises(FrameError, match=r'image: expected uint8 \('):
        adaptable.step(images((32, 80), 1)[0], 9)
    other_size = SIZES[0] if size != SIZES[0] else SIZES[1]
    with pytest.raises(FrameError, match=r'image: expected uint8 \('):
        adaptable.step(images(other_size, 1)[0], 9)
    assert len(adaptable.flush()) == 1


def test_state_has_its_size(adaptable: Spann3RNetwork) -> None:
    walk = images(SIZES[2], 4)
    for number, image in enumerate(walk[:3]):
        adaptable.step(image, number)
    state = adaptable.state()
    expected = adaptable.step(walk[3], 3)[0].pointmap.points
    adaptable.reset()
    adaptable.step(images(SIZES[0], 1)[0], 0)
    with pytest.raises(ValueError, match='image_size: expected one of'):
        adaptable.restore({**state, 'image_size': np.array((16, 16))})
    with pytest.raises(ValueError, match='feature: expected shape'):
        adaptable.restore({**state, 'image_size': np.array(SIZES[1])})
    adaptable.restore(state)
    np.testing.assert_array_equal(adaptable.step(walk[3], 3)[0].pointmap.points, expected)


def test_state_that_does_not_fit_leaves_the_sequence_as_it_is(adaptable: Spann3RNetwork) -> None:
    walk = images(SIZES[0], 4)
    for number, image in enumerate(walk[:3]):
        adaptable.step(image, number)
    before = adaptable.state()
    with pytest.raises(ValueError):
        adaptable.restore({**before, 'image_size': np.array(SIZES[1])})
    after = adaptable.state()
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    assert len(adaptable.step(walk[3], 3)) == 1


def test_network_goes_on_after_a_size_that_found_no_memory(
        adaptable: Spann3RNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    make = adaptable._make

    def failing(*_: object) -> None:
        raise torch.OutOfMemoryError('no memory')

    monkeypatch.setattr(adaptable, '_make', failing)
    with pytest.raises(DeviceMemoryError):
        adaptable.step(images(SIZES[1], 1)[0], 0)
    adaptable.reset()
    assert adaptable.status().tokens == 0
    monkeypatch.setattr(adaptable, '_make', make)
    for number, image in enumerate(images(SIZES[1], 2)):
        estimates = adaptable.step(image, number)
    assert len(estimates) == 1


def test_pair_and_arrangement_take_any_of_the_sizes(adaptable: Spann3RNetwork) -> None:
    for size in SIZES:
        shots = images(size, 3)
        assert adaptable.pair(*shots[:2])[1].pointmap.points.shape == (*size, 3)
        arranged = adaptable.arrange(shots)
        assert sorted(choose_order(arranged, all_pairs(arranged, 3))) == [0, 1, 2]
    with pytest.raises(FrameError):
        adaptable.pair(images(SIZES[0], 1)[0], images(SIZES[1], 1)[0])


@pytest.mark.parametrize(('sizes', 'message'), [
    (((32,),), 'other_sizes: expected pairs'), (((30, 48),), 'image size: expected multiples'),
    (((48, 32),), 'image size')])
def test_bad_sizes_are_refused(sizes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_model().config, other_sizes=sizes)
