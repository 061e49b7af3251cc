# SPDX-License-Identifier: Apache-2.0
"""What the tests ask of cv_bridge."""
from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from itertools import product

import cv2
import numpy as np
from cv_bridge import CvBridge
from recordings import FOLDER, Arrays, Cases
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

# An encoder's files are stored: another version would make other ones.
JPEGS = ('colour.jpg', 'gray.jpg')
TARGETS = ('passthrough', '', 'rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'rgb16', 'bgra16',
           'mono16', 'bayer_rggb8', 'yuv422', 'uyvy', '8UC1', '8UC3', '16UC1', '16SC3', '32FC1',
           '64FC3', 'purple8')
PATTERNS = ('rggb', 'bggr', 'gbrg', 'grbg')
CHANNELS = {
    **{f'{name}{bits}': len(name) for name in ('rgb', 'bgr', 'rgba', 'bgra') for bits in (8, 16)},
    **{f'bayer_{name}{bits}': 1 for name in PATTERNS for bits in (8, 16)},
    'mono8': 1, 'mono16': 1, 'yuv422': 2, 'yuv422_yuy2': 2, 'uyvy': 2, 'yuyv': 2, 'nv21': 2,
    'nv24': 2, '8UC1': 1, '8UC3': 3, '8SC1': 1, '16UC1': 1, '16SC3': 3, '32SC1': 1, '32FC1': 1,
    '32FC3': 3, '64FC1': 1, '8U': 1, '32F': 1, '8UC5': 5, 'purple8': 3, '': 3, 'rgb8 ': 3}
NUMBERS = {'8S': np.int8, '16S': np.int16, '32S': np.int32, '32F': np.float32, '64F': np.float64}
HEIGHT, WIDTH = 4, 6


def numbers_of(encoding: str) -> np.dtype:
    depth = encoding.partition('C')[0]
    return np.dtype(NUMBERS.get(depth, np.uint16 if '16' in encoding else np.uint8))


def pixels(encoding: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return numbers [height, width, channels] that use the whole range of their type."""
    channels, dtype = CHANNELS[encoding], numbers_of(encoding)
    count = np.arange(height * width * channels, dtype=np.int64) * 7919
    if dtype.kind == 'f':
        values = (count % 1000 - 500) / 4.0
        values[:3] = np.nan, np.inf, 3e9
    else:
        limits = np.iinfo(dtype)
        values = count * 65537 % (int(limits.max) - int(limits.min) + 1) + int(limits.min)
    return values.astype(dtype).reshape(height, width, channels)


def image_message(encoding: str, padding: int = 0, big_endian: bool = False,
                  **changes: object) -> Image:
    """Return an image whose rows end with `padding` bytes that do not belong to it."""
    values = pixels(encoding)
    values = values.astype(values.dtype.newbyteorder('>' if big_endian else '<'))
    rows = values.reshape(HEIGHT, -1).view(np.uint8)
    rows = np.hstack([rows, np.full((HEIGHT, padding), 0xAB, np.uint8)])
    message = Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=rows.shape[1],
                    is_bigendian=big_endian, data=array('B', rows.tobytes()))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def viewed(source: str, target: str, **options: object) -> Arrays:
    image = CvBridge().imgmsg_to_cv2(image_message(source, **options), target)
    return {'image': np.ascontiguousarray(image)}


def picture(kind: str) -> bytes:
    """Return a file's content: a stored JPEG, or a PNG, which loses nothing."""
    if kind in JPEGS:
        return (FOLDER / kind).read_bytes()
    gray, bits = kind.startswith('gray'), 16 if '16' in kind else 8
    encoding = f'mono{bits}' if gray else f'rgba{bits}' if 'alpha' in kind else f'rgb{bits}'
    return cv2.imencode('.png', pixels(encoding))[1].tobytes()


def decoded(content: Callable[[], bytes], target: str) -> Arrays:
    message = CompressedImage(format='any', data=array('B', content()))
    image = CvBridge().compressed_imgmsg_to_cv2(message, target)
    return {'none': np.array(True)} if image is None else {'image': image}


def sent(image: object, encoding: str, header: Header | None = None) -> Arrays:
    message = CvBridge().cv2_to_imgmsg(image, encoding, header)
    sizes = [message.height, message.width, message.step, message.is_bigendian]
    return {'sizes': np.array(sizes), 'encoding': np.array(message.encoding),
            'frame': np.array(message.header.frame_id),
            'data': np.frombuffer(message.data, np.uint8)}


def image_cases() -> Cases:
    cases: Cases = {f'{source!r} to {target!r}': partial(viewed, source, target)
                    for source, target in product(CHANNELS, TARGETS)}
    # A step that is no whole number of pixels shifts the rows, in the genuine package too.
    for encoding, padding in (('rgb8', 3), ('rgb8', 5), ('mono8', 5), ('mono16', 4),
                              ('bgra16', 16), ('yuv422', 2)):
        cases[f'{encoding}, {padding} bytes of padding'] = partial(
            viewed, encoding, 'passthrough', padding=padding)
    for encoding, target in (('mono16', 'mono8'), ('rgb16', 'passthrough'), ('rgb8', 'bgr8'),
                             ('32FC1', 'passthrough'), ('bayer_rggb16', 'rgb8')):
        cases[f'{encoding}, big-endian, to {target}'] = partial(
            viewed, encoding, target, big_endian=True)
    for change in ({'step': 10}, {'height': 5}, {'width': 7}, {'width': 0}, {'step': 0},
                   {'data': array('B')}):
        cases[f'rgb8 with {change}'] = partial(viewed, 'rgb8', 'bgr8', **change)
    kinds = (*JPEGS, 'colour.png', 'gray.png', 'colour alpha.png', 'colour 16.png', 'gray 16.png')
    for kind, target in product(kinds, ('passthrough', '', 'bgr8', 'rgb8', 'mono8', '8UC3')):
        cases[f'{kind} to {target!r}'] = partial(decoded, partial(picture, kind), target)
    for target in ('passthrough', 'bgr8', 'rgb8'):
        cases[f'noise to {target!r}'] = partial(decoded, lambda: bytes(range(99)), target)
    for encoding in ('rgb8', 'mono8', 'rgba16', '32FC1', '64FC1', '8SC1', '8UC5'):
        values = pixels(encoding).squeeze()
        for target in ('passthrough', encoding, 'bgr8', '32FC1', 'purple8'):
            cases[f'send {encoding} as {target}'] = partial(sent, values, target)
    return cases | {
        'send with header': partial(sent, pixels('rgb8'), 'rgb8', Header(frame_id='camera')),
        'send one channel of three axes': partial(sent, pixels('mono8'), 'mono8'),
        'send every second': partial(sent, pixels('32FC1')[:, ::-2, 0], '32FC1'),
        'send big-endian': partial(sent, pixels('mono16')[..., 0].astype('>u2'), 'mono16'),
        'send truth values': partial(sent, np.ones((2, 2), bool), 'mono8'),
        'send a list': partial(sent, [[1, 2], [3, 4]], 'mono8'),
        'send no row': partial(sent, np.zeros((0, 4), np.uint8), 'mono8'),
    }
