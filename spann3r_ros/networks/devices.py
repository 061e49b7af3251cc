# SPDX-License-Identifier: Apache-2.0
"""Torch devices by name, and how they run out of memory."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spann3r_ros.core.types import DeviceMemoryError

DEVICES = ('auto', 'cpu', 'cuda')
# Texts of the RuntimeErrors by which torch on a CPU, and the driver and the libraries of CUDA
# report a lack of memory that torch's own allocator does not see.
OUT_OF_MEMORY = ("can't allocate memory", 'not enough memory', 'CUDA error: out of memory',
                 'CUBLAS_STATUS_ALLOC_FAILED', 'CUDNN_STATUS_ALLOC_FAILED')


def resolve_device(name: str) -> torch.device:
    """Return the torch device of a name; 'auto' is CUDA where available, else the CPU."""
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device: expected one of {DEVICES} or cuda:N, got {name!r}') from error
    if device.type not in DEVICES:
        raise ValueError(f'device: expected one of {DEVICES} or cuda:N, got {name!r}')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'device: expected one of the {torch.cuda.device_count()} CUDA devices '
                         f'of this machine, got {name!r}')
    return device


@contextmanager
def out_of_memory_reported(device: torch.device) -> Iterator[None]:
    """Raise DeviceMemoryError for each exception by which torch reports a lack of memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceMemoryError(f'out of memory on {device}: {error}') from error
    except RuntimeError as error:
        if not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        raise DeviceMemoryError(f'out of memory on {device}: {error}') from error
