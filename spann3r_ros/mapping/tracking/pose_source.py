# SPDX-License-Identifier: Apache-2.0
"""Where the poses of a map come from: solved from the network's estimates, or given."""
from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import FragmentPose, Frame
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.admitted import Admitted
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode


class PoseSource(ABC):
    """Turns estimates into keyframes with poses in the current fragment."""

    def __init__(self) -> None:
        # How many estimates gave no pose, how many gave one that the filter rejected, how often it
        # then followed them after all, and how many frames got no live pose.
        self.failed = 0
        self.gated = 0
        self.resets = 0
        self.live_failed = 0
        # If not empty, the next frame begins a fragment.
        self.restart_reason = ''

    @abstractmethod
    def configure(self, config: MapperConfig) -> None:
        """Use other weights and thresholds from the next frame on."""

    @property
    def waiting(self) -> int:
        """Return the number of keyframes that wait for their place in the map."""
        return 0

    @property
    def joining(self) -> bool:
        """Return whether the fragment gets its place from images that are seen again."""
        return False

    @property
    @abstractmethod
    def keyframes(self) -> list[Keyframe]:
        """Return the keyframes that are kept for the next frames, in the current fragment."""

    @abstractmethod
    def begin_fragment(self, fragment: Fragment, new_from_former: np.ndarray,
                       seen_again: bool = True) -> None:
        """Go on in a new fragment; `new_from_former` [4, 4] is a similarity.

        `seen_again`: its sequence begins with images of the fragment before.
        """

    @abstractmethod
    def place(self, admitted: Admitted, estimate: Estimate, intrinsics: Intrinsics,
              fragment: Fragment) -> list[Keyframe]:
        """Use the final estimate of a frame; return the keyframes that it completes.

        The points of the estimate are finite or NaN. Raises FrameError, without an effect on other
        frames, if the estimate cannot be used.
        """

    @abstractmethod
    def passing_pose(self, frame: Frame, view: Preprocessed, intrinsics: Intrinsics | None,
                     fragment: Fragment) -> FragmentPose | None:
        """Return the pose of a frame that is no keyframe; None if there is none.

        `view` is its network input, `intrinsics` are those of the view, as far as they are known.
        """

    @abstractmethod
    def finish(self) -> None:
        """Drop what still waits, because the recording ends."""

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'failed': self.failed, 'gated': self.gated, 'resets': self.resets,
                'live_failed': self.live_failed,
                'restart_reason': self.restart_reason}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self.failed, self.live_failed = node.integer('failed'), node.integer('live_failed')
        self.gated, self.resets = node.integer('gated'), node.integer('resets')
        self.restart_reason = node.text('restart_reason')
