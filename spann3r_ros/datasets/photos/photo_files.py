# SPDX-License-Identifier: Apache-2.0
"""Files of photographs: which there are, their order, and their pixels."""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from spann3r_ros.core.image_files.file_decoding import decode_file
from spann3r_ros.core.image_files.file_headers import read_header
from spann3r_ros.core.types import FrameError, UnsupportedImageError

from .photo_tags import TURNS, read_tags, upright

# A folder's files of other suffixes are no photographs.
READ = frozenset(('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.avif', '.jxl'))
NOT_READ = frozenset(('.heic', '.heif', '.hif', '.tif', '.tiff', '.bmp', '.gif', '.jp2', '.dng',
                      '.cr2', '.cr3', '.nef', '.arw', '.orf', '.rw2', '.raf'))
VIDEOS = frozenset(('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv',
                    '.3gp', '.ogv', '.mts', '.m2ts', '.ts'))
# What to do with formats that are not read.
REMEDIES = {'HEIF': 'convert it to JPEG, for example with heif-convert, or set the camera to its '
                    'most compatible format',
            'AVIF': 'run: pip install pillow-avif-plugin, or convert it to JPEG',
            'JPEG XL': 'run: pip install pillow-jxl-plugin, or convert it to JPEG'}
OTHER_REMEDY = 'convert it to JPEG or PNG'
# Numbers are consecutive if no more than this share of them is missing.
MAX_MISSING = 0.1
Result = TypeVar('Result')


@dataclass(frozen=True)
class PhotoFile:
    """An image uint8 RGB [h, w, 3], upright, and the focal length on a 35 mm film in mm."""

    rgb: np.ndarray
    focal_mm: float | None


@dataclass(frozen=True)
class FoundPhotos:
    """Paths of photographs, in the order of their names, and how many other files there are."""

    paths: tuple[Path, ...]
    others: int = 0


def find_photos(sources: Sequence[Path]) -> FoundPhotos:
    """Return the photographs of one folder, or those given; ValueError if there are none."""
    if len(sources) == 1 and sources[0].is_dir():
        return _in_folder(sources[0])
    for path in sources:
        if path.is_dir():
            raise ValueError(f'input: expected one folder, one video or image files, got the '
                             f'folder {path} and others')
        if not path.exists():
            raise ValueError(f'input: expected a folder, a video or image files, got {path}, '
                             'which does not exist')
        if is_video(path) and len(sources) > 1:
            raise ValueError(f'input: expected one folder, one video or image files, got the '
                             f'video {path} and others')
    if not sources:
        raise ValueError('input: expected a folder, a video or image files, got none')
    return FoundPhotos(tuple(sorted(sources, key=name_key)))


def is_video(path: Path) -> bool:
    """Return whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEOS and not path.is_dir()


def name_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Return a key that sorts names by their numbers: 2.jpg comes before 10.jpg."""
    parts = re.split(r'(\d+)', path.name)
    return [(1, int(part), '') if part.isdigit() and part.isascii() else (0, 0, part)
            for part in parts], str(path)


def are_consecutive(paths: Sequence[Path]) -> bool:
    """Return whether files are numbered one after another, with equal steps, by one camera.

    The names differ in one number only, and at most `MAX_MISSING` of the numbers are missing.
    """
    if len(paths) < 2:
        return False
    names = [re.split(r'(\d+)', path.stem) for path in paths]
    if len({len(name) for name in names}) > 1:
        return False
    varying = [at for at, parts in enumerate(zip(*names, strict=True)) if len(set(parts)) > 1]
    if len(varying) != 1 or varying[0] % 2 == 0:
        return False
    numbers = sorted(int(name[varying[0]]) for name in names)
    steps = [after - before for before, after in pairwise(numbers)]
    if min(steps) < 1 or any(step % min(steps) for step in steps):
        return False
    expected = (numbers[-1] - numbers[0]) // min(steps) + 1
    return expected - len(numbers) <= MAX_MISSING * expected


def read_photo(path: Path) -> PhotoFile:
    """Return a photograph; raise FrameError with the reason for a file that cannot be used."""
    data = _read(path)
    rgb = _with_remedy(path, lambda: decode_file(data, path.suffix.removeprefix('.')))
    tags = read_tags(data)
    return PhotoFile(upright(rgb, tags.orientation), tags.focal_mm)


def read_size(path: Path) -> tuple[tuple[int, int], float | None]:
    """Return height and width of a photograph, upright, and its focal length on a 35 mm film.

    The pixels are not decoded. Raises FrameError as `read_photo` does, not for all its reasons.
    """
    data = _read(path)
    header = _with_remedy(path, lambda: read_header(data, path.suffix.removeprefix('.')))
    tags = read_tags(data)
    size = header.height, header.width
    return size[::-1] if TURNS[tags.orientation][0] else size, tags.focal_mm


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f'cannot be read: {error.strerror or error}') from error
    if not data:
        raise FrameError('the file is empty')
    return data


def _with_remedy(path: Path, read: Callable[[], Result]) -> Result:
    """Return what a reader returns; its errors are about files, not about messages of a topic."""
    try:
        return read()
    except UnsupportedImageError as error:
        raise FrameError(f'{error.name} is not read; '
                         f'{REMEDIES.get(error.name, OTHER_REMEDY)}') from error
    except FrameError as error:
        if path.suffix.lower() in NOT_READ:
            raise FrameError(f'{path.suffix} is not read; {OTHER_REMEDY}') from error
        raise FrameError(str(error).removeprefix('data: ')) from error


def _in_folder(folder: Path) -> FoundPhotos:
    try:
        files = [Path(entry.path) for entry in os.scandir(folder)
                 if entry.is_file() and not entry.name.startswith('.')]
    except OSError as error:
        raise ValueError(f'input: {folder}: {error.strerror}') from error
    photos = [path for path in files if path.suffix.lower() in READ | NOT_READ]
    if not photos:
        raise ValueError(f'input: expected photographs in {folder} itself, found none among '
                         f'{len(files)} files')
    return FoundPhotos(tuple(sorted(photos, key=name_key)), len(files) - len(photos))
