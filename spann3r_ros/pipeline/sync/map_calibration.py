# SPDX-License-Identifier: Apache-2.0
"""The one calibration of a map."""
from __future__ import annotations

import logging
from collections.abc import Callable

from spann3r_ros.core.camera import Intrinsics, same_calibration
from spann3r_ros.core.types import FrameError

logger = logging.getLogger(__name__)


class MapCalibration:
    """Gives all images of a map the calibration of its first one; not thread-safe.

    Crop, removal of distortion and focal length of the map's images depend on the calibration. So
    an image without one gets that of the map, one with another calibration is refused, and a map
    that began without a calibration goes on without one. `check` raises FrameError for a
    calibration that cannot be used for images of a size (height, width).
    """

    def __init__(self, check: Callable[[tuple[int, int], Intrinsics], object]) -> None:
        self._check = check
        self._warned: set[str] = set()
        self._size: tuple[int, int] | None = None  # of the first image
        self._intrinsics: Intrinsics | None = None

    @property
    def has_begun(self) -> bool:
        """Return whether the map has its first image."""
        return self._size is not None

    def begin_again(self) -> None:
        """Let the next image give the calibration, because another map begins."""
        self._size = self._intrinsics = None
        self._warned.clear()

    def begin_with(self, size: tuple[int, int], intrinsics: Intrinsics | None) -> None:
        """Continue a map whose images have this size (height, width) and calibration."""
        self._size, self._intrinsics = size, intrinsics

    def choose(self, size: tuple[int, int], found: Intrinsics | None,
               reason: str) -> Intrinsics | None:
        """Return the calibration of an image of a size (height, width).

        `found` is the calibration that was received for it; if None, `reason` is why, or empty.
        Raises FrameError if it is not the map's, or cannot be used for the first image of a map.
        """
        if self._size is None:
            if found is not None:
                self._check(size, found)
            self._size, self._intrinsics = size, found
            self._warn(reason, 'the map begins without a calibration')
        elif size != self._size:
            pass  # the mapper refuses the image
        elif found is None:
            if self._intrinsics is not None:
                self._warn(reason, 'the images get the calibration that the map began with')
        elif self._intrinsics is None:
            self._warn('a calibration came after the first image of the map',
                       'the map goes on without it; reset to begin one with it')
        elif not same_calibration(found, self._intrinsics):
            raise FrameError(f'calibration: expected that of the map, {self._intrinsics}, got '
                             f'{found}; reset to change the calibration')
        return self._intrinsics

    def _warn(self, reason: str, consequence: str) -> None:
        """Write a warning to the log, once for a map."""
        if reason and reason not in self._warned:
            self._warned.add(reason)
            logger.warning('%s: %s', reason, consequence)
