# SPDX-License-Identifier: Apache-2.0
"""The commands of the command line and their errors."""
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rosbags.highlevel import AnyReader

from spann3r_ros.cli.commands.scores import evaluate_rgbd
from spann3r_ros.cli.main import COMMANDS, main
from spann3r_ros.datasets.bag_truth import read_truth
from spann3r_ros.networks.registry import resolve_checkpoint
from spann3r_ros.networks.spann3r.checkpoint import load_model, read_metadata, save_model
from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.rooms import room_generator as rooms

SMALL = Spann3RConfig(
    image_height=24, image_width=24, patch_size=12, encoder_width=16, encoder_depth=1,
    encoder_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2, value_depth=1,
    value_heads=2, head='linear')


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / 'small.safetensors'
    save_model(path, Spann3R(SMALL), torch.float32, {'licence': 'Apache-2.0'})
    return path


@pytest.fixture
def few_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, 'RoomConfig',
                        partial(rooms.RoomConfig, textures=6, texture_size=16))


def test_help_needs_no_heavy_import() -> None:
    code = ('import sys; from spann3r_ros.cli.main import build_parser; build_parser();'
            'loaded = {"torch", "numpy", "cv2", "rosbags"} & set(sys.modules);'
            'sys.exit(str(loaded) if loaded else 0)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_explains_itself(
        command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, '--help'])
    assert ended.value.code == 0
    assert f'spann3r {command}' in capsys.readouterr().out


def test_info_prints_sizes_and_licence(
        checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['info', str(checkpoint)]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()
                 if len(line.split()) == 2)
    assert facts['encoder_width'] == '16'
    assert facts['licence'] == 'Apache-2.0'


def test_info_names_a_missing_file(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['info', str(tmp_path / 'none.pth')]) == 1
    assert 'none.pth' in capsys.readouterr().err


def test_convert_keeps_weights_and_licence(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / 'half.safetensors'
    assert main(['convert', str(checkpoint), str(target), '--dtype', 'float16']) == 0
    assert target.stat().st_size < 0.7 * checkpoint.stat().st_size
    before, after = load_model(checkpoint).state_dict(), load_model(target).state_dict()
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, rtol=1e-3, atol=1e-4)
    metadata = read_metadata(target)
    assert (metadata['licence'], metadata['converted_from']) == ('Apache-2.0', checkpoint.name)


def test_convert_never_overwrites(
        checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = checkpoint.read_bytes()
    assert main(['convert', str(checkpoint), str(checkpoint)]) == 1
    assert checkpoint.read_bytes() == content
    assert 'exists already' in capsys.readouterr().err


def test_photos_go_into_the_bag_unchanged_and_in_order(tmp_path: Path) -> None:
    photos = tmp_path / 'photos'
    photos.mkdir()
    for index in (2, 0, 1):
        cv2.imwrite(str(photos / f'{index:03d}.jpg'), np.full((8, 8, 3), 80 * index, np.uint8))
    bag = tmp_path / 'bag'
    assert main(['photos-to-bag', str(photos), str(bag), '--rate', '4']) == 0
    with AnyReader([bag]) as reader:
        images = [reader.deserialize(data, one.msgtype) for one, _, data in reader.messages()]
    assert [image.data.tobytes() for image in images] == [
        (photos / f'{index:03d}.jpg').read_bytes() for index in range(3)]
    stamps = [image.header.stamp.sec * 10**9 + image.header.stamp.nanosec for image in images]
    assert np.diff(stamps).tolist() == [250_000_000] * 2


def test_folder_without_photos_is_refused(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['photos-to-bag', str(tmp_path), str(tmp_path / 'bag')]) == 1
    assert 'found none' in capsys.readouterr().err


@pytest.mark.usefixtures('few_textures')
def test_demo_bag_agrees_with_its_truth(tmp_path: Path) -> None:
    bag = tmp_path / 'bag'
    assert main(['make-demo-bag', str(bag), '--frames', '3', '--size', '48']) == 0
    truth = read_truth(bag)
    assert truth is not None
    with AnyReader([bag]) as reader:
        messages = [(one.topic, reader.deserialize(data, one.msgtype))
                    for one, _, data in reader.messages()]
    images = [message for topic, message in messages if topic.endswith('compressed')]
    assert [image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
            for image in images] == [pose.stamp_ns for pose in truth.poses]
    assert cv2.imdecode(images[0].data, cv2.IMREAD_COLOR).shape == (48, 48, 3)
    # Every true point lies inside the walls, and projects into some image.
    assert (truth.points > -1e-3).all()
    assert (truth.points[:, :2] < truth.outline[2, :2] + 1e-3).all()
    matrix = next(message.k for topic, message in messages
                  if topic.endswith('camera_info')).reshape(3, 3)
    seen = np.zeros(len(truth.points), bool)
    for pose in truth.poses:
        local = np.linalg.inv(pose.world_from_camera)
        pixels = (truth.points @ local[:3, :3].T + local[:3, 3]) @ matrix.T
        with np.errstate(divide='ignore', invalid='ignore'):
            u, v = (pixels[:, :2] / pixels[:, 2:]).T
        seen |= (pixels[:, 2] > 0) & (np.abs(u - 23.5) < 24.1) & (np.abs(v - 23.5) < 24.1)
    assert seen.all()


@pytest.fixture
def short_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    from spann3r_ros.evaluation.held_out import held_out_rooms
    monkeypatch.setattr(held_out_rooms, 'RoomConfig',
                        partial(rooms.RoomConfig, textures=6, texture_size=16))
    monkeypatch.setattr(held_out_rooms, 'HeldOutConfig', partial(
        held_out_rooms.HeldOutConfig, turns=(held_out_rooms.Turn(3),), training_rooms=2))
    monkeypatch.setattr(held_out_rooms, 'WANDERING', held_out_rooms.Turn(4, motion=0.5))


@pytest.mark.usefixtures('short_evaluation')
def test_evaluate_writes_what_it_measured(
        checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / 'results.json'
    picture = tmp_path / 'rooms.png'
    assert main(['evaluate', str(checkpoint), '--device', 'cpu', '--rooms', '1',
                 '--output', str(output), '--picture', str(picture)]) == 0
    table = capsys.readouterr().out
    assert 'as it is mapped' in table and 'median pointmap' in table
    result = json.loads(output.read_text())['results'][0]
    assert result['turn'] == '3 frames at 9 deg'
    assert f'{result["network"]["accuracy"]:.3f}' in table
    assert f'{result["normals"]:.3f}' in table
    drawn = cv2.imread(str(picture))
    assert drawn.shape == (460, 1280, 3)
    assert main(['evaluate', str(checkpoint), '--device', 'cpu', '--frames', '7']) == 1
    assert 'turns: expected at least one' in capsys.readouterr().err
    # The true room fills a good part of its half.
    assert (np.abs(drawn[:, 640:].astype(int) - drawn[5, 5]).max(axis=-1) > 30).mean() > 0.05


@pytest.mark.usefixtures('short_evaluation')
def test_evaluate_prints_earlier_results_beside_new_ones_of_the_same_rooms(
        checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / 'first.json', tmp_path / 'second.json'
    command = ['evaluate', str(checkpoint), '--device', 'cpu', '--rooms', '1', '--varied']
    assert main([*command, '--output', str(first), '--name', 'last month']) == 0
    assert main([*command, '--output', str(second), '--reference', str(first)]) == 0
    table = capsys.readouterr().out.splitlines()
    header = [line.split() for line in table if 'sequence' in line][-1]
    beside = [line for line in table if 'last month' in line]
    assert len(beside) == 2  # a turn, and a walk that wanders
    assert len(beside[0].split()) >= len(header) - 1 and ' - ' not in beside[0]
    written = json.loads(second.read_text())
    assert written['name'] == checkpoint.name
    assert [item['turn'] for item in written['results']] == ['3 frames at 9 deg',
                                                             '4 frames wandering']
    for arguments, expected in ((['--rooms', '2', '--varied'], 'rooms 2'),
                            (['--rooms', '1'], 'varied False')):
        assert main(['evaluate', str(checkpoint), '--reference', str(first), *arguments]) == 1
        assert f'expected results with {expected}' in capsys.readouterr().err


@pytest.mark.parametrize('content', [[], {'name': 'x'}, {'results': [{}]},
                                     {'results': [{}], 'config': {}, 'checkpoint': 'x'}])
def test_evaluate_refuses_what_is_no_reference(
        content: object, checkpoint: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'reference.json'
    path.write_text(json.dumps(content))
    assert main(['evaluate', str(checkpoint), '--reference', str(path)]) == 1
    assert 'reference: expected what --output wrote' in capsys.readouterr().err


@pytest.mark.usefixtures('short_evaluation')
def test_ablate_prints_differences_to_the_whole_memory(
        checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / 'ablation.json'
    assert main(['ablate', str(checkpoint), '--device', 'cpu', '--rooms', '2', '--frames', '3',
                 '--output', str(output)]) == 0
    table = capsys.readouterr().out
    results = json.loads(output.read_text())['results']
    assert [item['memory'] for item in results] == [
        'everything', 'no long-term memory', 'no attention threshold', 'no similarity test']
    assert table.count('  adds ') == 3 and f'{results[1]["scores"][0]["mean"]:.3f}' in table


def test_checkpoint_of_a_score_is_the_bundled_model_by_default(
        monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(evaluate_rgbd, 'run', lambda args: used.append(args.checkpoint) or 0)
    assert main(['evaluate-rgbd', 'walk']) == main(['evaluate-rgbd', 'walk', 'own.pth']) == 0
    assert used == [resolve_checkpoint(''), Path('own.pth')]
