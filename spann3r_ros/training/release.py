# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint from the state of a run."""
from __future__ import annotations

import json
from pathlib import Path

import torch

from spann3r_ros.datasets.layouts import split_range
from spann3r_ros.networks.checkpoint_files import CheckpointError
from spann3r_ros.rooms.assets.asset_packages import PACKAGES

from .loop import STATE
from .training_config import TrainingConfig

LICENCE = 'Apache-2.0'
ROOMS = 'procedurally generated rooms (spann3r_ros.rooms)'
PLACES = 'furnished places (spann3r_ros.rooms.places)'


def release(folder: Path, path: Path, other: Path | None = None) -> dict[str, str]:
    """Write the averaged weights of a run in fp16 and return the metadata stored with them.

    With `other`, a checkpoint of the same sizes, the weights are the mean of both and the licence
    names both. A run that began with a checkpoint keeps the licence of it. Raises ValueError when
    the folder has no state, CheckpointError when the sizes of the two differ.
    """
    if not (folder / STATE).is_file():
        raise ValueError(f'folder: expected a {STATE} in {folder}')
    state = torch.load(folder / STATE, weights_only=True, map_location='cpu')
    config = TrainingConfig.from_dict(json.loads(state['config']))
    trainable = config.trainable
    model = trainable.build(config.network)
    model.load_state_dict(state['average'])
    if other is not None:
        second = trainable.load_model(other)
        if second.config != config.network:
            raise CheckpointError(f'{other}: expected {config.network}, got {second.config}')
        with torch.no_grad():
            for one, two in zip(model.parameters(), second.parameters(), strict=True):
                one.lerp_(two, 0.5)
    origin = state['origin']
    data = training_data(config)
    earlier = origin.get('training_data', data)
    metadata = {
        'licence': origin.get('licence', LICENCE),
        'training_data': data if data == earlier else f'{earlier}, then {data}',
        'training_frames': str(state['frames']),
        'training_seconds': f'{state["seconds"]:.0f}',
    }
    if data == ROOMS:
        metadata['field_of_view_deg'] = str(config.field_of_view_deg)
    if other is not None:
        add_history(metadata, trainable.read_history(other), other.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    trainable.save_model(path, model, torch.float16, metadata)
    return metadata


def training_data(config: TrainingConfig) -> str:
    """Return what a run is trained on: recordings by layout and folder name, rooms, places."""
    rooms, places, recordings = config.source_shares
    names = []
    if recordings:
        for item in config.data:
            layout, _, rest = item.partition(':')
            folder, frames = split_range(rest)
            part = f', frames {frames[0]} to {frames[1]}' if frames else ''
            names.append(f'{layout}:{Path(folder).name}{part}')
    if places:
        names.append(f'{PLACES} of {", ".join(item.name for item in PACKAGES)}')
    if rooms:
        names.append(ROOMS)
    return ', '.join(names)


def add_history(metadata: dict[str, str], other: dict[str, str], name: str) -> None:
    """Add the licence and the training data of other weights, from the file `name`, in place."""
    for key, separator in (('licence', ' and '), ('training_data', '; and ')):
        entries = metadata[key].split(separator)
        for entry in other.get(key, f'that of {name}').split(separator):
            # Weights with a common history share entries.
            if entry not in entries:
                entries.append(entry)
        metadata[key] = separator.join(entries)
