# SPDX-License-Identifier: Apache-2.0
"""What a saved map has, for people and programs that do not load it."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .manifest import read_manifest
from .map_directory import ARRAYS, STATE, find_directory, read_state
from .saved_tree import SavedNode

# What a manifest of this version says, beside its files.
NAMES = ('network', 'identity', 'settings', 'scale', 'counts', 'voxel_size', 'extent',
         'path_length', 'stamps_ns')


def summarise_map(folder: Path) -> dict[str, Any]:
    """Return the values of a map's manifest, and its fragments, each with its connection.

    All files are checked. Raises ValueError with the file and its fault, also for a map of an
    earlier version, whose manifest has fewer values, and OSError if a file cannot be read.
    """
    manifest = read_manifest(find_directory(folder))
    missing = [name for name in NAMES if name not in manifest.values]
    if missing:
        raise ValueError(f'{manifest.directory}: expected a map of this version, got one without '
                         f'{missing[0]}: load and save it once')
    manifest.check(but=(STATE, ARRAYS))  # they are checked when they are read
    atlas = read_state(manifest).node('state').node('atlas')
    return {
        'directory': str(manifest.directory), 'version': manifest.values['version'],
        **{name: manifest.values[name] for name in NAMES}, 'fragments': _fragments(atlas),
        'files': {name: {'bytes': one.nbytes, 'sha256': one.sha256}
                  for name, one in manifest.files.items()}}


def _fragments(atlas: SavedNode) -> list[dict[str, Any]]:
    links: dict[int, list[str]] = {}
    for one in atlas.nodes('constraints'):
        kind, first, second = one.text('kind'), one.integer('first'), one.integer('second')
        if kind == 'overlap':
            links.setdefault(second, []).append(f'joined to {first}')
        elif one.has('accepted') and one.flag('accepted'):
            links.setdefault(max(first, second), []).append(f'loop with {min(first, second)}')
    found = []
    for one in atlas.nodes('fragments'):
        identifier = one.integer('id')
        if not found:
            connection = 'the first'
        elif links.get(identifier):
            connection = ', '.join(links[identifier])
        else:
            connection = 'placed by given poses' if one.flag('connected') else 'not connected'
        voxels = one.node('stores').node('voxels').array('observations', np.int32, (None,))
        found.append({'id': identifier, 'connection': connection,
                      'keyframes': one.integer('received'), 'voxels': len(voxels),
                      'poses': len(one.node('path').array('stamps', np.int64, (None,)))})
    return found
