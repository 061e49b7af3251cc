# SPDX-License-Identifier: Apache-2.0
"""Inspection and conversion of checkpoints."""
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from .checkpoint import load_model, read_history, save_model


def facts(path: Path) -> dict[str, object]:
    """Return the sizes and the metadata of a checkpoint; CheckpointError for a bad file."""
    model = load_model(path)
    weights = list(model.parameters())
    return {
        'parameters': f'{sum(item.numel() for item in weights):,}',
        'memory in fp32': f'{sum(4 * item.numel() for item in weights) / 1e6:.1f} MB',
        **asdict(model.config),
        'licence': 'unknown', 'training_data': 'unknown', **read_history(path),
    }


def convert(source: Path, target: Path, dtype: str, licence: str = '') -> None:
    """Write a checkpoint as `.safetensors` with weights of a torch dtype.

    `licence` is stored as the licence; empty: that of the source, for a `.pth` its authors'.
    """
    metadata = {**read_history(source), 'converted_from': source.name}
    if licence:
        metadata['licence'] = licence
    save_model(target, load_model(source), getattr(torch, dtype), metadata)
