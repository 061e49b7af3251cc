# SPDX-License-Identifier: Apache-2.0
"""Point clouds as numpy arrays, for machines that lack the genuine sensor_msgs_py.

Names, results and errors are those of the genuine module of ROS 2 Jazzy. An organised cloud is an
array [width, height] there: the first axis counts columns, although the points lie row by row.
"""
from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured, unstructured_to_structured
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

NUMBERS = {
    PointField.INT8: 'i1', PointField.UINT8: 'u1',
    PointField.INT16: 'i2', PointField.UINT16: 'u2',
    PointField.INT32: 'i4', PointField.UINT32: 'u4',
    PointField.FLOAT32: 'f4', PointField.FLOAT64: 'f8',
}
NATIVE_IS_BIG = sys.byteorder == 'big'


def dtype_from_fields(fields: Iterable[PointField], point_step: int | None = None) -> np.dtype:
    """Return the structured dtype of fields; one of several elements becomes NAME_0, NAME_1 ...

    A field without a name is called unnamed_field_INDEX. Raises AssertionError for a name that
    occurs twice and for a field of no elements.
    """
    columns: dict[str, tuple[str, int]] = {}
    for index, field in enumerate(fields):
        number, name = NUMBERS[field.datatype], field.name or f'unnamed_field_{index}'
        assert field.count > 0, f'count of {name}: expected at least 1, got 0'
        for element in range(field.count):
            column = f'{name}_{element}' if field.count > 1 else name
            assert column not in columns, f'fields: expected different names, got {column} twice'
            columns[column] = number, field.offset + element * np.dtype(number).itemsize
    layout = {'names': list(columns), 'formats': [number for number, _ in columns.values()],
              'offsets': [offset for _, offset in columns.values()]}
    if point_step is not None:
        layout['itemsize'] = point_step
    return np.dtype(layout)


def create_cloud(header: Header, fields: Iterable[PointField], points: np.ndarray | Iterable,
                 point_step: int | None = None) -> PointCloud2:
    """Return a cloud of points: a structured array, a plain array [..., field], or tuples.

    One axis makes an unordered cloud, two make an organised one [width, height]. Raises
    AssertionError for a dtype that is not that of the fields, TypeError for a structured array
    that is not contiguous. `is_dense` is always false.
    """
    dtype = dtype_from_fields(fields, point_step)
    if not isinstance(points, np.ndarray):
        points = np.array([tuple(point) for point in points], dtype)
    elif points.dtype.names is None:
        types = {field.datatype for field in fields}
        assert len(types) == 1, f'fields: expected one type for a plain array, got {types}'
        points = unstructured_to_structured(points, dtype)
    else:
        assert points.dtype == dtype, f'points: expected the type {dtype}, got {points.dtype}'
    assert points.ndim <= 2, f'points: expected at most two axes, got {points.ndim}'
    data = array('B')
    data.frombytes(memoryview(points).cast('B'))
    width, height = (*points.shape, 1)[:2]
    cloud = PointCloud2(
        header=header, height=height, width=width, fields=fields, is_bigendian=NATIVE_IS_BIG,
        is_dense=False, point_step=points.itemsize, row_step=points.itemsize * width)
    cloud.data = data
    return cloud


def read_points(cloud: PointCloud2, field_names: Iterable[str] | None = None,
                skip_nans: bool = False, uvs: Iterable[int] | None = None,
                reshape_organized_cloud: bool = False) -> np.ndarray:
    """Return a cloud's points as a structured array, which may share the message's memory.

    `field_names` chooses fields, `uvs` points by their index; `skip_nans` leaves out points with
    a NaN unless the cloud is dense. Raises AssertionError for a field that the cloud lacks.
    """
    assert isinstance(cloud, PointCloud2), f'cloud: expected a PointCloud2, got {type(cloud)}'
    points = np.ndarray(cloud.width * cloud.height,
                        dtype_from_fields(cloud.fields, cloud.point_step), cloud.data)
    if field_names is not None:
        names = list(field_names)
        missing = set(names) - set(points.dtype.names)
        assert not missing, f'field_names: expected some of {points.dtype.names}, got {missing}'
        points = points[names]
    if bool(cloud.is_bigendian) != NATIVE_IS_BIG:
        points = points.byteswap()
    if skip_nans and not cloud.is_dense:
        points = points[~np.any([np.isnan(points[name]) for name in points.dtype.names], axis=0)]
    if uvs is not None:
        points = points[uvs if isinstance(uvs, np.ndarray) else np.fromiter(uvs, int)]
    if reshape_organized_cloud and cloud.height > 1:
        points = points.reshape(cloud.width, cloud.height)
    return points


def read_points_numpy(cloud: PointCloud2, field_names: Iterable[str] | None = None,
                      skip_nans: bool = False, uvs: Iterable[int] | None = None,
                      reshape_organized_cloud: bool = False) -> np.ndarray:
    """Return what `read_points` does as a plain array [..., field].

    Raises AssertionError for fields of different types.
    """
    types = {field.datatype for field in cloud.fields[1:]
             if field_names is None or field.name in field_names}
    assert types <= {cloud.fields[0].datatype}, f'fields: expected one type, got {types}'
    return structured_to_unstructured(
        read_points(cloud, field_names, skip_nans, uvs, reshape_organized_cloud))
