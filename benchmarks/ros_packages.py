# SPDX-License-Identifier: Apache-2.0
"""What sensor_msgs_py, cv_bridge and tf_transformations cost beside conversions without them.

Run by `make bench-packages`. Both ways of a row take the same input and must give the same result;
they are timed in turn, in one process. The stand-ins of underlay/ are measured where they are
what Python imports, which the output says.
"""
from __future__ import annotations

import argparse
import statistics
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import cv2
import cv_bridge
import numpy as np
import sensor_msgs_py
import tf_transformations
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from spann3r_ros.core.encodings import to_rgb
from spann3r_ros.core.transforms import matrix_to_quaternion, quaternion_to_matrix
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.ros.conversions import FIELDS, POINT, to_cloud, to_float_image

HEIGHT, WIDTH = 480, 640
HEADER = Header(frame_id='map')
BRIDGE = cv_bridge.CvBridge()


@dataclass(frozen=True)
class Row:
    """Two ways to the same result; `tolerance` is in levels of an image."""

    label: str
    own: Callable[[], object]
    package: Callable[[], object]
    tolerance: float = 0.0


def plain_cloud(points: np.ndarray, colors: np.ndarray, confidence: np.ndarray) -> PointCloud2:
    """Return what `to_cloud` does, without sensor_msgs_py."""
    height, width = confidence.shape
    cloud = np.empty((height, width), POINT)
    cloud['x'], cloud['y'], cloud['z'] = points[..., 0], points[..., 1], points[..., 2]
    packed = np.zeros((height, width, 4), np.uint8)
    packed[..., :3] = colors[..., ::-1]
    cloud['rgb'], cloud['confidence'] = packed.view('<f4')[..., 0], confidence
    return PointCloud2(header=HEADER, height=height, width=width, fields=FIELDS,
                       is_bigendian=False, point_step=POINT.itemsize,
                       row_step=width * POINT.itemsize, data=payload(cloud),
                       is_dense=bool(np.isfinite(points).all()))


def plain_float_image(values: np.ndarray) -> Image:
    """Return what `to_float_image` does, without cv_bridge."""
    height, width = values.shape
    return Image(header=HEADER, height=height, width=width, encoding='32FC1', is_bigendian=0,
                 step=4 * width, data=payload(values))


def payload(values: np.ndarray) -> array:
    """Return the bytes of an array in the form that rclpy's setters take as it is."""
    made = array('B')
    made.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    return made


def cloud_row(count: int) -> Row:
    """Return the row of an unordered cloud."""
    draw = np.random.default_rng(0)
    points = draw.normal(size=(1, count, 3)).astype(np.float32)
    colors = draw.integers(0, 256, (1, count, 3), np.uint8)
    confidence = draw.random((1, count), np.float32)
    return Row(f'cloud of {count:,} points, out', lambda: plain_cloud(
        points, colors, confidence), lambda: to_cloud(points, colors, confidence, HEADER))


def image_rows() -> Iterator[Row]:
    """Yield the rows of images: those that come in, then those that go out."""
    draw = np.random.default_rng(0)
    for encoding, channels, bits in (('rgb8', 3, 8), ('bgr8', 3, 8), ('bayer_rggb8', 1, 8),
                                     ('rgb16', 3, 16)):
        pixels = draw.integers(0, 2**bits, (HEIGHT, WIDTH, channels), f'u{bits // 8}')
        message = Image(height=HEIGHT, width=WIDTH, encoding=encoding,
                        step=WIDTH * channels * bits // 8, data=array('B', pixels.tobytes()))
        target = 'passthrough' if encoding == 'rgb8' else 'rgb8'
        # cv_bridge rounds 16 bits to 8, the package cuts them.
        yield Row(f'{encoding} image, in', lambda message=message: to_rgb(message),
                  lambda message=message, target=target: BRIDGE.imgmsg_to_cv2(message, target),
                  tolerance=float(bits == 16))
    smooth = cv2.resize(draw.integers(0, 256, (12, 16, 3), np.uint8), (WIDTH, HEIGHT))
    jpeg = CompressedImage(
        format='jpeg', data=array('B', cv2.imencode('.jpg', smooth)[1].tobytes()))
    yield Row('JPEG image, in', lambda: to_rgb(jpeg), lambda: cv2.cvtColor(
        BRIDGE.compressed_imgmsg_to_cv2(jpeg), cv2.COLOR_BGR2RGB))
    depth = draw.random((HEIGHT, WIDTH), np.float32)
    yield Row('32FC1 image, out', lambda: plain_float_image(depth),
              lambda: to_float_image(depth, HEADER))


def rotation_rows() -> Iterator[Row]:
    """Yield the rows of one rotation."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix()
    quaternion = matrix_to_quaternion(matrix[:3, :3])
    yield Row('quaternion of a matrix', lambda: matrix_to_quaternion(matrix[:3, :3]),
              lambda: tf_transformations.quaternion_from_matrix(matrix), tolerance=1e-12)
    yield Row('matrix of a quaternion', lambda: quaternion_to_matrix(quaternion),
              lambda: tf_transformations.quaternion_matrix(quaternion)[:3, :3], tolerance=1e-12)


def compare(row: Row) -> None:
    """Raise AssertionError unless both ways of a row give the same."""
    own, package = row.own(), row.package()
    if isinstance(own, Image | PointCloud2):
        assert own == package, f'{row.label}: the messages differ'
    else:
        distance = np.abs(np.asarray(own, float) - np.asarray(package, float)).max()
        assert distance <= row.tolerance, f'{row.label}: the results differ by {distance}'


def measure(row: Row, seconds: float) -> tuple[float, float]:
    """Return the median milliseconds of both ways, called in turn for so many seconds."""
    compare(row)
    laps: tuple[list[float], list[float]] = [], []
    end = time.perf_counter() + seconds
    while not laps[1] or time.perf_counter() < end:
        for action, times in zip((row.own, row.package), laps, strict=True):
            began = time.perf_counter()
            action()
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(laps[0]), 1e3 * statistics.median(laps[1])


def rows(counts: tuple[int, ...] = (50_000, 500_000)) -> list[Row]:
    """Return all rows, with clouds of these numbers of points."""
    return [*map(cloud_row, counts), *image_rows(), *rotation_rows()]


def origin(module: ModuleType) -> str:
    """Return whose a package is."""
    return 'stand-in' if 'stand-in' in (module.__doc__ or '').lower() else 'genuine'


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seconds', type=float, default=2.0, help='for each row')
    seconds = parser.parse_args().seconds
    for module in (sensor_msgs_py, cv_bridge, tf_transformations):
        print(f'{module.__name__}: {origin(module)}')
    print(f'numpy {np.__version__}, OpenCV {cv2.__version__}\n')
    table = []
    for row in rows():
        own, package = measure(row, seconds)
        table.append([row.label, f'{own:.3f}', f'{package:.3f}', f'{package / own:.2f}'])
    print(format_table(['median ms', 'own', 'package', 'ratio'], table))


if __name__ == '__main__':
    main()
