# SPDX-License-Identifier: Apache-2.0
"""The torch device that a name stands for."""
from __future__ import annotations

import torch

DEVICES = ('auto', 'cpu', 'cuda')


def resolve_device(name: str) -> torch.device:
    """Return the torch device of a name; 'auto' takes CUDA when there is one."""
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device: expected one of {DEVICES} or cuda:N, got {name!r}') from error
    if device.type not in DEVICES:
        raise ValueError(f'device: expected one of {DEVICES} or cuda:N, got {name!r}')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'device: {name!r} asked for, but torch sees '
                         f'{torch.cuda.device_count()} CUDA devices')
    return device
