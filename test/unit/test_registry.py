# SPDX-License-Identifier: Apache-2.0
"""Which network a checkpoint is for, and what another package can register."""
from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_model

from spann3r_ros.networks import registry
from spann3r_ros.networks.checkpoint_files import CheckpointError
from spann3r_ros.networks.registry import kind_of, network_kinds, open_network
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.pipeline import node_settings

BUNDLED = Path(__file__).parents[2] / 'models' / 'rooms_small.safetensors'


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    network_kinds.cache_clear()
    yield
    network_kinds.cache_clear()


def install(folder: Path, entry: str, code: str) -> None:
    """Write a distribution with a module `other_network` and one entry point."""
    info = folder / 'other_network-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: other-network\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(f'[spann3r_ros.networks]\n{entry}\n')
    (folder / 'other_network.py').write_text(code)


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop('other_network', None)


def kind(name: str = 'other', fields: str = "a: int = setting(3, 'A number', 1, 5)",
         recognises: str = 'lambda file: False', more: str = '') -> str:
    """Return the code of a module with a kind of network."""
    return ('from dataclasses import dataclass, field\n'
            'from spann3r_ros.core.settings import setting\n'
            'from spann3r_ros.networks.kind import NetworkKind\n'
            f'@dataclass(frozen=True)\nclass Other:\n    {fields}\n'
            f'KIND = NetworkKind({name!r}, Other, {recognises}, lambda *a: a{more})\n')


def test_bundled_and_official_checkpoints_are_recognised(tmp_path: Path) -> None:
    assert kind_of(BUNDLED).name == 'spann3r'
    official = tmp_path / 'spann3r_v1.01.pth'
    torch.save({'model': tiny_model().state_dict()}, official)
    assert kind_of(official).name == 'spann3r'


def test_network_opens_with_its_own_settings_among_all(tmp_path: Path) -> None:
    save_model(tmp_path / 'tiny.safetensors', tiny_model())
    settings = network_kinds()['spann3r'].settings(working_frames=2, long_term_tokens=0)
    network = open_network(tmp_path / 'tiny.safetensors', {'spann3r': settings, 'other': 3})
    assert (network.name, network.measures_pose) == ('spann3r', False)
    tokens = network.status().capacity_tokens
    assert tokens < open_network(tmp_path / 'tiny.safetensors').status().capacity_tokens


@pytest.mark.parametrize(('metadata', 'reason'), [
    ({}, 'fits 0 of them'),
    ({'network': 'nobody'}, "expected one of the networks .*got 'nobody'")])
def test_file_of_no_known_network_is_refused(metadata: dict, reason: str, tmp_path: Path) -> None:
    path = tmp_path / 'weights.safetensors'
    save_file({'a': torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=reason):
        kind_of(path)


def test_missing_and_broken_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='no such file'):
        kind_of(tmp_path / 'none.safetensors')
    for name in ('broken.safetensors', 'broken.pth'):
        (tmp_path / name).write_bytes(b'no weights')
        with pytest.raises(CheckpointError, match=f'cannot read .*{name}'):
            kind_of(tmp_path / name)


def test_metadata_name_the_network_of_another_package(others: Path) -> None:
    install(others, 'other = other_network:KIND', kind())
    path = others / 'weights.safetensors'
    save_file({'a': torch.zeros(1)}, path, {'network': 'other'})
    assert kind_of(path).name == 'other'
    assert set(network_kinds()) == {'spann3r', 'other'}


@pytest.mark.parametrize(('code', 'reason'), [
    ('KIND = 3', 'TypeError: expected a NetworkKind, got 3'),
    ('raise RuntimeError("no licence")', 'RuntimeError: no licence'),
    ('from spann3r_ros.networks.spann3r import KIND', "ValueError: expected a new name, 'spann3r'"
     ),
    (kind('memory'), "ValueError: expected a new name, 'memory' is taken"),
    (kind(more=", former_prefixes=('spann3r',)"), "expected a new name, 'spann3r' is taken"),
    (kind('my.net'), "ValueError: expected an identifier as name, got 'my.net'"),
    (kind(fields='a: int = 3'), 'TypeError: settings: a: expected a field of core.settings'),
    (kind(fields='a: list = field(default_factory=list, metadata={"doc": "x"})'),
     'TypeError: settings: a: expected a field'),
    (kind(fields='a: int'), 'TypeError: '),
    (kind() + "KIND = NetworkKind('other', dict, lambda file: False, lambda *a: a)\n",
     'TypeError: settings: expected a dataclass')])
def test_entry_point_that_cannot_be_used_is_left_out_with_the_reason(
        code: str, reason: str, others: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(others, 'other = other_network:KIND', code)
    with caplog.at_level(logging.WARNING, logger=registry.__name__):
        assert set(network_kinds()) == {'spann3r'}
    assert reason in caplog.text
    assert 'the network of the entry point other is left out: ' in caplog.text


def test_recogniser_that_fails_leaves_the_other_networks_their_checkpoints(
        others: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(others, 'other = other_network:KIND', kind(recognises='lambda file: 1 / 0'))
    official = others / 'spann3r_v1.01.pth'
    torch.save({'model': tiny_model().state_dict()}, official)
    with caplog.at_level(logging.WARNING, logger=registry.__name__):
        assert kind_of(official).name == 'spann3r'
    assert 'the network other cannot say whether' in caplog.text


@pytest.mark.parametrize(('name', 'more'), [
    ('pose', ''), ('mode', ''), ('other', ", former_prefixes=('keyframes',)")])
def test_network_with_the_name_of_a_parameter_of_the_node_runs_with_its_defaults(
        name: str, more: str, others: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = [item.name for item in node_settings.all_settings()]
    network_kinds.cache_clear()
    install(others, 'other = other_network:KIND', kind(
        name, "max_points: int = setting(3, 'A number', 1, 5)", more=more))
    with caplog.at_level(logging.WARNING, logger=node_settings.__name__):
        assert [item.name for item in node_settings.all_settings()] == expected
    assert f'the settings of the network {name} are left out' in caplog.text
    assert node_settings.from_values({'keyframes.stride': 3}).mapper.keyframes.stride == 3
    path = others / 'weights.safetensors'
    save_file({'a': torch.zeros(1)}, path, {'network': name})
    assert open_network(path, node_settings.Settings().networks)[1].max_points == 3
