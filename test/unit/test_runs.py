# SPDX-License-Identifier: Apache-2.0
"""Named runs and the options of the command line."""
from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import SQUARE

from spann3r_ros.cli.commands.weights.train import add_arguments, read_config
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.training.loop import Trainer
from spann3r_ros.training.rank import Rank
from spann3r_ros.training.runs import find_run, read_runs
from spann3r_ros.training.schedule import learning_rate_scale
from spann3r_ros.training.training_config import Stage, TrainingConfig

RUNS = {name: run.config for name, run in read_runs().items()}


def asked(*options: str, begun: TrainingConfig | None = None) -> TrainingConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(['folder', *options])
    return read_config(args, find_run(read_runs(), args.run or 'curriculum'), begun)


@pytest.mark.parametrize('steps', [1, 19, 200, 2000, 40_000])
@pytest.mark.parametrize('name', RUNS)
def test_every_run_reaches_its_full_learning_rate_in_any_number_of_steps(
        name: str, steps: int) -> None:
    config = asked('--run', name, '--steps', str(steps))
    peak = max(learning_rate_scale(config, step) for step in range(steps))
    # A rate that decays from the first step on is below its peak at the end of the warm-up.
    whole = 1.0 if config.decay_share < 1.0 else 1.0 - RUNS[name].warmup_steps / RUNS[name].steps
    assert peak == pytest.approx(1.0) or peak >= whole


@pytest.mark.parametrize('name', ['paper', 'paper-v1.01', 'released'])
def test_runs_of_the_paper_take_the_sizes_of_the_weights_they_begin_with(
        name: str, tmp_path: Path) -> None:
    path = tmp_path / 'small.safetensors'
    save_model(path, Spann3R(SQUARE))
    assert asked('--run', name, '--start-from', str(path)).network == SQUARE
    assert asked('--run', name).network == Spann3RConfig()


def test_run_with_own_sizes_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / 'small.safetensors'
    save_model(path, Spann3R(SQUARE))
    own = RUNS['places'].network
    assert own.sizes == ((108, 144), (96, 168), (120, 120)) and not own.learned_positions
    assert asked('--run', 'places', '--start-from', str(path)).network == own


def test_settings_of_a_file_keep_sizes_that_can_take_the_weights(tmp_path: Path) -> None:
    weights, settings = tmp_path / 'small.safetensors', tmp_path / 'settings.json'
    save_model(weights, Spann3R(SQUARE))
    wide = replace(SQUARE, image_width=48, other_sizes=((36, 36),))
    deep, broad = replace(wide, encoder_depth=2), replace(wide, encoder_width=32)
    for network, expected in ((wide, wide), (deep, deep), (broad, SQUARE)):
        settings.write_text(json.dumps(TrainingConfig(network=network).to_dict()))
        given = asked('--config', str(settings), '--start-from', str(weights))
        assert given.network == expected


def test_warm_up_keeps_its_share_of_a_run() -> None:
    assert asked('--run', 'paper', '--steps', '2000').warmup_steps == 170
    assert asked('--run', 'paper').warmup_steps == 1700


def test_warm_up_of_a_begun_run_stays(tmp_path: Path) -> None:
    begun = replace(RUNS['paper'], steps=2000, warmup_steps=170)
    assert asked('--steps', '4000', begun=begun) == replace(begun, steps=4000)


def test_released_losses_differ_from_the_papers_on_the_same_sequences(tmp_path: Path) -> None:
    # One of the run's four shards, with the same number of sequences.
    small = replace(RUNS['released'], network=SQUARE, textures=6, shards=1, frames_per_step=20)
    released, paper = (Trainer(replace(small, losses=losses), tmp_path / losses, Rank()).advance()
                       for losses in ('released', 'paper'))
    assert released['frames'] == paper['frames'] == 20
    assert released['point_error'] == paper['point_error']
    assert abs(released['loss'] - paper['loss']) > 0.1


def test_runs_of_the_paper_have_sixteen_sequences_a_step() -> None:
    for name, length in (('paper', 5), ('paper-v1.01', 10), ('released', 5)):
        config = RUNS[name]
        assert config.stages == (Stage(1.0, (length,)),)
        assert config.frames_per_step // length // config.shards * config.shards == 16
    assert replace(RUNS['released'], losses='paper', shards=16) == RUNS['paper']


def test_released_losses_require_two_sequences_in_a_shard() -> None:
    assert asked('--run', 'paper', '--losses', 'released', '--shards', '4') == RUNS['released']
    with pytest.raises(ValueError, match="shards: expected two sequences or more in each .*'rele"):
        asked('--run', 'paper', '--losses', 'released')


def test_options_set_the_settings_of_the_same_name() -> None:
    asked_for = asked('--run', 'paper', '--adam-lr', '1e-5', '--muon-lr', '2e-4',
                      '--frame-gap', '2', '9', '--no-color-jitter')
    assert asked_for == replace(RUNS['paper'], adam_lr=1e-5, muon_lr=2e-4, frame_gap=(2, 9),
                                color_jitter=False)
    assert asked('--color-jitter', begun=asked_for).color_jitter
