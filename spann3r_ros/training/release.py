# SPDX-License-Identifier: Apache-2.0
"""Turn a training state into a checkpoint to ship."""
from __future__ import annotations

from pathlib import Path

import torch

from spann3r_ros.model.checkpoint import save_model
from spann3r_ros.model.spann3r import Spann3R

from .config import TrainingConfig
from .loop import STATE

LICENCE = 'Apache-2.0'


def release(folder: Path, config: TrainingConfig, path: Path) -> dict[str, str]:
    """Write the averaged weights of a run in fp16 and return the metadata stored with them.

    Raises ValueError when the folder has no state.
    """
    if not (folder / STATE).is_file():
        raise ValueError(f'folder: expected a {STATE} in {folder}')
    state = torch.load(folder / STATE, weights_only=True, map_location='cpu')
    model = Spann3R(config.network)
    model.load_state_dict(state['average'])
    metadata = {
        'licence': LICENCE,
        'training_data': 'procedurally generated rooms (spann3r_ros.training.rooms)',
        'training_frames': str(state['frames']),
        'training_seconds': f'{state["seconds"]:.0f}',
        'field_of_view_deg': str(config.field_of_view_deg),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, model, torch.float16, metadata)
    return metadata
