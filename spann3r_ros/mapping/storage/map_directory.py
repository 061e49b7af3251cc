# SPDX-License-Identifier: Apache-2.0
"""A map on disk: one directory with a manifest, replaced as a whole.

The directory `map` has these files:

    manifest.json      format, network, counts, and size and SHA-256 of the other files
    map.ply            the cloud
    trajectory.tum     the path
    map.pgm, map.yaml  the occupancy grid, if the map has one
    state.json         what a mapper needs to continue the map, without its arrays
    state.safetensors  the arrays
"""
from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spann3r_ros.core.files import replace_directory
from spann3r_ros.core.transforms import rounding_warning
from spann3r_ros.mapping.exports.grid_files import encode_grid_yaml, encode_pgm
from spann3r_ros.mapping.exports.ply_files import encode_ply
from spann3r_ros.mapping.exports.trajectory_files import encode_tum
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.occupancy.occupancy_grid import Grid, GridView, NoFloorError

from .former_map import read_former_map
from .saved_tree import SavedNode, decode_tree, encode_tree

logger = logging.getLogger(__name__)

NAME = 'map'
MANIFEST, CLOUD, TRAJECTORY = 'manifest.json', 'map.ply', 'trajectory.tum'
GRID, GRID_YAML = 'map.pgm', 'map.yaml'
STATE, ARRAYS = 'state.json', 'state.safetensors'
# Written by versions before the directory.
FORMER = 'map.npz'
FORMAT = 2


class MapEmptyError(RuntimeError):
    """The map has no voxels to save."""


@dataclass(frozen=True)
class MapFiles:
    """The contents of a map's files, by name; a snapshot of a mapper."""

    contents: dict[str, bytes]

    def write(self, folder: Path) -> Path:
        """Replace the map in a folder; return its directory.

        Other files in the folder are not touched. Raises OSError if a file cannot be written; the
        map that was there is then unchanged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        replace_directory(folder / NAME, self.contents)
        return folder / NAME


def encode_map(mapper: Mapper,
               at_end: Callable[[MapUpdate], object] | None = None) -> MapFiles:
    """Return the files of a map; raise MapEmptyError for an empty one.

    Cloud and path have the corrections that are due.
    With `at_end`, cloud and path are those of a recording that ends here: they have the frames
    that still wait for their estimate. `at_end` is called with the update that completes them,
    while the map is complete. Afterwards the mapper is as before.
    """
    with mapper.corrected() if at_end is None else mapper.ended() as update:
        if at_end is not None:
            at_end(update)
        cloud, path, grid = mapper.cloud(), mapper.trajectory, _grid(mapper)
        places = mapper.places()
    if not len(cloud):
        raise MapEmptyError('the map is empty')
    warning = rounding_warning(cloud.points, mapper.voxel_size)
    if warning:
        logger.warning(warning)
    # The state may not have the corrections yet that cloud and path have.
    state = encode_tree({**mapper.tree(), 'places': {
        'fragments': np.array(list(places), np.int64),
        'map_from_fragment': np.array(list(places.values()))}})
    contents = {CLOUD: encode_ply(cloud), TRAJECTORY: encode_tum(path),
                STATE: state[0], ARRAYS: state[1]}
    if grid is not None:
        contents |= {GRID: encode_pgm(grid), GRID_YAML: encode_grid_yaml(grid, GRID)}
    status = mapper.status()
    manifest = {
        'format': FORMAT, 'network': mapper.network_name, 'keyframes': status.keyframes,
        'voxels': status.voxels, 'fragments': status.fragments, 'points': len(cloud),
        'files': {name: {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
                  for name, content in contents.items()}}
    return MapFiles({**contents,
                     MANIFEST: (json.dumps(manifest, indent=2) + '\n').encode()})


def read_map(folder: Path) -> SavedNode:
    """Return the saved state of the map in a folder, or of the map that the folder is.

    A `map.npz` of an earlier version is read if there is no directory. Raises ValueError with the
    file and its fault, and OSError when a file cannot be read.
    """
    directory = map_in(folder)
    if not (directory / MANIFEST).exists() and (folder / FORMER).exists():
        return read_former_map(folder / FORMER)
    files = _read_manifest(directory / MANIFEST)
    contents = {}
    for name in (STATE, ARRAYS):
        contents[name] = (directory / name).read_bytes()
        found = len(contents[name]), hashlib.sha256(contents[name]).hexdigest()
        if found != files.get(name):
            raise ValueError(f'{directory / name}: expected the file that the manifest describes, '
                             f'got {found[0]} bytes of another content')
    try:
        return decode_tree(contents[STATE], contents[ARRAYS])
    except ValueError as error:
        raise ValueError(f'{directory / STATE}: {error}') from error


def map_in(folder: Path) -> Path:
    """Return the directory of the map in a folder, or the folder if it is one itself."""
    return folder if (folder / MANIFEST).exists() else folder / NAME


def _grid(mapper: Mapper) -> Grid | None:
    """Return the occupancy grid; None if the map has none."""
    if mapper.grid_reason:
        return None
    try:
        grid = GridView()(mapper.grid_snapshot())
    except NoFloorError:
        return None
    return grid if grid.values.size else None


def map_hashes(mapper: Mapper) -> dict[str, str]:
    """Return the SHA-256 of the map's and of the trajectory's arrays, without times and paths."""
    cloud, path = mapper.cloud(), mapper.trajectory
    arrays = {
        'map': (cloud.points, cloud.colors, cloud.confidence),
        'trajectory': (np.array([pose.stamp_ns for pose in path], np.int64),
                       np.array([pose.world_from_camera for pose in path]))}
    return {name: _digest(items) for name, items in arrays.items()}


def _read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of the files that a manifest describes, by name."""
    try:
        manifest = json.loads(path.read_bytes())
        found = manifest['format']
        if found != FORMAT:
            raise ValueError(f'expected format {FORMAT}, got {found}')
        return {name: (entry['bytes'], entry['sha256'])
                for name, entry in manifest['files'].items()}
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f'{path}: expected the manifest of a map: '
                         f'{type(error).__name__}: {error}') from error


def _digest(arrays: tuple[np.ndarray, ...]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f'{array.dtype.str} {array.shape}'.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
