# SPDX-License-Identifier: Apache-2.0
"""A frame that the keyframe gate admitted."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import Preprocessed


@dataclass(frozen=True)
class Admitted:
    """A frame that the keyframe gate admitted, with its network input and image id.

    `size` is the height and width of the camera's images, `intrinsics` is their calibration.
    `is_counted` is false for a frame that is not among the processed ones: one of a loaded map,
    which another process has received, or one that was skipped before.
    `waypoints` are gray images [h, w] on the way from the keyframe before to this one, through
    which corners can be tracked.
    """

    frame: Frame
    network_input: Preprocessed
    image_id: int
    size: tuple[int, int]
    intrinsics: Intrinsics | None
    is_counted: bool = True
    waypoints: tuple[np.ndarray, ...] = ()
