# SPDX-License-Identifier: Apache-2.0
"""Seeded generators of malformed messages."""
from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from itertools import cycle, islice

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from harness import CAMERA, raw_image
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from spann3r_ros.ros.conversions import to_camera_info, to_header, to_stamp

UINT32 = 2**32 - 1
WRONG_ENCODINGS = ('', 'purple8', 'RGB8', 'rgb8 ', '32FC1', '16SC1', '64FC4', 'nv21', 'bayer_8',
                   'rgb8\n', 'ünïcode', 'x' * 65_536)


class MalformedImages:
    """Generates copies of an image, each with one or two faults; a seed gives the same copies."""

    def __init__(self, image: Image, seed: int) -> None:
        self._image = image
        self._draw = random.Random(seed)
        self._ways: tuple[Callable[[Image], None], ...] = (
            self._spoil_size, self._spoil_step, self._spoil_encoding, self._spoil_length,
            self._spoil_stamp, self._spoil_floats)

    def take(self, count: int, stamp_ns: int) -> Iterator[Image]:
        """Yield `count` messages of one stamp, every way to be wrong in turn."""
        for way in islice(cycle(self._ways), count):
            image = deepcopy(self._image)
            image.header.stamp = to_stamp(stamp_ns)
            image.header.frame_id = self._draw.choice(('camera_optical', '', '/', 'a' * 5000))
            if self._draw.random() < 0.3:
                self._spoil_stamp(image)
            way(image)
            yield image

    def _spoil_size(self, image: Image) -> None:
        height, width = self._draw.choice((
            (0, 0), (0, image.width), (image.height, 0), (UINT32, UINT32), (UINT32, 1),
            (1, UINT32), (image.height + self._draw.randint(1, 999), image.width),
            (image.height, image.width + self._draw.randint(1, 999)), (2**16, 2**16)))
        image.height, image.width = height, width

    def _spoil_step(self, image: Image) -> None:
        steps = (1, image.step - 1, image.step + 1, UINT32, self._draw.randint(2, UINT32))
        image.step = self._draw.choice(steps)

    def _spoil_encoding(self, image: Image) -> None:
        image.encoding = self._draw.choice(WRONG_ENCODINGS)

    def _spoil_length(self, image: Image) -> None:
        data = image.data.tobytes()
        cut = self._draw.randrange(len(data))
        image.data = self._draw.choice((b'', data[:cut], data + data[:cut + 1]))

    def _spoil_stamp(self, image: Image) -> None:
        image.header.stamp = self._draw.choice((
            Time(sec=-1), Time(sec=-2**31), Time(nanosec=10**9), Time(sec=5, nanosec=UINT32)))

    def _spoil_floats(self, image: Image) -> None:
        value = self._draw.choice((np.nan, np.inf, -np.inf, 0.0, 1e38))
        image.encoding = self._draw.choice(('32FC1', '32FC3', '64FC1'))
        image.data = np.full(image.height * image.width, value, np.float32).tobytes()
        image.step = 4 * image.width


class MalformedFiles:
    """Generates compressed images without a picture, or with one that must not be decoded."""

    def __init__(self, rgb: np.ndarray, seed: int) -> None:
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        self._jpeg = cv2.imencode('.jpg', bgr)[1].tobytes()
        self._png = cv2.imencode('.png', bgr)[1].tobytes()
        self._header = raw_image(rgb, 0).header
        self._draw = random.Random(seed)
        self._ways: tuple[Callable[[], bytes], ...] = (
            self._cut, self._noise, self._bomb_jpeg, self._bomb_png, self._foreign)

    def take(self, count: int, stamp_ns: int) -> Iterator[CompressedImage]:
        """Yield `count` messages of one stamp, every way to be wrong in turn."""
        self._header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        for way in islice(cycle(self._ways), count):
            yield CompressedImage(header=self._header, data=way(), format=self._draw.choice(
                ('jpeg', 'png', '', 'rgb8; jpeg compressed bgr8', 'x' * 5000)))

    def _cut(self) -> bytes:
        data = self._draw.choice((self._jpeg, self._png))
        return data[:self._draw.randrange(len(data) - 1)]

    def _noise(self) -> bytes:
        magic = self._draw.choice((self._jpeg[:3], self._png[:8], b''))
        # Without a byte 0xFF behind the magic no noise can hold a JPEG's end.
        return magic + bytes(self._draw.randrange(255) for _ in range(self._draw.randrange(999)))

    def _bomb_jpeg(self) -> bytes:
        data = bytearray(self._jpeg)
        at = data.find(b'\xff\xc0')
        data[at + 5:at + 9] = struct.pack('>HH', 65_500, self._draw.randint(60_000, 65_500))
        return bytes(data)

    def _bomb_png(self) -> bytes:
        size = struct.pack('>LL', self._draw.randint(2**16, 2**31), 2**16)
        return self._png[:16] + size + self._png[24:]

    def _foreign(self) -> bytes:
        magic = self._draw.choice((b'', b'GIF89a', b'BM', b'RIFF\0\0\0\0WEBP', b'%PDF-1.7'))
        return magic + bytes(self._draw.randrange(64))


class MalformedCalibrations:
    """Generates calibrations, each with one fault; a seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        # An image without a calibration gets that of the map; with another one it is refused.
        self._ways: tuple[tuple[Callable[[CameraInfo], None], bool], ...] = (
            (self._spoil_size, False), (self._spoil_numbers, False), (self._spoil_focal, False),
            (self._spoil_region, False), (self._spoil_stamp, False), (self._spoil_scale, False),
            (self._spoil_centre, True), (self._spoil_model, True),
            (self._spoil_count, True), (self._spoil_coefficients, False))

    def take(self, stamps: Iterable[int]) -> Iterator[tuple[CameraInfo, bool]]:
        """Yield one for the image of each stamp, and whether it costs that image."""
        for stamp_ns, (way, costly) in zip(stamps, cycle(self._ways), strict=False):
            info = to_camera_info(CAMERA, to_header(stamp_ns, 'camera_optical'))
            way(info)
            yield info, costly

    def _spoil_size(self, info: CameraInfo) -> None:
        info.width = self._draw.choice((0, 95, 97, UINT32))
        info.height = self._draw.choice((0, 96, UINT32))

    def _spoil_numbers(self, info: CameraInfo) -> None:
        info.k[self._draw.choice((0, 2, 4, 5))] = self._draw.choice((np.nan, np.inf, -np.inf))

    def _spoil_focal(self, info: CameraInfo) -> None:
        info.k[self._draw.choice((0, 4))] = self._draw.choice((-50.0, 0.0))

    def _spoil_scale(self, info: CameraInfo) -> None:
        info.k[self._draw.choice((0, 4))] = self._draw.choice((1e308, 1e-308))

    def _spoil_region(self, info: CameraInfo) -> None:
        info.roi.x_offset, info.roi.width = self._draw.choice(((0, 50), (UINT32, 96), (90, 96)))
        info.binning_x = self._draw.choice((0, 1, 7, UINT32))

    def _spoil_stamp(self, info: CameraInfo) -> None:
        info.header.stamp = Time(sec=self._draw.choice((-1, 0, 2**31 - 1)), nanosec=UINT32)

    def _spoil_centre(self, info: CameraInfo) -> None:
        info.k[self._draw.choice((2, 5))] = self._draw.choice((-50.0, 0.0, 95.0, 1e308, -1e308))

    def _spoil_model(self, info: CameraInfo) -> None:
        info.distortion_model = self._draw.choice(('', 'fisheye', 'plumb bob', 'x' * 999))
        info.d = [0.1] * 5

    def _spoil_count(self, info: CameraInfo) -> None:
        info.d = [0.1] * self._draw.choice((1, 2, 3, 6, 20, 5000))

    def _spoil_coefficients(self, info: CameraInfo) -> None:
        info.d = [0.1] * 5
        info.d[self._draw.randrange(5)] = self._draw.choice((np.nan, np.inf, -np.inf))


def malformed_transforms(truth: TransformStamped, count: int, seed: int
                         ) -> Iterator[TransformStamped]:
    """Yield invalid transforms: with numbers that are not finite, or without frame names."""
    draw = random.Random(seed)
    for index in range(count):
        one = deepcopy(truth)
        if index % 4 == 0:
            setattr(one.transform.translation, draw.choice('xyz'), draw.choice((np.nan, np.inf)))
        elif index % 4 == 1:
            one.transform.rotation.w = draw.choice((np.nan, np.inf, 1e300, -5.0))
        elif index % 4 == 2:
            one.header.stamp.sec = draw.choice((-1, -2**31))
        else:
            frames = draw.choice((('', ''), ('odom', ''), ('', 'base_link'), ('odom', 'odom')))
            one.header.frame_id, one.child_frame_id = frames
        yield one
