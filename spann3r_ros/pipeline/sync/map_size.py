# SPDX-License-Identifier: Apache-2.0
"""The one size of a map's images; it has to be seen twice."""
from __future__ import annotations

from collections.abc import Callable

from spann3r_ros.core.types import Frame, FrameError

from .bounds import QueueBounds, frame_bytes
from .outlet import Outlet

Size = tuple[int, int]


class MapSize:
    """The size (height, width) of a map's images; `is_sure` when a second image has it."""

    def __init__(self) -> None:
        self.size: Size | None = None
        self.is_sure = False

    def begin_again(self) -> None:
        """Let the next images give the size, because another map begins."""
        self.size, self.is_sure = None, False

    @property
    def is_provisional(self) -> bool:
        """Return whether the map has one image, or images that no second one agrees with."""
        return self.size is not None and not self.is_sure

    def begin_with(self, size: Size) -> None:
        """Continue a map whose images have this size."""
        self.size, self.is_sure = size, True

    def error(self, size: Size) -> FrameError:
        """Return the error of an image of another size than the map's."""
        expected, got = (f'{width}x{height}' for height, width in (self.size, size))
        return FrameError(
            f'image: expected {expected} pixels as the images of the map, got {got}; '
            'reset to change the size')


class SizeGate:
    """Passes images of the map's size on, and refuses the others.

    The map begins with its first image, but the size of that image is the map's only when a second
    image has it. Until then images of another size are kept aside. When one of their sizes comes
    for the second time, the first image was an odd one: `replaced` is called with its error, and
    the map begins again with the images aside.
    """

    def __init__(self, map_size: MapSize, replaced: Callable[[FrameError], None],
                 bounds: QueueBounds, outlet: Outlet) -> None:
        self._map_size = map_size
        self._replaced = replaced
        self._bounds = bounds
        self._outlet = outlet
        self._aside: list[Frame] = []

    def __len__(self) -> int:
        """Return the number of images aside."""
        return len(self._aside)

    def take_frame(self, frame: Frame) -> None:
        """Pass an image on, refuse it, or keep it aside."""
        of_map, size = self._map_size, _size(frame)
        if of_map.size is None:
            of_map.size = size
        elif not of_map.is_sure and size in (of_map.size, *map(_size, self._aside)):
            self._settle(size)
        elif size != of_map.size:
            self._refuse_or_keep(frame)
            return
        self._outlet.pass_on(frame)

    def match(self) -> None:
        """Do nothing: only further images decide."""

    def drain(self) -> None:
        """Refuse the images aside, because no more of their sizes will come."""
        aside, self._aside = self._aside, []
        for frame in aside:
            self._outlet.fail(self._map_size.error(_size(frame)))

    def drop_waiting(self) -> None:
        """Drop the images aside."""
        for _ in self._aside:
            self._outlet.drop()
        self._aside = []

    def _refuse_or_keep(self, frame: Frame) -> None:
        if self._map_size.is_sure:
            self._outlet.fail(self._map_size.error(_size(frame)))
            return
        self._aside.append(frame)
        while self._bounds.exceeded(len(self._aside), sum(map(frame_bytes, self._aside))):
            self._outlet.fail(self._map_size.error(_size(self._aside.pop(0))))

    def _settle(self, size: Size) -> None:
        """Let a size be the map's, because a second image has it."""
        of_map, aside = self._map_size, self._aside
        self._aside = []
        first, of_map.size, of_map.is_sure = of_map.size, size, True
        if first != size:
            self._replaced(of_map.error(first))
        for frame in aside:
            if _size(frame) == size:
                self._outlet.pass_on(frame)
            else:
                self._outlet.fail(of_map.error(_size(frame)))


def _size(frame: Frame) -> Size:
    return frame.rgb.shape[:2]
