# SPDX-License-Identifier: Apache-2.0
"""A chain of runs: the weights that each begins with, and resuming after a kill."""
from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_run

from spann3r_ros.cli.commands.weights import train as command
from spann3r_ros.cli.main import main
from spann3r_ros.networks.spann3r.checkpoint import load_model, read_metadata
from spann3r_ros.training import chain
from spann3r_ros.training.chain import train_chain
from spann3r_ros.training.loop import Trainer
from spann3r_ros.training.rank import Rank
from spann3r_ros.training.runs import chain_of, read_runs
from spann3r_ros.training.training_config import TrainingConfig

ROOT = Path(__file__).parents[2]
CHAIN = [run.name for run in chain_of(read_runs().values())]
TWO_PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
sys.path[:0] = ['.', 'test/unit']
from test_chain import walk
from spann3r_ros.training.rank import Rank
torch.set_num_threads(1)
walk(Path(sys.argv[1]), Rank.join(), shards=2)
"""


class KilledError(Exception):
    """Stands for the kill of the process."""


def chain_runs(shards: int = 1) -> dict[str, TrainingConfig]:
    return {name: tiny_run(TrainingConfig(), seed=seed, steps=3, shards=shards, warmup_steps=1)
            for seed, name in enumerate(('first', 'second', 'third'))}


def walk(folder: Path, rank: Rank | None = None, shards: int = 1) -> Path:
    runs = chain_runs(shards)
    return train_chain(folder, runs, lambda name, begun: begun or runs[name],
                       {'second': 'first', 'third': 'second'}, rank or Rank(), save_every_steps=1)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {f'{path.stem} {key}': value for path in sorted(folder.glob('*.safetensors'))
            for key, value in load_model(path).state_dict().items()}


def assert_same(one: Path, two: Path) -> None:
    before, after = weights_of(one), weights_of(two)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    assert walk(folder) == folder / 'third.safetensors'
    return folder


@pytest.mark.parametrize('step', [1, 4, 8])
def test_chain_killed_in_a_step_resumes_to_the_same_weights(
        step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter(range(1, 10))
    update = Trainer._update

    def killed_update(self: Trainer, scale: float) -> None:
        if next(steps) == step:
            raise KilledError
        update(self, scale)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, '_update', killed_update)
        with pytest.raises(KilledError):
            walk(tmp_path)
    walk(tmp_path)
    assert_same(whole, tmp_path)


@pytest.mark.parametrize(('when', 'name'), [
    ('before', 'first'), ('after', 'first'), ('before', 'second'), ('before', 'third')])
def test_chain_killed_between_runs_resumes_to_the_same_weights(
        when: str, name: str, whole: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    release = chain.release

    def killed_release(folder: Path, path: Path, other: Path | None) -> None:
        if when == 'after' or folder.name != name:
            release(folder, path, other)
        if folder.name == name:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(chain, 'release', killed_release)
        with pytest.raises(KilledError):
            walk(tmp_path)
    walk(tmp_path)
    assert_same(whole, tmp_path)


def test_run_that_began_with_other_weights_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / 'mixed')
    (tmp_path / 'mixed/second.safetensors').unlink()
    shutil.copy(whole / 'third.safetensors', tmp_path / 'mixed/first.safetensors')
    with pytest.raises(ValueError, match='second: expected a run that began with'):
        walk(tmp_path / 'mixed')


def test_chain_that_was_begun_under_former_names_resumes_to_the_same_weights(
        whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / 'old')
    shutil.rmtree(tmp_path / 'old/third')
    for name in ('second', 'third'):
        (tmp_path / f'old/{name}.safetensors').unlink()
    renamed = {'first': 'one', 'second': 'two', 'third': 'three'}
    runs = {renamed[name]: config for name, config in chain_runs().items()}
    last = train_chain(tmp_path / 'old', runs, lambda name, begun: begun or runs[name],
                       {'two': 'one', 'three': 'two'}, Rank(), save_every_steps=1,
                       former_names={new: old for old, new in renamed.items()})
    # The runs that were begun keep their folders, the next one has its new name.
    assert last == tmp_path / 'old/three.safetensors'
    assert not (tmp_path / 'old/one').exists() and not (tmp_path / 'old/two').exists()
    last.rename(tmp_path / 'old/third.safetensors')
    assert_same(whole, tmp_path / 'old')


def test_finished_chain_trains_nothing(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Trainer, 'run')
    assert walk(whole) == whole / 'third.safetensors'


def test_run_begins_with_the_release_before_it_and_may_release_a_mean(
        whole: Path, tmp_path: Path) -> None:
    averages = {name: torch.load(whole / name / 'state.pt', weights_only=True)['average']
                for name in ('first', 'second')}
    released = {name: load_model(whole / f'{name}.safetensors').state_dict()
                for name in ('first', 'second')}
    for key, value in released['first'].items():
        assert torch.equal(value, averages['first'][key].half().float())
        mean = averages['second'][key].lerp(value, 0.5).half().float()
        assert torch.equal(released['second'][key], mean)
    frames = [int(read_metadata(whole / f'{name}.safetensors')['training_frames'])
              for name in ('first', 'second', 'third')]
    assert frames == [18, 36, 54]


def test_two_processes_train_a_chain_together(tmp_path: Path) -> None:
    (tmp_path / 'walk.py').write_text(TWO_PROCESSES)
    subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                    '--nproc_per_node', '2', tmp_path / 'walk.py', tmp_path / 'two'],
                   check=True, timeout=1200, cwd=ROOT)
    walk(tmp_path / 'one', shards=2)
    one, two = weights_of(tmp_path / 'one'), weights_of(tmp_path / 'two')
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0.02, atol=1e-3)


@pytest.fixture
def tiny_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {name: replace(run, settings=tiny_run(run.config).to_dict())
            for name, run in read_runs().items() if run.position is not None}
    monkeypatch.setattr(command, 'read_runs', lambda: runs)


@pytest.mark.usefixtures('tiny_runs')
def test_command_trains_the_bundled_model_in_all_its_runs(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ['train', str(tmp_path), '--run', 'bundled', '--steps', '2', '--shards', '1',
                 '--device', 'cpu']
    assert main(arguments) == 0
    last = tmp_path / f'{CHAIN[-1]}.safetensors'
    assert capsys.readouterr().out == f'the bundled model: {last}\n'
    for name in CHAIN:
        with (tmp_path / name / 'curve.csv').open() as file:
            assert [row['step'] for row in csv.DictReader(file)] == ['1', '2']
    content = last.read_bytes()
    assert main(arguments) == 0
    assert last.read_bytes() == content


@pytest.mark.usefixtures('tiny_runs')
def test_command_prints_the_settings_of_all_runs(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['train', str(tmp_path), '--run', 'bundled', '--steps', '7',
                 '--print-config']) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == CHAIN
    assert {values['steps'] for values in printed.values()} == {7}


@pytest.mark.parametrize('option', ['--start-from', '--config', '--release', '--seed'])
def test_command_refuses_options_of_a_single_run(
        option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['train', str(tmp_path), '--run', 'bundled', option, '3']) == 1
    assert f'--run bundled: expected no {option}' in capsys.readouterr().err
