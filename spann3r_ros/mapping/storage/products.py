# SPDX-License-Identifier: Apache-2.0
"""The files of a map: cloud, trajectory, and what a mapper needs to continue the map."""
from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from spann3r_ros.core.files import write_files
from spann3r_ros.core.transforms import rounding_warning
from spann3r_ros.mapping.mapper import Mapper

from .exports import encode_ply, encode_tum
from .saved_map import encode_saved_map

logger = logging.getLogger(__name__)

CLOUD, TRAJECTORY, SAVED_MAP = 'map.ply', 'trajectory.tum', 'map.npz'


class MapEmptyError(RuntimeError):
    """The map has no voxels to save."""


def save_products(mapper: Mapper, directory: Path) -> list[Path]:
    """Write the files of a map into a directory, all or none; return their paths.

    A map that no new fragment could be joined to has no `map.npz`; one of an earlier map is then
    removed. Raises MapEmptyError, and OSError when a file cannot be written (older files are then
    kept).
    """
    cloud = mapper.voxel_map.arrays()
    if not len(cloud):
        raise MapEmptyError('the map is empty')
    warning = rounding_warning(cloud.points, mapper.voxel_map.voxel_size)
    if warning:
        logger.warning(warning)
    directory.mkdir(parents=True, exist_ok=True)
    contents = {directory / CLOUD: encode_ply(cloud),
                directory / TRAJECTORY: encode_tum(mapper.trajectory)}
    saved = mapper.saved()
    if saved is not None:
        contents[directory / SAVED_MAP] = encode_saved_map(saved)
    write_files(contents)
    if saved is None:  # an older one belongs to another map than the new files
        (directory / SAVED_MAP).unlink(missing_ok=True)
    return list(contents)


def product_hashes(mapper: Mapper) -> dict[str, str]:
    """Return the SHA-256 of the map's and of the trajectory's arrays, without times and paths."""
    cloud, path = mapper.voxel_map.arrays(), mapper.trajectory
    arrays = {
        'map': (cloud.points, cloud.colors, cloud.confidence),
        'trajectory': (np.array([pose.stamp_ns for pose in path], np.int64),
                       np.array([pose.world_from_camera for pose in path]))}
    return {name: _digest(items) for name, items in arrays.items()}


def _digest(arrays: tuple[np.ndarray, ...]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f'{array.dtype.str} {array.shape}'.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
