# SPDX-License-Identifier: Apache-2.0
"""Images in the order in which they were taken, as frames with names: of a video or of files."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.datasets.photos.photo_files import read_photo, read_size
from spann3r_ros.datasets.photos.video_file import VideoFile

from .common_camera import CommonCamera, choose_camera
from .photo_run import Named
from .unordered import FRAME_ID

# Photographs have no stamps that are fine enough; the mapper's intervals are those of a camera.
BETWEEN_NS = 10**8


def video_frames(video: VideoFile, name: str) -> Iterator[Named]:
    """Yield the images of a video, with their stamps."""
    for stamp_ns, rgb in video:
        yield Named(f'{name} at {stamp_ns / 1e9:.3f} s', Frame(stamp_ns, FRAME_ID, rgb))


def camera_of_files(paths: Sequence[Path], use_focal: bool) -> tuple[CommonCamera, int]:
    """Return the common camera of photographs, and how many of them are fitted to it.

    Raises FrameError, with the reason for the first file, if none is an image.
    """
    found, first = [], None
    for path in paths:
        try:
            size, focal_mm = read_size(path)
        except FrameError as error:
            first = first or FrameError(f'{path.name}: {error}')
        else:
            found.append((size, focal_mm if use_focal else None))
    if not found:
        raise first
    camera = choose_camera(*zip(*found, strict=True))
    return camera, sum(not camera.fits(*one) for one in found)


def file_frames(paths: Sequence[Path], names: Sequence[str], camera: CommonCamera,
                use_focal: bool, refuse: Callable[[str, str], object]) -> Iterator[Named]:
    """Yield photographs as frames; `refuse` gets name and reason of those that are not used."""
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):
        try:
            photo = read_photo(path)
            rgb, mask = camera.fit(photo if use_focal else replace(photo, focal_mm=None))
        except FrameError as error:
            refuse(name, str(error))
        else:
            yield Named(name, Frame(number * BETWEEN_NS, FRAME_ID, rgb, camera.intrinsics, mask))
