# SPDX-License-Identifier: Apache-2.0
"""Spann3R (Wang and Agapito, 2024): importing this package is cheap, its modules need torch."""
from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from spann3r_ros.networks.checkpoint_files import CheckpointFile
from spann3r_ros.networks.kind import NetworkKind

from .config import CONFIG_KEY, MemoryConfig

if TYPE_CHECKING:
    from spann3r_ros.core.network import Compute, Network


def _recognises(file: CheckpointFile) -> bool:
    return CONFIG_KEY in file.metadata or (
        file.path.suffix == '.pth' and any(name.startswith('dust3r.') for name in file.names))


def _open(path: Path, settings: MemoryConfig, compute: Compute) -> Network:
    from .spann3r_network import open_network
    return open_network(path, settings, compute)


def _vary(network: Network, settings: MemoryConfig) -> Network:
    from .spann3r_network import Spann3RNetwork
    return Spann3RNetwork(network.model, settings)


def _files() -> ModuleType:
    return import_module('.checkpoint_tools', __name__)


def _training() -> ModuleType:
    return import_module('.training', __name__)


def _checks() -> ModuleType:
    return import_module('.checks.device_checks', __name__)


ABLATIONS = {'no long-term memory': {'long_term_tokens': 0},
             'no attention threshold': {'attention_threshold': 0.0},
             'no similarity test': {'similarity_threshold': 1.0}}
KIND = NetworkKind('spann3r', MemoryConfig, _recognises, _open, former_prefixes=('memory',),
                   ablations=ABLATIONS, vary=_vary, files=_files, training=_training,
                   checks=_checks)
