# SPDX-License-Identifier: Apache-2.0
"""Contents of ROS messages, for messages from ROS and from a bag read without ROS.

A message is any object with the fields of the ROS type that the function names.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .camera import Distortion, Intrinsics
from .types import FrameError

SECOND_NS = 10**9
# Other names of the distortion models of CameraInfo: OpenCV's name of its fisheye model.
MODEL_NAMES = {'fisheye': 'equidistant'}
# An image of a recording is processed after all other messages recorded up to this much later.
LEAD_NS = SECOND_NS
# Focal lengths over the longer side of the sensor: far below a fisheye's, far above a telephoto's.
LEAST_FOCAL, GREATEST_FOCAL = 0.05, 100.0


class Stamp(Protocol):
    """The fields of builtin_interfaces/Time."""

    sec: int
    nanosec: int


class Region(Protocol):
    """The fields of sensor_msgs/RegionOfInterest that are read."""

    x_offset: int
    y_offset: int
    width: int
    height: int


class CameraInfo(Protocol):
    """The fields of sensor_msgs/CameraInfo that are read."""

    width: int
    height: int
    distortion_model: str
    d: Sequence[float]
    k: Sequence[float]
    p: Sequence[float]
    binning_x: int
    binning_y: int
    roi: Region


def to_nanoseconds(stamp: Stamp) -> int:
    """Return a stamp in nanoseconds; raise FrameError if it is negative or out of range."""
    if stamp.sec < 0 or stamp.nanosec >= SECOND_NS:
        raise FrameError(f'stamp: expected sec >= 0 and nanosec < {SECOND_NS}, '
                         f'got {stamp.sec} and {stamp.nanosec}')
    return stamp.sec * SECOND_NS + stamp.nanosec


def set_stamp(message: Any, stamp_ns: int) -> None:  # noqa: ANN401
    """Write a stamp in nanoseconds into a message with a header."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, SECOND_NS)


def to_intrinsics(info: CameraInfo, rectified: bool = False) -> Intrinsics | None:
    """Return the calibration of a CameraInfo's image; None for an uncalibrated camera (K[0] = 0).

    K and D are those of the raw image, P is that of the `rectified` one. They belong to the whole
    sensor, and the image is its region of interest, binned; the result belongs to the image. A
    rectified image shows the same region, as image_proc makes it. Raises FrameError for a matrix
    of other numbers, and for a region that is not on the sensor.
    """
    matrix = np.asarray(info.p).reshape(3, 4) if rectified else np.asarray(info.k).reshape(3, 3)
    fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    if fx == 0.0:
        return None
    if not (np.isfinite([fx, fy, cx, cy]).all() and fx > 0.0 and fy > 0.0):
        raise FrameError(f'camera_info: expected finite numbers and focal lengths above 0 in '
                         f'{"P" if rectified else "K"}, got fx {fx}, fy {fy}, cx {cx}, cy {cy}')
    coefficients = tuple(float(value) for value in info.d)
    if not rectified and not np.isfinite(coefficients).all():
        raise FrameError(f'camera_info: expected finite numbers in D, got {coefficients}')
    distortion = None
    if not rectified and any(value != 0.0 for value in coefficients):
        distortion = Distortion(MODEL_NAMES.get(info.distortion_model, info.distortion_model),
                                coefficients)
    left, top, width, height = _region(info)
    longer = max(int(info.width), int(info.height))
    if longer and not all(LEAST_FOCAL * longer <= one <= GREATEST_FOCAL * longer
                          for one in (fx, fy)):
        raise FrameError(f'camera_info: expected focal lengths of {LEAST_FOCAL:g} to '
                         f'{GREATEST_FOCAL:g} times the longer side of {longer} pixels, '
                         f'got {fx} and {fy}')
    across, down = max(1, int(info.binning_x)), max(1, int(info.binning_y))
    # The centre of a pixel of the image is the centre of the pixels that were binned into it.
    return Intrinsics(fx / across, fy / down, (cx - left + 0.5) / across - 0.5,
                      (cy - top + 0.5) / down - 0.5, width // across, height // down, distortion)


def _region(info: CameraInfo) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the image on the sensor, in pixels of the sensor."""
    roi, whole = info.roi, (int(info.width), int(info.height))
    left, top, width, height = map(int, (roi.x_offset, roi.y_offset, roi.width, roi.height))
    if not (left or top or width or height):
        return 0, 0, *whole
    if not (width and height and left + width <= whole[0] and top + height <= whole[1]):
        raise FrameError(f'camera_info: expected a region of interest within {whole[0]}x'
                         f'{whole[1]} pixels, got {width}x{height} at ({left}, {top})')
    return left, top, width, height
