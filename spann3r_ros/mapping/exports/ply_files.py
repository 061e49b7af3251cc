# SPDX-License-Identifier: Apache-2.0
"""Clouds and meshes as binary PLY."""
from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spann3r_ros.mapping.layers.voxel_map import VoxelCloud

POINT = [('x', '<f4'), ('y', '<f4'), ('z', '<f4')]
NORMAL = [('nx', '<f4'), ('ny', '<f4'), ('nz', '<f4')]
COLOR = [('red', 'u1'), ('green', 'u1'), ('blue', 'u1')]
CONFIDENCE = [('confidence', '<f4')]
VERTEX = np.dtype([*POINT, *COLOR, *CONFIDENCE])
ORIENTED_VERTEX = np.dtype([*POINT, *NORMAL, *COLOR, *CONFIDENCE])
MESH_VERTEX = np.dtype([*POINT, *NORMAL, *COLOR])
FACE = np.dtype([('corners', 'u1'), ('vertex_indices', '<i4', 3)])
PLY_TYPES = {'f4': 'float', 'u1': 'uchar'}


def encode_ply(cloud: VoxelCloud, normals: np.ndarray | None = None,
               notes: Sequence[str] = ()) -> bytes:
    """Return a cloud as a binary PLY file: x y z, nx ny nz, red green blue, confidence.

    Without `normals` [n, 3] the file has none. Each of `notes` becomes a comment.
    """
    vertices = np.empty(len(cloud), VERTEX if normals is None else ORIENTED_VERTEX)
    _fill(vertices, POINT, cloud.points)
    _fill(vertices, COLOR, cloud.colors)
    vertices['confidence'] = cloud.confidence
    if normals is not None:
        _fill(vertices, NORMAL, normals)
    return _header(vertices, notes) + vertices.tobytes()


def encode_mesh(points: np.ndarray, normals: np.ndarray, colors: np.ndarray, faces: np.ndarray,
                notes: Sequence[str] = ()) -> bytes:
    """Return triangles as a binary PLY file: points, normals, colours [n, 3], faces int [m, 3]."""
    vertices, corners = np.empty(len(points), MESH_VERTEX), np.empty(len(faces), FACE)
    for fields, values in ((POINT, points), (NORMAL, normals), (COLOR, colors)):
        _fill(vertices, fields, values)
    corners['corners'], corners['vertex_indices'] = 3, faces
    return _header(vertices, notes, len(faces)) + vertices.tobytes() + corners.tobytes()


def read_ply(path: Path | str) -> VoxelCloud:
    """Return the cloud of a file of `encode_ply`; raise ValueError with the file and its fault."""
    content = Path(path).read_bytes()
    header, end, body = content.partition(b'end_header\n')
    count = re.search(rb'^element vertex (\d+)$', header, re.MULTILINE)
    described = b''.join(line for line in (header + end).splitlines(keepends=True)
                         if not line.startswith(b'comment '))
    kinds = [kind for kind in (VERTEX, ORIENTED_VERTEX) if count is not None
             and described == _header(np.empty(0, kind), count=int(count[1]))]
    if not kinds:
        raise ValueError(f'{path}: expected a PLY header as written by this package')
    size = int(count[1]) * kinds[0].itemsize
    if len(body) != size:
        raise ValueError(f'{path}: expected {size} bytes of vertices, got {len(body)}')
    vertices = np.frombuffer(body, kinds[0])
    points, colors = (np.stack([vertices[name] for name, _ in fields], axis=1)
                      for fields in (POINT, COLOR))
    return VoxelCloud(points, colors, vertices['confidence'].copy())


def _fill(vertices: np.ndarray, fields: Sequence[tuple[str, str]], values: np.ndarray) -> None:
    for column, (name, _) in enumerate(fields):
        vertices[name] = values[:, column]


def _header(vertices: np.ndarray, notes: Sequence[str] = (), faces: int | None = None,
            count: int | None = None) -> bytes:
    """Return the header for vertices, or for `count` of their type."""
    kind = vertices.dtype
    lines = ['ply', 'format binary_little_endian 1.0', *(f'comment {note}' for note in notes),
             f'element vertex {len(vertices) if count is None else count}',
             *(f'property {PLY_TYPES[kind[name].str[1:]]} {name}' for name in kind.names)]
    if faces is not None:
        lines += [f'element face {faces}', 'property list uchar int vertex_indices']
    return ('\n'.join([*lines, 'end_header']) + '\n').encode()
