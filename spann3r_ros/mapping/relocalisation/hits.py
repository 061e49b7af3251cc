# SPDX-License-Identifier: Apache-2.0
"""Hits of a search: verified pairs of keyframes, and whether they agree on the camera's place.

A hit says where a keyframe of the unlocated fragment is in the map, and so by which similarity M
everything unlocated has to be moved. With the camera C of the newest keyframe, as it is placed
now, and the error vector e of `core.similarity`, two hits differ by

    e( (M_1 C)^-1 M_2 C )

The place is the mean of the agreeing ones, weighted by their covariances P_i:

    e = (sum P_i^-1)^-1 sum P_i^-1 e_i
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spann3r_ros.core.similarity import (
    SCALE,
    SHIFT,
    TURN,
    error_vectors,
    similarities_of,
    without_rounding,
)
from spann3r_ros.core.transforms import invert_similarity
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.loops.path_prior import map_from_camera
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of
from spann3r_ros.mapping.storage.saved_values import (
    pose_tree,
    read_covariance,
    read_pose,
    read_similarity,
)

# Hits agree if they place the newest camera within this share of the depth, this angle in radians,
# and this logarithm of the scale.
MAX_SHIFT, MAX_TURN, MAX_LOG_SCALE = 0.1, np.radians(5.0), 0.1


@dataclass(frozen=True)
class Hit:
    """A keyframe of the map, `first`, and one of the unlocated fragment that shows the same.

    `first` and `second` are their numbers. `first_from_second` [4, 4] is the measured similarity
    of both cameras, `covariance` [7, 7] that of its error. `distance` is the median depth of the
    second keyframe in units of its fragment.
    """

    first: int
    second: int
    first_pose: FragmentPose
    second_pose: FragmentPose
    first_from_second: np.ndarray
    covariance: np.ndarray
    distance: float

    def motion(self, atlas: Atlas) -> np.ndarray:
        """Return the similarity [4, 4] by which everything unlocated has to be moved."""
        return (map_from_camera(atlas, self.first_pose) @ self.first_from_second
                @ invert_similarity(map_from_camera(atlas, self.second_pose)))

    def error_to(self, other: Hit, atlas: Atlas) -> np.ndarray:
        """Return the error vector [7] from this hit's place of its camera to another hit's."""
        camera = map_from_camera(atlas, self.second_pose)
        return error_vectors(invert_similarity(self.motion(atlas) @ camera)
                             @ other.motion(atlas) @ camera)

    def agrees_with(self, other: Hit, atlas: Atlas) -> bool:
        """Return whether both hits say the same of the place, up to the limits of this module."""
        error = self.error_to(other, atlas)
        return bool(np.linalg.norm(error[SHIFT]) <= MAX_SHIFT * self.distance
                    and np.linalg.norm(error[TURN]) <= MAX_TURN
                    and abs(error[SCALE]) <= MAX_LOG_SCALE)

    def confirms(self, other: Hit, atlas: Atlas) -> bool:
        """Return whether both hits agree and have no keyframe in common."""
        return (self.first != other.first and self.second != other.second
                and self.agrees_with(other, atlas))

    def tree(self) -> dict[str, Any]:
        """Return the hit for a saved map."""
        return {**vars_of(self), 'first_pose': pose_tree(self.first_pose),
                'second_pose': pose_tree(self.second_pose)}


def read_hit(node: SavedNode) -> Hit:
    """Return a saved hit; raise ValueError if it is wrong."""
    return Hit(node.integer('first'), node.integer('second'), read_pose(node.node('first_pose')),
               read_pose(node.node('second_pose')), read_similarity(node, 'first_from_second'),
               read_covariance(node, 'covariance', 7), node.number('distance', 0.0))


def common_motion(hits: Sequence[Hit], atlas: Atlas) -> np.ndarray:
    """Return the similarity [4, 4] that agreeing hits together say; the last one is the newest."""
    newest = hits[-1]
    weights = [np.linalg.inv(one.covariance) for one in hits]
    error = np.linalg.solve(sum(weights), sum(
        weight @ newest.error_to(one, atlas) for one, weight in zip(hits, weights, strict=True)))
    camera = map_from_camera(atlas, newest.second_pose)
    return without_rounding(newest.motion(atlas) @ camera @ similarities_of(error)
                            @ invert_similarity(camera))
