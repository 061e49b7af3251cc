# SPDX-License-Identifier: Apache-2.0
"""A posed colour and depth sequence on disk, and its views at the network's input size."""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import transform_points
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import preprocess


class DatasetError(ValueError):
    """A folder does not have the expected layout; the message names the file and the fault."""


@dataclass(frozen=True)
class ViewFiles:
    """The files of one view; `world_from_camera` [4, 4] is in the sequence's unit, optical axes.

    `calibration` (fx, fy, cx, cy) is that of the depth image, in pixels. `position` counts the
    images of the sequence from 0, including images that are no views as they have no pose.
    `stamp_sec` is the time of the colour image; None if the recording has no times.
    """

    color: Path
    depth: Path
    world_from_camera: np.ndarray
    calibration: tuple[float, float, float, float]
    position: int
    mask: Path | None = None
    stamp_sec: float | None = None

    @property
    def number(self) -> int:
        """Return the last number in the colour image's name."""
        return image_number(self.color)


@dataclass(frozen=True)
class PosedView:
    """One view at the network's input size.

    `image` uint8 [h, w, 3]; `points` float32 [h, w, 3] in the camera's optical frame, in the
    sequence's unit; `valid` bool [h, w] marks the pixels with depth.
    """

    image: np.ndarray
    points: np.ndarray
    valid: np.ndarray
    intrinsics: Intrinsics
    world_from_camera: np.ndarray

    @property
    def world_points(self) -> np.ndarray:
        """Return the points [h, w, 3] in the world."""
        return transform_points(self.world_from_camera, self.points)


@dataclass(frozen=True)
class RgbdSequence:
    """Views of one scene in their order; lengths are in metres times `unit_per_metre`.

    `read_depth` returns a depth image [height, width]; 0 is no depth.
    """

    name: str
    views: tuple[ViewFiles, ...]
    read_depth: Callable[[Path], np.ndarray]
    unit_per_metre: float = 1.0
    # MVSNet's lists, by image number: other views of the same surface, best first.
    neighbours: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def select(self, indices: list[int]) -> RgbdSequence:
        """Return the sequence of some of `views`, in the order given."""
        return replace(self, views=tuple(self.views[index] for index in indices), neighbours={})

    def within(self, first: int, last: int) -> RgbdSequence:
        """Return the views of the images `first` to `last`, counted from 0, both included.

        DatasetError for a range that is not within the sequence or has fewer than two views.
        """
        end = self.views[-1].position
        if not 0 <= first < last <= end:
            raise DatasetError(f'{self.name}: expected a range of frames within 0 to {end}, first '
                               f'to last, got {first} to {last}')
        chosen = [index for index, view in enumerate(self.views)
                  if first <= view.position <= last]
        if len(chosen) < 2:
            raise DatasetError(f'{self.name}: expected two views or more in the frames {first} to '
                               f'{last}, got {len(chosen)}')
        return self.select(chosen)

    def find(self, numbers: list[int]) -> list[int]:
        """Return the indices in `views` of image numbers; DatasetError for a missing one."""
        where = {view.number: index for index, view in enumerate(self.views)}
        for number in numbers:
            if number not in where:
                raise DatasetError(f'{self.name}: expected an image {number} with a pose, '
                                   f'got none')
        return [where[number] for number in numbers]

    def image_size(self) -> tuple[int, int]:
        """Return (height, width) of the first view's depth image."""
        height, width = self.read_depth(self.views[0].depth).shape
        return height, width

    def load(self, index: int, size: tuple[int, int]) -> PosedView:
        """Read one view and fit it to `size` (height, width); DatasetError if it does not fit.

        The colour image is first resized to the depth image. Both are then cropped about the
        principal point and resized, depth with nearest-neighbour interpolation.
        """
        files = self.views[index]
        depth = self.read_depth(files.depth)
        if files.mask is not None:
            depth = depth * _read_mask(files.mask, depth.shape)
        height, width = depth.shape
        # OpenCV 4.6 cannot decode to RGB at once.
        color = cv2.cvtColor(read_image(files.color, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        if color.shape[:2] != depth.shape:
            color = cv2.resize(color, (width, height))
        camera = Intrinsics(*files.calibration, width=width, height=height)
        try:
            fitted = preprocess(Frame(0, '', color, camera), size)
        except ValueError as error:
            raise DatasetError(f'{files.color}: {error}') from error
        small = fitted.window.sample(depth, size)
        return PosedView(fitted.image, unproject(small, fitted.intrinsics), small > 0.0,
                         fitted.intrinsics, files.world_from_camera)


def image_number(path: Path) -> int:
    """Return the last number in a file's name."""
    return int(re.findall(r'\d+', path.name)[-1])


def unproject(depth: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Return the points float32 [h, w, 3] of a depth image, in the camera's optical frame."""
    rows, columns = np.indices(depth.shape, dtype=np.float64)
    points = np.stack(((columns - camera.cx) / camera.fx * depth,
                       (rows - camera.cy) / camera.fy * depth, depth), axis=-1)
    return points.astype(np.float32)


def read_image(path: Path, flags: int) -> np.ndarray:
    """Return an image as OpenCV decodes it; DatasetError if it is missing or broken."""
    data = np.frombuffer(require(path).read_bytes(), np.uint8)
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise DatasetError(f'{path}: expected an image, got a file that cannot be decoded')
    return image


def read_millimetres(path: Path) -> np.ndarray:
    """Return a 16 bit depth image in metres; 65535, over 10 m and under 1 mm are no depth."""
    metres = read_depth_image(path, per_metre=1000.0)
    return np.where((metres > 10.0) | (metres < 1e-3), np.float32(0.0), metres)


def read_depth_image(path: Path, per_metre: float) -> np.ndarray:
    """Return a 16 bit depth image in metres, float32; DatasetError for another image."""
    depth = read_image(path, cv2.IMREAD_UNCHANGED)
    if depth.ndim != 2 or depth.dtype != np.uint16:
        raise DatasetError(f'{path}: expected a 16 bit depth image, '
                           f'got {depth.dtype} {depth.shape}')
    return depth.astype(np.float32) / per_metre


def require(path: Path) -> Path:
    """Return a path that exists; DatasetError names it otherwise."""
    if not path.exists():
        raise DatasetError(f'{path}: expected, but it does not exist')
    return path


def folders_below(root: Path, *patterns: str) -> list[Path]:
    """Return the folders directly below a root that contain a match of a pattern."""
    if not root.is_dir():
        raise DatasetError(f'{root}: expected a folder, but it does not exist')
    found = sorted({root / path.relative_to(root).parts[0]
                    for pattern in patterns for path in root.glob(pattern)})
    if not found:
        raise DatasetError(f'{root}: expected {patterns[0]} below it, found none')
    return found


def read_numbers(path: Path, per_row: int) -> np.ndarray:
    """Return rows of numbers [n, per_row] of a text file, NaN included; DatasetError otherwise."""
    try:
        rows = [[float(item) for item in line.split()]
                for line in require(path).read_text().splitlines()
                if line.strip() and not line.startswith('#')]
    except (ValueError, UnicodeDecodeError) as error:
        raise DatasetError(f'{path}: expected numbers: {error}') from error
    if any(len(row) != per_row for row in rows):
        raise DatasetError(f'{path}: expected {per_row} numbers a line, '
                           f'got {sorted({len(row) for row in rows})}')
    return np.array(rows, float).reshape(-1, per_row)


def check_pose(path: Path, pose: np.ndarray) -> np.ndarray:
    """Return a rigid pose [4, 4]; DatasetError for another matrix."""
    rotation = pose[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-2) \
        and np.linalg.det(rotation) > 0.0 and np.allclose(pose[3], [0.0, 0.0, 0.0, 1.0])
    if not np.isfinite(pose).all() or not rigid:
        raise DatasetError(f'{path}: expected a rigid 4 x 4 pose, got {pose.tolist()}')
    return pose


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return the mask of an object, bool [shape], eroded by ten pixels.

    It is resized to `shape`, that of the depth image, before the erosion.
    """
    mask = (read_image(path, cv2.IMREAD_GRAYSCALE) > 127).astype(np.uint8)
    mask = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.erode(mask, np.ones((10, 10), np.uint8)) > 0
