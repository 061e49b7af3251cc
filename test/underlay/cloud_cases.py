# SPDX-License-Identifier: Apache-2.0
"""What the tests ask of sensor_msgs_py."""
from __future__ import annotations

from array import array
from functools import partial

import numpy as np
from recordings import Arrays, Cases
from sensor_msgs.msg import PointCloud2, PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header


def field(name: str, offset: int, datatype: int = PointField.FLOAT32,
          count: int = 1) -> PointField:
    return PointField(name=name, offset=offset, datatype=datatype, count=count)


XYZ = [field(name, 4 * index) for index, name in enumerate('xyz')]
MIXED = [field('x', 0), field('', 4, PointField.UINT8), field('n', 5, PointField.INT16, 2),
         field('t', 9, PointField.FLOAT64)]
PADDED = [field('x', 4), field('y', 12, PointField.INT32)]


def mixed_points(shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype([('x', 'f4'), ('unnamed_field_1', 'u1'), ('n_0', 'i2'), ('n_1', 'i2'),
                      ('t', 'f8')])
    points, numbers = np.zeros(shape, dtype), np.arange(np.prod(shape)).reshape(shape)
    for factor, name in enumerate(dtype.names, 1):
        points[name] = factor * numbers
    return points


def described(cloud: PointCloud2) -> Arrays:
    """Return a cloud's members; of its bytes those that belong to a field."""
    dtype = point_cloud2.dtype_from_fields(cloud.fields, cloud.point_step)
    points = np.frombuffer(cloud.data, dtype)
    sizes = [cloud.height, cloud.width, cloud.point_step, cloud.row_step]
    return {'sizes': np.array(sizes), 'flags': np.array([cloud.is_bigendian, cloud.is_dense]),
            'frame': np.array(cloud.header.frame_id),
            **{name: points[name] for name in dtype.names}}


def columns(points: np.ndarray) -> Arrays:
    return {'shape': np.array(points.shape), **{name: points[name] for name in points.dtype.names}}


def layout(fields: list[PointField], point_step: int | None = None) -> Arrays:
    dtype = point_cloud2.dtype_from_fields(fields, point_step)
    return {'names': np.array(dtype.names), 'itemsize': np.array(dtype.itemsize),
            'formats': np.array([dtype[name].str for name in dtype.names]),
            'offsets': np.array([dtype.fields[name][1] for name in dtype.names])}


def created(fields: list[PointField], points: object, point_step: int | None = None) -> Arrays:
    return described(point_cloud2.create_cloud(Header(frame_id='map'), fields, points, point_step))


def sample_cloud(big_endian: bool = False, is_dense: bool = False) -> PointCloud2:
    """Return a cloud of 3 columns and 2 rows with two NaNs."""
    points = np.arange(18, dtype='>f4' if big_endian else '<f4').reshape(6, 3) / 4
    points[1, 0] = points[4, 2] = np.nan
    return PointCloud2(height=2, width=3, fields=XYZ, point_step=12, row_step=36,
                       is_bigendian=big_endian, is_dense=is_dense,
                       data=array('B', points.tobytes()))


def read(big_endian: bool = False, is_dense: bool = False, **options: object) -> Arrays:
    return columns(point_cloud2.read_points(sample_cloud(big_endian, is_dense), **options))


def read_plain(**options: object) -> Arrays:
    return {'points': point_cloud2.read_points_numpy(sample_cloud(), **options)}


def read_mixed(**options: object) -> Arrays:
    cloud = point_cloud2.create_cloud(Header(), MIXED, mixed_points((4,)))
    return {'points': point_cloud2.read_points_numpy(cloud, **options)}


def cloud_cases() -> Cases:
    plain = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    rows = [(1, 2, 3), [4.5, 5, 6]]
    every = [field(f'f{kind}', 8 * kind, kind) for kind in range(1, 9)]
    twice, none = [field('x', 0), field('x', 4)], [field('x', 0, count=0)]
    return {
        'layout, xyz': partial(layout, XYZ), 'layout, padded': partial(layout, PADDED, 20),
        'layout, mixed': partial(layout, MIXED), 'layout, every type': partial(layout, every),
        'layout, a name twice': partial(layout, twice),
        'layout, no element': partial(layout, none),
        'layout, unknown type': partial(layout, [field('x', 0, 9)]),
        'layout, step too small': partial(layout, XYZ, 8),
        'create, row of structures': partial(created, MIXED, mixed_points((5,))),
        'create, table of structures': partial(created, MIXED, mixed_points((3, 2))),
        'create, no structure': partial(created, MIXED, mixed_points((0,))),
        'create, table of none': partial(created, MIXED, mixed_points((0, 1))),
        'create, box of structures': partial(created, MIXED, mixed_points((2, 2, 2))),
        'create, not contiguous': partial(created, MIXED, mixed_points((6,))[::2]),
        'create, other structure': partial(created, XYZ, mixed_points((3,))),
        'create, plain row': partial(created, XYZ, plain[0]),
        'create, plain table': partial(created, XYZ, plain),
        'create, plain of other type': partial(created, XYZ, plain.astype(np.int64)),
        'create, plain every second': partial(created, XYZ, plain[:, ::2]),
        'create, plain of two types': partial(created, PADDED, plain[0, :, :2]),
        'create, plain of too many': partial(created, XYZ[:2], plain[0]),
        'create, tuples': partial(created, XYZ, rows),
        'create, nothing': partial(created, XYZ, []),
        'create, padded tuples': partial(created, PADDED, [(1.5, 2), (3, -4)], 20),
        'create, tuples too short': partial(created, XYZ, [(1, 2)]),
        'read, all': read, 'read, big-endian': partial(read, True),
        'read, two': partial(read, field_names=('z', 'x')),
        'read, missing': partial(read, field_names=['w']),
        'read, without NaN': partial(read, skip_nans=True),
        'read, without NaN in x': partial(read, field_names=['x', 'y'], skip_nans=True),
        'read, dense with NaN': partial(read, is_dense=True, skip_nans=True),
        'read, chosen': partial(read, uvs=[5, 0]),
        'read, chosen of the rest': partial(read, uvs=np.array([3, 1]), skip_nans=True),
        'read, chosen beyond': partial(read, uvs=[6]),
        'read, organised': partial(read, reshape_organized_cloud=True),
        'plain, all': read_plain, 'plain, two': partial(read_plain, field_names=['y', 'z']),
        'plain, organised': partial(read_plain, reshape_organized_cloud=True),
        'plain, mixed': read_mixed, 'plain, one of mixed': partial(read_mixed, field_names=['x']),
    }
