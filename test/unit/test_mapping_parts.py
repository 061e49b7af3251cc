# SPDX-License-Identifier: Apache-2.0
"""Keyframe gate, configs, files, memory budget and the network behind its protocol."""
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spann3r_ros.core.files import write_files
from spann3r_ros.core.types import StampedPose
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.exports.ply_files import encode_ply, read_ply
from spann3r_ros.mapping.exports.trajectory_files import encode_tum, read_tum
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.mapper_config import (
    KeyframeConfig,
    MapperConfig,
    PoseConfig,
    VoxelMapConfig,
)
from spann3r_ros.mapping.selection.keyframe_gate import KeyframeGate
from spann3r_ros.networks.spann3r.config import MemoryConfig

SECOND_NS = 1_000_000_000


def admitted(config: KeyframeConfig, stamps_sec: list[float]) -> list[float]:
    """Return the stamps of the frames that become keyframes by number and interval alone."""
    gate = KeyframeGate(replace(config, selection='stride'))
    view, used = Preprocessed(np.zeros((8, 8, 3), np.uint8), None), []
    for stamp in stamps_sec:
        if gate.is_early(round(stamp * SECOND_NS)):
            gate.skip()
        else:
            gate.admit(round(stamp * SECOND_NS), view)
            used.append(stamp)
    return used


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
    write_files({tmp_path / 'map.ply': encode_ply(written)})
    found = read_ply(tmp_path / 'map.ply')
    np.testing.assert_array_equal(found.points, written.points)
    np.testing.assert_array_equal(found.colors, written.colors)
    np.testing.assert_array_equal(found.confidence, written.confidence)


def test_truncated_ply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'map.ply'
    write_files({path: encode_ply(cloud(10))})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r'map\.ply: expected 190 bytes of vertices, got 189'):
        read_ply(path)


def test_tum_round_trip_keeps_nanoseconds(tmp_path: Path) -> None:
    pose = np.eye(4)
    pose[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    pose[:3, 3] = [1.25, -2.5, 1e-3]
    stamp = 1_763_700_000_123_456_789
    write_files({tmp_path / 'path.tum': encode_tum([StampedPose(stamp, 'camera', pose)])})
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
    write_files({path: encode_ply(cloud(5))})
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(OSError, match='No space'):
        write_files({path: encode_ply(cloud(50))})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
