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

from collections.abc import Sequence

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
    """Lengths of the path in the map, which loops shorten.

    `shortcuts` are the poses of two cameras each, whose place is the same on the map as measured.
    Poses that the path has dropped count: in their fragment they are taken as at its beginning, so
    that a length is rather too long.
    """

    def __init__(self, atlas: Atlas,
                 shortcuts: Sequence[tuple[FragmentPose, FragmentPose]]) -> None:
        self._stamps = {one.id: one.path.stamps for one in atlas.fragments.values()}
        self._along: dict[int, np.ndarray] = {}
        self._begins: dict[int, float] = {}
        end, newest = 0.0, None
        for fragment in atlas.fragments.values():
            path, place = fragment.path, fragment.map_from_fragment
            scale = similarity_scale(place)
            places = path.transforms[:, :3, 3] @ place[:3, :3].T + place[:3, 3]
            end += scale * fragment.gap
            if path.received > len(path):
                whole = scale * path.length
            else:
                whole = 0.0
                if newest is not None and len(places):
                    end += float(np.linalg.norm(places[0] - newest))
            along = np.concatenate([np.zeros(min(len(places), 1)), np.cumsum(
                np.linalg.norm(np.diff(places, axis=0), axis=1))])
            left = along[-1] if len(along) else 0.0
            self._begins[fragment.id] = end
            self._along[fragment.id] = end + max(whole - left, 0.0) + along
            end += max(whole, left)
            newest = places[-1] if len(places) else None
        self._shortcuts = shortcuts

    def between(self, first: FragmentPose, second: FragmentPose) -> float:
        """Return the length of the shortest way between two cameras, in units of the map."""
        cameras = [first, second, *(one for pair in self._shortcuts for one in pair)]
        along = np.array([self._at(one) for one in cameras])
        order = np.argsort(along, kind='stable')
        ends = np.arange(2, len(cameras))
        lengths = np.concatenate([np.diff(along[order]), np.zeros(len(ends) // 2)])
        # SciPy before 1.13 follows indices of 32 bits only.
        edges = (np.concatenate([order[:-1], ends[::2]]).astype(np.int32),
                 np.concatenate([order[1:], ends[1::2]]).astype(np.int32))
        graph = coo_array((np.maximum(lengths, NO_LENGTH), edges), (len(cameras), len(cameras)))
        return float(dijkstra(graph.tocsr(), directed=False, indices=0)[1])

    def _at(self, pose: FragmentPose) -> float:
        """Return the length of the way up to a camera."""
        # Stamps are compared within a fragment only: they may have jumped back before it.
        stamps = self._stamps[pose.fragment_id]
        if not len(stamps) or pose.stamp_ns < stamps[0]:
            return self._begins[pose.fragment_id]
        return float(self._along[pose.fragment_id][np.abs(stamps - pose.stamp_ns).argmin()])


def length_in(unit_of: FragmentPose, atlas: Atlas, length: float) -> float:
    """Return a length in the map in units of the fragment of a pose."""
    return length / similarity_scale(atlas.fragments[unit_of.fragment_id].map_from_fragment)
