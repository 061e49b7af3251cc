# SPDX-License-Identifier: Apache-2.0
"""Image messages to RGB arrays: raw ones of 8 bits by cv_bridge, the others by core's encodings.

Both give the same values, so a replay without ROS gives the same map. cv_bridge is not used for 16
bits, because it rounds values and core truncates them. It is not used for compressed images,
because it applies the rotation in the EXIF data and accepts truncated files.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from spann3r_ros.core import encodings
from spann3r_ros.core.types import UnsupportedImageError
from spann3r_ros.ros.bridge import load_cv_bridge

_cv_bridge = load_cv_bridge()
BRIDGE, CvBridgeError = _cv_bridge.CvBridge(), _cv_bridge.CvBridgeError
# Most different encodings that are counted by name.
MAX_COUNTED = 100


class CountingDecoder:
    """Decodes the images of an active node; the error of an unknown encoding has its count."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._decode = encodings.ImageDecoder(warn, to_rgb)
        self._refused: Counter[str] = Counter()

    def __call__(self, message: Image | CompressedImage) -> np.ndarray:
        """Return uint8 [height, width, 3]; raise as `to_rgb`."""
        try:
            return self._decode(message)
        except UnsupportedImageError as error:
            is_known = error.name in self._refused or len(self._refused) < MAX_COUNTED
            name = error.name if is_known else 'others'
            self._refused[name] += 1
            raise UnsupportedImageError(
                error.name, f'{error}; images of {name} refused so far: {self._refused[name]}'
            ) from error


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """Return uint8 [height, width, 3]; it may share the message's memory.

    Raises UnsupportedImageError for an encoding or file format that is not read, FrameError for
    an image that is malformed.
    """
    if isinstance(message, CompressedImage):
        return encodings.to_rgb(message)
    encoding, step = encodings.check_raw(message)
    # cv_bridge shifts the rows if their step is not a whole number of pixels, and takes all rows
    # for pixels.
    if (encoding.bits == 8 and encoding.stored_rows == 2 and step == message.step
            and step % encoding.channels == 0):
        try:
            return BRIDGE.imgmsg_to_cv2(
                message, 'passthrough' if message.encoding == 'rgb8' else 'rgb8')
        except CvBridgeError:
            pass  # an encoding that only core supports
    return encodings.to_rgb(message)
