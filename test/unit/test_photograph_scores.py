# SPDX-License-Identifier: Apache-2.0
"""Photographs with known poses: reading, and scores of the solved path."""
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fake_network import FakeNetwork
from scipy.spatial.transform import Rotation

from spann3r_ros.cli.main import main
from spann3r_ros.core.camera import Distortion
from spann3r_ros.core.types import Pointmap
from spann3r_ros.datasets.photographs import Photographs, read_photographs
from spann3r_ros.evaluation.photo_scores import run_photographs, score_photographs
from spann3r_ros.evaluation.pictures.photo_picture import (
    draw_photographs,
    level_axes,
    photo_content,
)
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.rooms.room_generator import RoomConfig, RoomGenerator

SIZE, FACTOR, FRAMES = 32, 3, 6  # a network's pixel is the middle one of 3x3 of a photograph


@dataclass(frozen=True)
class Folder:
    """Photographs of a procedural room, their cameras, and the points [n, 32, 32, 3]."""

    photos: Path
    cameras: Path
    points: np.ndarray


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    rooms = RoomGenerator(RoomConfig(size=SIZE * FACTOR, textures=6, texture_size=32, noise=0.0),
                          seed=1, textures_seed=2)
    batch = rooms.batch(1, FRAMES, trajectory='turn')
    root = tmp_path_factory.mktemp('photographs')
    # Another world in another unit, as from structure from motion.
    world = Rotation.from_euler('xyz', [20.0, -30.0, 50.0], degrees=True).as_matrix()
    frames = []
    for index in range(FRAMES):
        image = batch.images[0, index].permute(1, 2, 0).numpy()
        cv2.imwrite(str(root / f'{index:04d}.jpg'), image[..., ::-1])
        pose = batch.camera_poses[0, index].double().numpy()
        pose[:3, :3], pose[:3, 3] = world @ pose[:3, :3], 7.0 * world @ pose[:3, 3] + [3, 4, 5]
        frames.append({'image': f'{index:04d}.jpg', 'camera_to_world': pose.tolist()})
    matrix = batch.intrinsics[0].double().numpy()
    (root / 'cameras.json').write_text(json.dumps({
        'width': SIZE * FACTOR, 'height': SIZE * FACTOR, 'fx': matrix[0, 0], 'fy': matrix[1, 1],
        'cx': matrix[0, 2], 'cy': matrix[1, 2], 'frames': frames}))
    return Folder(root, root / 'cameras.json',
                  batch.points[0, :, 1::FACTOR, 1::FACTOR].numpy())


@pytest.fixture
def photographs(folder: Folder) -> Photographs:
    return read_photographs(folder.photos, folder.cameras)


class Oracle(FakeNetwork):
    """Returns the true points of the photographs at half scale; can bend them."""

    def __init__(self, points: np.ndarray, confidence: float = 0.5) -> None:
        super().__init__(SIZE)
        self._pointmaps = [Pointmap(0.5 * item, np.full((SIZE, SIZE), confidence, np.float32))
                           for item in points]

    def answer(self, index: int) -> Pointmap:
        return self._pointmaps[index]


def test_true_points_give_the_true_path(folder: Folder, photographs: Photographs) -> None:
    seen = []
    run = run_photographs(Oracle(folder.points), photographs, observe=lambda: seen.append(1))
    scores = score_photographs(run)
    assert (len(seen), scores.frames, scores.solved, run.coverage) == (FRAMES,) * 3 + (1.0,)
    assert scores.rotation_deg < 0.05
    assert scores.path.trajectory_error < 2e-3 * scores.path.path_length
    assert scores.path.rotation_deg < 0.05
    assert scores.still > 0.1 * scores.path.path_length


def test_bent_points_give_a_worse_path(folder: Folder, photographs: Photographs) -> None:
    bent = folder.points * np.linspace(1.0, 1.6, FRAMES, dtype=np.float32)[:, None, None, None]
    scores = score_photographs(run_photographs(Oracle(bent), photographs))
    assert scores.path.trajectory_error > 0.01 * scores.path.path_length


def test_points_without_confidence_give_no_path(
        folder: Folder, photographs: Photographs, tmp_path: Path) -> None:
    run = run_photographs(Oracle(folder.points, confidence=0.0), photographs)
    scores = score_photographs(run)
    assert (scores.solved, scores.rotation_deg, scores.path, scores.still) == (0, None, None, None)
    with pytest.raises(ValueError, match='three solved frames or more, got 0'):
        draw_photographs(tmp_path / 'none.png', run, scores)


def test_picture_aligns_cloud_and_path_to_the_truth_with_z_up(
        folder: Folder, photographs: Photographs, tmp_path: Path) -> None:
    run = run_photographs(Oracle(folder.points), photographs)
    content = photo_content(run)
    length = np.linalg.norm(np.diff(content.true_path, axis=0), axis=1).sum()
    assert np.abs(content.path - content.true_path).max() < 0.01 * length
    assert len(content.points) == FRAMES * SIZE * SIZE == len(content.colors)
    assert np.ptp(content.true_path[:, 2]) < 1e-3 * length  # the turn is level
    target = tmp_path / 'photographs.png'
    draw_photographs(target, run, score_photographs(run))
    drawn = cv2.imread(str(target)).astype(int)
    shown = np.abs(drawn[100:] - drawn[-1, 0]).max(axis=-1) > 30
    assert min(shown[:, :900].mean(), shown[:, 900:].mean()) > 0.01


def test_level_axes_turn_up_to_z_and_the_first_view_to_x() -> None:
    looking_along_y = np.eye(4)
    looking_along_y[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    np.testing.assert_allclose(level_axes(looking_along_y[None]),
                               [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-12)


def test_distortion_is_read_and_its_invalid_pixels_are_left_out(folder: Folder,
                                                                photographs: Photographs) -> None:
    assert photographs.intrinsics.distortion is None
    content = json.loads(folder.cameras.read_text()) | {'k1': 0.3, 'p2': 0.001}
    path = folder.photos / 'lens.json'
    path.write_text(json.dumps(content))
    bent = read_photographs(folder.photos, path)
    assert bent.intrinsics.distortion == Distortion('plumb_bob', (0.3, 0.0, 0.0, 0.001, 0.0))
    run = run_photographs(Oracle(folder.points), bent)
    points = run.keyframes[0].pointmap.points
    assert np.isnan(points[0, 0]).all() and np.isfinite(points[16, 16]).all()


def frame(matrix: np.ndarray) -> dict[str, Any]:
    return {'image': 'a.jpg', 'camera_to_world': matrix.tolist()}


@pytest.mark.parametrize(('change', 'said'), [
    ({'fx': None}, 'expected width, height, fx'),
    ({'frames': [{'image': 'a.jpg'}] * 3}, 'camera_to_world'),
    ({'frames': [frame(np.eye(4))] * 2}, 'three frames or more, got 2'),
    ({'frames': [frame(np.diag([1.0, 2.0, 1.0, 1.0]))] * 3}, 'a.jpg to be a rotation'),
    ({'frames': [frame(np.diag([1.0, 1.0, -1.0, 1.0]))] * 3}, 'a.jpg to be a rotation'),
    ({'frames': [frame(np.eye(3))] * 3}, 'a.jpg to be a rotation'),
])
def test_impossible_cameras_are_refused(
        folder: Folder, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / 'cameras.json'
    path.write_text(json.dumps(json.loads(folder.cameras.read_text()) | change))
    with pytest.raises(ValueError, match=said):
        read_photographs(folder.photos, path)


def test_missing_and_misshapen_photographs_are_named(
        folder: Folder, photographs: Photographs, tmp_path: Path) -> None:
    oracle = Oracle(folder.points)
    with pytest.raises(ValueError, match=r'gone\.jpg: expected an image'):
        run_photographs(oracle, replace(photographs, paths=(tmp_path / 'gone.jpg',) * FRAMES))
    narrow = tmp_path / 'narrow.jpg'
    cv2.imwrite(str(narrow), np.zeros((96, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=r'narrow\.jpg: expected 96x96 pixels .* got 48x96'):
        run_photographs(oracle, replace(photographs, paths=(narrow,) * FRAMES))


def test_command_prints_and_writes_scores(
        folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    checkpoint, output = tmp_path / 'small.safetensors', tmp_path / 'scores.json'
    save_model(checkpoint, Spann3R(Spann3RConfig(
        image_height=24, image_width=24, patch_size=12, encoder_width=16, encoder_depth=1,
        encoder_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2, value_depth=1,
        value_heads=2, head='linear')), torch.float32)
    assert main(['evaluate-photos', str(folder.photos), str(checkpoint), '--device', 'cpu',
                 '--letterbox', '--output', str(output)]) == 0
    table = capsys.readouterr().out
    scores = json.loads(output.read_text())
    assert scores['frames'] == FRAMES and 'poses solved' in table
    assert ('ATE of a camera that stands still' in table) == (scores['path'] is not None)
