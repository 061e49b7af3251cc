# SPDX-License-Identifier: Apache-2.0
"""Whether an image shows the view of another one, so that the camera has not been moved away."""
from __future__ import annotations

import numpy as np

from spann3r_ros.mapping.selection.view_change import View
from spann3r_ros.mapping.tracking.corner_tracks import find_corners, to_gray

# Least overlap of two images of one view, by their tracked corners. Images of different views of
# one room give zero, because fewer corners than an estimate needs can be tracked.
LEAST_OVERLAP = 0.3


def shows_view_of(image: np.ndarray, before: np.ndarray) -> bool:
    """Return whether an image shows enough of one before it; both uint8 RGB [h, w, 3]."""
    gray = to_gray(before)
    if image.shape != before.shape:
        return False
    view = View(gray, find_corners(gray).reshape(-1, 2))
    return view.change(image, None).overlap >= LEAST_OVERLAP
