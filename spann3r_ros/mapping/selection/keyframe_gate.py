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
from spann3r_ros.mapping.tracking.corner_tracks import to_gray

from .scene_change import SAMPLE_NS, SceneChange
from .view_change import View, ViewChange, is_blank

# Less flow than this share of the image width is no motion.
LEAST_FLOW = 0.005
# A network with a lag needs a second image for its first estimate: after this time it gets one.
SECOND_AFTER_NS = 3 * 10**8
# What a change exceeds the thresholds by counts for the next keyframe, up to this share of them:
# the number of keyframes then depends little on how often the camera takes an image.
MAX_CREDIT = 0.5
# Changes of a part of the view make keyframes for so many changes in a row; beyond, one keyframe
# every `max_interval_sec`.
CHANGES = 3


class Verdict(Enum):
    """Whether a frame becomes a keyframe: yes; no need, but it may; or it must not."""

    ADMITTED = 1
    SIMILAR = 2
    REFUSED = 3


class KeyframeGate:
    """Admits frames by the change of the view since the last one admitted, or by their number.

    No frame is admitted sooner than `min_interval_sec` after the last one. With `parallax`, a
    frame is admitted whose view has changed by the thresholds of the settings, or that has moved
    at all since `max_interval_sec`. After a change of a part of the view (`SceneChange`),
    `after_change` frames are admitted, each as soon as nothing moves or `max_interval_sec` is
    over. With `stride`, every so many frames one is admitted.
    """

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._since_admitted = config.stride - 1
        self._admitted_stamp_ns: int | None = None
        self._view: View | None = None  # that of the last frame admitted
        self._credit = 0.0
        self._excess = 0.0  # of the newest frame
        self._scene = SceneChange()
        self._due = 0  # keyframes still to come after a change
        self._spent = 0.0  # keyframes that changes have made, less one every `max_interval_sec`
        self.skipped = 0

    def configure(self, config: KeyframeConfig) -> None:
        """Use other thresholds from the next frame on."""
        self._config = config

    @property
    def compares(self) -> bool:
        """Return whether it compares images, all of which it has to see."""
        return self._config.selection == 'parallax'

    @property
    def may_repeat(self) -> bool:
        """Return whether it needs to see an image twice that equals the one before."""
        return self._due > 0 or self._scene.unsure

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
        if self._due and self._admitted_stamp_ns is not None:
            regained = self._elapsed_ns(stamp_ns) / (1e9 * self._config.max_interval_sec)
            self._spent = max(self._spent - max(regained, 0.0), 0.0) + 1.0
            self._due -= 1
        self._admitted_stamp_ns = stamp_ns
        waypoints = () if self._view is None else self._view.waypoints
        self._credit = min(max(self._excess, 0.0), MAX_CREDIT)
        self._excess = 0.0
        self._view = View.of(view) if self._config.selection == 'parallax' else None
        if self._view is not None:
            self._scene.begin(stamp_ns, to_gray(view.image))
        return waypoints

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'since_admitted': self._since_admitted, 'skipped': self.skipped,
                'admitted_stamp_ns': self._admitted_stamp_ns, 'credit': self._credit,
                'view': None if self._view is None else self._view.tree(),
                'scene': self._scene.tree(), 'due': self._due, 'spent': self._spent}

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
        if node.has('scene'):
            self._scene.restore(node.node('scene'))
            self._due, self._spent = node.integer('due'), node.number('spent', 0.0)

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
        gray = to_gray(view.image)
        moved = self._excess >= 0.0 or due and change.flow > LEAST_FLOW
        if moved and self._scene.stands(gray):
            moved, self._excess = False, 0.0
        if moved and self._scene.has_changed(gray, self._view.tracks):
            self._due = self._config.after_change
        return (self._has_changed(stamp_ns, gray, due) or moved
                or is_second and elapsed_ns >= SECOND_AFTER_NS)

    def _has_changed(self, stamp_ns: int, gray: np.ndarray, due: bool) -> bool:
        """Return whether a frame is to be admitted after a change of a part of the view."""
        part = self._scene.observe(stamp_ns, gray, self._view.tracks)
        if part.settled:
            self._due = self._config.after_change
        if not self._due or part.moving and not due:
            return False
        elapsed_ns = self._elapsed_ns(stamp_ns)
        spent = self._spent - elapsed_ns / (1e9 * self._config.max_interval_sec)
        return elapsed_ns >= SAMPLE_NS and spent <= CHANGES * self._config.after_change - 1.0

    def _elapsed_ns(self, stamp_ns: int) -> int:
        return stamp_ns - (self._admitted_stamp_ns or 0)

    def _ratio(self, change: ViewChange) -> float:
        """Return how much of the way to the next keyframe the view has changed."""
        return max(change.parallax / self._config.min_parallax,
                   (1.0 - change.overlap) / (1.0 - self._config.min_overlap))
