# SPDX-License-Identifier: Apache-2.0
"""`spann3r replay --resume`: a replay that was killed goes on, and ends with the same map."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_bags import IMAGE_TOPIC, OrbitBag, stamp_of

from spann3r_ros.cli.main import main
from spann3r_ros.networks.registry import network_kinds
from spann3r_ros.pipeline.bag_replay import Replay
from spann3r_ros.pipeline.resumption import Resumption

ROOT = Path(__file__).parents[2]
TOY_PACKAGE = Path(__file__).parents[1] / 'toy_package'
COUNT, EVERY = 32, 3
DEADLINE_SEC = 120.0
# Fragments, a scale by odometry that measures from the fourth keyframe on, a grid, and a rate of
# which every third image is left out. Images wait for the transforms that come after them.
SETTINGS = {'scale.source': 'odometry', 'grid.enabled': 'true', 'fragments.max_keyframes': '12',
            'max_rate': '7.0'}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the toy network by its entry point."""
    monkeypatch.syspath_prepend(str(TOY_PACKAGE))
    network_kinds.cache_clear()
    yield
    network_kinds.cache_clear()
    sys.modules.pop('toy_network', None)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bag whose transforms come two images after the images that need them."""
    path = tmp_path_factory.mktemp('recorded') / 'bag'
    with OrbitBag(path) as bag:
        bag.mount()
        for index in range(COUNT + 2):
            if index < COUNT:
                bag.raw(index)
                bag.info(index)
            if index >= 2:
                bag.drive(index - 2)
    return path


def write_later_bag(path: Path) -> None:
    """Write a bag of the images after those of `bag`."""
    with OrbitBag(path) as bag:
        bag.mount()
        for index in range(COUNT, COUNT + 8):
            bag.raw(index)
            bag.info(index)
            bag.drive(index)


def arguments(bag: Path, output: Path, *more: str) -> list[str]:
    weights = output.parent / 'orbit.toy'
    weights.write_text('{}')
    return ['replay', str(bag), '--topic', IMAGE_TOPIC, '--checkpoint', str(weights), '--output',
            str(output), '--quiet', *more,
            *(word for name, value in SETTINGS.items() for word in ('--set', f'{name}={value}'))]


def result(output: Path) -> dict[str, Any]:
    """Return hashes of map and trajectory and the whole state."""
    summary = json.loads((output / 'summary.json').read_text())
    return {**summary['sha256'], 'text': (output / 'map' / 'state.json').read_text(),
            'arrays': (output / 'map' / 'state.safetensors').read_bytes()}


@pytest.fixture(scope='module')
def whole(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a replay from the first to the last image."""
    sys.path.insert(0, str(TOY_PACKAGE))
    network_kinds.cache_clear()
    try:
        output = tmp_path_factory.mktemp('whole') / 'out'
        assert main(arguments(bag, output)) == 0
    finally:
        sys.path.remove(str(TOY_PACKAGE))
    return output


def test_a_replay_killed_after_a_save_ends_with_the_same_map(
        bag: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / 'out'
    process = subprocess.Popen(
        [sys.executable, '-m', 'spann3r_ros.cli', *arguments(
            bag, output, '--save-every', '5')], cwd=ROOT, env={
                **os.environ, 'PYTHONPATH': f'{TOY_PACKAGE}:{os.environ.get("PYTHONPATH", "")}'})
    try:
        deadline = time.monotonic() + DEADLINE_SEC
        while not (output / 'map' / 'manifest.json').exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (output / 'summary.json').exists()
    assert main(arguments(bag, output, '--resume', str(output))) == 0
    assert result(output) == result(whole)
    frames = json.loads((output / 'summary.json').read_text())['frames']
    first = json.loads((whole / 'summary.json').read_text())['frames']
    assert frames['received'] == COUNT and frames['skipped'] > first['skipped']


def test_a_map_of_every_moment_goes_on_to_the_same_map(
        bag: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images wait for transforms at each of these moments."""
    saved, plain = [], Replay.save

    def save(replay: Replay, folder: Path) -> None:
        plain(replay, folder)
        saved.append(tmp_path / f'saved_{len(saved)}')
        shutil.copytree(folder / 'map', saved[-1] / 'map')
    monkeypatch.setattr(Replay, 'save', save)
    output = tmp_path / 'out'
    assert main(arguments(bag, output, '--save-every', str(EVERY))) == 0
    monkeypatch.undo()
    assert result(output) == result(whole)
    assert len(saved) >= 7
    for folder in saved[:-1:4]:
        assert main(arguments(bag, output, '--resume', str(folder))) == 0
        assert result(output) == result(whole)


def test_another_recording_is_mapped_from_its_first_image(
        bag: Path, whole: Path, tmp_path: Path) -> None:
    write_later_bag(tmp_path / 'later')
    output = tmp_path / 'out'
    assert main(arguments(tmp_path / 'later', output, '--resume', str(whole))) == 0
    summary = json.loads((output / 'summary.json').read_text())
    assert summary['frames']['processed'] >= 2
    assert summary['poses'] > json.loads((whole / 'summary.json').read_text())['poses']


@pytest.mark.parametrize(('change', 'reason'), [
    (lambda folder: (folder / 'map' / 'map.ply').write_bytes(b''), 'map.ply: expected the file'),
    (lambda folder: shutil.rmtree(folder / 'map'), 'expected the directory of a saved map'),
    (lambda folder: (folder / 'map' / 'manifest.json').write_text('{"format": 9}'),
     'expected format 2, got 9')])
def test_a_map_that_cannot_be_read_is_bad_input(
        bag: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        change: Callable[[Path], object], reason: str) -> None:
    shutil.copytree(whole, tmp_path / 'from')
    change(tmp_path / 'from')
    assert main(arguments(bag, tmp_path / 'out', '--resume', str(tmp_path / 'from'))) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_settings_and_recordings_that_do_not_fit_are_bad_input(
        bag: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / 'out'
    assert main(arguments(bag, output, '--resume', str(whole), '--set',
                          'field_of_view=letterbox')) == 2
    assert "expected one of ('letterbox',), got 'crop'" in capsys.readouterr().err
    with OrbitBag(tmp_path / 'earlier') as earlier:
        for index in range(3):
            earlier.raw(index)
    assert main(arguments(tmp_path / 'earlier', output, '--resume', str(whole))) == 2
    assert 'resume: expected a recording with the image at' in capsys.readouterr().err
    assert main(arguments(bag, output, '--save-every', '-1')) == 2
    assert 'save-every: expected a number of images' in capsys.readouterr().err
    assert not (output / 'map').exists()


def test_a_recording_whose_stamps_go_back_over_the_end_of_the_map_is_refused() -> None:
    resumption = Resumption(stamp_of(5))
    assert not resumption.leaves_out(stamp_of(9))
    with pytest.raises(ValueError, match='resume: expected a recording whose stamps rise'):
        resumption.leaves_out(stamp_of(5))


def test_a_map_of_another_camera_is_bad_input(whole: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr('recorded_bags.OPTICAL_FRAME', 'another_optical_frame')
    write_later_bag(tmp_path / 'other')
    output = tmp_path / 'out'
    assert main(arguments(tmp_path / 'other', output, '--resume', str(whole))) == 2
    assert 'resume: expected the map of a camera as that of the bag' in capsys.readouterr().err
    assert not (output / 'map').exists()
