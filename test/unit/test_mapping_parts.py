# SPDX-License-Identifier: Apache-2.0
"""Keyframe gate, configs, files, memory budget and the network behind its protocol."""
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model

from spann3r_ros.core.types import DeviceMemoryError, FrameError, StampedPose
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.mapper_config import (
    KeyframeConfig,
    MapperConfig,
    PoseConfig,
    VoxelMapConfig,
)
from spann3r_ros.mapping.memory_manager import MemoryManager
from spann3r_ros.mapping.storage.exports import read_ply, read_tum, write_ply, write_tum
from spann3r_ros.mapping.tracking.keyframe_gate import KeyframeGate
from spann3r_ros.networks.devices import resolve_device
from spann3r_ros.networks.spann3r.config import MemoryConfig, scale_memory_budget
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.networks.spann3r.spann3r_network import Spann3RReconstructor

SECOND_NS = 1_000_000_000


def admitted(config: KeyframeConfig, stamps_sec: list[float]) -> list[float]:
    gate = KeyframeGate(config)
    return [stamp for stamp in stamps_sec if gate.admits(round(stamp * SECOND_NS))]


def test_gate_takes_every_nth() -> None:
    assert admitted(KeyframeConfig(stride=3), [0, 1, 2, 3, 4, 5, 6]) == [0, 3, 6]


def test_gate_keeps_the_interval_and_survives_a_clock_that_jumps_back() -> None:
    config = KeyframeConfig(min_interval_sec=1.0)
    assert admitted(config, [10.0, 10.5, 11.0, 11.9, 12.1, 3.0, 3.5, 4.0]) == [
        10.0, 11.0, 12.1, 3.0, 4.0]


@pytest.mark.parametrize(('config', 'values', 'name'), [
    (KeyframeConfig, {'stride': 0}, 'stride'),
    (KeyframeConfig, {'stride': True}, 'stride'),
    (PoseConfig, {'best_fraction': float('nan')}, 'best_fraction'),
    (VoxelMapConfig, {'max_voxels': 10}, 'max_voxels'),
    (MapperConfig, {'live_pose': 1}, 'live_pose'),
    (MapperConfig, {'pose': None}, 'pose'),
    (MemoryConfig, {'working_frames': 0}, 'working_frames')])
def test_bad_settings_are_named(config: type, values: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=f'{name}: expected'):
        config(**values)


def cloud(count: int) -> VoxelCloud:
    rng = np.random.default_rng(0)
    return VoxelCloud(rng.normal(size=(count, 3)).astype(np.float32),
                      rng.integers(0, 256, (count, 3), np.uint8),
                      rng.random(count).astype(np.float32))


def test_ply_round_trip_is_exact(tmp_path: Path) -> None:
    written = cloud(1000)
    write_ply(tmp_path / 'map.ply', written)
    found = read_ply(tmp_path / 'map.ply')
    np.testing.assert_array_equal(found.points, written.points)
    np.testing.assert_array_equal(found.colors, written.colors)
    np.testing.assert_array_equal(found.confidence, written.confidence)


def test_truncated_ply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'map.ply'
    write_ply(path, cloud(10))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r'map\.ply: expected 190 bytes of vertices, got 189'):
        read_ply(path)


def test_tum_round_trip_keeps_nanoseconds(tmp_path: Path) -> None:
    pose = np.eye(4)
    pose[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    pose[:3, 3] = [1.25, -2.5, 1e-3]
    stamp = 1_763_700_000_123_456_789
    write_tum(tmp_path / 'path.tum', [StampedPose(stamp, 'camera', pose)])
    found, = read_tum(tmp_path / 'path.tum')
    assert found.stamp_ns == stamp
    np.testing.assert_allclose(found.world_from_camera, pose, atol=1e-8)


def test_bad_tum_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'path.tum'
    path.write_text('# header\n1.0 0 0 0 0 0 0 1\n2.0 0 0 zero 0 0 0 1\n')
    with pytest.raises(ValueError, match=r'path\.tum:3'):
        read_tum(path)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'map.ply'
    write_ply(path, cloud(5))
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(OSError, match='No space'):
        write_ply(path, cloud(50))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_budget_holds_as_many_frames_at_any_size() -> None:
    config = MemoryConfig(long_term_tokens=4000)
    assert scale_memory_budget(config, 196) == config
    assert scale_memory_budget(config, 784).long_term_tokens == 16_000
    assert scale_memory_budget(replace(config, long_term_tokens=0), 64).long_term_tokens == 0
    with pytest.raises(ValueError, match='tokens_per_frame'):
        scale_memory_budget(config, 0)


@pytest.fixture
def reconstructor() -> Spann3RReconstructor:
    return Spann3RReconstructor(tiny_model(), MemoryConfig())


def picture(reconstructor: Spann3RReconstructor, seed: int) -> np.ndarray:
    shape = (*reconstructor.input_size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_reconstructor_is_one_frame_late_and_flush_closes(
        reconstructor: Spann3RReconstructor) -> None:
    first = reconstructor.step(picture(reconstructor, 0), provisional=True)
    second = reconstructor.step(picture(reconstructor, 1), provisional=True)
    assert (first.refined, first.provisional) == (None, None)
    for pointmap in (second.refined, second.provisional):
        assert pointmap.points.shape == (*reconstructor.input_size, 3)
        assert 0.0 <= pointmap.confidence.min() <= pointmap.confidence.max() < 1.0
    last = reconstructor.flush()
    np.testing.assert_allclose(last.points, second.provisional.points, rtol=1e-5)
    assert reconstructor.flush() is None


def test_a_provisional_pointmap_may_be_asked_for_later(
        reconstructor: Spann3RReconstructor, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Spann3RReconstructor(tiny_model(), MemoryConfig())
    for seed in range(4):
        image = picture(reconstructor, seed)
        at_once = reconstructor.step(image, provisional=True)
        other.step(image, provisional=False)
        later = other.provisional()
        assert (later is None) == (at_once.provisional is None) == (seed == 0)
        if later is not None:
            np.testing.assert_allclose(later.points, at_once.provisional.points, rtol=1e-5)

    def exhausted() -> None:
        raise MemoryError('no room')
    monkeypatch.setattr(other._stream, 'flush', exhausted)
    assert other.provisional() is None


def test_reconstructor_refuses_another_size_and_goes_on(
        reconstructor: Spann3RReconstructor) -> None:
    reconstructor.step(picture(reconstructor, 0), provisional=False)
    with pytest.raises(FrameError, match=r'image: expected uint8 .* got uint8 \(8, 8, 3\)'):
        reconstructor.step(np.zeros((8, 8, 3), np.uint8), provisional=False)
    assert reconstructor.step(picture(reconstructor, 1), provisional=False).refined is not None


def test_reconstructor_turns_points_that_are_not_finite_into_a_frame_error() -> None:
    model = tiny_model()
    reconstructor = Spann3RReconstructor(model, MemoryConfig())
    reconstructor.step(picture(reconstructor, 0), provisional=False)
    healthy = model.dust3r.decoder_embed.bias.clone()
    with torch.no_grad():
        model.dust3r.decoder_embed.bias.fill_(float('nan'))
    with pytest.raises(FrameError, match='finite'):
        reconstructor.step(picture(reconstructor, 1), provisional=False)
    with torch.no_grad():
        model.dust3r.decoder_embed.bias.copy_(healthy)
    assert reconstructor.step(picture(reconstructor, 1), provisional=False).refined is not None


@pytest.mark.parametrize('error', [torch.OutOfMemoryError, MemoryError])
def test_reconstructor_out_of_memory_says_so_and_recovers(
        reconstructor: Spann3RReconstructor, monkeypatch: pytest.MonkeyPatch,
        error: type[Exception]) -> None:
    reconstructor.step(picture(reconstructor, 0), False)
    held = reconstructor.status().device_bytes

    def exhausted(*_: object) -> None:
        raise error('no room')

    monkeypatch.setattr(Spann3R, 'step', exhausted)
    with pytest.raises(DeviceMemoryError, match='cpu: no room'):
        reconstructor.step(picture(reconstructor, 1), False)
    monkeypatch.setattr(Spann3R, 'start', exhausted)
    reconstructor.reset()  # there is no room for an empty memory either
    assert 0 < reconstructor.status().device_bytes < held
    assert reconstructor.flush() is None
    with pytest.raises(DeviceMemoryError):
        reconstructor.step(picture(reconstructor, 1), False)
    monkeypatch.undo()
    reconstructor.step(picture(reconstructor, 0), False)
    assert reconstructor.step(picture(reconstructor, 1), False).refined is not None
    assert reconstructor.status().device_bytes == held


def test_memory_manager_reports_what_is_held(reconstructor: Spann3RReconstructor) -> None:
    manager = MemoryManager(reconstructor)
    for seed in range(4):
        reconstructor.step(picture(reconstructor, seed), provisional=False)
    before = manager.report()
    manager.reset('a test')
    after = manager.report()
    assert before.status.tokens > 0
    assert before.status.tokens <= before.status.capacity_tokens
    assert before.status.device_bytes > 0
    assert (after.status.tokens, after.resets, after.last_reset_reason) == (0, 1, 'a test')


@pytest.mark.parametrize('name', ['gpu', 'cuda:99', 'meta'])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match='device: '):
        resolve_device(name)
