# SPDX-License-Identifier: Apache-2.0
"""A hint of a user: where the camera is about, in the map."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.transforms import is_rigid
from spann3r_ros.mapping.storage.saved_values import is_covariance

# A place within so many standard deviations of a hint is near it.
SIGMAS = 3.0
# However certain the heading of a hint is, cameras within this angle in radians are near it.
LEAST_ANGLE = math.radians(60.0)


class HintError(ValueError):
    """A hint cannot be used; the text is the reason."""


@dataclass(frozen=True)
class Hint:
    """A pose `map_from_camera` [4, 4] with the covariance [6, 6] of its position and rotation.

    Both are along the axes of the map. Raises HintError for numbers that are none.
    """

    map_from_camera: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        if not is_rigid(self.map_from_camera):
            raise HintError('initialpose: expected a finite pose, got '
                            f'{np.asarray(self.map_from_camera)[:3].tolist()}')
        if not (np.isfinite(self.covariance).all() and is_covariance(self.covariance)):
            raise HintError('initialpose: expected a symmetric covariance of finite numbers, '
                            f'variances of 0 or more, got {np.diag(self.covariance).tolist()}')

    def is_near(self, map_from_cameras: np.ndarray, radius: float) -> np.ndarray:
        """Return which cameras [n, 4, 4] of the map may be meant, bool [n].

        Heights are not compared: a hint given on a picture from above has none.
        """
        reach = max(radius, SIGMAS * math.sqrt(self.covariance[:2, :2].diagonal().max()))
        away = np.linalg.norm(map_from_cameras[:, :2, 3] - self.map_from_camera[:2, 3], axis=1)
        angle = max(LEAST_ANGLE, SIGMAS * math.sqrt(self.covariance[5, 5]))
        turned = np.abs(_headings(map_from_cameras) - _headings(self.map_from_camera[None]))
        turned = np.minimum(turned, 2.0 * math.pi - turned)
        return (away <= reach) & (turned <= angle)


def _headings(map_from_cameras: np.ndarray) -> np.ndarray:
    """Return the angles [n] of the optical axes about z of the map."""
    return np.arctan2(map_from_cameras[:, 1, 2], map_from_cameras[:, 0, 2])
