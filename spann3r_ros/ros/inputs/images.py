# SPDX-License-Identifier: Apache-2.0
"""Image messages to RGB arrays: raw ones of 8 bits by cv_bridge, the others by core's encodings.

Both give the same values, so a replay without ROS gives the same map. cv_bridge is not used for 16
bits, because it rounds values and core truncates them. It is not used for compressed images,
because it applies the rotation in the EXIF data and accepts truncated files.
"""
from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from spann3r_ros.core import encodings
from spann3r_ros.ros.bridge import load_cv_bridge

_cv_bridge = load_cv_bridge()
BRIDGE, CvBridgeError = _cv_bridge.CvBridge(), _cv_bridge.CvBridgeError


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """Return uint8 [height, width, 3]; it may share the message's memory.

    Raises FrameError for an image that is malformed or whose encoding is unknown.
    """
    if isinstance(message, CompressedImage):
        return encodings.to_rgb(message)
    encoding = encodings.check_raw(message)
    # cv_bridge shifts the rows if their step is not a whole number of pixels.
    if encoding.bits == 8 and message.step % encoding.channels == 0:
        try:
            return BRIDGE.imgmsg_to_cv2(
                message, 'passthrough' if message.encoding == 'rgb8' else 'rgb8')
        except CvBridgeError:
            pass  # an encoding that only core supports
    return encodings.to_rgb(message)
