# SPDX-License-Identifier: Apache-2.0
"""package.xml names what the code imports and what the launch file starts, and nothing else."""
from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from test_layering import imported_names

ROOT = Path(__file__).parents[2]
MANIFEST = xml.etree.ElementTree.parse(ROOT / 'package.xml')
# Modules whose rosdep key is not their name. Any other is a ROS package, or pip installs it.
KEYS = {'PIL': 'python3-pil', 'cv2': 'python3-opencv', 'matplotlib': 'python3-matplotlib',
        'numpy': 'python3-numpy', 'pytest': 'python3-pytest', 'rosbags': 'python3-rosbags-pip',
        'scipy': 'python3-scipy', 'torch': 'python3-pytorch-pip', 'tqdm': 'python3-tqdm',
        'yaml': 'python3-yaml'}
# Needed by the build, the messages, the command line in README.md, and by ros2bag for every bag.
NOT_IMPORTED = {'ament_cmake_pytest', 'ros2launch', 'rosbag2_storage_default_plugins',
                'rosidl_default_runtime'}
# record_references.py is run by hand and says itself what to install.
BY_HAND = {'evo', 'open3d'}
TO_RUN = ('depend', 'exec_depend')
TO_TEST = (*TO_RUN, 'test_depend')


def declared(tags: tuple[str, ...]) -> set[str]:
    return {node.text for tag in tags for node in MANIFEST.iter(tag)}


def required(name: str) -> set[str]:
    """Return what a file of pip's requirements names."""
    text = (ROOT / 'scripts' / 'requirements' / f'{name}.txt').read_text()
    return set(re.findall(r'^[\w-]+', text, re.MULTILINE))


def imported(*folders: str) -> set[str]:
    """Return the modules that folders import, less Python's and this project's own."""
    own = {'spann3r_ros', *(
        file.stem for folder in ('test', 'benchmarks') for file in (ROOT / folder).rglob('*.py'))}
    found = {name.partition('.')[0] for folder in folders
             for file in (ROOT / folder).rglob('*.py') for name in imported_names(file, ROOT)}
    return found - sys.stdlib_module_names - own


def started() -> set[str]:
    """Return the packages of the nodes and of the `ros2` commands that the launch file starts."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / 'launch' / 'mapper.launch.py').read_text())):
        if isinstance(node, ast.keyword) and node.arg == 'package':
            found.add(node.value.value)
        elif isinstance(node, ast.List):
            match [getattr(word, 'value', None) for word in node.elts]:
                case ['ros2', str(verb), *_]:
                    found.add(f'ros2{verb}')
    return found - {'spann3r_ros'}


@pytest.mark.parametrize(('folders', 'tags', 'files'), [
    (('spann3r_ros', 'launch'), TO_RUN, ('library', 'places')),
    (('test', 'benchmarks'), TO_TEST, ('library', 'dev', 'places'))])
def test_every_import_is_declared(
        folders: tuple[str, ...], tags: tuple[str, ...], files: tuple[str, ...]) -> None:
    names = imported(*folders) - BY_HAND
    assert {'numpy', 'rclpy', 'torch'} <= names
    # What rosdep can install it has to; the rest is left to pip.
    by_pip = set().union(*map(required, files)) - set(KEYS)
    assert {KEYS.get(name, name) for name in names - by_pip} - declared(tags) == set()


def test_what_the_launch_file_starts_is_declared() -> None:
    assert {'rviz2', 'ros2bag'} <= started() <= declared(TO_RUN)


def test_every_declared_package_is_used() -> None:
    used = {KEYS.get(name, name) for name in imported('spann3r_ros', 'launch', 'test')}
    assert declared(TO_TEST) - used - started() == NOT_IMPORTED


def test_nothing_is_declared_twice() -> None:
    names = [node.text for tag in TO_TEST for node in MANIFEST.iter(tag)]
    assert len(names) == len(set(names))


def test_pytest_runs_beside_older_plugins_of_a_sourced_ros(tmp_path: Path) -> None:
    # Jazzy's launch_testing has this hook with an argument that pytest 9 no longer passes.
    (tmp_path / 'launch_plugin.py').write_text(
        'def pytest_pycollect_makemodule(path, parent):\n    return None\n')
    metadata = tmp_path / 'launch_plugin-1.0.dist-info'
    metadata.mkdir()
    (metadata / 'METADATA').write_text(
        'Metadata-Version: 2.1\nName: launch_plugin\nVersion: 1.0\n')
    (metadata / 'entry_points.txt').write_text('[pytest11]\nlaunch_plugin = launch_plugin\n')
    (tmp_path / 'test_it.py').write_text('def test_it():\n    pass\n')
    environment = {**os.environ, 'PYTHONPATH': f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}',
                   'PYTEST_DISABLE_PLUGIN_AUTOLOAD': ''}
    command = f'{sys.executable} -m pytest -q -c /dev/null {tmp_path}/test_it.py'
    plain = subprocess.run(command.split(), env=environment, capture_output=True, text=True)
    assert 'launch_plugin' in plain.stderr
    assert plain.returncode != 0
    del environment['PYTEST_DISABLE_PLUGIN_AUTOLOAD']
    made = subprocess.run(
        ['make', '--no-print-directory', '--eval', f'probe: ; @{command}', 'probe'],
        env=environment, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert '1 passed' in made.stdout
