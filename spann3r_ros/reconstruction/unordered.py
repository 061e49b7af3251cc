# SPDX-License-Identifier: Apache-2.0
"""Unordered photographs: which of them belong together, and in which order they are mapped."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from spann3r_ros.core.network import Arrangement, Network
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.core.views import preprocess
from spann3r_ros.datasets.photos.photo_files import read_photo
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.networks.arrangement import arrange, choose_order

from .agreement import CornerLink
from .common_camera import CommonCamera, choose_camera
from .corners import SIDE
from .neighbours import choose_pairs
from .support import Input, Support, find_support
from .survey import LeftOut, Surveyed

FRAME_ID = 'camera'
# Stamps of photographs in the order of their mapping: farther apart than any interval of the
# mapper, because nothing moved between them.
APART_NS = 10 * 10**9
# With a sparse graph the memory weighs so many photographs for the next place in the order.
MOST_WEIGHED = 3
# Photographs of another place that a reason names.
MOST_NAMED = 3


class Progress(Protocol):
    """Shows how far a stage is."""

    def __call__(self, stage: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
        """Return a context whose value gets how many more are done."""


@dataclass(frozen=True)
class Ordered:
    """Photographs in the order in which they are mapped, and what the choice did.

    `left_out` are those that cannot be read, or belong to no other, or to another place.
    `compared` counts pairs in one order, `possible` all of them, `weighed` the images that were
    weighed by the memory, `fitted` the photographs of another camera than the common one.
    `interrupted`: the photographs that were not reached are missing. `links` are the corners that
    photographs share.
    """

    photos: list[Surveyed]
    camera: CommonCamera
    left_out: list[LeftOut]
    compared: int = 0
    possible: int = 0
    weighed: int = 0
    fitted: int = 0
    interrupted: bool = False
    links: tuple[CornerLink, ...] = ()


def mapping_settings(config: MapperConfig) -> MapperConfig:
    """Return the settings with which unordered photographs are mapped.

    Each of them is a keyframe. Its pose comes from its pointmap alone: corners are not tracked
    from one to the next. All are in one fragment.
    """
    return replace(
        config, live_pose=False,
        keyframes=replace(config.keyframes, selection='stride', stride=1, min_interval_sec=0.0),
        sight=replace(config.sight, check=False),
        fragments=replace(config.fragments, max_keyframes=0, max_lost=0,
                          min_confidence_share=0.0),
        pose=replace(config.pose, track_corners=False),
        loops=replace(config.loops, enabled=False))


def order_photos(photos: Sequence[Surveyed], network: Network, config: MapperConfig,
                 use_focal: bool, neighbours: int | None, progress: Progress) -> Ordered:
    """Return the photographs of one place in the order of reconstruction.

    `photos` are in an order that depends on their content. Raises FrameError if none can be used.
    """
    camera = _camera_of(photos, use_focal)
    used, inputs, left_out = [], [], []
    with progress('reading again', len(photos)) as advance:
        for photo in photos:
            try:
                inputs.append(_input(photo, camera, network, config, use_focal))
                used.append(photo)
            except FrameError as error:
                left_out.append(LeftOut(photo.path, str(error)))
            advance(1)
    if not used:
        raise FrameError(f'{left_out[0].path.name}: {left_out[0].reason}')
    fitted = sum(not camera.fits(one.size, one.focal_mm if use_focal else None) for one in used)
    count = len(used)
    if count == 1:
        return Ordered(used, camera, left_out, fitted=fitted)
    arrangement = Counted(arrange(network, [one.image for one in inputs]))
    pairs = choose_pairs(_descriptors(arrangement, count, neighbours), count, neighbours)
    with progress('comparing pairs', 2 * len(pairs)) as advance:
        support = find_support(arrangement, inputs, pairs, config, advance)
    left_out += _left_out(used, support)
    # The first one by its content if no two belong together.
    order, interrupted = [0], False
    if (support.place == 0).sum() > 1:
        is_sparse = 2 * len(pairs) < count * (count - 1)
        order, interrupted = _order(arrangement, support, is_sparse, progress)
    return Ordered([used[index] for index in order], camera, left_out, support.compared,
                   count * (count - 1), arrangement.weighed, fitted, interrupted,
                   tuple(_links(used, inputs, support)))


def read_frames(ordered: Ordered, use_focal: bool,
                refuse: Callable[[Path, str], object]) -> Iterator[tuple[Path, Frame]]:
    """Yield the photographs as frames, stamped in their order.

    `refuse` gets path and reason of a file that has gone since.
    """
    for number, photo in enumerate(ordered.photos):
        try:
            frame = _frame(photo, ordered.camera, use_focal, number * APART_NS)
        except FrameError as error:
            refuse(photo.path, str(error))
        else:
            yield photo.path, frame


def _frame(photo: Surveyed, camera: CommonCamera, use_focal: bool, stamp_ns: int) -> Frame:
    """Read a photograph again and fit it to the common camera; raise FrameError if it fails."""
    read = read_photo(photo.path)
    rgb, mask = camera.fit(read if use_focal else replace(read, focal_mm=None))
    return Frame(stamp_ns, FRAME_ID, rgb, camera.intrinsics, mask)


def _input(photo: Surveyed, camera: CommonCamera, network: Network, config: MapperConfig,
           use_focal: bool) -> Input:
    frame = _frame(photo, camera, use_focal, 0)
    height, width = frame.rgb.shape[:2]
    view = preprocess(frame, network.input_size(width / height),
                      config.field_of_view == 'letterbox', config.resampling == 'exact')
    reduction = min(1.0, SIDE / max(photo.size))
    middle = tuple(0.5 * (reduction * side - 1.0) for side in photo.size[::-1])
    zoom = (view.window.factors[1] / reduction
            * camera.scale(photo.size, photo.focal_mm if use_focal else None))
    return Input(view.image, view.intrinsics, view.usable, photo.corners, middle, zoom)


def _links(photos: Sequence[Surveyed], inputs: Sequence[Input],
           support: Support) -> Iterator[CornerLink]:
    """Yield the corners that photographs share, about the middles of the network's images."""
    for pair, pixels in support.shared.items():
        yield CornerLink(*(photos[index].path for index in pair), *(
            inputs[index].zoom * (own - inputs[index].middle)
            for index, own in zip(pair, pixels, strict=True)))


class Counted:
    """An arrangement that counts the images it weighs."""

    def __init__(self, arrangement: Arrangement) -> None:
        self._arrangement = arrangement
        self.descriptor, self.pair = arrangement.descriptor, arrangement.pair
        self.begin, self.take = arrangement.begin, arrangement.take
        self.weighed = 0

    def confidences(self, indices: Sequence[int]) -> list[float]:
        """Return the confidence of each image if it comes next."""
        self.weighed += len(indices)
        return self._arrangement.confidences(indices)


def _camera_of(photos: Sequence[Surveyed], use_focal: bool) -> CommonCamera:
    return choose_camera([one.size for one in photos],
                         [one.focal_mm if use_focal else None for one in photos])


def _descriptors(arrangement: Arrangement, count: int,
                 neighbours: int | None) -> np.ndarray | None:
    if neighbours == 0:
        return None
    found = [arrangement.descriptor(index) for index in range(count)]
    return None if any(one is None for one in found) else np.stack(found)


def _left_out(photos: Sequence[Surveyed], support: Support) -> Iterator[LeftOut]:
    """Yield the photographs that are not connected with the largest place."""
    for index, place in enumerate(support.place.tolist()):
        if place == 0:
            continue
        beside = sorted(photos[other].path.name
                        for other in np.flatnonzero(support.place == place) if other != index)
        if not beside:
            yield LeftOut(photos[index].path, 'shares nothing with another photograph')
            continue
        more = len(beside) - MOST_NAMED
        others = ', '.join(beside[:MOST_NAMED]) + (f' and {more} more' if more > 0 else '')
        yield LeftOut(photos[index].path, f'shows another place: it shares nothing with those '
                                          f'that are mapped, but with {others}')


def _order(arrangement: Arrangement, support: Support, is_sparse: bool,
           progress: Progress) -> tuple[list[int], bool]:
    """Return the order of the connected photographs, and whether the user ended the choice."""
    order: list[int] = []
    strength = support.strength if is_sparse else None
    with progress('choosing the order', int((support.place == 0).sum())) as advance:
        try:
            for index in choose_order(arrangement, support.in_place(), strength, MOST_WEIGHED):
                order.append(index)
                advance(1)
        except KeyboardInterrupt:
            return order, True
    return order, False
