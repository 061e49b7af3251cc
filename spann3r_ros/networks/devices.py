# SPDX-License-Identifier: Apache-2.0
"""The torch device that a name stands for, and what running out of its memory looks like."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spann3r_ros.core.types import DeviceMemoryError

DEVICES = ('auto', 'cpu', 'cuda')
# On a CPU torch raises a RuntimeError of this text.
CPU_OUT_OF_MEMORY = "can't allocate memory"


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


@contextmanager
def out_of_memory_reported(device: torch.device) -> Iterator[None]:
    """Turn every way in which a device runs out of memory into DeviceMemoryError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceMemoryError(f'out of memory on {device}: {error}') from error
    except RuntimeError as error:
        if CPU_OUT_OF_MEMORY not in str(error):
            raise
        raise DeviceMemoryError(f'out of memory on {device}: {error}') from error
