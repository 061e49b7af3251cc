# SPDX-License-Identifier: Apache-2.0
"""The layers of ARCHITECTURE.md: what each folder may import, who names a network, file names."""
from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import spann3r_ros
from spann3r_ros.networks.registry import network_kinds

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'spann3r_ros'

# What each folder may import of this package, besides itself.
BELOW = {
    'core': set(),
    'networks': {'core'},
    'mapping': {'core'},
    'pipeline': {'core', 'networks', 'mapping'},
    'datasets': {'core'},
    'rooms': {'core'},
    'training': {'core', 'networks', 'datasets', 'rooms'},
    'viewer': {'core', 'mapping', 'pipeline'},
    'evaluation': {'core', 'networks', 'mapping', 'pipeline', 'datasets', 'rooms', 'viewer'},
    'reconstruction': {'core', 'networks', 'mapping', 'pipeline', 'datasets'},
    'ros': {'core', 'networks', 'mapping', 'pipeline', 'viewer', 'msg'},
    'cli': {'core', 'networks', 'mapping', 'pipeline', 'datasets', 'rooms', 'training',
            'evaluation', 'reconstruction', 'viewer'},
    'tools': {'core', 'networks', 'mapping', 'pipeline', 'datasets', 'rooms', 'training',
              'evaluation', 'reconstruction', 'viewer', 'ros', 'cli', 'msg'},
    # Former home of the network; goes with the next release.
    'model': {'networks'},
}
WITH_ROS = {'ros', 'tools'}
# The modules of `networks` that are of no network; outside the folder only these are imported.
OF_NO_NETWORK = {'registry', 'kind', 'devices', 'checkpoint_files', 'blocks', 'trainable',
                 'checkable', 'stopwatch', 'threads', 'arrangement'}
# Folders that may name a network: their own, and the former home of one.
NAME_NETWORKS = {'networks', 'model'}
MOST_FILES = 12
ROS = re.compile(r'(rclpy|rcl_interfaces|rosidl_\w+|tf2_\w+|launch(_ros)?|\w+_msgs|std_srvs'
                 r'|builtin_interfaces|ament_\w+|cv_bridge|sensor_msgs_py|tf_transformations)$')
WITHOUT_ROS = sorted(set(BELOW) - WITH_ROS)

WITHOUT_ROS_RUN = """
import importlib, pkgutil, sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('rclpy', 'rcl_interfaces', 'sensor_msgs', 'tf2_msgs',
                                      'cv_bridge', 'std_msgs', 'geometry_msgs'):
            raise ImportError(f'{name} was asked for')

sys.meta_path.insert(0, NoRos())
if sys.argv[1] == 'replay':
    from spann3r_ros.cli.main import main
    sys.exit(main(sys.argv[1:]))
for layer in sys.argv[1:]:
    package = importlib.import_module(f'spann3r_ros.{layer}')
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):
        if not module.name.endswith('__main__'):
            importlib.import_module(module.name)
            print(module.name)
"""


def imported_names(file: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield the dotted names a file imports, relative ones resolved."""
    package = file.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else ()
            base = '.'.join((*above, *filter(None, [node.module])))
            yield from (f'{base}.{alias.name}' for alias in node.names)


def breaches(layer: str, root: Path = ROOT) -> list[str]:
    """Return `file: name` for every import the layer may not have."""
    found = []
    for file in sorted((root / 'spann3r_ros' / layer).rglob('*.py')):
        for name in imported_names(file, root):
            top, _, rest = name.partition('.')
            if top == 'spann3r_ros':
                inner = rest.partition('.')[0]
                forbidden = inner in (set(BELOW) | {'msg'}) - BELOW[layer] - {layer}
            else:
                forbidden = layer not in WITH_ROS and ROS.match(top) is not None
            if forbidden:
                found.append(f'{file.relative_to(root)}: {name}')
    return found


def identifiers(file: Path) -> Iterator[str]:
    """Yield the names that a file defines, reads, passes or imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        for field in ('id', 'attr', 'arg', 'name', 'asname', 'module', 'rest'):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            yield from node.names


def named_networks(root: Path = ROOT) -> list[str]:
    """Return `file: name` for all that names a network where none may be named."""
    found = []
    for file in sorted((root / 'spann3r_ros').rglob('*.py')):
        if file.relative_to(root / 'spann3r_ros').parts[0] in NAME_NETWORKS:
            continue
        for name in imported_names(file, root):
            match name.split('.'):
                case ['spann3r_ros', 'networks', module, *_] if module not in OF_NO_NETWORK:
                    found.append(f'{file.relative_to(root)}: {name}')
        for name in identifiers(file):
            # The package and its folder for messages are not the network.
            rest = re.sub(r'^spann3r_ros(?=\.|$)', '', name)
            if any(kind in rest.lower() for kind in network_kinds()):
                found.append(f'{file.relative_to(root)}: {name}')
    return found


def test_no_file_outside_networks_names_a_network() -> None:
    assert named_networks() == []


@pytest.mark.parametrize('line', [
    'from spann3r_ros.networks.spann3r import unroll', 'import spann3r_ros.networks.spann3r',
    'from ..networks.point3r.model import Decoder', 'from spann3r_ros.networks import spann3r',
    'class Spann3RTrainer: pass', 'def open_spann3r(): pass', 'spann3r_memory = 1',
    'settings.spann3r.working_frames', 'build(spann3r=1)', 'def build(spann3r): pass',
    'import torch as spann3r', 'lambda: networks.spann3r', 'from . import spann3r'])
def test_file_that_names_a_network_is_found(line: str, tmp_path: Path) -> None:
    layer = tmp_path / 'spann3r_ros' / 'training'
    layer.mkdir(parents=True)
    (layer / 'intruder.py').write_text(line)
    assert named_networks(tmp_path)


def test_what_names_no_network_is_allowed(tmp_path: Path) -> None:
    for folder, line in (('training', 'from spann3r_ros.networks.registry import kind_of'),
                         ('evaluation', "import spann3r_ros.core\nLABEL = {'Spann3R': 0.1}"),
                         ('networks', 'from .spann3r import Spann3R')):
        (tmp_path / 'spann3r_ros' / folder).mkdir(parents=True)
        (tmp_path / 'spann3r_ros' / folder / 'guest.py').write_text(line)
    assert named_networks(tmp_path) == []


@pytest.mark.parametrize('layer', BELOW)
def test_layer_imports_only_what_its_row_allows(layer: str) -> None:
    assert breaches(layer) == []


def test_every_folder_of_the_package_is_a_layer() -> None:
    folders = {file.parent.name for file in PACKAGE.glob('*/__init__.py')}
    assert folders == set(BELOW)


@pytest.mark.parametrize('line', ['import rclpy', 'from sensor_msgs.msg import Image',
                                  'from ..mapping import mapper', 'from .. import cli',
                                  'import spann3r_ros.ros', 'from spann3r_ros import msg'])
def test_breach_in_the_network_layer_is_found(line: str, tmp_path: Path) -> None:
    layer = tmp_path / 'spann3r_ros' / 'networks'
    layer.mkdir(parents=True)
    (layer / 'intruder.py').write_text(line)
    assert len(breaches('networks', tmp_path)) == 1


def test_no_folder_holds_more_than_a_dozen_files() -> None:
    counts = Counter(file.parent for file in PACKAGE.rglob('*.py') if file.name != '__init__.py')
    assert {str(folder): n for folder, n in counts.items() if n > MOST_FILES} == {}


def test_no_two_files_have_one_name() -> None:
    names = Counter(file.name for file in PACKAGE.rglob('*.py')
                    if file.name not in ('__init__.py', '__main__.py'))
    assert [name for name, n in names.items() if n > 1] == []


def test_all_but_ros_and_tools_import_without_ros() -> None:
    result = subprocess.run([sys.executable, '-c', WITHOUT_ROS_RUN, *WITHOUT_ROS], cwd=ROOT,
                            capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    assert {'spann3r_ros.networks.spann3r.config', 'spann3r_ros.core.types'} <= set(
        result.stdout.split())


def test_a_bag_is_mapped_without_ros(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_ROS_RUN, 'replay', ROOT / 'bags' / 'demo_room', '--output',
         tmp_path, '--quiet', '--set', 'keyframes.selection=stride', '--set',
         'keyframes.stride=4'], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / 'summary.json').read_text())['poses'] == 15
    assert (tmp_path / 'map' / 'map.ply').stat().st_size > 100_000


def test_package_xml_has_the_version_of_the_module() -> None:
    manifest = xml.etree.ElementTree.parse(ROOT / 'package.xml')
    assert manifest.findtext('version') == spann3r_ros.__version__


def test_share_directory_holds_the_data_folders() -> None:
    share = spann3r_ros.share_directory()
    assert {'config', 'launch', 'models', 'rviz'} <= {folder.name for folder in share.iterdir()}
