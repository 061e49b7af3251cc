# SPDX-License-Identifier: Apache-2.0
"""Bounds of a queue."""
from __future__ import annotations

from dataclasses import dataclass

from spann3r_ros.core.types import Frame


@dataclass(frozen=True)
class QueueBounds:
    """Most items and most bytes that wait; one item may always wait, whatever its size."""

    items: int
    bytes: int

    def exceeded(self, items: int, held_bytes: int) -> bool:
        """Return whether so many items, of so many bytes in total, exceed the bounds."""
        return items > self.items or (items > 1 and held_bytes > self.bytes)


def frame_bytes(frame: Frame) -> int:
    """Return the bytes of a frame's image, mask and depth."""
    return sum(one.nbytes for one in (frame.rgb, frame.mask, frame.depth) if one is not None)
