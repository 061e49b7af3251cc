# SPDX-License-Identifier: Apache-2.0
"""Selection of the frames that become keyframes."""
from __future__ import annotations

from spann3r_ros.mapping.mapper_config import KeyframeConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode


class KeyframeGate:
    """Admits every `stride`-th frame, but none sooner than `min_interval_sec` after the last."""

    def __init__(self, config: KeyframeConfig) -> None:
        self.configure(config)
        self._since_admitted = config.stride - 1
        self._admitted_stamp_ns: int | None = None
        self.skipped = 0

    def configure(self, config: KeyframeConfig) -> None:
        """Use another stride and interval."""
        self._stride = config.stride
        self._min_interval_ns = round(config.min_interval_sec * 1e9)

    def skips(self, stamp_ns: int) -> bool:
        """Return whether the next frame is skipped, and count it then.

        A frame that is not skipped is to be admitted, unless it cannot be used. A stamp before the
        last admitted one means that the clock jumped back: the interval is then not checked.
        """
        last = self._admitted_stamp_ns
        early = last is not None and 0 <= stamp_ns - last < self._min_interval_ns
        if self._since_admitted + 1 >= self._stride and not early:
            return False
        self._since_admitted += 1
        self.skipped += 1
        return True

    def tree(self) -> dict[str, int | None]:
        """Return the state for a saved map."""
        return {'since_admitted': self._since_admitted, 'skipped': self.skipped,
                'admitted_stamp_ns': self._admitted_stamp_ns}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state."""
        self._since_admitted = node.integer('since_admitted')
        self.skipped = node.integer('skipped')
        if node.has('admitted_stamp_ns'):
            self._admitted_stamp_ns = node.integer('admitted_stamp_ns')

    def admit(self, stamp_ns: int) -> None:
        """Record that the frame of a stamp is used."""
        self._since_admitted = 0
        self._admitted_stamp_ns = stamp_ns
