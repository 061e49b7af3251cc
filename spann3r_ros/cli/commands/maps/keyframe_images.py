# SPDX-License-Identifier: Apache-2.0
"""The images of a map's keyframes at the camera's resolution, from a folder or a bag."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from spann3r_ros.core.encodings import to_rgb
from spann3r_ros.core.files import write_files
from spann3r_ros.core.image_files.file_decoding import decode_file
from spann3r_ros.core.image_files.file_headers import read_header
from spann3r_ros.core.messages import to_nanoseconds
from spann3r_ros.core.rectification import Rectifier
from spann3r_ros.core.types import FrameError
from spann3r_ros.core.views import camera_model
from spann3r_ros.datasets.bags import CameraBag, TopicNames
from spann3r_ros.datasets.photos.photo_tags import PhotoTags, read_tags, upright
from spann3r_ros.mapping.exports.map_content import MapContent, SavedView

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.avif', '.jxl')
# Formats that all programs read, and their suffixes.
COMMON = {'JPEG': '.jpg', 'PNG': '.png'}
# Images are compared at this height and width. The JPEG of the kept one changes it by about one
# gray level; images of neighbouring keyframes differ by more than ten.
COMPARED_SIZE, MAX_DIFFERENCE = 64, 2.0


@dataclass(frozen=True)
class _Picture:
    """An image as it was recorded: its pixels, and the file if it has the same pixels."""

    rgb: np.ndarray
    file: bytes | None = None
    suffix: str = '.png'


def write_images(content: MapContent, source: Path, topic: str, folder: Path,
                 quiet: bool) -> list[SavedView]:
    """Write the images of the keyframes to a folder; return the views whose images were found.

    Their names are those of the files.

    `source` is a folder of images, which are recognised by their contents, or a bag, whose images
    have the stamps of the keyframes. Of a camera with distortion the images are rectified. A file
    with the same pixels is written as it is, with its name. Raises ValueError if none is found,
    or one of another size.
    """
    calibration = content.calibration
    rectify = None
    if calibration is not None and calibration.distortion is not None:
        rectify = Rectifier(calibration)
    pictures = (_in_folder(content, source, quiet) if _is_folder_of_images(source)
                else _in_bag(content, source, topic, quiet))
    folder.mkdir(parents=True, exist_ok=True)
    views: dict[int, SavedView] = {}
    for index, name, picture in pictures:
        view = content.views[index]
        if rectify is not None:
            picture = _Picture(rectify(picture.rgb))
        # COLMAP's text ends a name at a space.
        named = name.replace(' ', '_') or view.name
        if picture.file is None or not name:
            named = Path(named).stem + picture.suffix
        if any(one.name == named for one in views.values()):
            named = Path(view.name).stem + picture.suffix
        data = _png(picture.rgb) if picture.file is None else picture.file
        write_files({folder / named: data})
        views[index] = replace(view, name=named)
    if not views:
        raise ValueError(f'images: expected images of the {len(content.views)} keyframes in '
                         f'{source}, found none')
    return [views[index] for index in sorted(views)]


def _is_folder_of_images(source: Path) -> bool:
    return source.is_dir() and any(_image_files(source))


def _image_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)


def _in_bag(content: MapContent, source: Path, topic: str,
            quiet: bool) -> Iterator[tuple[int, str, _Picture]]:
    """Yield keyframe, no name, and picture of the bag's images that have a keyframe's stamp."""
    wanted: dict[int, list[int]] = {}
    for index, view in enumerate(content.views):
        wanted.setdefault(view.stamp_ns, []).append(index)
    with CameraBag(source, TopicNames(topic)) as bag, tqdm(
            total=bag.count, unit='image', disable=quiet) as bar:
        # A malformed image is no keyframe.
        for role, recorded_ns, message in bag.messages(lambda *_: None):
            if role != 'image':
                continue
            bar.update()
            for stamp_ns in (to_nanoseconds(message.header.stamp), recorded_ns):
                indices = wanted.pop(stamp_ns, [])
                if indices:
                    picture = _recorded(message)
                    _check_size(content, picture.rgb, f'the image of stamp {stamp_ns} ns')
                    yield from ((index, '', picture) for index in indices)


def _recorded(message: object) -> _Picture:
    """Return the picture of an image message."""
    rgb = to_rgb(message)
    if not hasattr(message, 'format') or message.format.startswith('bayer'):
        return _Picture(rgb)
    return _of_file(bytes(message.data), rgb)


def _of_file(data: bytes, rgb: np.ndarray) -> _Picture:
    """Return the picture of a file; without the file if others would read other pixels."""
    header = read_header(data, '')
    if header.kind not in COMMON or header.plain_inks or _is_turned(data):
        return _Picture(rgb)
    return _Picture(rgb, data, COMMON[header.kind])


def _in_folder(content: MapContent, folder: Path,
               quiet: bool) -> Iterator[tuple[int, str, _Picture]]:
    """Yield keyframe, name and picture of the files that show what a keyframe shows."""
    files, kept = list(_image_files(folder)), _compared(view.kept.rgb() for view in content.views)
    # A file with an orientation was mapped as it is stored, or upright.
    rows = [(path, turned, thumbnail) for path in tqdm(files, unit='image', disable=quiet)
            for turned, thumbnail in _thumbnails(content, path)]
    if not rows:
        height, width = content.image_size
        raise ValueError(f'images: expected images of {width}x{height} pixels as those of the map '
                         f'in {folder}, got {len(files)} of other sizes')
    found = np.stack([thumbnail for _, _, thumbnail in rows])
    for index, one in enumerate(kept):
        differences = np.sqrt(((found - one) ** 2).mean(axis=1))
        path, turned, _ = rows[best := int(differences.argmin())]
        if differences[best] <= MAX_DIFFERENCE:
            data = path.read_bytes()
            yield index, path.name, (_Picture(_upright(data)) if turned
                                     else _of_file(data, decode_file(data, '')))


def _thumbnails(content: MapContent, path: Path) -> Iterator[tuple[bool, np.ndarray]]:
    """Yield what the network saw of a file, small, as it is stored and upright."""
    data = path.read_bytes()
    model = camera_model(content.image_size, content.calibration,
                         content.views[0].kept.depth.shape, content.letterbox, exact=True)
    try:
        versions = [(False, decode_file(data, ''))]
        if _is_turned(data):
            versions.append((True, _upright(data)))
    except FrameError:
        return  # a damaged file is no keyframe
    for turned, rgb in versions:
        if rgb.shape[:2] == content.image_size:
            yield turned, _compared([model.fit(rgb).image])[0]


def _compared(images: Iterator[np.ndarray] | Sequence[np.ndarray]) -> np.ndarray:
    """Return images [h, w, 3] as rows of gray levels, float32 [n, 64 * 64]."""
    return np.stack([cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
                                (COMPARED_SIZE, COMPARED_SIZE), interpolation=cv2.INTER_AREA)
                     for image in images]).reshape(-1, COMPARED_SIZE**2).astype(np.float32)


def _check_size(content: MapContent, rgb: np.ndarray, name: str) -> None:
    if rgb.shape[:2] != content.image_size:
        height, width = content.image_size
        raise ValueError(f'images: expected {width}x{height} pixels as those of the map, '
                         f'{name} has {rgb.shape[1]}x{rgb.shape[0]}')


def _is_turned(data: bytes) -> bool:
    return read_tags(data).orientation != PhotoTags().orientation


def _upright(data: bytes) -> np.ndarray:
    return upright(decode_file(data, ''), read_tags(data).orientation)


def _png(rgb: np.ndarray) -> bytes:
    encoded, data = cv2.imencode('.png', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise ValueError(f'images: cannot write {rgb.shape} as PNG')
    return data.tobytes()
