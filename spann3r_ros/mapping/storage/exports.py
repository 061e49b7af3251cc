# SPDX-License-Identifier: Apache-2.0
"""Clouds as binary PLY, trajectories as TUM text, grids as PGM and YAML."""
from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from spann3r_ros.core.transforms import matrix_to_quaternion, quaternion_to_matrix
from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.occupancy.occupancy_grid import FREE, OCCUPIED, Grid

VERTEX = np.dtype([
    ('x', '<f4'), ('y', '<f4'), ('z', '<f4'),
    ('red', 'u1'), ('green', 'u1'), ('blue', 'u1'), ('confidence', '<f4'),
])
PLY_TYPES = {'f4': 'float', 'u1': 'uchar'}
NANOSECONDS = 1_000_000_000
# Gray levels of the image of a grid: map_server takes 1 - gray / 255 for the probability of an
# obstacle. Unknown cells are half way. The usual 205 is free unless the threshold is below 0.2.
WHITE, GRAY, BLACK = 254, 127, 0
OCCUPIED_THRESHOLD, FREE_THRESHOLD = 0.65, 0.25


def encode_ply(cloud: VoxelCloud) -> bytes:
    """Return a cloud as a binary PLY file: x y z, red green blue, confidence."""
    vertices = np.empty(len(cloud), VERTEX)
    for column, axis in enumerate('xyz'):
        vertices[axis] = cloud.points[:, column]
    for column, channel in enumerate(('red', 'green', 'blue')):
        vertices[channel] = cloud.colors[:, column]
    vertices['confidence'] = cloud.confidence
    return _ply_header(len(cloud)) + vertices.tobytes()


def read_ply(path: Path | str) -> VoxelCloud:
    """Return the cloud of a file of `encode_ply`; raise ValueError with the file and its fault."""
    content = Path(path).read_bytes()
    header, end, body = content.partition(b'end_header\n')
    count = _vertex_count(header)
    if not end or count is None or header + end != _ply_header(count):
        raise ValueError(f'{path}: expected a PLY header as written by this package')
    if len(body) != count * VERTEX.itemsize:
        raise ValueError(f'{path}: expected {count * VERTEX.itemsize} bytes of vertices, '
                         f'got {len(body)}')
    vertices = np.frombuffer(body, VERTEX)
    return VoxelCloud(
        points=np.stack([vertices[axis] for axis in 'xyz'], axis=1),
        colors=np.stack([vertices[name] for name in ('red', 'green', 'blue')], axis=1),
        confidence=vertices['confidence'].copy(),
    )


def encode_tum(poses: Iterable[StampedPose]) -> bytes:
    """Return poses as a TUM file: stamp (s), x y z, quaternion x y z w in each line.

    The poses keep their order and their stamps. A comment is written where a stamp is not after
    the one before.
    """
    lines, newest_ns = ['# timestamp tx ty tz qx qy qz qw'], -1
    for pose in poses:
        if pose.stamp_ns <= newest_ns:
            lines.append('# the stamps go back here')
        newest_ns = pose.stamp_ns
        quaternion = matrix_to_quaternion(pose.world_from_camera[:3, :3])
        # A position may be far from the origin, as UTM coordinates are.
        numbers = [*(f'{number:.12g}' for number in pose.world_from_camera[:3, 3]),
                   *(f'{number:.9g}' for number in quaternion)]
        stamp = f'{pose.stamp_ns // NANOSECONDS}.{pose.stamp_ns % NANOSECONDS:09d}'
        lines.append(' '.join([stamp, *numbers]))
    return ('\n'.join(lines) + '\n').encode()


def read_tum(path: Path | str, frame_id: str = 'camera') -> list[StampedPose]:
    """Return TUM lines as poses of camera `frame_id`; raise ValueError with the file and line."""
    poses = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith('#'):
            continue
        try:
            # Decimal keeps every nanosecond; a float would round to a fraction of a microsecond.
            stamp_ns = int(Decimal(words[0]) * NANOSECONDS)
            values = np.array(words[1:], float)
            transform = np.eye(4)
            transform[:3, 3], rotation = values[:3], quaternion_to_matrix(values[3:])
            transform[:3, :3] = rotation
        except (ValueError, InvalidOperation, OverflowError) as error:
            raise ValueError(f'{path}:{number}: expected 8 numbers, got {line!r}') from error
        poses.append(StampedPose(stamp_ns, frame_id, transform))
    return poses


def encode_pgm(grid: Grid) -> bytes:
    """Return a grid as a binary PGM image, whose first row has the largest y."""
    gray = np.full(grid.values.shape, GRAY, np.uint8)
    gray[grid.values == FREE], gray[grid.values == OCCUPIED] = WHITE, BLACK
    height, width = gray.shape
    return f'P5\n{width} {height}\n255\n'.encode() + gray[::-1].tobytes()


def encode_grid_yaml(grid: Grid, image: str) -> bytes:
    """Return the description of a grid's image, as map_server of Nav2 reads it."""
    x, y, _ = grid.origin
    return (f'image: {image}\nmode: trinary\nresolution: {np.float32(grid.resolution)!s}\n'
            f'origin: [{x!r}, {y!r}, 0.0]\nnegate: 0\n'
            f'occupied_thresh: {OCCUPIED_THRESHOLD}\nfree_thresh: {FREE_THRESHOLD}\n').encode()


def _ply_header(count: int) -> bytes:
    properties = [
        f'property {PLY_TYPES[VERTEX[name].str[1:]]} {name}' for name in VERTEX.names or ()]
    lines = ['ply', 'format binary_little_endian 1.0', f'element vertex {count}', *properties]
    return ('\n'.join([*lines, 'end_header']) + '\n').encode()


def _vertex_count(header: bytes) -> int | None:
    for line in header.splitlines():
        if line.startswith(b'element vertex ') and line.split()[-1].isdigit():
            return int(line.split()[-1])
    return None

