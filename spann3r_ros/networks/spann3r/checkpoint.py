# SPDX-License-Identifier: Apache-2.0
"""Reading and writing weights of Spann3R; no code in a file is run."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from spann3r_ros.core.files import write_files
from spann3r_ros.networks.checkpoint_files import (
    SUFFIXES,
    CheckpointError,
    read_metadata,
    read_pth,
)

from .config import CONFIG_KEY, Spann3RConfig
from .spann3r import Spann3R

IDENTITY_VALUES, IDENTITY_DIGITS = 64, 16
# A file of the authors' layout has no metadata.
OFFICIAL_LICENCE = 'CC BY-NC-SA 4.0 (non-commercial), as the weights of the authors of Spann3R'
OFFICIAL_DATA = {'spann3r_v1.01': (
    'ScanNet, ScanNet++, WildRGBD, Co3D, Aria, ARKitScenes, BlendedMVS, Waymo, TartanAir, '
    'OmniObject3D, MegaDepth, Virtual KITTI 2, Unreal, Spring, PointOdyssey')}


def load_model(path: Path | str, device: torch.device | str = 'cpu',
               dtype: torch.dtype = torch.float32) -> Spann3R:
    """Load a network for inference from `.safetensors` or the official `.pth`.

    The sizes are those stored with the weights; a `.pth` has the official sizes. Every key and
    shape is compared before anything is copied. Raises CheckpointError.
    """
    path = Path(path)
    config, tensors = read_checkpoint(path)
    with torch.device('meta'):
        model = Spann3R(config)
    tensors = _match(path, model, tensors)
    # Copies, because a change of a mapped file would change the network or crash the process.
    tensors = {key: tensor.to(device=device, dtype=dtype, copy=True)
               for key, tensor in tensors.items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    model.identity = weights_identity(tensors)
    return model.eval().requires_grad_(False)


def weights_identity(tensors: dict[str, Tensor]) -> str:
    """Return a text that differs between weights, by the first values of each tensor.

    The values are compared in half precision, so a converted file has the same identity.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sample = tensor.reshape(-1)[:IDENTITY_VALUES].to('cpu', torch.float16)
        digest.update(f'{name} {tuple(tensor.shape)}'.encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:IDENTITY_DIGITS]


def read_checkpoint(path: Path) -> tuple[Spann3RConfig, dict[str, Tensor]]:
    """Return the network config and all tensors of a checkpoint file."""
    if not path.is_file():
        raise CheckpointError(f'checkpoint: no such file: {path}')
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f'checkpoint: expected one of {SUFFIXES}, got {path.name}')
    if path.suffix == '.pth':
        return Spann3RConfig(), read_pth(path)
    return _read_safetensors(path)


def read_history(path: Path) -> dict[str, str]:
    """Return a checkpoint's metadata, such as `licence` and `training_data`.

    For a `.pth` these are the statements of its authors; its data depend on the file's name.
    """
    if path.suffix != '.safetensors':
        data = OFFICIAL_DATA.get(path.stem)
        return {'licence': OFFICIAL_LICENCE, **({'training_data': data} if data else {})}
    history = {key: text for key, text in read_metadata(path).items() if key != CONFIG_KEY}
    # Older conversions wrote `license`; it takes precedence over the `licence` of the source.
    if 'license' in history:
        history['licence'] = history.pop('license')
    return history


def save_model(path: Path | str, model: Spann3R, dtype: torch.dtype = torch.float16,
               metadata: dict[str, str] | None = None) -> None:
    """Write weights and sizes as one `.safetensors` file, atomically.

    Tensors with two names are written once.
    """
    state = model.state_dict()
    twins = set(_aliases(state))
    tensors = {key: tensor.detach().to('cpu', dtype).contiguous()
               for key, tensor in state.items() if key not in twins}
    text = {**(metadata or {}), CONFIG_KEY: json.dumps(model.config.to_dict())}
    write_files({Path(path): save(tensors, metadata=text)})


def _read_safetensors(path: Path) -> tuple[Spann3RConfig, dict[str, Tensor]]:
    text = read_metadata(path).get(CONFIG_KEY)
    if text is None:
        raise CheckpointError(f'checkpoint: {path} has no {CONFIG_KEY} in its metadata')
    try:
        config = Spann3RConfig.from_dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f'checkpoint: {path}: bad {CONFIG_KEY}: {error}') from error
    with safe_open(path, framework='pt') as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    # Tensors with two names are stored once.
    for key in list(tensors):
        alias = _alias_of(key)
        if alias:
            tensors.setdefault(alias, tensors[key])
    return config, tensors


def _match(path: Path, model: Spann3R, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    expected = model.state_dict()
    faults = [f'missing {key}' for key in sorted(set(expected) - set(tensors))]
    faults += [f'unexpected {key}' for key in sorted(set(tensors) - set(expected))]
    faults += [f'{key}: expected {tuple(expected[key].shape)}, got {tuple(tensors[key].shape)}'
               for key in sorted(set(expected) & set(tensors))
               if expected[key].shape != tensors[key].shape]
    faults += [f'{key}: not floating point' for key, item in sorted(tensors.items())
               if not item.is_floating_point()]
    if faults:
        more = f' and {len(faults) - 8} more' if len(faults) > 8 else ''
        raise CheckpointError(f'checkpoint: {path} does not fit: {"; ".join(faults[:8])}{more}')
    return tensors


def _alias_of(key: str) -> str | None:
    """Return the second name of one of the dense head's four twice-named convolutions."""
    for level in range(4):
        first = f'.scratch.layer{level + 1}_rn.'
        if first in key:
            return key.replace(first, f'.scratch.layer_rn.{level}.')
    return None


def _aliases(keys: dict[str, Tensor]) -> list[str]:
    return [alias for alias in map(_alias_of, keys) if alias in keys]
