# SPDX-License-Identifier: Apache-2.0
"""Training on recordings: the paper's losses, frozen parts, bfloat16, settings from a file."""
from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded_rooms import HALF, write_seven_scenes, write_tum

from spann3r_ros.cli.main import main
from spann3r_ros.datasets.rgbd import DatasetError
from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.spann3r.checkpoint import load_model, read_metadata, save_model
from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.networks.spann3r.training import PARTS, freeze
from spann3r_ros.networks.spann3r.unroll import unroll
from spann3r_ros.networks.trainable import Unrolled
from spann3r_ros.training.loop import Trainer, read_run
from spann3r_ros.training.losses import paper_losses
from spann3r_ros.training.objective import paper_objective, sequence_objective
from spann3r_ros.training.rank import Rank
from spann3r_ros.training.runs import read_runs
from spann3r_ros.training.schedule import moment
from spann3r_ros.training.sources.mixture import open_sources
from spann3r_ros.training.sources.recordings import RecordedSource, Recordings, jitter_color
from spann3r_ros.training.training_config import Stage, TrainingConfig

RUNS = {name: run.config for name, run in read_runs().items()}
TINY = Spann3RConfig(
    image_height=32, image_width=48, patch_size=16, encoder_width=32, encoder_depth=1,
    encoder_heads=2, decoder_width=32, decoder_depth=4, decoder_heads=2, value_depth=1,
    value_heads=2, dpt_width=8, dpt_layers=(4, 6, 8, 10))


def recorded(folder: Path, **changes: object) -> TrainingConfig:
    """Write a recording of 12 views; return a run on it."""
    write_seven_scenes(folder, 12)
    (folder / 'chess/TestSplit.txt').rename(folder / 'chess/TrainSplit.txt')
    config = replace(RUNS['paper'], network=TINY, data=(f'7scenes:{folder}',), frame_gap=(1, 3),
                     stages=(Stage(1.0, (3,)),), steps=12, shards=2, frames_per_step=12,
                     warmup_steps=2, adam_lr=3e-3, decay='linear', attention_dropout=0.1)
    return replace(config, **changes)


def size_of(config: TrainingConfig) -> tuple[int, int]:
    return config.network.image_height, config.network.image_width


def source_of(config: TrainingConfig) -> RecordedSource:
    return open_sources(config, [0], 'cpu')[0]


def test_points_of_a_batch_are_metres_in_the_first_camera(tmp_path: Path) -> None:
    config = recorded(tmp_path)
    batch = source_of(config).batch(3, 3, size_of(config), moment(config, 5), random.Random(0))
    assert batch.images.shape == (3, 3, 3, 32, 48) and batch.images.dtype == torch.uint8
    assert batch.points.shape == (3, 3, 32, 48, 3) and batch.points.dtype == torch.float32
    assert not batch.valid[:, :, 0].any()  # 65535 in the files
    # Every camera of a sequence sees the same box: the farthest corners are as far apart.
    for sequence in batch.points:
        first = sequence[0][batch.valid[0, 0]]
        assert 0.5 < float(first[:, 2].min()) and float(first.norm(dim=-1).max()) < 2 * HALF.max()
        # The camera turns by 8 degrees a view: pixels move, points of the walls do not.
        for other in sequence[1:]:
            near = torch.cdist(other[8:-8, 12:-12].reshape(-1, 3), sequence[0].reshape(-1, 3))
            assert float(near.amin(dim=1).median()) < 0.15


def test_frames_lie_within_the_gap_forwards_and_backwards(tmp_path: Path) -> None:
    config = recorded(tmp_path)
    source = source_of(config)
    seen, directions = set(), set()
    for _ in range(300):
        _, indices = source._choose(4, 3)
        steps = np.diff(indices)
        assert min(indices) >= 0 and max(indices) < 12
        assert (np.abs(steps) >= 1).all() and (np.abs(steps) <= 3).all()
        assert (steps > 0).all() or (steps < 0).all()
        directions.add(bool(steps[0] > 0))
        seen |= set(indices)
    assert seen == set(range(12)) and directions == {True, False}


def test_source_continues_from_its_state(tmp_path: Path) -> None:
    config = recorded(tmp_path)
    source = source_of(config)
    state = source.state()
    first = source.batch(2, 3, size_of(config), moment(config, 3), random.Random(0))
    other = source_of(config)
    other.restore(state)
    again = other.batch(2, 3, size_of(config), moment(config, 3), random.Random(0))
    assert torch.equal(first.images, again.images) and torch.equal(first.points, again.points)


def test_color_jitter_without_shifts_changes_nothing_and_with_them_much() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    same = jitter_color(image, np.zeros(4, np.float32))
    assert np.abs(same.astype(int) - image).max() <= 1
    grey = jitter_color(image, np.array([0.0, 0.0, -2.0, 0.0], np.float32))
    assert np.ptp(grey.astype(int), axis=-1).max() <= 1
    bright = jitter_color(image, np.array([1.0, 0.0, 0.0, 0.0], np.float32))
    assert bright.mean() > 1.2 * image.mean()
    hue = jitter_color(image, np.array([0.0, 0.0, 0.0, 1.0], np.float32))
    np.testing.assert_allclose(hue.max(axis=-1), image.max(axis=-1), atol=1)
    assert np.abs(hue.astype(int) - image).mean() > 10


@pytest.mark.parametrize(('data', 'message'), [
    ('kitti:/tmp', "data: expected LAYOUT:FOLDER with a layout of .*, got 'kitti:/tmp'"),
    ('7scenes', "data: expected LAYOUT:FOLDER .*, got '7scenes'"),
    ('tum:/nowhere', '/nowhere: expected a folder'),
])
def test_missing_data_is_named(data: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recordings(replace(RUNS['paper'], data=(data,)))


def test_recording_shorter_than_a_sequence_is_refused(tmp_path: Path) -> None:
    write_tum(tmp_path, 3)
    config = replace(RUNS['paper'], data=(f'tum:{tmp_path}',))
    with pytest.raises(ValueError, match='expected 5 views or more .*freiburg3_box has 2'):
        Recordings(config)


def test_broken_image_is_named_in_the_error(tmp_path: Path) -> None:
    config = recorded(tmp_path)
    for file in tmp_path.glob('chess/seq-03/*.color.png'):
        file.write_bytes(b'')
    with pytest.raises(DatasetError, match='color.png: expected an image'):
        source_of(config).batch(1, 3, size_of(config), moment(config, 0), random.Random(0))


def test_network_is_fine_tuned_on_a_recording_in_parts(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recorded(tmp_path / 'data')
    torch.manual_seed(1)
    before = Spann3R(TINY)
    save_model(tmp_path / 'before.safetensors', before, torch.float32, {'licence': 'CC BY-NC'})
    settings = tmp_path / 'settings.json'
    settings.write_text(json.dumps(config.to_dict()))
    folder, released = tmp_path / 'run', tmp_path / 'after.safetensors'
    assert main(['train', str(folder), '--config', str(settings), '--device', 'cpu',
                 '--start-from', str(tmp_path / 'before.safetensors'),
                 '--frozen', 'encoder', '--frozen', 'decoders']) == 0
    assert main(['train', str(folder), '--release', str(released)]) == 0
    with (folder / 'curve.csv').open() as file:
        errors = [float(row['point_error']) for row in csv.DictReader(file)]
    assert sum(errors[-3:]) < 0.9 * sum(errors[:3])
    after = load_model(released).state_dict()
    frozen = PARTS['encoder'] + PARTS['decoders'] + ('dust3r.mask_token',)
    for name, value in before.state_dict().items():
        if 'refinenet4.resConfUnit1' in name:
            continue  # the coarsest stage has nothing to merge: no loss reaches it
        assert torch.allclose(after[name], value.half().float()) == name.startswith(frozen), name
    history = read_metadata(released)
    assert history['licence'] == 'CC BY-NC'
    assert history['training_data'] == 'as before.safetensors, then 7scenes:data'


def test_begun_run_resumes_with_its_own_settings(tmp_path: Path) -> None:
    config = recorded(tmp_path / 'data', steps=2)
    settings = tmp_path / 'settings.json'
    settings.write_text(json.dumps(config.to_dict()))
    folder = tmp_path / 'run'
    assert main(['train', str(folder), '--config', str(settings), '--device', 'cpu']) == 0
    assert main(['train', str(folder), '--steps', '3', '--device', 'cpu']) == 0
    assert read_run(folder) == replace(config, steps=3)


@pytest.mark.parametrize('optimiser', ['muon', 'adamw'])
def test_heads_alone_can_be_trained(optimiser: str, tmp_path: Path) -> None:
    config = recorded(tmp_path, optimiser=optimiser, steps=1, frozen=(
        'encoder', 'decoders', 'value_encoder', 'memory_attention'))
    trainer = Trainer(config, tmp_path / 'run', Rank())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    changed = {name for name, value in trainer.model.state_dict().items()
               if not torch.equal(value, before[name])}
    assert changed and all('downstream_head' in name for name in changed)


def test_unknown_or_every_frozen_part_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen: expected parts of .*, got 'tail'"):
        freeze(Spann3R(TINY), ('encoder', 'tail'))
    with pytest.raises(ValueError, match='frozen: expected something left to train'):
        freeze(Spann3R(TINY), tuple(PARTS))


def prediction(points: torch.Tensor) -> DensePrediction:
    return DensePrediction(points, torch.zeros(points.shape[:-1], requires_grad=True))


def test_invalid_points_have_no_influence_on_the_objectives() -> None:
    torch.manual_seed(0)
    points, seen = torch.rand(2, 3, 16, 16, 3) + 1.0, torch.ones(2, 3, 16, 16).bool()
    seen[0, 1, 4:9] = False
    output = Unrolled([prediction(points[:, t] + 0.1) for t in (0, 1)],
                      [prediction(points[:, t] - 0.1) for t in (1, 2)], [])
    spoilt = torch.where(seen[..., None], points, 1e6)
    for score in (lambda truth: sequence_objective(output, truth, seen, 16, 0.5, 0.1),
                  lambda truth: paper_objective(output, truth, seen, 0.4)):
        torch.testing.assert_close(score(spoilt).total, score(points).total)
        torch.testing.assert_close(score(spoilt).point_error, score(points).point_error)


def test_paper_objective_is_the_sum_of_the_papers_losses() -> None:
    torch.manual_seed(0)
    points, seen = torch.rand(2, 3, 16, 16, 3) + 1.0, torch.rand(2, 3, 16, 16) > 0.2
    output = Unrolled([prediction(torch.rand(2, 16, 16, 3)) for _ in range(2)],
                      [prediction(torch.rand(2, 16, 16, 3)) for _ in range(2)], [])
    for as_released in (False, True):
        parts = paper_losses(output, points, seen, 0.3, as_released)
        total = paper_objective(output, points, seen, 0.3, as_released).total
        torch.testing.assert_close(total, parts.confidence + parts.scale)
    exact = Unrolled([prediction(2.0 * points[:, t]) for t in (0, 1)],
                     [prediction(2.0 * points[:, t]) for t in (1, 2)], [])
    # Errors are in units of the mean distance, so another scale is not an error.
    assert float(paper_objective(exact, points, seen, 0.3).point_error) < 1e-6


def test_plain_regression_is_not_weighted_by_the_confidence() -> None:
    points, seen = torch.rand(1, 2, 16, 16, 3) + 1.0, torch.ones(1, 2, 16, 16).bool()

    def gradient(logit: float, plain_weight: float) -> torch.Tensor:
        guess = (points[:, 0] + 0.1).requires_grad_(True)
        sure = DensePrediction(guess, torch.full((1, 16, 16), logit))
        output = Unrolled([sure], [prediction(points[:, 1])], [])
        sequence_objective(output, points, seen, 16, 0.5, 0.1, plain_weight).total.backward()
        return guess.grad

    torch.testing.assert_close(gradient(3.0, 2.0), gradient(-3.0, 2.0))
    torch.testing.assert_close(gradient(0.0, 2.0), 2.0 * gradient(0.0, 1.0))
    assert not torch.allclose(gradient(3.0, 0.0), gradient(-3.0, 0.0))


def test_bfloat16_stays_close_and_reads_memory_in_float32() -> None:
    torch.manual_seed(0)
    model = Spann3R(TINY)
    images = torch.rand(2, 4, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        full, half = unroll(model, images), unroll(model, images, half=True)
    for one, two in zip(full.target, half.target, strict=True):
        assert two.points.dtype == torch.float32
        assert 0.0 < float((two.points - one.points).norm() / one.points.norm()) < 0.05
    assert half.attention[-1].dtype == torch.float32


def test_dropout_changes_the_readout_and_not_the_supervised_attention() -> None:
    torch.manual_seed(0)
    model = Spann3R(TINY)
    images = torch.rand(1, 4, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        plain, dropped = unroll(model, images), unroll(model, images, dropout=0.5)
    torch.testing.assert_close(plain.target[0].points, dropped.target[0].points)
    torch.testing.assert_close(plain.attention[0], dropped.attention[0])
    assert not torch.allclose(plain.target[1].points, dropped.target[1].points)


@pytest.mark.parametrize('name', RUNS)
def test_settings_written_to_a_file_are_read_back(name: str, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['train', str(tmp_path), '--run', name, '--print-config', '--seed', '9']) == 0
    settings = tmp_path / 'settings.json'
    settings.write_text(capsys.readouterr().out)
    assert TrainingConfig.read(settings) == replace(RUNS[name], seed=9)


@pytest.mark.parametrize(('values', 'message'), [
    ({'stepz': 3}, r"expected known fields only, got \['stepz'\]"),
    ({'losses': 'mine'}, "losses: expected one of .*, got 'mine'"),
    ({'steps': 0}, 'steps: expected at least 1, got 0'),
    ({'stages': [{'share': 1.0, 'lengths': [1]}]}, 'stages: expected sequences of two frames'),
    ({'frame_gap': [3, 1]}, 'frame_gap: expected two numbers'),
    ({'losses': 'paper', 'shown_share': 0.5}, "shown_share: expected 0.0, .* 'paper', got 0.5"),
    ({'losses': 'paper', 'alpha': 0.3}, "alpha: expected 0.5, as only the losses 'rooms' use it"),
    ({'losses': 'released', 'attention_weight': 0.0}, 'attention_weight: expected 0.1'),
    ({'losses': 'paper', 'plain_weight': 4.0}, 'plain_weight: expected 0.0'),
    ({'network_name': 'nerf'}, r"network_name: expected one of \['spann3r'.*\], got 'nerf'"),
    ({'network': {'patch_size': 0}}, 'patch_size: expected a positive integer'),
])
def test_settings_that_do_not_fit_are_refused(values: dict[str, object], message: str,
                                              tmp_path: Path) -> None:
    path = tmp_path / 'settings.json'
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f'settings.json: .*{message}'):
        TrainingConfig.read(path)
