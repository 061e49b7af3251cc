# SPDX-License-Identifier: Apache-2.0
"""Named runs and what the command line makes of them."""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from spann3r_ros.cli.train import add_arguments, read_config
from spann3r_ros.training.config import RUNS, TrainingConfig
from spann3r_ros.training.schedule import learning_rate_scale


def asked(*options: str, begun: TrainingConfig | None = None) -> TrainingConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_config(parser.parse_args(['folder', *options]), begun)


@pytest.mark.parametrize('steps', [1, 19, 200, 2000, 40_000])
@pytest.mark.parametrize('name', RUNS)
def test_every_run_reaches_its_full_learning_rate_in_any_number_of_steps(
        name: str, steps: int) -> None:
    config = asked('--run', name, '--steps', str(steps))
    peak = max(learning_rate_scale(config, step) for step in range(steps))
    # What decays from the first step on is a little below its peak when it is warm.
    whole = 1.0 if config.decay_share < 1.0 else 1.0 - RUNS[name].warmup_steps / RUNS[name].steps
    assert peak == pytest.approx(1.0) or peak >= whole


def test_warm_up_keeps_its_share_of_a_run() -> None:
    assert asked('--run', 'paper', '--steps', '2000').warmup_steps == 170
    assert asked('--run', 'paper').warmup_steps == 1700


def test_warm_up_of_a_begun_run_stays(tmp_path: Path) -> None:
    begun = replace(RUNS['paper'], steps=2000, warmup_steps=170)
    assert asked('--steps', '4000', begun=begun) == replace(begun, steps=4000)
