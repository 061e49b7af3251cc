# SPDX-License-Identifier: Apache-2.0
"""Image messages as numpy arrays; names, results and errors are those of the genuine CvBridge.

That includes what it does not check: a `step` that is no multiple of a pixel shifts the rows, and
one that is too small narrows the image.
"""
from __future__ import annotations

import sys

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from .encodings import DEPTHS, convert, pixel_type

DEPTH_NAMES = {dtype: name for name, dtype in DEPTHS.items()}
MAX_NAMED_CHANNELS = 4


class CvBridgeError(TypeError):
    """An image cannot be converted as asked."""


class CvBridge:
    """Converts between image messages and arrays [height, width] or [height, width, channels]."""

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        """Return numpy's name of an encoding's numbers, and its channels; or CvBridgeError."""
        try:
            return pixel_type(encoding)
        except ValueError as error:
            raise CvBridgeError(error) from error

    def imgmsg_to_cv2(self, img_msg: Image, desired_encoding: str = 'passthrough') -> np.ndarray:
        """Return the pixels of a message; as they are, they share its memory where they can.

        Raises CvBridgeError for an encoding or a conversion that is not known, TypeError for too
        little data.
        """
        name, channels = self.encoding_to_dtype_with_channels(img_msg.encoding)
        dtype = np.dtype(name).newbyteorder('>' if img_msg.is_bigendian else '<')
        shape = img_msg.height, img_msg.step // (dtype.itemsize * channels), channels
        rows = np.ndarray(shape if channels > 1 else shape[:2], dtype, img_msg.data)
        image = np.ascontiguousarray(rows[:, :img_msg.width])
        if bool(img_msg.is_bigendian) != (sys.byteorder == 'big'):
            image = image.astype(dtype.newbyteorder('='))
        return self._convert(image, img_msg.encoding, desired_encoding)

    def compressed_imgmsg_to_cv2(self, cmprs_img_msg: CompressedImage,
                                 desired_encoding: str = 'passthrough') -> np.ndarray | None:
        """Return a decoded image: BGR, BGRA or gray of 8 or 16 bits, None where OpenCV fails.

        A conversion takes it for bgr8, whatever it is. A noted orientation is not applied. Raises
        CvBridgeError for a conversion that fails.
        """
        image = cv2.imdecode(np.frombuffer(cmprs_img_msg.data, np.uint8)[None],
                             cv2.IMREAD_UNCHANGED)
        return self._convert(image, 'bgr8', desired_encoding)

    def cv2_to_imgmsg(self, cvim: np.ndarray, encoding: str = 'passthrough',
                      header: Header | None = None) -> Image:
        """Return an array as a message; `passthrough` names the array's own type, as in 8UC3.

        Raises CvBridgeError for an encoding of another type, KeyError for a type that OpenCV has
        no name for, TypeError for what is no array.
        """
        if not isinstance(cvim, np.ndarray | np.generic):
            raise TypeError(f'cvim: expected a numpy array, got {type(cvim)}')
        channels = cvim.shape[2] if cvim.ndim > 2 else 1
        own = f'{DEPTH_NAMES[cvim.dtype.name]}C{channels}'
        if encoding == 'passthrough':
            encoding = own
        else:
            dtype, wanted = self.encoding_to_dtype_with_channels(encoding)
            if wanted > MAX_NAMED_CHANNELS:
                raise KeyError(encoding)
            if (dtype, wanted) != (cvim.dtype.name, channels):
                raise CvBridgeError(f'encoding: expected one of the type {own}, got {encoding}')
        message = Image(height=cvim.shape[0], width=cvim.shape[1], encoding=encoding,
                        is_bigendian=cvim.dtype.byteorder == '>')
        if header is not None:
            message.header = header
        message.data.frombytes(cvim.tobytes())
        message.step = len(message.data) // message.height
        return message

    @staticmethod
    def _convert(image: np.ndarray | None, source: str, target: str) -> np.ndarray | None:
        if target == 'passthrough':
            return image
        try:
            return convert(image, source, target)
        except (ValueError, cv2.error) as error:
            raise CvBridgeError(error) from error
