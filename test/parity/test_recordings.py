# SPDX-License-Identifier: Apache-2.0
"""This package against numbers recorded from the reference implementation.

Every recording in SPANN3R_GOLDENS is replayed, or those in `data` when that is not set.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from replays import DATA, REPLAYS, recording_paths

from spann3r_ros.networks.spann3r.checks.recording import compare, load_recording
from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.fast.inference import prepare
from spann3r_ros.networks.spann3r.spann3r import Spann3R


def _parameters() -> list:
    """Return all recordings; full-size ones beside this file run under a marker of their own.

    Who names a directory wants all of it.
    """
    chosen = bool(os.environ.get('SPANN3R_GOLDENS'))
    return [pytest.param(path, id=path.stem, marks=[pytest.mark.full] if (
        not chosen and load_recording(path).is_full_size) else []) for path in recording_paths()]


@pytest.mark.parametrize('path', _parameters())
def test_recording_is_reproduced(path: Path) -> None:
    recording = load_recording(path)
    reason = recording.unsupported()
    if reason:
        pytest.skip(reason)
    deviations = compare(recording, REPLAYS[recording.kind](recording))
    assert deviations
    failed = [str(item) for item in deviations if not item.acceptable]
    assert not failed, '\n'.join(failed)


@pytest.mark.parametrize('path', [item for item in _parameters()
                                  if load_recording(item.values[0]).kind in ('online', 'offline')])
def test_recording_is_reproduced_by_the_layout_for_inference(path: Path) -> None:
    recording = load_recording(path)
    if recording.unsupported():
        pytest.skip(recording.unsupported())
    replayed = REPLAYS[recording.kind](recording, torch.device('cpu'), prepare)
    failed = [str(item) for item in compare(recording, replayed) if not item.acceptable]
    assert not failed, '\n'.join(failed)


def test_official_network_has_the_published_keys_and_shapes() -> None:
    with torch.device('meta'):
        model = Spann3R(Spann3RConfig())
    shapes = {key: list(item.shape) for key, item in model.state_dict().items()}
    assert shapes == json.loads((DATA / 'manifest.json').read_text())
