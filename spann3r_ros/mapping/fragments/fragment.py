# SPDX-License-Identifier: Apache-2.0
"""A fragment: keyframes that share one network memory, in a frame of their own."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spann3r_ros.mapping.scale.map_scale import Scale

from .constraint import Constraint
from .keyframe_store import KeptKeyframe
from .pose_series import PoseSeries


@dataclass
class Fragment:
    """Keyframes, path and voxels in the frame of the fragment, and its place in the map.

    The frame of a fragment is the frame of the map when the fragment began, in the unit of the
    first fragment, or one of the same axes with its origin near the camera. `map_from_fragment`
    [4, 4] is a similarity; it alone changes when the fragment moves. `fragment_from_sequence`
    [4, 4], a similarity, places the points of the network; it is fixed before the first keyframe.
    `keyframes` are by number, `stores` by the name of their layer. `connected` is false if the
    place in the map was assumed and not measured. `unlocated` is true if there is no such
    assumption either: the fragment is in no view of the map until it is found there.
    """

    id: int
    map_from_fragment: np.ndarray = field(default_factory=lambda: np.eye(4))
    fragment_from_sequence: np.ndarray = field(default_factory=lambda: np.eye(4))
    scale: Scale = field(default_factory=Scale)
    path: PoseSeries = field(default_factory=PoseSeries)
    keyframes: dict[int, KeptKeyframe] = field(default_factory=dict)
    stores: dict[str, Any] = field(default_factory=dict)
    # Length of the path of removed fragments just before this one, in its unit.
    gap: float = 0.0
    # How many keyframes the fragment has received; some may have been evicted since.
    received: int = 0
    connected: bool = True
    unlocated: bool = False
    # The fragment began after a gap, and nothing has shown yet that it begins where the overlap
    # ends. `join` is then the constraint by the overlap, once that is aligned.
    after_gap: bool = False
    join: Constraint | None = None

    def take_join(self) -> Constraint | None:
        """Return the constraint that has not been believed yet; the fragment keeps none."""
        join, self.join, self.after_gap = self.join, None, False
        return join
