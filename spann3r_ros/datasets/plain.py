# SPDX-License-Identifier: Apache-2.0
"""The reader of plain RGB-D folders: rgb/, depth/, poses.txt and K.txt."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from .calibration import Calibration
from .numbered import numbered_images
from .rgbd import (
    DatasetError,
    RgbdSequence,
    ViewFiles,
    check_pose,
    folders_below,
    read_depth_image,
    read_image,
    read_numbers,
    require,
)

IMAGES = ['rgb/*.jpg', 'rgb/*.jpeg', 'rgb/*.png']
FILES = ('poses.txt', 'K.txt')
# A 16 bit depth image has this value where the sensor measured nothing, if not 0.
NO_DEPTH = np.float32(65.535)
# Largest relative difference of the aspect ratios of colour and depth images.
ASPECT_TOLERANCE = 0.02


def plain(root: Path) -> Iterator[RgbdSequence]:
    """Yield a sequence, or every one of a folder: rgb/NNNN.jpg or .png and depth/NNNN.png.

    Depth is in millimetres, 16 bit, registered to colour; 0 and 65535 are no depth. poses.txt has
    a row for each image: world from camera [4, 4] row by row, metres, optical axes; images whose
    pose is not finite are left out. K.txt has the camera matrix [3, 3] of the colour images.
    """
    single = (root / 'rgb').is_dir() or any((root / name).exists() for name in FILES)
    for folder in [root] if single else folders_below(root, '*/K.txt'):
        yield _sequence(folder.absolute())


def read_plain_depth(path: Path) -> np.ndarray:
    """Return a depth image of millimetres in metres; 0 is no depth."""
    metres = read_depth_image(path, per_metre=1000.0)
    return np.where(metres >= NO_DEPTH, np.float32(0.0), metres)


def scale_calibration(camera: Calibration, size: tuple[int, int],
                      target: tuple[int, int]) -> Calibration:
    """Return fx, fy, cx and cy after an image of `size` (height, width) is resized to `target`."""
    fx, fy, cx, cy = camera
    y, x = target[0] / size[0], target[1] / size[1]
    # The outer edge of pixel 0 is at -0.5, before and after resizing.
    return fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5


def check_aspect(depth: Path, shape: tuple[int, int], color: tuple[int, int]) -> None:
    """Raise DatasetError unless a depth image (height, width) has the aspect ratio of colour."""
    ratio = (shape[1] / shape[0]) / (color[1] / color[0])
    if abs(ratio - 1.0) > ASPECT_TOLERANCE:
        raise DatasetError(f'{depth}: expected the aspect ratio of the {color[1]}x{color[0]} '
                           f'colour images, to which depth is registered, '
                           f'got {shape[1]}x{shape[0]}')


def _sequence(folder: Path) -> RgbdSequence:
    colors = numbered_images(folder, IMAGES, ['depth/*.png'], even=False)
    poses = read_numbers(folder / 'poses.txt', 16)
    if len(poses) != len(colors):
        raise DatasetError(f'{folder / "poses.txt"}: expected {len(colors)} rows for the images '
                           f'in {folder / "rgb"}, got {len(poses)}')
    matrix = _read_matrix(folder / 'K.txt')
    size = read_image(colors[0], cv2.IMREAD_COLOR).shape[:2]
    first = require(folder / 'depth' / f'{colors[0].stem}.png')
    shape = read_plain_depth(first).shape
    check_aspect(first, shape, size)
    camera = scale_calibration(matrix, size, shape)
    views = []
    for position, (color, row) in enumerate(zip(colors, poses, strict=True)):
        depth = require(folder / 'depth' / f'{color.stem}.png')
        if np.isfinite(row).all():
            pose = check_pose(folder / 'poses.txt', row.reshape(4, 4))
            views.append(ViewFiles(color, depth, pose, camera, position))
    if not views:
        raise DatasetError(f'{folder / "poses.txt"}: expected finite poses, got none')
    return RgbdSequence(folder.name, tuple(views), read_plain_depth)


def _read_matrix(path: Path) -> Calibration:
    matrix = read_numbers(path, 3)
    if matrix.shape == (3, 3) and np.isfinite(matrix).all():
        (fx, skew, cx), (zero, fy, cy), last = matrix.tolist()
        if min(fx, fy) > 0.0 and skew == zero == 0.0 and last == [0.0, 0.0, 1.0]:
            return fx, fy, cx, cy
    raise DatasetError(f'{path}: expected a camera matrix, "fx 0 cx", "0 fy cy", "0 0 1", '
                       f'in pixels, got {matrix.tolist()}')
