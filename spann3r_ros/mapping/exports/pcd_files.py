# SPDX-License-Identifier: Apache-2.0
"""Clouds as binary PCD, as PCL and Open3D read them."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spann3r_ros.mapping.layers.voxel_map import VoxelCloud

# `rgb` has blue, green, red and zero in its four bytes; PCL declares it as a float.
FIELDS = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('normal_x', '<f4'),
                   ('normal_y', '<f4'), ('normal_z', '<f4'), ('rgb', '<u4'),
                   ('confidence', '<f4')])


def encode_pcd(cloud: VoxelCloud, normals: np.ndarray, notes: Sequence[str] = ()) -> bytes:
    """Return a cloud and its normals [n, 3] as a binary PCD file; `notes` become comments."""
    rows = np.empty(len(cloud), FIELDS)
    for column, axis in enumerate('xyz'):
        rows[axis], rows[f'normal_{axis}'] = cloud.points[:, column], normals[:, column]
    red, green, blue = cloud.colors.astype(np.uint32).T
    rows['rgb'] = red << 16 | green << 8 | blue
    rows['confidence'] = cloud.confidence
    names, count = FIELDS.names, len(cloud)
    lines = ['# .PCD v0.7 - Point Cloud Data file format', *(f'# {note}' for note in notes),
             'VERSION 0.7', f'FIELDS {" ".join(names)}', f'SIZE {" ".join("4" * len(names))}',
             f'TYPE {" ".join("F" * len(names))}', f'COUNT {" ".join("1" * len(names))}',
             f'WIDTH {count}', 'HEIGHT 1', 'VIEWPOINT 0 0 0 1 0 0 0', f'POINTS {count}',
             'DATA binary']
    return ('\n'.join(lines) + '\n').encode() + rows.tobytes()
