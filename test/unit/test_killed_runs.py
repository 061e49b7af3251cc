# SPDX-License-Identifier: Apache-2.0
"""Runs killed by SIGKILL at critical moments resume with the curve of an uninterrupted one."""
from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from tiny import tiny_run

from spann3r_ros.training import curve
from spann3r_ros.training.loop import Trainer
from spann3r_ros.training.rank import Rank
from spann3r_ros.training.training_config import TrainingConfig

STEPS = 6
# One process for every kill, forked from a server that has imported the heavy modules.
PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload(['torch._dynamo', 'safetensors.torch', 'cv2', 'tqdm', 'pytest'])


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = Trainer(tiny_run(TrainingConfig(steps=STEPS, warmup_steps=1)), folder, Rank())
    trainer.resume()
    trainer.run(save_every_steps=2)


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killer:
    """Replaces a function and kills the process in its n-th call."""

    def __init__(self, owner: object, name: str, call: int) -> None:
        self._original, self._left = getattr(owner, name), call
        setattr(owner, name, self)

    def __call__(self, *arguments: object) -> object:
        self._left -= 1
        if self._left == 0:
            self.last(*arguments)
            end()
        return self._original(*arguments)

    def last(self, *arguments: object) -> None:
        """Leave the effect of an incomplete call."""


class HalfState(Killer):
    def last(self, state: object, path: Path) -> None:
        whole = io.BytesIO()
        self._original(state, whole)
        path.write_bytes(whole.getvalue()[:len(whole.getvalue()) // 2])


class HalfLine(Killer):
    def last(self, path: Path, row: dict[str, float]) -> None:
        before = path.read_bytes() if path.exists() else b''
        self._original(path, row)
        after = path.read_bytes()
        path.write_bytes(after[:(len(before) + len(after)) // 2])


MOMENTS = {
    'in a step': lambda: Killer(torch.nn.utils, 'clip_grad_norm_', 4),
    'in the first line of the curve': lambda: HalfLine(curve, 'append', 1),
    'in a line of the curve': lambda: HalfLine(curve, 'append', 4),
    'in the first state': lambda: HalfState(torch, 'save', 1),
    'in a later state': lambda: HalfState(torch, 'save', 2),
    'before a state is put in place': lambda: Killer(os, 'replace', 2),
    'after the last step': lambda: Killer(torch, 'save', 3),
}


def train_to_the_kill(folder: Path, moment: str) -> None:
    MOMENTS[moment]()
    train(folder)


def train_and_die_in_resuming(folder: Path) -> None:
    Killer(os, 'replace', 1)  # the curve's, cut to the state
    train(folder)


def run(target: object, *arguments: object) -> BaseProcess:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def assert_killed(process: BaseProcess) -> None:
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def lines(folder: Path) -> list[list[str]]:
    """Return the fields of the curve without the seconds, which differ between runs."""
    split = [line.split(',') for line in (folder / 'curve.csv').read_text().splitlines()]
    seconds = split[0].index('seconds')
    return [row[:seconds] + row[seconds + 1:] for row in split]


def assert_goes_on_to(whole: Path, folder: Path) -> None:
    process = run(train, folder)
    process.join(60)
    assert process.exitcode == 0
    assert lines(folder) == lines(whole)
    one, two = (torch.load(path / 'state.pt', weights_only=True)['average']
                for path in (whole, folder))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert not list(folder.glob('*.part'))


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    process = run(train, folder)
    process.join(60)
    assert process.exitcode == 0 and len(lines(folder)) == 1 + STEPS
    return folder


@pytest.mark.parametrize('moment', MOMENTS)
def test_killed_run_resumes_as_if_uninterrupted(
        moment: str, whole: Path, tmp_path: Path) -> None:
    assert_killed(run(train_to_the_kill, tmp_path, moment))
    assert_goes_on_to(whole, tmp_path)


def test_run_killed_several_times_is_resumed(whole: Path, tmp_path: Path) -> None:
    for moment in ('in the first state', 'in a line of the curve'):
        assert_killed(run(train_to_the_kill, tmp_path, moment))
        assert_killed(run(train_and_die_in_resuming, tmp_path))
    assert_goes_on_to(whole, tmp_path)


def train_until_killed(folder: Path, count: int) -> None:
    append, left = curve.append, iter(range(count - 1, -1, -1))

    def append_and_wait(path: Path, row: dict[str, float]) -> None:
        append(path, row)
        if next(left) == 0:
            signal.pause()
    curve.append = append_and_wait
    train(folder)


@pytest.mark.parametrize('count', [1, 3])
def test_run_killed_from_outside_is_resumed(count: int, whole: Path, tmp_path: Path) -> None:
    process = run(train_until_killed, tmp_path, count)
    deadline = time.monotonic() + 300
    path = tmp_path / 'curve.csv'
    while not path.exists() or path.read_text().count('\n') <= count:
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.005)
    process.kill()
    assert_killed(process)
    assert_goes_on_to(whole, tmp_path)
