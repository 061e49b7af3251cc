# SPDX-License-Identifier: Apache-2.0
"""The views of a map and its tracks as a COLMAP model, text and binary."""
from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import invert, matrix_to_quaternion

from .image_tracks import Tracks
from .map_content import SavedView

# The number of the camera model PINHOLE: fx, fy, cx, cy.
PINHOLE = 1
# The centre of the first pixel is at (0.5, 0.5) in COLMAP.
FIRST_PIXEL = 0.5


@dataclass(frozen=True)
class Model:
    """A model as COLMAP has it; cameras, images and points are numbered from 1.

    `camera_from_map` are w x y z of a unit quaternion and a translation [n, 7]. The observations
    of image i are rows `image_starts[i]` to `image_starts[i + 1]` of `pixels` [m, 2] and of
    `point_of` [m], those of point j are `point_starts[j]` to `point_starts[j + 1]` of `track`
    [m, 2]: the image, and the number of the observation in it.
    """

    cameras: Sequence[Intrinsics]
    camera_of: np.ndarray
    camera_from_map: np.ndarray
    names: Sequence[str]
    image_starts: np.ndarray
    pixels: np.ndarray
    point_of: np.ndarray
    points: np.ndarray
    colors: np.ndarray
    errors: np.ndarray
    point_starts: np.ndarray
    track: np.ndarray


def build_model(views: Sequence[SavedView], tracks: Tracks) -> Model:
    """Return the model of views and the tracks in them."""
    cameras = list(dict.fromkeys(view.intrinsics for view in views))
    poses = np.empty((len(views), 7))
    for row, view in zip(poses, views, strict=True):
        camera_from_map = invert(view.map_from_camera)
        x, y, z, w = matrix_to_quaternion(camera_from_map[:3, :3])
        row[:] = (w, x, y, z, *camera_from_map[:3, 3])
    by_view = np.lexsort((tracks.point_of, tracks.view_of))
    starts = np.searchsorted(tracks.view_of[by_view], np.arange(len(views) + 1))
    rank = np.empty(len(by_view), np.int64)
    rank[by_view] = np.arange(len(by_view)) - starts[tracks.view_of[by_view]]
    by_point = np.lexsort((tracks.view_of, tracks.point_of))
    return Model(
        cameras, np.array([cameras.index(view.intrinsics) for view in views], np.int64) + 1,
        poses, [view.name for view in views], starts,
        tracks.pixels[by_view] + FIRST_PIXEL, tracks.point_of[by_view] + 1,
        tracks.points, tracks.colors, tracks.errors,
        np.searchsorted(tracks.point_of[by_point], np.arange(len(tracks.points) + 1)),
        np.stack([tracks.view_of[by_point] + 1, rank[by_point]], axis=1))


def encode_text(model: Model, notes: Sequence[str] = ()) -> dict[str, bytes]:
    """Return cameras.txt, images.txt and points3D.txt; `notes` become comments."""
    comments = [f'# {note}' for note in notes]
    cameras = [f'{number} PINHOLE {one.width} {one.height} {_text(_parameters(one))}'
               for number, one in enumerate(model.cameras, start=1)]
    images, points = [], []
    for index, name in enumerate(model.names):
        images.append(f'{index + 1} {_text(model.camera_from_map[index])} '
                      f'{model.camera_of[index]} {name}')
        part = slice(*model.image_starts[index:index + 2])
        images.append(' '.join(f'{x!r} {y!r} {point}' for (x, y), point in zip(
            model.pixels[part].tolist(), model.point_of[part].tolist(), strict=True)))
    for index, (point, color, error) in enumerate(zip(
            model.points, model.colors.tolist(), model.errors.tolist(), strict=True)):
        track = model.track[slice(*model.point_starts[index:index + 2])]
        points.append(f'{index + 1} {_text(point)} {" ".join(map(str, color))} {error!r} '
                      f'{" ".join(map(str, track.ravel().tolist()))}')
    return {'cameras.txt': _lines([*comments, *cameras]),
            'images.txt': _lines([*comments, *images]),
            'points3D.txt': _lines([*comments, *points])}


def encode_binary(model: Model) -> dict[str, bytes]:
    """Return cameras.bin, images.bin and points3D.bin."""
    cameras = [struct.pack('<Q', len(model.cameras))]
    cameras += [struct.pack('<IiQQ4d', number, PINHOLE, one.width, one.height, *_parameters(one))
                for number, one in enumerate(model.cameras, start=1)]
    seen = np.empty(len(model.pixels), [('pixel', '<f8', 2), ('point', '<u8')])
    seen['pixel'], seen['point'] = model.pixels, model.point_of
    images = [struct.pack('<Q', len(model.names))]
    for index, name in enumerate(model.names):
        part = seen[slice(*model.image_starts[index:index + 2])]
        images += [struct.pack('<I7dI', index + 1, *model.camera_from_map[index],
                               model.camera_of[index]), name.encode() + b'\0',
                   struct.pack('<Q', len(part)), part.tobytes()]
    track = model.track.astype('<u4')
    points = [struct.pack('<Q', len(model.points))]
    for index, (point, color, error) in enumerate(zip(
            model.points, model.colors.tolist(), model.errors.tolist(), strict=True)):
        part = track[slice(*model.point_starts[index:index + 2])]
        points += [struct.pack('<Q3d3BdQ', index + 1, *point, *color, error, len(part)),
                   part.tobytes()]
    return {'cameras.bin': b''.join(cameras), 'images.bin': b''.join(images),
            'points3D.bin': b''.join(points)}


def _parameters(camera: Intrinsics) -> tuple[float, float, float, float]:
    return (camera.fx, camera.fy, camera.cx + FIRST_PIXEL, camera.cy + FIRST_PIXEL)


def _text(numbers: Sequence[float] | np.ndarray) -> str:
    return ' '.join(repr(float(number)) for number in numbers)


def _lines(lines: Sequence[str]) -> bytes:
    return ('\n'.join(lines) + '\n').encode()
