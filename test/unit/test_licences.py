# SPDX-License-Identifier: Apache-2.0
"""Licence and training data are kept in conversion, fine-tuning and release."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SQUARE

from spann3r_ros.cli.main import main
from spann3r_ros.networks.spann3r import checkpoint
from spann3r_ros.networks.spann3r.checkpoint import read_history, read_metadata, save_model
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.training.release import ROOMS
from spann3r_ros.training.runs import read_runs
from spann3r_ros.training.training_config import Stage


def facts_of(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    assert main(['info', str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: ' '.join(line.split()[1:]) for line in lines}


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file in the authors' layout and with its name, of a tiny network."""
    read = checkpoint.read_checkpoint
    monkeypatch.setattr(checkpoint, 'read_checkpoint', lambda path: (
        SQUARE if path.suffix == '.pth' else read(path)[0], read(path)[1]))
    path = tmp_path / 'spann3r_v1.01.pth'
    torch.save({'model': Spann3R(SQUARE).state_dict()}, path)
    return path


def fine_tune(folder: Path, start: Path) -> Path:
    config = replace(read_runs()['paper'].config, network=SQUARE, stages=(Stage(1.0, (2,)),),
                     steps=1, shards=1, frames_per_step=2, warmup_steps=1, textures=6)
    (folder / 'settings.json').write_text(json.dumps(config.to_dict()))
    assert main(['train', str(folder / 'run'), '--config', str(folder / 'settings.json'),
                 '--start-from', str(start), '--device', 'cpu']) == 0
    released = folder / 'released.safetensors'
    assert main(['train', str(folder / 'run'), '--release', str(released)]) == 0
    return released


def test_licence_of_official_weights_reaches_what_is_released(
        official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converted = tmp_path / 'converted.safetensors'
    assert main(['convert', str(official), str(converted)]) == 0
    before = facts_of(converted, capsys)
    assert 'CC BY-NC-SA 4.0' in before['licence']
    assert 'ScanNet++' in before['training_data'] and 'PointOdyssey' in before['training_data']
    assert before.items() >= {name: text for name, text in facts_of(official, capsys).items()
                              if name in ('licence', 'training_data')}.items()
    after = facts_of(fine_tune(tmp_path, converted), capsys)
    assert after['licence'] == before['licence']
    assert after['training_data'] == f'{before["training_data"]}, then {ROOMS}'


def test_official_weights_need_no_conversion_to_keep_their_licence(
        official: Path, tmp_path: Path) -> None:
    assert read_metadata(fine_tune(tmp_path, official))['licence'] == read_history(
        official)['licence']


@pytest.mark.parametrize('option', ['--license', '--licence'])
def test_licence_given_at_conversion_replaces_that_of_the_authors(
        option: str, official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converted = tmp_path / 'converted.safetensors'
    assert main(['convert', str(official), str(converted), option, 'by agreement']) == 0
    assert 'license' not in read_metadata(converted)
    released = fine_tune(tmp_path, converted)
    assert facts_of(released, capsys)['licence'] == 'by agreement'


def test_unknown_licence_and_data_are_reported_as_unknown(
        official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = official.rename(tmp_path / 'mine.pth')
    facts = facts_of(renamed, capsys)
    assert 'CC BY-NC-SA 4.0' in facts['licence'] and facts['training_data'] == 'unknown'
    bare = tmp_path / 'bare.safetensors'
    save_model(bare, Spann3R(SQUARE))
    facts = facts_of(bare, capsys)
    assert (facts['licence'], facts['training_data']) == ('unknown', 'unknown')


def test_licence_in_the_old_spelling_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'old.safetensors'
    save_model(path, Spann3R(SQUARE), metadata={'license': 'MIT'})
    assert read_history(path) == {'licence': 'MIT'}


def test_mean_of_weights_has_the_licences_of_both(tmp_path: Path) -> None:
    files = []
    for name, licence in (('one', 'CC BY-NC-SA 4.0'), ('two', 'MIT')):
        files.append(tmp_path / f'{name}.safetensors')
        save_model(files[-1], Spann3R(SQUARE), torch.float32,
                   {'licence': licence, 'training_data': name})
    fine_tune(tmp_path, files[0])
    mean = tmp_path / 'mean.safetensors'
    assert main(['train', str(tmp_path / 'run'), '--release', str(mean),
                 '--mean-with', str(files[1])]) == 0
    history = read_history(mean)
    assert history['licence'] == 'CC BY-NC-SA 4.0 and MIT'
    assert history['training_data'] == f'one, then {ROOMS}; and two'
