# SPDX-License-Identifier: Apache-2.0
"""Everything that a mapper needs to continue a map later, as one file."""
from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import Pointmap, StampedPose
from spann3r_ros.mapping.layers.voxel_map import VoxelRows
from spann3r_ros.mapping.scale.map_scale import Scale

FORMAT = 1
INTRINSICS = ('fx', 'fy', 'cx', 'cy', 'width', 'height')


@dataclass(frozen=True)
class SavedMap:
    """A map and the mapper's state.

    `anchor` is the keyframe by which a new fragment is placed: the newest one with a pose and
    enough confident points. It is None in a map with known poses. `camera` is its
    frame_id and the height and width of its images.
    """

    voxels: VoxelRows
    trajectory: Sequence[StampedPose]
    anchor: Keyframe | None
    camera: tuple[str, tuple[int, int]]
    intrinsics: Intrinsics
    fragment_id: int
    scale: Scale
    keyframes: int


def encode_saved_map(saved: SavedMap) -> bytes:
    """Return the content of a file that `read_saved_map` reads."""
    about = {
        'format': FORMAT, 'voxel_size': saved.voxels.voxel_size, 'tick': saved.voxels.tick,
        'camera': saved.camera, 'intrinsics': _plain(saved.intrinsics),
        'fragment_id': saved.fragment_id, 'scale': asdict(saved.scale),
        'keyframes': saved.keyframes}
    arrays = {'voxel_keys': saved.voxels.keys, 'voxel_sums': saved.voxels.sums,
              **_path_arrays('path', saved.trajectory)}
    if (anchor := saved.anchor) is not None:
        about['anchor_intrinsics'] = _plain(anchor.intrinsics)
        arrays |= {**_path_arrays('anchor', [anchor.pose]), 'anchor_image': anchor.image,
                   'anchor_points': anchor.pointmap.points,
                   'anchor_confidence': anchor.pointmap.confidence}
    content = io.BytesIO()
    np.savez(content, about=np.array(json.dumps(about)), **arrays)
    return content.getvalue()


def read_saved_map(path: Path | str) -> SavedMap:
    """Read what `encode_saved_map` returned; raise ValueError with the file and its fault."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return _saved_map(json.loads(str(file['about'])), file)
    except (KeyError, TypeError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path}: expected a map that this package saved: '
                         f'{type(error).__name__}: {error}') from error


def _saved_map(about: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> SavedMap:
    if about['format'] != FORMAT:
        raise ValueError(f'expected format {FORMAT}, got {about["format"]}')
    frame_id, (height, width) = about['camera']
    anchor = None
    if 'anchor_intrinsics' in about:
        pose, = _poses('anchor', arrays, frame_id)
        image = arrays['anchor_image']
        pointmap = Pointmap(_of(arrays, 'anchor_points', image.shape),
                            _of(arrays, 'anchor_confidence', image.shape[:2]))
        anchor = Keyframe(pose.stamp_ns, frame_id, pose, image,
                          Intrinsics(**about['anchor_intrinsics']), pointmap,
                          about['fragment_id'])
    voxels = VoxelRows(arrays['voxel_keys'], arrays['voxel_sums'], about['voxel_size'],
                       about['tick'])
    return SavedMap(voxels, _poses('path', arrays, frame_id), anchor, (frame_id, (height, width)),
                    Intrinsics(**about['intrinsics']), about['fragment_id'],
                    Scale(**about['scale']), about['keyframes'])


def _path_arrays(name: str, poses: Sequence[StampedPose]) -> dict[str, np.ndarray]:
    unknown = np.full((6, 6), np.nan)
    return {
        f'{name}_stamps': np.array([pose.stamp_ns for pose in poses], np.int64),
        f'{name}_poses': np.array([pose.world_from_camera for pose in poses]).reshape(-1, 4, 4),
        f'{name}_covariances': np.array([
            unknown if pose.covariance is None else pose.covariance for pose in poses
        ]).reshape(-1, 6, 6)}


def _poses(name: str, arrays: Mapping[str, np.ndarray], frame_id: str) -> list[StampedPose]:
    stamps = arrays[f'{name}_stamps']
    transforms = _of(arrays, f'{name}_poses', (len(stamps), 4, 4))
    covariances = _of(arrays, f'{name}_covariances', (len(stamps), 6, 6))
    return [StampedPose(int(stamp), frame_id, transform,
                        None if np.isnan(covariance).any() else covariance)
            for stamp, transform, covariance in zip(stamps, transforms, covariances, strict=True)]


def _of(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = arrays[name]
    if array.shape != shape:
        raise ValueError(f'{name}: expected shape {shape}, got {array.shape}')
    return array


def _plain(intrinsics: Intrinsics) -> dict[str, float]:
    return {name: getattr(intrinsics, name) for name in INTRINSICS}
