# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest
import torch
from bomb import KEY, explode, write_bomb
from safetensors.torch import load_file, save_file
from tiny import CONFIG, random_images, tiny_model
from torch import Tensor

from spann3r_ros.networks.spann3r.checkpoint import (
    CONFIG_KEY,
    CheckpointError,
    load_model,
    read_checkpoint,
    read_metadata,
    save_model,
)
from spann3r_ros.networks.spann3r.config import MemoryConfig, Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R


def official_tensors() -> dict[str, Tensor]:
    """Return every official tensor at full shape but with the storage of one number."""
    with torch.device('meta'):
        shapes = Spann3R(Spann3RConfig()).state_dict()
    return {key: torch.full((), 0.5).expand(item.shape) for key, item in shapes.items()}


def test_safetensors_round_trip_gives_the_same_predictions(tmp_path: Path) -> None:
    model, path = tiny_model(), tmp_path / 'model.safetensors'
    save_model(path, model, dtype=torch.float32, metadata={'author': 'test'})
    loaded = load_model(path)
    assert loaded.config == CONFIG and not loaded.training
    assert read_metadata(path)['author'] == 'test'
    assert not any(item.requires_grad for item in loaded.parameters())
    first, second = random_images(2)
    outputs = []
    for network in (model, loaded):
        state = network.start(32, 48, MemoryConfig())
        network.step(state, first)
        outputs.append(network.step(state, second).refined.points)
    assert torch.equal(*outputs)


def test_half_precision_file_loads_as_float32_and_stores_aliases_once(tmp_path: Path) -> None:
    model, path = tiny_model(), tmp_path / 'model.safetensors'
    save_model(path, model)
    stored = load_file(path)
    assert {item.dtype for item in stored.values()} == {torch.float16}
    assert len(model.state_dict()) - len(stored) == 8
    loaded = load_model(path)
    assert {item.dtype for item in loaded.parameters()} == {torch.float32}
    scratch = loaded.dust3r.downstream_head1.dpt.scratch
    assert scratch.layer_rn[2].weight is scratch.layer3_rn.weight


def test_a_file_that_changes_later_changes_no_network(tmp_path: Path) -> None:
    path = tmp_path / 'model.safetensors'
    save_model(path, tiny_model(), dtype=torch.float32)
    loaded = load_model(path)
    before = {key: item.clone() for key, item in loaded.state_dict().items()}
    size = path.stat().st_size
    with path.open('r+b') as file:  # in place, as `cp` does: a mapped file would show through
        file.write(b'\x01' * size)
    assert all(torch.equal(item, before[key]) for key, item in loaded.state_dict().items())


def test_interrupted_write_leaves_no_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path / 'model.safetensors', tiny_model())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('companions', [
    {}, {'args': argparse.Namespace(lr=1e-4), 'optimizer': {'state': {}}, 'epoch': 119}])
def test_official_layout_loads_strictly(tmp_path: Path, companions: dict) -> None:
    path = tmp_path / 'spann3r_v1.01.pth'
    torch.save({'model': official_tensors(), **companions}, path)
    model = load_model(path)
    assert model.config == Spann3RConfig()
    assert float(model.attn_head_2[2].weight[3, 5]) == 0.5


@pytest.mark.parametrize('fault, message', [
    ('missing', f'missing {KEY}'), ('unexpected', 'unexpected dust3r.surplus'),
    ('misshapen', rf'{KEY}: expected \(1024,\), got \(1023,\)')])
def test_official_layout_with_a_fault_names_the_tensor(
        tmp_path: Path, fault: str, message: str) -> None:
    tensors = official_tensors()
    if fault == 'missing':
        del tensors[KEY]
    elif fault == 'unexpected':
        tensors['dust3r.surplus'] = torch.zeros(1)
    else:
        tensors[KEY] = tensors[KEY][:-1]
    torch.save({'model': tensors}, tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / 'model.pth')


@pytest.mark.parametrize('change, message', [
    ({KEY: None}, f'missing {KEY}'),
    ({'surplus': torch.zeros(1)}, 'unexpected surplus'),
    ({KEY: torch.zeros(31)}, rf'{KEY}: expected \(32,\), got \(31,\)'),
    ({KEY: torch.zeros(32, dtype=torch.int32)}, f'{KEY}: not floating point')])
def test_safetensors_with_a_fault_names_the_tensor(
        tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    path = tmp_path / 'model.safetensors'
    save_model(path, tiny_model())
    text, tensors = read_metadata(path), {**load_file(path), **change}
    save_file({key: item for key, item in tensors.items() if item is not None}, path, text)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


@pytest.mark.parametrize('text, message', [
    (None, f'no {CONFIG_KEY}'), ('{', f'bad {CONFIG_KEY}'), ('[1]', f'bad {CONFIG_KEY}'),
    (json.dumps({'encoder_width': -1}), 'encoder_width: expected a positive integer'),
    (json.dumps({'dpt_layers': [1, 2, 3]}), 'dpt_layers: expected four'),
    (json.dumps({'surprise': 1}), 'surprise')])
def test_safetensors_with_a_bad_config_is_refused(
        tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / 'model.safetensors'
    save_file({'a': torch.zeros(1)}, path, None if text is None else {CONFIG_KEY: text})
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


@pytest.mark.parametrize('as_zip', [True, False])
def test_pickled_code_is_refused_and_never_runs(tmp_path: Path, as_zip: bool) -> None:
    trace, path = tmp_path / 'trace', tmp_path / 'model.pth'
    write_bomb(path, trace, as_zip)
    with pytest.raises(CheckpointError, match='cannot read'):
        load_model(path)
    assert not trace.exists()
    explode(path)
    assert trace.exists(), 'the bomb is a dud: this test could not fail'


@pytest.mark.parametrize('content', [
    {'weights': {}}, {'model': [1]}, {'model': {'a': 3}}, {'model': {7: torch.zeros(1)}},
    torch.zeros(3)])
def test_pth_without_a_dictionary_of_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match="under 'model'"):
        read_checkpoint(tmp_path / 'model.pth')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_damaged_file_is_a_checkpoint_error(tmp_path: Path, suffix: str) -> None:
    whole, damaged = tmp_path / f'whole{suffix}', tmp_path / f'damaged{suffix}'
    if suffix == '.pth':
        torch.save({'model': {KEY: torch.zeros(5000)}}, whole)
    else:
        save_model(whole, tiny_model())
    content = whole.read_bytes()
    noise = torch.randint(256, (4000,), generator=torch.Generator().manual_seed(1))
    for broken in (b'', b'\x80', content[:10], content[:len(content) // 2], content[:-100],
                   bytes(noise.tolist())):
        damaged.write_bytes(broken)
        with pytest.raises(CheckpointError, match='damaged'):
            load_model(damaged)


@pytest.mark.parametrize('name, message', [
    ('absent.pth', 'no such file'), ('folder.pth', 'no such file'), ('model.bin', 'expected one')])
def test_path_that_is_not_a_checkpoint_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / 'folder.pth').mkdir()
    (tmp_path / 'model.bin').touch()
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / name)
