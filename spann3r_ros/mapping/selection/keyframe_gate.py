# SPDX-License-Identifier: Apache-2.0
"""Selection of the frames that become keyframes."""
from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.mapper_config import KeyframeConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .view_change import View, ViewChange, is_blank

# Less flow than this share of the image width is no motion.
LEAST_FLOW = 0.005
# A network with a lag needs a second image for its first estimate: after this time it gets one.
SECOND_AFTER_NS = 3 * 10**8
# What a change exceeds the thresholds by counts for the next keyframe, up to this share of them:
# the number of keyframes then depends little on how often the camera takes an image.
MAX_CREDIT = 0.5


class Verdict(Enum):
    """Whether a frame becomes a keyframe: yes; no need, but it may; or it must not."""

    ADMITTED = 1
    SIMILAR = 2
    REFUSED = 3


class KeyframeGate:
    """Admits frames by the change of the view since the last one admitted, or by their number.

    No frame is admitted sooner than `min_interval_sec` after the last one. With `parallax`, a
    frame is admitted whose view has changed by the thresholds of the settings, or that has moved
    at all since `max_interval_sec`. With `stride`, every so many frames one is admitted.
    """

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._since_admitted = config.stride - 1
        self._admitted_stamp_ns: int | None = None
        self._view: View | None = None  # that of the last frame admitted
        self._credit = 0.0
        self._excess = 0.0  # of the newest frame
        self.skipped = 0

    def configure(self, config: KeyframeConfig) -> None:
        """Use other thresholds from the next frame on."""
        self._config = config

    @property
    def compares(self) -> bool:
        """Return whether it compares images, all of which it has to see."""
        return self._config.selection == 'parallax'

    def is_early(self, stamp_ns: int) -> bool:
        """Return whether a frame is refused whatever it shows.

        A stamp before the last admitted one means that the clock jumped back: the interval is then
        not checked.
        """
        config = self._config
        if config.selection == 'stride' and self._since_admitted + 1 < config.stride:
            return True
        least_ns = round(config.min_interval_sec * 1e9)
        return self._admitted_stamp_ns is not None and 0 <= self._elapsed_ns(stamp_ns) < least_ns

    def judge(self, stamp_ns: int, view: Preprocessed, intrinsics: Intrinsics | None,
              is_second: bool) -> Verdict:
        """Return whether a frame shows enough that is new; all frames in turn are to be judged.

        `is_second`: the network waits for a second image.
        """
        self._excess = 0.0
        if self._config.selection == 'parallax' and is_blank(view.image):
            return Verdict.REFUSED
        is_new = self._is_new(stamp_ns, view, intrinsics, is_second)
        if self.is_early(stamp_ns):
            return Verdict.REFUSED
        return Verdict.ADMITTED if is_new else Verdict.SIMILAR

    def skip(self) -> None:
        """Count a frame that is not admitted."""
        self._since_admitted += 1
        self.skipped += 1

    def admit(self, stamp_ns: int, view: Preprocessed) -> tuple[np.ndarray, ...]:
        """Record that a frame is used; return gray images on the way from the last one to it."""
        self._since_admitted = 0
        self._admitted_stamp_ns = stamp_ns
        waypoints = () if self._view is None else self._view.waypoints
        self._credit = min(max(self._excess, 0.0), MAX_CREDIT)
        self._excess = 0.0
        self._view = View.of(view) if self._config.selection == 'parallax' else None
        return waypoints

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'since_admitted': self._since_admitted, 'skipped': self.skipped,
                'admitted_stamp_ns': self._admitted_stamp_ns, 'credit': self._credit,
                'view': None if self._view is None else self._view.tree()}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state."""
        self._since_admitted = node.integer('since_admitted')
        self.skipped = node.integer('skipped')
        if node.has('admitted_stamp_ns'):
            self._admitted_stamp_ns = node.integer('admitted_stamp_ns')
        # Maps of earlier versions have no such entries.
        if node.has('credit'):
            self._credit = node.number('credit', 0.0, MAX_CREDIT)
        if node.has('view'):
            self._view = View.read(node.node('view'))

    def _is_new(self, stamp_ns: int, view: Preprocessed, intrinsics: Intrinsics | None,
                is_second: bool) -> bool:
        if self._config.selection == 'stride' or self._view is None:
            return True
        change = self._view.change(view.image, intrinsics)
        elapsed_ns = self._elapsed_ns(stamp_ns)
        if elapsed_ns < 0:
            return True
        self._excess = self._ratio(change) - (1.0 - self._credit)
        due = elapsed_ns >= round(self._config.max_interval_sec * 1e9)
        return (self._excess >= 0.0 or due and change.flow > LEAST_FLOW
                or is_second and elapsed_ns >= SECOND_AFTER_NS)

    def _elapsed_ns(self, stamp_ns: int) -> int:
        return stamp_ns - (self._admitted_stamp_ns or 0)

    def _ratio(self, change: ViewChange) -> float:
        """Return how much of the way to the next keyframe the view has changed."""
        return max(change.parallax / self._config.min_parallax,
                   (1.0 - change.overlap) / (1.0 - self._config.min_overlap))
