# SPDX-License-Identifier: Apache-2.0
"""How far a path can have drifted between two keyframes: the prior of a loop.

The images of two rooms that look alike do not differ. Their places on the path differ:
a loop that joins them claims that the whole way between both is an error. With the length l of the
path between the keyframes, the depth d that the second one sees, and `loops.drift` g, the standard
deviations of the prior are

    position  max(g l, 0.1 d)    rotation  3 g radian    logarithm of the scale  3 g

in the frame of the second camera. The covariance of its pose on the path is added. A loop that
the map already agrees with is a way of no length, so that l does not grow beyond the unexplored.
"""
from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.special import gammaincinv

from spann3r_ros.core.similarity import SHIFT, SIZE, TURN, error_vectors
from spann3r_ros.core.transforms import invert_similarity, similarity_scale
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas

# Share of such loops, although right, that the prior rejects.
REJECTED_SHARE = 1e-3
# The gate: quantile of chi-square with seven degrees of freedom.
GATE = 2.0 * float(gammaincinv(0.5 * SIZE, 1.0 - REJECTED_SHARE))
# Rotation in radians and logarithm of the scale, in units of the relative drift.
TURNS_PER_DRIFT = SCALES_PER_DRIFT = 3.0
MIN_SHIFT = 0.1
# In a sparse graph a length of zero is no edge.
NO_LENGTH = 1e-9


def map_from_camera(atlas: Atlas, pose: FragmentPose) -> np.ndarray:
    """Return the similarity [4, 4] of a camera in the map; its scale is that of the fragment."""
    return atlas.fragments[pose.fragment_id].map_from_fragment @ pose.fragment_from_camera


def error_of(first_from_second: np.ndarray, atlas: Atlas, first: FragmentPose,
             second: FragmentPose) -> np.ndarray:
    """Return the error vector [7] of a measured similarity [4, 4] of two cameras in the map."""
    placed = invert_similarity(map_from_camera(atlas, first)) @ map_from_camera(atlas, second)
    return error_vectors(invert_similarity(first_from_second) @ placed)


def excess(error: np.ndarray, covariance: np.ndarray, length: float, distance: float,
           second: FragmentPose, drift: float) -> float:
    """Return the squared error of a loop in units of its covariance; above `GATE` it is refused.

    `error` [7] is that of `error_of`, `covariance` [7, 7] that of the measured similarity.
    `length` of the path and `distance`, the depth, are in units of the second fragment.
    """
    prior = np.zeros((SIZE, SIZE))
    prior[SHIFT, SHIFT] = np.eye(3) * max(drift * length, MIN_SHIFT * distance)**2
    prior[TURN, TURN] = np.eye(3) * (TURNS_PER_DRIFT * drift)**2
    prior[6, 6] = (SCALES_PER_DRIFT * drift)**2
    if second.covariance is not None:
        axes = np.kron(np.eye(2), second.fragment_from_camera[:3, :3].T)
        prior[:6, :6] += axes @ second.covariance @ axes.T
    return float(error @ np.linalg.solve(prior + covariance, error))


class PathLengths:
    """Lengths of the path in the map, which loops shorten; `shortcuts` are pairs of stamps."""

    def __init__(self, atlas: Atlas, shortcuts: list[tuple[int, int]]) -> None:
        path = atlas.path()
        steps = np.linalg.norm(np.diff(path.map_from_camera[:, :3, 3], axis=0), axis=1)
        self._stamps = path.stamps_ns
        self._along = np.concatenate([[0.0], np.cumsum(steps)])
        self._shortcuts = shortcuts

    def between(self, first_ns: int, second_ns: int) -> float:
        """Return the length of the shortest way between two stamps, in units of the map."""
        stamps = [first_ns, second_ns, *(one for pair in self._shortcuts for one in pair)]
        # Stamps may have jumped back, or a map was continued with older ones.
        by_stamp = np.argsort(self._stamps, kind='stable')
        along = self._along[by_stamp[np.clip(np.searchsorted(
            self._stamps, stamps, sorter=by_stamp), 0, len(self._along) - 1)]]
        order = np.argsort(along, kind='stable')
        ends = np.arange(2, len(stamps))
        lengths = np.concatenate([np.diff(along[order]), np.zeros(len(ends) // 2)])
        # SciPy before 1.13 follows indices of 32 bits only.
        edges = (np.concatenate([order[:-1], ends[::2]]).astype(np.int32),
                 np.concatenate([order[1:], ends[1::2]]).astype(np.int32))
        graph = coo_array((np.maximum(lengths, NO_LENGTH), edges), (len(stamps), len(stamps)))
        return float(dijkstra(graph.tocsr(), directed=False, indices=0)[1])


def length_in(unit_of: FragmentPose, atlas: Atlas, length: float) -> float:
    """Return a length in the map in units of the fragment of a pose."""
    return length / similarity_scale(atlas.fragments[unit_of.fragment_id].map_from_fragment)
