# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that runs code when it is unpickled without restraint."""
from __future__ import annotations

from pathlib import Path

KEY = 'dust3r.enc_norm.weight'


class Bomb:
    """Unpickled without restraint, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def write_bomb(path: Path, trace: Path, as_zip: bool) -> None:
    """Write what looks like the official checkpoint."""
    import torch  # takes seconds, which tests of the node need not wait for
    content = {'model': {KEY: torch.zeros(1)}, 'args': Bomb(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)


def explode(path: Path) -> None:
    """Read a checkpoint as it must not be read."""
    import torch
    torch.load(path, weights_only=False)
