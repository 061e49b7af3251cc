# SPDX-License-Identifier: Apache-2.0
"""The entry of a network in the registry; it imports nothing heavy."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint_files import CheckpointFile

if TYPE_CHECKING:
    from spann3r_ros.core.network import Compute, Network

    from .checkable import Checks
    from .trainable import Trainable


@dataclass(frozen=True)
class NetworkKind:
    """One kind of network: its name, its settings, and how its checkpoints are opened.

    `settings` is a frozen dataclass of `core.settings.setting` fields, all with defaults; they
    are declared under the prefix `name`. `former_prefixes` are read as well, with a warning. A
    prefix that the node or another network uses is refused.
    `open` takes a checkpoint, the settings and where to compute; it may import heavy modules.
    `vary` returns a network of the same weights with other settings. `ablations` are named changes
    of the settings, each of which leaves out a part of the memory.
    `files` returns a module that inspects and converts checkpoints of this kind, `training` one
    that implements `trainable.Trainable` for it, `checks` one that implements `checkable.Checks`;
    None: not supported.
    """

    name: str
    settings: type
    recognises: Callable[[CheckpointFile], bool]
    open: Callable[[Path, Any, Compute], Network]
    former_prefixes: tuple[str, ...] = ()
    ablations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    vary: Callable[[Network, Any], Network] | None = None
    files: Callable[[], Any] | None = None
    training: Callable[[], Trainable] | None = None
    checks: Callable[[], Checks] | None = None
