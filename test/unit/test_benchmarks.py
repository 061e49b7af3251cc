# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks compare with does what it claims, and their figures are whole."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import HEIGHT, TOKENS, WIDTH, random_images, tiny_model

from spann3r_ros.networks.spann3r.config import MemoryConfig

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import memory as memory_benchmark
import network

from spann3r_ros.networks.spann3r.checks.network_parts import (
    count_numbers,
    count_operations,
    limits,
)
from spann3r_ros.networks.spann3r.checks.plain_schedule import PlainSchedule

CPU = torch.device('cpu')


@pytest.mark.parametrize('config', [
    MemoryConfig(working_frames=2, long_term_tokens=12 * TOKENS, similarity_threshold=1.0),
    MemoryConfig(similarity_threshold=0.98),
])
def test_plain_schedule_gives_what_the_package_gives(config: MemoryConfig) -> None:
    model = tiny_model()
    images = random_images(30)
    images[3::4] = images[2::4][:len(images[3::4])]  # repeated ones are not stored
    schedule, state = PlainSchedule(model, config), model.start(HEIGHT, WIDTH, config)
    for image in images:
        plain, own = schedule.step(image), model.step(state, image, provisional=True)
        for one, other in ((plain.refined, own.refined), (plain.provisional, own.provisional)):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one.points, other.points, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(one.confidence, other.confidence)
    assert len(schedule.keys) == state.memory.tokens
    assert (state.memory.prunings > 0) == (config.similarity_threshold == 1.0)
    assert (state.memory.rejected_frames > 0) == (config.similarity_threshold < 1.0)


def test_operations_and_numbers_are_those_of_the_layers() -> None:
    model = tiny_model(head='linear')
    config = model.config
    tokens = HEIGHT * WIDTH // config.patch_size**2
    operations = count_operations(model, random_images(1)[0], tokens=100)
    width = config.encoder_width
    patches = 2 * tokens * width * 3 * config.patch_size**2
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width  # products, attention
    assert operations['image encoder'] == patches + config.encoder_depth * block
    assert operations['memory read'] == 4 * tokens * 100 * width
    numbers = count_numbers(tiny_model(head='linear'), 100)
    assert numbers['memory read'] == 2 * 100 * width
    assert set(numbers) == set(operations)


def test_limit_is_the_larger_of_operations_and_reading() -> None:
    rates = {'fp32': 10.0, 'bf16': 20.0, 'int8': 40.0, 'bytes': 8.0}
    operations = {'decoders': 400.0, 'refined head': 400.0, 'memory read': 40.0}
    numbers = {'decoders': 1, 'refined head': 1, 'memory read': 100}
    assert limits(operations, numbers, 'int8', rates, 'cpu') == {
        'decoders': 10.0, 'refined head': 20.0, 'memory read': 50.0}


def test_network_benchmark_tells_everything_in_plain_json() -> None:
    result = network.measure('bundled', 6, ['fp32', 'bf16'], CPU)
    network.show(result)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    plain, own = (result['variants'][name] for name in ('plain', 'fp32'))
    assert plain['speedup'] == 1.0 and own['deviation'] < 1e-4
    for run in (plain, own):
        assert set(run['sec']) == {'step', *run['limit_sec']}
        assert run['spread_sec'][0] <= run['sec']['step'] <= run['spread_sec'][1]


def test_age_of_a_memory_is_measured_in_tenths() -> None:
    ages = memory_benchmark.measure_age((64, 8), 40, CPU)
    assert {name: len(parts) for name, parts in ages.items()} == {'ordinary': 10, 'recorded': 10}
    assert min(min(parts) for parts in ages.values()) > 0.0


def test_shared_processor_is_measured_beside_a_control(tmp_path: Path) -> None:
    """The shortened form of `make bench-shared`."""
    script = Path(network.__file__).with_name('shared_processor.py')
    done = subprocess.run([sys.executable, script, '--quick', '--seconds', '0.2', '--repeats', '1',
                           '--output', tmp_path / 'out.json'], capture_output=True, text=True,
                          timeout=300, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / 'out.json').read_text())
    cores = len(os.sched_getaffinity(0))
    # The bundled network is too small to gain from a second thread.
    assert written['threads'] == {'spinning': cores, 'ours': 1, 'control': 1}
    assert list(written['results']) == ['0 busy', '2 busy']
    for speeds in written['results'].values():
        for name, found in speeds.items():
            assert all(one['rounds'] > 0 and one['processor_sec'] > 0 for one in found), name
