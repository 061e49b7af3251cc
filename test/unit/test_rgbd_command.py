# SPDX-License-Identifier: Apache-2.0
"""`spann3r evaluate-rgbd` on folders in several layouts, its tables, files and errors."""
from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from recorded_rooms import write_plain, write_seven_scenes, write_tum

from spann3r_ros.cli.main import main
from spann3r_ros.core.network import Compute
from spann3r_ros.datasets.layouts import read_videos
from spann3r_ros.evaluation.pictures import rgbd_picture
from spann3r_ros.evaluation.rgbd import rgbd_scores
from spann3r_ros.evaluation.rgbd.rgbd_runs import run_mapper
from spann3r_ros.evaluation.rgbd.true_views import open_video
from spann3r_ros.networks.registry import kind_of
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R

BUNDLED = Path(__file__).parents[2] / 'models' / 'rooms_small.safetensors'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('checkpoint') / 'small.safetensors'
    save_model(path, Spann3R(Spann3RConfig(
        image_height=24, image_width=24, patch_size=12, encoder_width=16, encoder_depth=1,
        encoder_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2, value_depth=1,
        value_heads=2, head='linear')), torch.float32)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('rgbd')
    write_plain(root, 8, camera=(110.0, 110.0, 79.5, 59.5), size=(160, 120),
                suffix='jpg')
    return root / 'walk'


def evaluate(folder: Path, checkpoint: Path, *arguments: str) -> int:
    return main(['evaluate-rgbd', str(folder), str(checkpoint), '--device', 'cpu', *arguments])


def test_command_prints_writes_and_draws_what_it_measured(
        folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rgbd_picture, 'MOST_POINTS', 2000)
    monkeypatch.setattr(rgbd_scores, 'FIT_POINTS', 2000)
    output, picture = tmp_path / 'scores.json', tmp_path / 'walk.png'
    assert evaluate(folder, BUNDLED, '--output', str(output), '--picture', str(picture)) == 0
    table = capsys.readouterr().out
    written = json.loads(output.read_text())
    (result,) = written['results']
    assert (written['layout'], result['name'], result['frames']) == ('plain', 'walk', 8)
    for run in result['runs']:
        assert f'{run["depth"]["network"]["frame_scale"]["abs_rel"]:.3f}' in table
        assert f'{run["map"]["accuracy"]["mean"]:.3f}' in table
        assert f'{run["path"]["still"]["trajectory_error"]:.3f}' in table
    for answer in ('constant depth', 'mean depth image', 'flat, camera still', 'camera still',
                   'keyframes without calibration', 'pairs, 3 apart'):
        assert answer in table
    drawn = cv2.imread(str(picture)).astype(int)
    shown = np.abs(drawn - drawn[5, 700]).max(axis=-1) > 30
    assert drawn.shape[1] == 1600
    # Map and truth, and the depth images below them.
    assert min(shown[100:1200, :800].mean(), shown[100:1200, 800:].mean()) > 0.02
    assert shown[1300:, 150:].mean() > 0.8


def test_frames_and_steps_are_selected(folder: Path, checkpoint: Path, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / 'scores.json'
    assert evaluate(folder, checkpoint, '--frames', '1', '7', '--every', '2', '--pair-gap', '1',
                    '--rate', '5', '--output', str(output)) == 0
    assert 'walk: 4 frames in 1.2 s' in capsys.readouterr().out
    (result,) = json.loads(output.read_text())['results']
    # Frames that the network cannot place are counted, whatever these weights do.
    for run in result['runs']:
        depth = run['depth']
        assert depth['frames'] + depth['lacking'] + depth['unknown'] == 4
    assert result['pairs']['frames'] == 3


def test_run_without_calibration_is_that_of_a_replay(folder: Path, tmp_path: Path) -> None:
    bag, products = tmp_path / 'bag', tmp_path / 'products'
    assert main(['photos-to-bag', str(folder / 'rgb'), str(bag), '--rate', '10']) == 0
    assert main(['replay', str(bag), '--output', str(products), '--quiet', '--device', 'cpu',
                 '--checkpoint', str(BUNDLED), '--set', 'keyframes.selection=stride']) == 0
    (sequence,) = read_videos(folder, 'plain')
    network = kind_of(BUNDLED).open(BUNDLED, kind_of(BUNDLED).settings(), Compute('cpu'))
    run = run_mapper(network, open_video(sequence, None, 10.0), calibrated=False)
    written = np.loadtxt(products / 'map' / 'trajectory.tum')
    poses, numbers = run.poses
    assert len(numbers) >= 3
    np.testing.assert_allclose(written[:, 0] - written[0, 0], 0.1 * np.array(numbers), atol=1e-6)
    np.testing.assert_allclose(written[:, 1:4], poses[:, :3, 3], atol=1e-6)
    assert json.loads((products / 'summary.json').read_text())['voxels'] == len(run.cloud)


@pytest.mark.parametrize(('write', 'inner', 'heading'), [
    (write_tum, '', 'rgbd_dataset_freiburg3_box: 3 frames in 0.3 s'),
    (write_seven_scenes, 'chess/seq-03', 'chess03: 4 frames in 0.1 s')])
def test_other_layouts_are_evaluated(write: object, inner: str, heading: str, checkpoint: Path,
                                     tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 4)
    assert evaluate(tmp_path / inner, checkpoint, '--pair-gap', '2') == 0
    assert heading in capsys.readouterr().out


def test_several_sequences_have_a_picture_each(
        checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rgbd_picture, 'draw_video', lambda target, _: target.touch())
    for name in ('a', 'b'):
        write_plain(tmp_path, 4, camera=(110.0, 110.0, 79.5, 59.5), size=(160, 120))
        (tmp_path / 'walk').rename(tmp_path / name)
    arguments = ['--pair-gap', '1', '--picture', str(tmp_path / 'map.png')]
    assert evaluate(tmp_path, checkpoint, *arguments) == 0
    table = capsys.readouterr().out
    assert 'a: 4 frames' in table and 'b: 4 frames' in table
    assert {path.name for path in tmp_path.glob('*.png')} == {'map-a.png', 'map-b.png'}
    assert evaluate(tmp_path, checkpoint, '--scene', 'b', *arguments) == 0
    table = capsys.readouterr().out
    assert 'a: 4 frames' not in table and 'b: 4 frames' in table
    assert (tmp_path / 'map.png').exists()


def test_map_that_cannot_be_drawn_does_not_lose_the_scores(
        folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rgbd_scores, 'LEAST_PAIRS', 10**9)
    output = tmp_path / 'scores.json'
    assert evaluate(folder, BUNDLED, '--every', '2', '--output', str(output),
                    '--picture', str(tmp_path / 'map.png')) == 1
    captured = capsys.readouterr()
    assert 'expected a map that can be aligned to the truth, walk has none' in captured.err
    assert json.loads(output.read_text())['results'][0]['runs'][0]['map'] is None
    assert not (tmp_path / 'map.png').exists()


@pytest.mark.parametrize(('arguments', 'said'), [
    (['--frames', '3', '8'], 'walk: expected a range of frames within 0 to 7'),
    (['--every', '0'], 'every: expected at least 1, got 0'),
    (['--pair-gap', '8'], 'pair-gap: expected 1 to 7 for the 8 frames of walk, got 8'),
    (['--every', '8'], 'pair-gap: expected 1 to 0'),
    (['--scene', 'run'], "scene: expected one of ['walk'], got 'run'"),
    (['--rate', '-1'], 'rate: expected images per second above 0'),
    (['--layout', 'tum'], 'expected */rgb.txt below it'),
    (['--output', '/nowhere/x.json'], 'output: expected a file in an existing folder'),
])
def test_wrong_arguments_are_named(arguments: list[str], said: str, folder: Path, checkpoint: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(folder, checkpoint, *arguments) == 1
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1


def test_folder_without_a_video_is_named(checkpoint: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path, checkpoint) == 1
    assert 'expected one of the layouts plain: rgb/NNNN.jpg' in capsys.readouterr().err
