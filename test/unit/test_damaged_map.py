# SPDX-License-Identifier: Apache-2.0
"""A saved map that is damaged, foreign or hostile is refused, and the live map stays."""
from __future__ import annotations

import json
import os
import re
import resource
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save
from test_saved_map import FORMER, digest, mapped

from spann3r_ros.mapping.storage.manifest import read_manifest
from spann3r_ros.mapping.storage.map_directory import encode_map, map_hashes, read_map

FILES = ('manifest.json', 'map.ply', 'state.json', 'state.safetensors', 'trajectory.tum')
ROOT = Path(__file__).parents[2] / 'spann3r_ros' / 'mapping'


@cache
def saved_hashes() -> dict[str, str]:
    return map_hashes(mapped())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return encode_map(mapped()).write(tmp_path)


def refused(directory: Path) -> str:
    """Return the reason, one line; the live map is as before."""
    mapper = mapped(count=4)
    before = mapper.status(), map_hashes(mapper)
    with pytest.raises((ValueError, OSError)) as caught:
        mapper.load(read_map(directory.parent))
    assert (mapper.status(), map_hashes(mapper)) == before
    reason = str(caught.value)
    assert reason and '\n' not in reason
    return reason


def sign(directory: Path, name: str, content: bytes) -> None:
    """Replace a file, and its checksum."""
    (directory / name).write_bytes(content)
    manifest = json.loads((directory / 'manifest.json').read_text())
    manifest['files'][name] = {'bytes': len(content), 'sha256': digest(content)}
    (directory / 'manifest.json').write_text(json.dumps(manifest))


@pytest.mark.parametrize('name', FILES)
def test_every_truncated_file_is_refused(directory: Path, name: str) -> None:
    content = (directory / name).read_bytes()
    for length in (0, 1, len(content) // 3, len(content) - 2):
        (directory / name).write_bytes(content[:length])
        with pytest.raises(ValueError, match=name):
            read_map(directory.parent)
    assert name in refused(directory)


@pytest.mark.parametrize('name', FILES)
def test_every_flipped_bit_is_refused(directory: Path, name: str) -> None:
    """Of the manifest one may be in a number that only people read: the map is then whole."""
    content, rng = (directory / name).read_bytes(), np.random.default_rng(len(name))
    read = 0
    for position in rng.integers(0, len(content), 24).tolist():
        flipped = bytes([content[position] ^ 1 << int(rng.integers(8))])
        (directory / name).write_bytes(content[:position] + flipped + content[position + 1:])
        try:
            saved = read_map(directory.parent)
        except (ValueError, OSError):
            continue
        read += 1
        assert name == 'manifest.json'
        mapper = mapped(count=2)
        mapper.load(saved)
        assert map_hashes(mapper) == saved_hashes()
    assert read < 24


def make_link(directory: Path) -> None:
    (directory / 'map.ply').rename(directory.parent / 'map.ply')
    (directory / 'map.ply').symlink_to('../map.ply')


def make_pipe(directory: Path) -> None:
    (directory / 'state.json').unlink()
    os.mkfifo(directory / 'state.json')


def change_manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        path = directory / 'manifest.json'
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
    return apply


@pytest.mark.parametrize(('change', 'reason'), [
    (lambda one: (one / 'map.ply').unlink(), r'No such file.*map\.ply'),
    (lambda one: (one / 'manifest.json').unlink(), 'expected the directory of a saved map'),
    (lambda one: (one / 'notes.txt').write_text('x'),
     "only files that the manifest names, got 'notes"),
    (make_link, r'map\.ply: expected a file, no link'),
    (make_pipe, r'state\.json: expected a file, no link, folder, device or pipe'),
    (lambda one: (one / 'manifest.json').write_text('{"nodes": [], "edges": []}'),
     "manifest of a map: KeyError: 'format'"),
    (lambda one: (one / 'manifest.json').write_text('[' * 100_000), 'manifest of a map: Recurs'),
    (lambda one: os.truncate(one / 'manifest.json', 2**40), 'expected 1048576 bytes at most'),
    (change_manifest(lambda one: one.update(format=3, version='9.0')),
     r"expected format 2, got 3 of version '9\.0'; this is version"),
    (change_manifest(lambda one: one['files'].update(
        {'../../notes': {'bytes': 1, 'sha256': ''}})), r"expected names of files, got '\.\./"),
    (change_manifest(lambda one: one['files']['state.json'].update(bytes=2**60)),
     r'state\.json: expected 67108864 bytes at most'),
    (change_manifest(lambda one: one['files']['state.safetensors'].update(bytes=2**60)),
     r'state\.safetensors: expected the file that the manifest describes'),
    (change_manifest(lambda one: one['files'].pop('state.safetensors')),
     "only files that the manifest names, got 'state.safetensors'")])
def test_another_directory_is_refused_with_the_reason(
        directory: Path, change: Callable[[Path], None], reason: str) -> None:
    change(directory)
    assert re.search(reason, refused(directory)), refused(directory)


def test_sizes_that_are_only_declared_take_no_memory(directory: Path) -> None:
    """A header that promises terabytes, a picture of 65500 x 65500 pixels, an archive of zeros."""
    arrays = (directory / 'state.safetensors').read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, limits[1]))
        sign(directory, 'state.safetensors', (2**62).to_bytes(8, 'little') + arrays[8:])
        assert 'state.json: SafetensorError' in refused(directory)
        found = load(arrays)
        name = next(one for one in found if one.endswith('keyframes.images'))
        image = found[name].copy()
        begin = next(index for index in range(len(image)) if image[index:index + 2].tolist() == [
            0xFF, 0xC0])
        image[begin + 5:begin + 9] = [0xFF, 0xDC, 0xFF, 0xDC]
        sign(directory, 'state.safetensors', save({**found, name: image}))
        assert 'images: expected JPEG images of 96x96 pixels' in refused(directory)
        (directory / 'manifest.json').unlink()
        with zipfile.ZipFile(directory.parent / 'map.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr('about.npy', bytes(2**26))
        assert 'expected a map that this package saved' in refused(directory)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    (directory.parent / 'map.npz').write_bytes(FORMER.read_bytes())
    mapped(count=2).load(read_map(directory.parent))


def test_the_manifest_says_what_the_map_is(directory: Path) -> None:
    values = read_manifest(directory).values
    assert values['network'] == values['identity'] == 'synthetic'
    assert values['counts']['keyframes'] == values['counts']['poses'] == 7
    assert values['settings']['input_size'] == [96, 96] and len(values['settings']['sha256']) == 64
    assert values['settings']['field_of_view'] == 'crop'
    assert values['scale'] == {'metric': False, 'source': 'none', 'deviation': None}
    assert values['path_length'] == pytest.approx(6 * 2 * 1.3 * np.sin(np.pi / 60), rel=0.05)
    low, high = np.array(values['extent'])
    assert (low < high).all()


def test_nothing_of_a_map_is_pickled() -> None:
    """Reading a pickle runs what it says; torch.load and numpy's allow_pickle read pickles."""
    for folder in ('storage', 'fragments', 'layers', 'occupancy', 'loops', 'scale', 'tracking',
                   'selection', '.'):
        for path in (ROOT / folder).glob('*.py'):
            text = path.read_text()
            assert 'import pickle' not in text and 'torch.load' not in text, path
            assert 'allow_pickle=True' not in text and 'import torch' not in text, path
