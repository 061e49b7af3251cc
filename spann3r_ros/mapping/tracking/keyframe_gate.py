# SPDX-License-Identifier: Apache-2.0
"""Selection of the frames that become keyframes."""
from __future__ import annotations

from spann3r_ros.mapping.mapper_config import KeyframeConfig


class KeyframeGate:
    """Admits every `stride`-th frame, but none sooner than `min_interval_sec` after the last."""

    def __init__(self, config: KeyframeConfig) -> None:
        self._stride = config.stride
        self._min_interval_ns = round(config.min_interval_sec * 1e9)
        self._since_admitted = config.stride - 1
        self._admitted_stamp_ns: int | None = None
        self._before: tuple[int, int | None] = self._since_admitted, None
        self.skipped = 0

    def admits(self, stamp_ns: int) -> bool:
        """Return whether the next frame is admitted, and remember the decision.

        A stamp before the last admitted one means that the clock jumped back: the interval is then
        not checked.
        """
        self._since_admitted += 1
        last = self._admitted_stamp_ns
        early = last is not None and 0 <= stamp_ns - last < self._min_interval_ns
        if self._since_admitted < self._stride or early:
            self.skipped += 1
            return False
        self._before = self._since_admitted - 1, last
        self._since_admitted = 0
        self._admitted_stamp_ns = stamp_ns
        return True

    def withdraw(self) -> None:
        """Undo the last admission, because the frame cannot be used: the next one is as due."""
        self._since_admitted, self._admitted_stamp_ns = self._before
