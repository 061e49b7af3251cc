# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.memory import (
    READ_CHUNK,
    MemoryEntry,
    SpatialMemory,
    attend_memory,
    prune_order,
    read_memory,
)

TOKENS, WIDTH = 4, 16
PRUNING = MemoryConfig(working_frames=2, long_term_tokens=32)


def entry(seed: int) -> MemoryEntry:
    raw_key, value = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    return MemoryEntry(raw_key, functional.normalize(raw_key), value)


def fill(memory: SpatialMemory, frames: range) -> SpatialMemory:
    """Read and write different frames."""
    for seed in frames:
        attention = memory.read(entry(1000 + seed).key)[1] if memory.tokens else None
        memory.write(attention, entry(seed))
    return memory


def snapshot(memory: SpatialMemory) -> tuple:
    tensors = (memory.raw_keys, memory.values, memory.count, memory.mass)
    return ([item.clone() for item in tensors],
            (memory.tokens, memory.working_frames, memory.long_term_tokens, memory.prunings))


def same(left: tuple, right: tuple) -> bool:
    return left[1] == right[1] and all(map(torch.equal, left[0], right[0]))


def test_storage_keeps_its_address_over_many_writes() -> None:
    memory = SpatialMemory(PRUNING, TOKENS, WIDTH)
    memory.write(None, entry(0))
    tensors = (memory.raw_keys, memory.values, memory.count, memory.mass)
    addresses, size = [item.data_ptr() for item in tensors], memory.device_bytes
    assert size == 4 * memory.capacity * (3 * WIDTH + 2)
    fill(memory, range(1, 60))
    assert memory.prunings > 5
    assert [item.data_ptr() for item in (
        memory.raw_keys, memory.values, memory.count, memory.mass)] == addresses
    assert memory.device_bytes == size


@pytest.mark.parametrize('working, long_term', [
    (1, 0), (3, 0), (1, 4), (2, 8), (2, 32), (2, 33), (5, 20), (5, 61)])
def test_tokens_reach_but_never_exceed_the_bound(working: int, long_term: int) -> None:
    config = MemoryConfig(working_frames=working, long_term_tokens=long_term)
    memory, most = SpatialMemory(config, TOKENS, WIDTH), 0
    assert memory.capacity == config.capacity(TOKENS) == long_term + (working + 1) * TOKENS
    for seed in range(50):
        fill(memory, range(seed, seed + 1))
        most = max(most, memory.tokens)
        assert memory.tokens == len(memory.values) <= memory.capacity
        assert memory.long_term_tokens <= long_term
    assert most > memory.capacity - 2 * TOKENS


def test_long_term_memory_smaller_than_the_working_frames_is_refused() -> None:
    with pytest.raises(ValueError, match='long_term_tokens: expected 0 or at least 20'):
        SpatialMemory(MemoryConfig(working_frames=5, long_term_tokens=19), TOKENS, WIDTH)


def test_without_long_term_memory_only_the_newest_frames_are_kept() -> None:
    config = MemoryConfig(working_frames=3, long_term_tokens=0)
    memory = fill(SpatialMemory(config, TOKENS, WIDTH), range(7))
    assert torch.equal(memory.raw_keys, torch.cat([entry(seed).raw_key for seed in (4, 5, 6)]))
    assert memory.count.tolist() == [2.0] * 4 + [1.0] * 4 + [0.0] * 4
    assert (memory.working_frames, memory.long_term_tokens, memory.prunings) == (3, 0, 0)


def test_read_changes_nothing() -> None:
    memory = fill(SpatialMemory(PRUNING, TOKENS, WIDTH), range(8))
    before = snapshot(memory)
    first, again = (memory.read(entry(99).key) for _ in range(2))
    memory.similarity(entry(3).raw_key)
    assert same(before, snapshot(memory))
    assert torch.equal(first[0], again[0])
    assert not same(before, snapshot(fill(copy.deepcopy(memory), range(8, 9))))


def test_attention_of_a_read_counts_even_when_the_frame_is_rejected() -> None:
    memory = fill(SpatialMemory(PRUNING, TOKENS, WIDTH), range(2))
    mass = memory.mass.clone()
    attention = memory.read(entry(99).key)[1]
    assert float(attention.sum()) == pytest.approx(TOKENS)
    memory.write(attention, None)
    torch.testing.assert_close(memory.mass, mass + attention)
    assert (memory.tokens, memory.rejected_frames) == (2 * TOKENS, 1)


def test_repeated_frame_is_rejected_and_a_different_one_admitted() -> None:
    memory = SpatialMemory(MemoryConfig(), TOKENS, WIDTH)
    assert memory.similarity(entry(0).raw_key) == -math.inf
    assert memory.admits(entry(0).raw_key)
    fill(memory, range(6))
    assert memory.similarity(3.0 * entry(4).raw_key) == pytest.approx(1.0)
    assert not memory.admits(entry(4).raw_key)
    assert memory.admits(entry(7).raw_key)
    assert memory.admits(entry(0).raw_key), 'frame 0 left the working memory'
    assert memory.admits(entry(4).raw_key.roll(1, dims=0)), 'patches compare place by place'


def test_similarity_threshold_of_one_admits_everything() -> None:
    memory = SpatialMemory(MemoryConfig(similarity_threshold=1.0), TOKENS, WIDTH)
    fill(memory, range(2))
    assert memory.admits(1.5 * entry(1).raw_key)


def test_weights_below_the_threshold_are_cut_and_the_rest_sums_to_one() -> None:
    key = torch.eye(8)
    query = 12.0 * key[:2] + 6.0 * key[2:4]
    readout, attention = attend_memory(query, key, torch.eye(8), threshold=0.05)
    assert ((attention == 0.0) | (attention >= 0.05)).all()
    assert (attention == 0.0).sum() == 12
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2))
    torch.testing.assert_close(readout, attention)


def test_row_with_every_weight_below_the_threshold_stays_uncut() -> None:
    key, value = torch.zeros(3000, WIDTH), torch.arange(3000.0)[:, None].expand(3000, WIDTH)
    readout, attention = attend_memory(torch.ones(2, WIDTH), key, value, threshold=5e-4)
    torch.testing.assert_close(attention, torch.full((2, 3000), 1 / 3000))
    torch.testing.assert_close(readout, torch.full((2, WIDTH), 1499.5), rtol=1e-4, atol=0.0)


def test_prune_keeps_new_tokens_and_the_best_attended_per_inserted_frame() -> None:
    count = torch.tensor([20.0, 10.0, 16.0, 12.0, 6.0, 0.0])
    mass = torch.tensor([30.0, 20.0, 17.0, 1.0, 0.0, 0.0])
    kept = prune_order(count, mass, keep=4, working_frames=2)
    assert sorted(kept[:2].tolist()) == [4, 5]
    assert kept[2:].tolist() == [1, 0]


def test_prune_drops_the_least_attended_old_tokens() -> None:
    memory = fill(SpatialMemory(PRUNING, TOKENS, WIDTH), range(10))
    before, mass = memory.raw_keys.clone(), memory.mass.clone()
    memory.write(None, entry(10))  # its long-term tokens, 36, exceed the limit of 32
    assert (memory.prunings, memory.tokens, memory.long_term_tokens) == (1, 32, 24)
    kept = {tuple(row) for row in memory.raw_keys.tolist()}
    assert all(tuple(row) in kept for row in entry(10).raw_key.tolist())
    dropped = torch.tensor([tuple(row) not in kept for row in before.tolist()])
    assert int(dropped.sum()) == 11 * TOKENS - 32
    age = torch.arange(10, 0, -1.0).repeat_interleave(TOKENS)  # frames inserted after each token
    old = age >= 7  # two working frames and five more are protected
    assert not dropped[~old].any()
    worth = mass / age
    assert worth[old & dropped].max() < worth[old & ~dropped].min()


@pytest.mark.parametrize('at_once', [3, 256])
@pytest.mark.parametrize('threshold', [0.0, 5e-4, 0.02, 0.4])
def test_reading_in_place_equals_the_formula(
        threshold: float, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0.02 some rows lose every weight, at 0.4 nearly all do."""
    monkeypatch.setattr('spann3r_ros.networks.spann3r.memory.READ_CHUNK', at_once)
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(rows, WIDTH, generator=draw) for rows in (7, 100, 100))
    query *= torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1, 0.01, 0.0])[:, None]
    readout, attention = attend_memory(query, key, value, threshold)
    in_place, mass = read_memory(query, key, value, threshold)
    torch.testing.assert_close(in_place, readout)
    torch.testing.assert_close(mass, attention.sum(dim=0))


def test_read_never_holds_all_weights() -> None:
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (),
                               kwargs: dict | None = None) -> object:
            result = func(*args, **kwargs or {})
            if isinstance(result, torch.Tensor):
                self.numbers = max(self.numbers, result.numel())
            return result

    query, key, value = (torch.randn(rows, WIDTH) for rows in (4 * READ_CHUNK, 500, 500))
    with Largest() as largest:
        read_memory(query, key, value, 5e-4)
    assert largest.numbers == READ_CHUNK * 500
