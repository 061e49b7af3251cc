# SPDX-License-Identifier: Apache-2.0
"""A map on disk: one directory with a manifest, replaced as a whole.

The directory `map` has these files:

    manifest.json      what the map is, and size and SHA-256 of the other files
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
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spann3r_ros.core.files import Content, replace_directory
from spann3r_ros.core.transforms import rounding_warning
from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.exports.grid_files import encode_grid_yaml, encode_pgm
from spann3r_ros.mapping.exports.ply_files import encode_ply
from spann3r_ros.mapping.exports.trajectory_files import encode_tum
from spann3r_ros.mapping.fragments.atlas import PathView
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud, VoxelSnapshot
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MappingStatus, MapUpdate
from spann3r_ros.mapping.occupancy.evidence_layer import OccupancySnapshot
from spann3r_ros.mapping.occupancy.occupancy_grid import Grid, GridView, NoFloorError

from .array_file import ArrayFile
from .former_map import read_former_map
from .manifest import (
    MANIFEST,
    MAX_TEXT_BYTES,
    FileEntry,
    Manifest,
    encode_manifest,
    read_manifest,
)
from .saved_tree import SavedNode, decode_tree, tree_files

logger = logging.getLogger(__name__)

NAME = 'map'
CLOUD, TRAJECTORY = 'map.ply', 'trajectory.tum'
GRID, GRID_YAML = 'map.pgm', 'map.yaml'
STATE, ARRAYS = 'state.json', 'state.safetensors'
# Written by versions before the directory.
FORMER = 'map.npz'


class MapEmptyError(RuntimeError):
    """The map has no voxels to save."""


@dataclass(frozen=True)
class MapFiles:
    """The contents of a map's files, by name."""

    contents: dict[str, Content]

    def write(self, folder: Path) -> Path:
        """Replace the map in a folder; return its directory.

        Other files in the folder are not touched. Raises OSError if a file cannot be written; the
        map that was there is then unchanged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        replace_directory(folder / NAME, self.contents)
        return folder / NAME


@dataclass(frozen=True)
class MapSnapshot:
    """A map at one time, to be saved; any thread may encode it, while the mapper goes on."""

    tree: dict[str, Any]
    voxels: VoxelSnapshot
    path: PathView
    frame_id: str
    grid: OccupancySnapshot | None
    status: MappingStatus
    about: dict[str, Any]

    def encode(self) -> MapFiles:
        """Return the files; raise MapEmptyError if none of the voxels is shown."""
        cloud = self.voxels.cloud()
        if not len(cloud):
            raise MapEmptyError('the map is empty')
        warning = rounding_warning(cloud.points, self.voxels.voxel_size)
        if warning:
            logger.warning(warning)
        poses = [StampedPose(stamp, self.frame_id, pose) for stamp, pose in zip(
            self.path.stamps_ns.tolist(), self.path.map_from_camera, strict=True)]
        text, arrays = tree_files(self.tree)
        contents: dict[str, bytes | ArrayFile] = {
            CLOUD: encode_ply(cloud), TRAJECTORY: encode_tum(poses), STATE: text, ARRAYS: arrays}
        grid = _grid(self.grid)
        if grid is not None:
            contents |= {GRID: encode_pgm(grid), GRID_YAML: encode_grid_yaml(grid, GRID)}
        manifest = encode_manifest({**self.about, **_numbers(self, cloud)},
                                   {name: _file_entry(one) for name, one in contents.items()})
        return MapFiles({**{name: one.write if isinstance(one, ArrayFile) else one
                            for name, one in contents.items()}, MANIFEST: manifest})


def snapshot_map(mapper: Mapper,
                 at_end: Callable[[MapUpdate], object] | None = None) -> MapSnapshot:
    """Return a map to be saved; raise MapEmptyError for an empty one.

    Cloud and path have the corrections that are due.
    With `at_end`, cloud and path are those of a recording that ends here: they have the frames
    that still wait for their estimate. `at_end` is called with the update that completes them,
    while the map is complete. Afterwards the mapper is as before.
    """
    def view() -> tuple[VoxelSnapshot, PathView, OccupancySnapshot | None, MappingStatus]:
        return (mapper.snapshot(), mapper.path(),
                None if mapper.grid_reason else mapper.grid_snapshot(),
                replace(mapper.status(), scale=mapper.map_scale))
    if at_end is None:
        with mapper.corrected():
            voxels, path, grid, status = view()
            places = mapper.places()
    else:
        with mapper.ended() as update:
            at_end(update)
            voxels, path, grid, status = view()
            places = mapper.places()
    if not sum(len(part.rows) for part in voxels.parts):
        raise MapEmptyError('the map is empty')
    # The state may not have the corrections yet that cloud and path have.
    tree = {**mapper.tree(), 'places': {
        'fragments': np.array(list(places), np.int64),
        'map_from_fragment': np.array(list(places.values()))}}
    return MapSnapshot(tree, voxels, path, mapper.camera[0], grid, status, {
        'network': mapper.network_name, 'identity': mapper.network_identity,
        'settings': _settings(mapper)})


def encode_map(mapper: Mapper,
               at_end: Callable[[MapUpdate], object] | None = None) -> MapFiles:
    """Return the files of a map, as `snapshot_map` and `MapSnapshot.encode`."""
    return snapshot_map(mapper, at_end).encode()


def read_map(folder: Path) -> SavedNode:
    """Return the saved state of the map in a folder, or of the map that the folder is.

    All files of the map are checked. A `map.npz` of an earlier version is read if there is no
    directory. Raises ValueError with the file and its fault, and OSError when a file cannot be
    read.
    """
    directory = map_in(folder)
    if not (directory / MANIFEST).exists() and (folder / FORMER).exists():
        return read_former_map(folder / FORMER)
    manifest = read_manifest(find_directory(folder))
    manifest.check(but=(STATE, ARRAYS))  # they are checked when they are read
    return read_state(manifest)


def map_in(folder: Path) -> Path:
    """Return the directory of the map in a folder, or the folder if it is one itself."""
    inner = folder / NAME
    is_map = (folder / MANIFEST).exists() and not (inner / MANIFEST).exists()
    return folder if is_map else inner


def find_directory(folder: Path) -> Path:
    """Return the directory of a map: the folder, or `map` in it; ValueError if neither is one."""
    directory = map_in(folder)
    if not (directory / MANIFEST).is_file():
        raise ValueError(f'{folder}: expected the directory of a saved map, with {MANIFEST}, or a '
                         f'folder with such a directory {NAME!r}')
    return directory


def read_state(manifest: Manifest) -> SavedNode:
    """Return the saved state of a map; raises as `read_map`."""
    try:
        return decode_tree(manifest.read(STATE, MAX_TEXT_BYTES), manifest.read(ARRAYS))
    except MemoryError as error:
        raise ValueError(f'{manifest.directory}: expected a map that fits into the memory') \
            from error
    except ValueError as error:
        where = manifest.directory
        raise error if str(error).startswith(str(where)) else ValueError(
            f'{where / STATE}: {error}') from error


def map_hashes(mapper: Mapper) -> dict[str, str]:
    """Return the SHA-256 of the map's and of the trajectory's arrays, without times and paths."""
    cloud, path = mapper.cloud(), mapper.trajectory
    arrays = {
        'map': (cloud.points, cloud.colors, cloud.confidence),
        'trajectory': (np.array([pose.stamp_ns for pose in path], np.int64),
                       np.array([pose.world_from_camera for pose in path]))}
    return {name: _digest(items) for name, items in arrays.items()}


def _grid(snapshot: OccupancySnapshot | None) -> Grid | None:
    """Return the occupancy grid; None if the map has none."""
    if snapshot is None:
        return None
    try:
        grid = GridView()(snapshot)
    except NoFloorError:
        return None
    return grid if grid.values.size else None


def _settings(mapper: Mapper) -> dict[str, Any]:
    """Return the settings that a map cannot change, and a checksum of all of them."""
    config = mapper.config
    height, width = mapper.camera[1]
    text = json.dumps(asdict(config), sort_keys=True)
    return {'sha256': hashlib.sha256(text.encode()).hexdigest(),
            'field_of_view': config.field_of_view, 'resampling': config.resampling,
            'image_size': [height, width], 'input_size': list(mapper.input_size)}


def _numbers(snapshot: MapSnapshot, cloud: VoxelCloud) -> dict[str, Any]:
    """Return what a manifest says of a map for people and programs that do not load it."""
    status, path = snapshot.status, snapshot.path
    scale, places = status.scale, path.map_from_camera[:, :3, 3]
    stamps = path.stamps_ns.tolist()
    return {
        'scale': {'metric': scale.metric, 'source': scale.source,
                  'deviation': math.sqrt(scale.variance) if scale.metric else None},
        'counts': {
            'keyframes': status.keyframes, 'kept': status.kept.keyframes, 'poses': len(stamps),
            'voxels': status.voxels, 'points': len(cloud), 'fragments': status.fragments,
            'unconnected': status.fragments_unconnected, 'loops': status.loops_accepted},
        'voxel_size': snapshot.voxels.voxel_size,
        'extent': [cloud.points.min(axis=0).tolist(), cloud.points.max(axis=0).tolist()],
        'path_length': float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum()),
        'stamps_ns': [stamps[0], stamps[-1]] if stamps else None}


def _file_entry(content: bytes | ArrayFile) -> FileEntry:
    if isinstance(content, ArrayFile):
        return FileEntry(content.nbytes, content.sha256())
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def _digest(arrays: tuple[np.ndarray, ...]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f'{array.dtype.str} {array.shape}'.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
