# SPDX-License-Identifier: Apache-2.0
"""Modules of the network are importable under their former names, with a warning."""
from __future__ import annotations

import importlib
import sys

import pytest

NETWORKS = 'spann3r_ros.networks'
FORMER = {
    'backbone': 'spann3r.backbone', 'checkpoint': 'spann3r.checkpoint',
    'config': 'spann3r.config', 'graph': 'spann3r.fast.graph', 'heads': 'blocks.heads',
    'inference': 'spann3r.fast.inference', 'laid_out': 'spann3r.fast.packed_layers',
    'layers': 'blocks.layers', 'memory': 'spann3r.memory', 'offline': 'spann3r.offline',
    'precision': 'blocks.precision', 'rope': 'blocks.rope', 'spann3r': 'spann3r.spann3r',
    'static': 'spann3r.fast.static', 'streams': 'spann3r.streams',
}


@pytest.fixture
def not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the former names from the imported modules, as in a new process."""
    for name in list(sys.modules):
        if name == 'spann3r_ros.model' or name.startswith('spann3r_ros.model.'):
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures('not_imported')
@pytest.mark.parametrize('name', FORMER)
def test_former_module_is_the_new_one_and_warns(name: str) -> None:
    with pytest.warns(DeprecationWarning, match='spann3r_ros.model is deprecated'):
        former = importlib.import_module(f'spann3r_ros.model.{name}')
    assert former is importlib.import_module(f'{NETWORKS}.{FORMER[name]}')
    package = importlib.import_module('spann3r_ros.model')
    assert getattr(package, name) is former


@pytest.mark.usefixtures('not_imported')
def test_every_former_module_is_tested() -> None:
    with pytest.warns(DeprecationWarning):
        package = importlib.import_module('spann3r_ros.model')
    assert set(package.MOVED) == set(FORMER)
