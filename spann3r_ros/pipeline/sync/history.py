# SPDX-License-Identifier: Apache-2.0
"""Received values with stamps."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from spann3r_ros.core.messages import LEAD_NS

from .bounds import QueueBounds

Value = TypeVar('Value')


class History(Generic[Value]):
    """The newest received values and their stamps in nanoseconds, within bounds.

    `size` returns the bytes of a value.
    """

    def __init__(self, bounds: QueueBounds, size: Callable[[Value], int]) -> None:
        self._bounds = bounds
        self._size = size
        self._items: deque[tuple[int, Value]] = deque()
        self._bytes = 0
        # How many values were received in all.
        self.received = 0

    def take(self, stamp_ns: int, value: Value) -> None:
        """Store a value; remove the oldest ones beyond the bounds."""
        self._items.append((stamp_ns, value))
        self._bytes += self._size(value)
        self.received += 1
        while self._bounds.exceeded(len(self._items), self._bytes):
            self._bytes -= self._size(self._items.popleft()[1])

    def reaches(self, stamp_ns: int) -> bool:
        """Return whether a value of this stamp or a later one is stored."""
        return any(stamp >= stamp_ns for stamp, _ in reversed(self._items))

    def newest_until(self, stamp_ns: int) -> tuple[int, Value] | None:
        """Return the stamp and value with the newest stamp that is not after a stamp.

        Of several values with one stamp it is the one that came last.
        """
        return max((item for item in reversed(self._items) if item[0] <= stamp_ns),
                   key=lambda item: item[0], default=None)

    def last(self) -> tuple[int, Value] | None:
        """Return the stamp and value that came last."""
        return self._items[-1] if self._items else None

    def first(self) -> tuple[int, Value] | None:
        """Return the stamp and value with the oldest stamp."""
        return min(self._items, key=lambda item: item[0], default=None)

    def begin_again(self, stamp_ns: int) -> None:
        """Remove the values of the old time, after a stamp to which time has jumped back."""
        self._items = deque(item for item in self._items if item[0] <= stamp_ns + LEAD_NS)
        self._bytes = sum(self._size(value) for _, value in self._items)
