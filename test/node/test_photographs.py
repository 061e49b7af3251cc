# SPDX-License-Identifier: Apache-2.0
"""Real photographs through the whole demo: nothing fails, nothing is lost, nothing overflows.

SPANN3R_PHOTOS names a folder of JPEG files in walking order; there is no truth to compare with.
"""
from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spann3r_ros.cli.commands.recordings.photos_to_bag import find_photos
from spann3r_ros.cli.main import main as command_line
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.mapping.mapper_config import VoxelMapConfig
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.networks.spann3r.checks.recipe import build_model
from spann3r_ros.networks.spann3r.config import MemoryConfig, Spann3RConfig
from spann3r_ros.networks.spann3r.memory import SpatialMemory

DEMO = Path(__file__).parents[2] / 'scripts' / 'demo'
FULL_SIZE = Spann3RConfig()
# Memory for the weights in fp32, one image, the libraries and the map.
FULL_SIZE_BYTES = 6 * 2**30
PATIENCE_SEC = 600


@pytest.fixture
def photos() -> Path:
    folder = os.environ.get('SPANN3R_PHOTOS')
    if not folder:
        pytest.skip('SPANN3R_PHOTOS: no folder of photographs given')
    return Path(folder)


def play(photos: Path, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Play the photographs through the demo and return its results."""
    bag, output = tmp_path / 'bag', tmp_path / 'output'
    assert command_line(['photos-to-bag', str(photos), str(bag)]) == 0
    subprocess.run([sys.executable, DEMO, '--bag', bag, '--output', output,
                    '--patience-sec', str(PATIENCE_SEC), *arguments], check=True)
    run = json.loads((output / 'run.json').read_text())
    count = len(find_photos(photos))
    assert (run['received'], run['processed'], run['dropped'], run['failed']) == (
        count, count, 0, 0)
    assert run['voxels'] <= VoxelMapConfig().max_voxels
    assert run['working_frames'] <= MemoryConfig().working_frames
    cloud = read_ply(output / 'map' / 'map.ply')
    assert len(cloud) == run['voxels'] > 0
    assert np.isfinite(cloud.points).all()
    poses = read_tum(output / 'map' / 'trajectory.tum')
    assert np.isfinite([pose.world_from_camera for pose in poses]).all()
    return run


def test_bundled_model_maps_photographs(photos: Path, tmp_path: Path) -> None:
    play(photos, tmp_path)


@pytest.mark.full
def test_full_size_network_of_random_weights_takes_photographs(
        photos: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / 'random.safetensors'
    network = build_model(FULL_SIZE, salt=1)
    save_model(checkpoint, network)
    weights = sum(4 * item.numel() for item in network.parameters())
    del network
    run = play(photos, tmp_path, '--checkpoint', str(checkpoint))
    rows, columns = FULL_SIZE.grid(FULL_SIZE.image_height, FULL_SIZE.image_width)
    memory = SpatialMemory(MemoryConfig(), rows * columns, FULL_SIZE.encoder_width)
    assert run['long_term_tokens'] <= MemoryConfig().long_term_tokens
    assert run['device_bytes'] == weights + memory.device_bytes
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert weights < peak < FULL_SIZE_BYTES
