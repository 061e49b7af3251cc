# SPDX-License-Identifier: Apache-2.0
"""The oldest library versions that are allowed are tested, and have every name that is used.

`make test-noble` runs the same test with these versions, where `ros` cannot be imported.
"""
from __future__ import annotations

import ast
import configparser
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / 'scripts' / 'requirements'
FOLDERS = ('spann3r_ros', 'benchmarks', 'test', 'scripts', 'underlay')
LIBRARIES = {
    'PIL', 'cv2', 'lz4', 'matplotlib', 'mcap', 'numpy', 'rosbags', 'safetensors', 'scipy', 'tqdm',
    'yaml', 'zstandard'}


def sources() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob('*.py'))


def library_names(file: Path) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield line, module and attributes of every library name that a file imports or reads."""
    tree, known = ast.parse(file.read_text(encoding='utf-8')), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition('.')[0]
                if top in LIBRARIES:
                    known[alias.asname or top] = (alias.name if alias.asname else top, ())
                    yield node.lineno, alias.name, ()
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                if node.module.partition('.')[0] in LIBRARIES:
                    known[alias.asname or alias.name] = (node.module, (alias.name,))
                    yield node.lineno, node.module, (alias.name,)
    for node in ast.walk(tree):
        path, below = [], node
        while isinstance(below, ast.Attribute):
            path.insert(0, below.attr)
            below = below.value
        if path and isinstance(below, ast.Name) and below.id in known:
            module, before = known[below.id]
            yield node.lineno, module, (*before, *path)


def is_there(module: str, path: tuple[str, ...]) -> bool:
    try:
        found = importlib.import_module(module)
        for name in path:
            if isinstance(found, ModuleType) and not hasattr(found, name):
                importlib.import_module(f'{found.__name__}.{name}')
            found = getattr(found, name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize('file', sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_installed_libraries_have_every_name(file: Path) -> None:
    missing = {f'line {line}: {".".join((module, *path))}'
               for line, module, path in library_names(file) if not is_there(module, path)}
    assert not missing


def test_names_are_followed_through_imports(tmp_path: Path) -> None:
    file = tmp_path / 'file.py'
    file.write_text('import cv2\nimport numpy as np\nfrom scipy.spatial import transform\n'
                    'cv2.IMREAD_COLOUR\nnp.linalg.norm(0).T\nnp.linalg.nrom\n'
                    'transform.Rotation.from_quat\nfrom PIL import Imgae\n')
    missing = {(line, path[-1]) for line, module, path in library_names(file)
               if not is_there(module, path)}
    assert missing == {(4, 'IMREAD_COLOUR'), (6, 'nrom'), (8, 'Imgae')}


def versions(name: str, sign: str) -> dict[str, str]:
    """Return the first version that a file of requirements gives each package after a sign."""
    lines = (REQUIREMENTS / f'{name}.txt').read_text().splitlines()
    found = [match.groups() for line in lines
             if (match := re.match(rf'([\w-]+){sign}([\w.]+)', line))]
    return dict(reversed(found))


def test_oldest_versions_are_those_tested_and_setup_reads_them() -> None:
    noble, oldest = versions('noble', '=='), versions('library', '>=')
    assert set(noble) == set(oldest) >= {'numpy', 'scipy', 'opencv-python-headless', 'pillow',
                                         'matplotlib', 'torch'}
    for name, version in oldest.items():
        assert f'{noble[name]}.'.startswith(f'{version}.'), name
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    assert setup['options']['install_requires'] == 'file: scripts/requirements/library.txt'
