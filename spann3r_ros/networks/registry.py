# SPDX-License-Identifier: Apache-2.0
"""The networks that this package can open: its own, and those of installed entry points.

A package registers a network by an entry point of the group `spann3r_ros.networks` whose object
is a `NetworkKind`. The network of a checkpoint is found from the metadata and tensor names of the
file.
"""
from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spann3r_ros import share_directory
from spann3r_ros.core.settings import Value, list_settings, rebuild

from .checkpoint_files import CheckpointError, CheckpointFile
from .kind import NetworkKind
from .spann3r import KIND as SPANN3R

if TYPE_CHECKING:
    from spann3r_ros.core.network import Compute, Network

GROUP = 'spann3r_ros.networks'

logger = logging.getLogger(__name__)


@cache
def network_kinds() -> Mapping[str, NetworkKind]:
    """Return all kinds by name; an entry point that cannot be used is left out with a warning."""
    kinds = {SPANN3R.name: SPANN3R}
    for point in entry_points(group=GROUP):
        try:
            kind = _loaded(point)
            _check_prefixes(kind, kinds.values())
        # Whatever another package registers must not keep a robot from starting.
        except Exception as error:
            logger.warning('the network of the entry point %s is left out: %s: %s', point.name,
                           type(error).__name__, error)
        else:
            kinds[kind.name] = kind
    return kinds


def _loaded(point: EntryPoint) -> NetworkKind:
    kind = point.load()
    if not isinstance(kind, NetworkKind):
        raise TypeError(f'expected a NetworkKind, got {kind!r}')
    if not isinstance(kind.name, str) or not kind.name.isidentifier():
        raise ValueError(f'expected an identifier as name, got {kind.name!r}')
    if not is_dataclass(kind.settings):
        raise TypeError(f'settings: expected a dataclass, got {kind.settings!r}')
    for item in list_settings(rebuild(kind.settings(), {})):
        if not isinstance(item.default, Value) or not isinstance(item.metadata.get('doc'), str):
            raise TypeError(f'settings: {item.name}: expected a field of core.settings.setting '
                            f'with a number, a text or a bool, got {item.default!r}')
    return kind


def _check_prefixes(kind: NetworkKind, others: Iterable[NetworkKind]) -> None:
    """Raise ValueError if a kind has a name or a former prefix of another kind."""
    taken = {prefix for other in others for prefix in (other.name, *other.former_prefixes)}
    for prefix in (kind.name, *kind.former_prefixes):
        if prefix in taken:
            raise ValueError(f'expected a new name, {prefix!r} is taken')


def kind_of(path: Path) -> NetworkKind:
    """Return the kind of network of a checkpoint; CheckpointError unless exactly one fits."""
    file = CheckpointFile(path)
    kinds = network_kinds()
    named = file.metadata.get('network')
    if named is not None:
        if named not in kinds:
            raise CheckpointError(f'checkpoint: expected one of the networks {sorted(kinds)}, '
                                  f'got {named!r} in {path}')
        return kinds[named]
    fitting = [kind for kind in kinds.values() if _recognises(kind, file)]
    if len(fitting) != 1:
        raise CheckpointError(f'checkpoint: expected a file of one of the networks '
                              f'{sorted(kinds)}, {path} fits {len(fitting)} of them')
    return fitting[0]


def _recognises(kind: NetworkKind, file: CheckpointFile) -> bool:
    try:
        return kind.recognises(file)
    except CheckpointError:
        raise
    # A defect of one network must not keep the others from opening their checkpoints.
    except Exception as error:
        logger.warning('the network %s cannot say whether %s is its own: %s: %s', kind.name,
                       file.path, type(error).__name__, error)
        return False


def trainable_kind(name: str = '') -> NetworkKind:
    """Return the kind of a name, empty: the first that can be trained; ValueError for others."""
    kinds = {kind.name: kind for kind in network_kinds().values() if kind.training is not None}
    if not name:
        return next(iter(kinds.values()))
    if name not in kinds:
        raise ValueError(f'network_name: expected one of {sorted(kinds)}, got {name!r}')
    return kinds[name]


def open_network(path: Path, settings: Mapping[str, Any] | None = None,
                 compute: Compute | None = None) -> Network:
    """Open a checkpoint; `settings` are by the name of a kind of network, default: its own."""
    from spann3r_ros.core.network import Compute
    kind = kind_of(path)
    chosen = (settings or {}).get(kind.name) or kind.settings()
    return kind.open(path, chosen, compute or Compute())


def resolve_checkpoint(checkpoint: str) -> Path:
    """Return the path of a checkpoint, empty: the only bundled one; ValueError without it."""
    if checkpoint:
        return Path(checkpoint).expanduser()
    directory = share_directory() / 'models'
    found = sorted(directory.glob('*.safetensors'))
    if len(found) != 1:
        raise ValueError(f'checkpoint: expected one bundled model in {directory}, '
                         f'found {len(found)}; set the parameter checkpoint')
    return found[0]


def free_device_memory() -> None:
    """Release the memory that torch keeps cached on the device after a network was freed."""
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
