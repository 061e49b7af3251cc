# SPDX-License-Identifier: Apache-2.0
"""Training: the unrolled pass equals streaming, the optimiser orthogonalises, runs resume."""
from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spann3r_ros.cli.main import main
from spann3r_ros.networks.blocks.heads import DensePrediction
from spann3r_ros.networks.spann3r.checkpoint import (
    CheckpointError,
    load_model,
    read_metadata,
    save_model,
)
from spann3r_ros.networks.spann3r.config import MemoryConfig, Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.networks.spann3r.training import default_sizes, split_parameters
from spann3r_ros.networks.spann3r.unroll import unroll
from spann3r_ros.networks.trainable import StoredPoints, Unrolled, move
from spann3r_ros.rooms.draw import Draw
from spann3r_ros.rooms.paths import drifts, placements
from spann3r_ros.training.loop import Trainer, read_run
from spann3r_ros.training.objective import memory_supervision, sequence_objective
from spann3r_ros.training.optimisers import orthogonalise
from spann3r_ros.training.rank import Rank
from spann3r_ros.training.release import release
from spann3r_ros.training.schedule import interval_reach, learning_rate_scale, locate_stage
from spann3r_ros.training.training_config import Stage, TrainingConfig

TINY = Spann3RConfig(
    image_height=32, image_width=48, patch_size=8, encoder_width=32, encoder_depth=1,
    encoder_heads=2, decoder_width=32, decoder_depth=2, decoder_heads=2, value_depth=1,
    value_heads=2, head='linear', learned_positions=True)
# As in training: nothing is pruned, rejected or below the threshold.
OPEN_MEMORY = MemoryConfig(long_term_tokens=1000, similarity_threshold=1.0,
                           attention_threshold=0.0)


ROOT = Path(__file__).parents[2]
TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
sys.path[:0] = ['.', 'test/unit']
from test_training import tiny_run
from spann3r_ros.training.loop import Trainer
from spann3r_ros.training.rank import Rank
torch.set_num_threads(1)
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
trainer = Trainer(tiny_run(5, shards=2), folder, Rank.join())
trainer.resume()
while trainer.step < stop:
    trainer.advance()
trainer.save()
torch.save(trainer.model.state_dict(), folder / f'weights-{trainer.rank.index}.pt')
"""


def square_tiny() -> Spann3RConfig:
    return replace(TINY, image_height=48)


def tiny_run(steps: int, **changes: object) -> TrainingConfig:
    config = TrainingConfig(network=square_tiny(), stages=(Stage(1.0, (3, 4)),), steps=steps,
                            frames_per_step=8, warmup_steps=2, textures=12, placed_share=0.5)
    return replace(config, **changes)


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / 'curve.csv').open() as file:
        return [{key: value for key, value in row.items() if key != 'seconds'}
                for row in csv.DictReader(file)]


def test_unroll_equals_streaming_without_pruning_and_threshold() -> None:
    torch.manual_seed(0)
    model = Spann3R(TINY).eval()
    images = torch.rand(1, 5, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        whole = unroll(model, images)
    state = model.start(32, 48, OPEN_MEMORY)
    steps = [model.step(state, image[None], provisional=True) for image in images[0]]
    assert steps[0].refined is None
    for t in range(4):
        torch.testing.assert_close(steps[t + 1].refined.points, whole.reference[t].points)
        torch.testing.assert_close(steps[t + 1].provisional.logit, whole.target[t].logit)


def test_unroll_carries_gradient_from_the_last_map_to_the_first_key() -> None:
    torch.manual_seed(0)
    model = Spann3R(TINY)
    output = unroll(model, torch.rand(1, 3, 3, 32, 48))
    output.reference[-1].points.sum().backward()
    assert model.attn_head_1[0].weight.grad.abs().max() > 0
    assert model.value_out.weight.grad.abs().max() > 0


def test_placed_sequence_differs_from_the_first_memory_read_on() -> None:
    torch.manual_seed(0)
    model = Spann3R(TINY).eval()
    images = torch.rand(2, 4, 3, 32, 48) * 2 - 1
    placed = placements(2, 1.0, Draw(1))
    placed[1] = torch.eye(4)  # the second sequence stays
    never = torch.full((2, 4, 32, 48, 3), torch.nan)
    stored = StoredPoints(placed, never, never, torch.zeros(2).bool())
    with torch.no_grad():
        plain, moved = unroll(model, images), unroll(model, images, stored)
    assert torch.equal(plain.reference[0].points, moved.reference[0].points)
    assert torch.equal(plain.target[0].points, moved.target[0].points)
    assert not torch.allclose(plain.reference[1].points[0], moved.reference[1].points[0])
    torch.testing.assert_close(plain.reference[2].points[1], moved.reference[2].points[1])


def test_replaced_points_are_stored_in_place_of_predictions() -> None:
    torch.manual_seed(0)
    model = Spann3R(TINY).eval()
    images = torch.rand(2, 4, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        own = unroll(model, images)
        points = torch.stack([item.points for item in (*own.reference, own.target[-1])], dim=1)
        points[1, 0] += 1.0  # the second sequence stores other points of its first frame
        stored = StoredPoints(torch.eye(4).expand(2, 4, 4), torch.full_like(points, torch.nan),
                              points, torch.ones(2).bool())
        replaced = unroll(model, images, stored)
    assert torch.equal(own.target[0].points, replaced.target[0].points)
    for before, after in zip(own.reference, replaced.reference, strict=True):
        torch.testing.assert_close(before.points[0], after.points[0])
    assert not torch.allclose(own.reference[1].points[1], replaced.reference[1].points[1])


def test_placed_truth_applies_to_all_but_the_first_pair() -> None:
    points = torch.rand(2, 4, 32, 48, 3) + 1.0
    placed = placements(2, 1.0, Draw(2))
    mapped, seen = move(placed, points), torch.ones(points.shape[:-1]).bool()

    def perfect(truth: torch.Tensor) -> DensePrediction:
        return DensePrediction(truth, torch.zeros(truth.shape[:-1]))

    reference = [perfect(points[:, 0]), perfect(mapped[:, 1]), perfect(mapped[:, 2])]
    target = [perfect(points[:, 1]), perfect(mapped[:, 2]), perfect(mapped[:, 3])]
    output = Unrolled(reference, target, [])
    right = sequence_objective(output, points, seen, 8, 0.5, 0.1, map_points=mapped)
    assert float(right.point_error) == float(right.last_error) == 0.0
    wrong = sequence_objective(output, points, seen, 8, 0.5, 0.1)
    assert float(wrong.last_error) > 0.1


def test_placements_are_rigid_and_have_the_given_share() -> None:
    placed = placements(400, 0.5, Draw(3))
    rotation = placed[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(400, 3, 3))
    assert (rotation.det() > 0).all()
    moved = (placed - torch.eye(4)).abs().amax(dim=(1, 2)) > 0
    assert 150 < moved.sum() < 250
    ahead = rotation[moved, :, 2]  # where the cameras look, x right and z forward
    assert (ahead[:, 2] < 0).float().mean() > 0.3
    assert (ahead[:, 1].abs() < 0.35).all()
    assert torch.equal(placements(4, 0.0, Draw(3)), torch.eye(4).expand(4, 4, 4))


def test_drift_grows_from_zero_along_a_sequence() -> None:
    drifted = drifts(500, 9, 1.0, Draw(4))
    torch.testing.assert_close(drifted[:, 0], torch.eye(4).expand(500, 4, 4))
    scale = drifted[..., :3, :3].det() ** (1 / 3)
    assert 0.02 < float(scale[:, -1].std()) < 0.04  # 5 %, by up to all of it
    ahead = drifted[..., :3, 2] / scale[..., None]
    heading = torch.rad2deg(torch.atan2(ahead[..., 0], ahead[..., 2])).std(dim=0)
    assert 2.0 < float(heading[-1]) < 4.0
    assert float(heading[2] / heading[-1]) == pytest.approx(0.5, abs=0.1)  # root of a quarter
    assert 0.04 < float(drifted[:, -1, :3, 3].std()) < 0.08
    assert torch.equal(drifts(2, 3, 0.0, Draw(4)), torch.eye(4).expand(2, 3, 4, 4))


@pytest.mark.parametrize('shape', [(2, 24, 96), (2, 96, 24), (1, 32, 32)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.max() < 1.4
    assert values.median() > 0.6


def test_split_parameters_contains_every_parameter_once() -> None:
    model = Spann3R(TINY)
    hidden, rest = split_parameters(model)
    assert len(hidden) + len(rest) == len(list(model.parameters()))
    assert all(item.ndim == 2 for item in hidden)


def test_memory_supervision_prefers_attention_on_the_same_place() -> None:
    # Two equal views of a wall: query patch i sees the place of memory patch i.
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing='ij')
    wall = torch.stack((x, y, torch.full_like(x, 30.0)), dim=-1)
    points, seen = wall.expand(1, 2, 24, 24, 3), torch.ones(1, 2, 24, 24).bool()
    right = torch.eye(9)[None]
    assert memory_supervision([right], points, seen, patch_size=8) < 1e-5
    assert memory_supervision([right.roll(1, dims=1)], points, seen, patch_size=8) > 5.0


def test_memory_supervision_leaves_out_places_that_no_memory_frame_saw() -> None:
    near = torch.rand(1, 1, 24, 24, 3)
    points = torch.cat((near, near + 1000.0), dim=1)
    even, seen = torch.full((1, 9, 9), 1 / 9), torch.ones(1, 2, 24, 24).bool()
    assert memory_supervision([even], points, seen, patch_size=8) == 0.0


def test_memory_supervision_leaves_out_patches_without_depth() -> None:
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing='ij')
    points = torch.stack((x, y, torch.full_like(x, 30.0)), dim=-1).expand(1, 2, 24, 24, 3).clone()
    seen = torch.ones(1, 2, 24, 24).bool()
    seen[:, 0, 12, 12] = False  # the middle of patch 4 in the memory frame
    points[:, 0, 12, 12] = torch.nan
    right = torch.eye(9)[None]
    assert memory_supervision([right], points, seen, patch_size=8) < 1e-5
    astray = right.clone()
    astray[:, 4] = right[:, 0]  # a high loss, if patch 4 were not left out
    assert memory_supervision([astray], points, seen, patch_size=8) < 1e-5


def test_stages_follow_each_other_by_share() -> None:
    stages = (Stage(0.25, (3,)), Stage(0.75, (5,)))
    assert locate_stage(stages, 0.0) == (stages[0], 0.0)
    assert locate_stage(stages, 0.25)[0] is stages[1]
    assert locate_stage(stages, 0.625)[1] == pytest.approx(0.5)


def test_learning_rate_warms_up_holds_and_decays() -> None:
    config = replace(tiny_run(100), warmup_steps=10, decay_share=0.2)
    scales = [learning_rate_scale(config, step) for step in range(100)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[50] == 1.0
    assert scales[90] == pytest.approx(0.5)
    assert 0.0 < scales[99] < 0.1
    cosine = replace(config, decay='cosine', decay_share=1.0)
    assert learning_rate_scale(cosine, 50) == pytest.approx(0.51)
    assert learning_rate_scale(cosine, 99) == pytest.approx(0.02, abs=1e-3)


def test_reach_of_recordings_grows_and_halves_again() -> None:
    assert [interval_reach(share) for share in (0.0, 0.25, 0.5, 0.7, 0.8, 0.9)] == pytest.approx(
        [0.0, 0.5, 1.0, 1.0, 0.8, 0.5])


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    Trainer(tiny_run(12), tmp_path, Rank()).run()
    losses = [float(row['loss']) for row in curve(tmp_path)]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


@pytest.mark.parametrize('changes', [{}, {
    'losses': 'paper', 'placed_share': 0.0, 'attention_dropout': 0.2, 'optimiser': 'adamw',
    'decay': 'cosine', 'shards': 2}])
def test_killed_run_resumes_with_the_curve_of_an_uninterrupted_one(
        changes: dict[str, object], tmp_path: Path) -> None:
    whole, split = tmp_path / 'whole', tmp_path / 'split'
    Trainer(tiny_run(6, **changes), whole, Rank()).run()

    first = Trainer(tiny_run(6, **changes), split, Rank())
    while first.step < 5:
        first.advance()
        if first.step == 3:
            first.save()
    with (split / 'curve.csv').open('a') as file:
        file.write('6,20')  # as a kill leaves it
    second = Trainer(tiny_run(6, **changes), split, Rank())
    assert second.resume()
    second.run()
    assert curve(split) == curve(whole)


def test_state_without_a_name_of_its_network_is_resumed(tmp_path: Path) -> None:
    whole, split = tmp_path / 'whole', tmp_path / 'split'
    Trainer(tiny_run(3), whole, Rank()).run()
    first = Trainer(tiny_run(3), split, Rank())
    first.advance()
    first.save()
    state = torch.load(split / 'state.pt', weights_only=True)
    config = json.loads(state['config'])
    assert config.pop('network_name') == 'spann3r'
    torch.save(state | {'config': json.dumps(config)}, split / 'state.pt')
    assert read_run(split) == tiny_run(3)
    second = Trainer(read_run(split), split, Rank())
    assert second.resume()
    second.run()
    assert curve(split) == curve(whole)


def test_state_of_other_shards_is_refused(tmp_path: Path) -> None:
    Trainer(tiny_run(1), tmp_path, Rank()).run()
    with pytest.raises(ValueError, match='expected the shards that the run began with, 1, got 2'):
        Trainer(tiny_run(1, shards=2), tmp_path, Rank()).resume()


def test_shards_that_are_no_multiple_of_the_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='shards: expected a multiple of the 2 processes, got 3'):
        Trainer(tiny_run(1, shards=3), tmp_path, Rank(0, 2))


def test_run_that_is_resumed_with_other_settings_warns(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Trainer(tiny_run(1), tmp_path, Rank()).run()
    assert Trainer(tiny_run(1), tmp_path, Rank()).resume()
    assert not caplog.records
    other = Trainer(tiny_run(3, muon_lr=0.5, weight_decay=0.2), tmp_path, Rank())
    assert other.resume()
    assert 'steps 1 -> 3, muon_lr 0.002 -> 0.5' in caplog.text
    other.advance()
    group = other.optimisers[0].param_groups[0]
    assert (group['peak_lr'], group['lr'], group['weight_decay']) == (0.5, 0.5, 0.2)


def test_run_that_was_killed_before_its_first_state_restarts_its_curve(tmp_path: Path) -> None:
    first = Trainer(tiny_run(3), tmp_path, Rank())
    first.advance()
    first.advance()
    second = Trainer(tiny_run(3), tmp_path, Rank())
    assert not second.resume()
    second.run()
    assert [row['step'] for row in curve(tmp_path)] == ['1', '2', '3']


@pytest.mark.parametrize('changes', [{'optimiser': 'adamw'}, {'frozen': ('heads',)}])
def test_run_is_not_resumed_with_another_optimiser_or_other_frozen_parts(
        changes: dict[str, object], tmp_path: Path) -> None:
    Trainer(tiny_run(1), tmp_path, Rank()).run()
    with pytest.raises(ValueError, match=f'expected the {next(iter(changes))} that the run began'):
        Trainer(tiny_run(2, **changes), tmp_path, Rank()).resume()


def test_two_processes_equal_one_and_resume_together(tmp_path: Path) -> None:
    """Two gloo processes, stopped and resumed, give the curve of one with the same shards."""
    script = tmp_path / 'run.py'
    script.write_text(TWO_PROCESSES)
    for stop in (2, 5):
        subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                        '--nproc_per_node', '2', script, tmp_path / 'run', str(stop)],
                       check=True, timeout=1200, cwd=ROOT)
    weights = [torch.load(tmp_path / 'run' / f'weights-{rank}.pt', weights_only=True)
               for rank in (0, 1)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    alone = Trainer(tiny_run(5, shards=2), tmp_path / 'alone', Rank())
    alone.run()
    together = curve(tmp_path / 'run')
    assert [row['step'] for row in together] == ['1', '2', '3', '4', '5']
    for one, two in zip(curve(tmp_path / 'alone'), together, strict=True):
        assert one['frames'] == two['frames']
        for name in ('loss', 'last_error', 'gradient_norm'):
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-4)


def test_new_run_begins_with_the_weights_of_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(3)
    teacher = Spann3R(square_tiny())
    history = {'training_frames': '1000', 'training_seconds': '60'}
    save_model(tmp_path / 'weights.safetensors', teacher, torch.float32, history)
    trainer = Trainer(tiny_run(2), tmp_path / 'run', Rank())
    trainer.start_from(tmp_path / 'weights.safetensors')
    assert (trainer.step, trainer.frames, trainer.seconds) == (0, 1000, 60.0)
    for key, value in teacher.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[key], value)
        assert torch.equal(trainer.average[key], value)
    trainer.run()
    assert not torch.equal(trainer.model.value_out.weight, teacher.value_out.weight)


def test_checkpoint_of_other_sizes_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / 'weights.safetensors', Spann3R(TINY))
    with pytest.raises(CheckpointError, match='learned_positions: expected those of as '
                                              'many tokens'):
        Trainer(tiny_run(2), tmp_path, Rank()).start_from(tmp_path / 'weights.safetensors')


def test_run_that_continues_another_requires_its_weights(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['train', str(tmp_path), '--run', 'placed_starts', '--device', 'cpu']) == 1
    assert '--run placed_starts: expected --start-from FILE' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_release_writes_the_averaged_weights_with_their_history(tmp_path: Path) -> None:
    trainer = Trainer(tiny_run(2), tmp_path, Rank())
    trainer.run()
    path = tmp_path / 'models' / 'model.safetensors'
    release(tmp_path, path)
    released = load_model(path)
    torch.testing.assert_close(released.value_out.weight, trainer.average['value_out.weight'],
                               rtol=1e-3, atol=1e-4)
    history = read_metadata(path)
    assert history['licence'] == 'Apache-2.0'
    assert int(history['training_frames']) == trainer.frames


def test_release_can_be_the_mean_with_another(tmp_path: Path) -> None:
    trainer = Trainer(tiny_run(1), tmp_path, Rank())
    trainer.run()
    other = Spann3R(square_tiny())
    save_model(tmp_path / 'other.safetensors', other, torch.float32)
    release(tmp_path, tmp_path / 'mean.safetensors', tmp_path / 'other.safetensors')
    expected = (trainer.average['value_out.weight'] + other.value_out.weight) / 2
    torch.testing.assert_close(load_model(tmp_path / 'mean.safetensors').value_out.weight,
                               expected, rtol=1e-3, atol=1e-4)
    save_model(tmp_path / 'wide.safetensors', Spann3R(TINY))
    with pytest.raises(CheckpointError, match='wide.safetensors: expected'):
        release(tmp_path, tmp_path / 'mean.safetensors', tmp_path / 'wide.safetensors')


def test_bundled_network_sizes_are_valid() -> None:
    network = default_sizes()
    assert network.grid(network.image_height, network.image_width) == (8, 8)
