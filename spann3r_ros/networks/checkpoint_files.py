# SPDX-License-Identifier: Apache-2.0
"""Reading checkpoint files of any network; no code in a file is run."""
from __future__ import annotations

import argparse
import pickle
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = ('.pth', '.safetensors')


class CheckpointError(ValueError):
    """A file is not a checkpoint of a registered network; the message gives the reason."""


class CheckpointFile:
    """The metadata and the tensor names of a checkpoint, each read at its first use.

    CheckpointError for a missing file at once, for a broken one when it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f'checkpoint: no such file: {path}')

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Return the text metadata of a `.safetensors` file, an empty one of another file."""
        return read_metadata(self.path) if self.path.suffix == '.safetensors' else {}

    @cached_property
    def names(self) -> frozenset[str]:
        """Return the names of the tensors of a `.safetensors` or `.pth` file."""
        if self.path.suffix == '.pth':
            return frozenset(read_pth(self.path))
        if self.path.suffix != '.safetensors':
            return frozenset()
        with safe_open(self.path, framework='np') as file:
            return frozenset(file.keys())


def read_metadata(path: Path) -> dict[str, str]:
    """Return the text metadata stored in a `.safetensors` checkpoint."""
    try:
        with safe_open(path, framework='np') as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'checkpoint: cannot read {path}: {error}') from error


def read_pth(path: Path) -> dict[str, Tensor]:
    """Return the tensors under `model` of a `.pth` file; no code in the file is run."""
    import torch
    try:
        # Training scripts store their arguments in the same file.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(f'checkpoint: cannot read {path} as plain weights: {reason}'
                              ) from error
    tensors = content.get('model') if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(
            isinstance(key, str) and isinstance(item, torch.Tensor)
            for key, item in tensors.items()):
        raise CheckpointError(f"checkpoint: {path} has no dictionary of tensors under 'model'")
    return tensors
