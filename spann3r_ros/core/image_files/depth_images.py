# SPDX-License-Identifier: Apache-2.0
"""Depth images (sensor_msgs/Image) as arrays in metres."""
from __future__ import annotations

from typing import Any

import numpy as np

from spann3r_ros.core.types import FrameError

from .file_headers import check_size, shown

# The type of a pixel, and metres per unit (REP 118); drivers label millimetres as mono16 too.
DEPTH_TYPES = {'16UC1': ('u2', 0.001), 'mono16': ('u2', 0.001), '32FC1': ('f4', 1.0)}


def to_depth(message: Any) -> np.ndarray:  # noqa: ANN401
    """Return float32 [height, width] in metres; 0 or NaN where the depth is not known.

    Raises FrameError for another encoding, and for an image that is malformed.
    """
    if message.encoding not in DEPTH_TYPES:
        raise FrameError(f'depth encoding: expected one of {", ".join(DEPTH_TYPES)}, '
                         f'got {shown(message.encoding)}')
    kind, unit = DEPTH_TYPES[message.encoding]
    height, width = message.height, message.width
    check_size(width, height)
    pixel = np.dtype(kind).newbyteorder('>' if message.is_bigendian else '<')
    step = message.step or width * pixel.itemsize
    if step < width * pixel.itemsize or len(message.data) < step * height:
        raise FrameError(
            f'depth: expected {height} rows of at least {width * pixel.itemsize} bytes, got '
            f'{len(message.data)} bytes and a step of {message.step}')
    rows = np.frombuffer(message.data, np.uint8, step * height).reshape(height, step)
    pixels = np.ascontiguousarray(rows[:, :width * pixel.itemsize]).view(pixel)
    return pixels.astype(np.float32) * np.float32(unit)
