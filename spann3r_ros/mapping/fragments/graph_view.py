# SPDX-License-Identifier: Apache-2.0
"""The graph of a map to look at: cameras, fragments and the constraints between them."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.types import FragmentPose

from .atlas import Atlas
from .constraint import Constraint
from .fragment import Fragment

JOIN, ACCEPTED, REJECTED, UNJUDGED, REFUSED = (
    'join', 'accepted', 'rejected', 'unjudged', 'refused')


@dataclass(frozen=True)
class GraphView:
    """Places in the map.

    `cameras` [n, 3] are the keyframes, oldest first, `fragment_ids` int [n] their fragments,
    `connected` bool [n] whether a measurement connects these with the oldest fragment. `edges`
    have the ends [m, 2, 3] of the constraints by what they are: a join, or a loop that the pose
    graph accepts, rejects or has not judged yet. A join goes from the last camera of the first
    fragment to the first one of the second. A loop goes from the middle of one path to that of the
    other. Refused candidates of loops, which are no constraints, go from camera to camera.
    """

    cameras: np.ndarray
    fragment_ids: np.ndarray
    connected: np.ndarray
    edges: dict[str, np.ndarray]


def view_graph(atlas: Atlas,
               refused: Iterable[tuple[FragmentPose, FragmentPose]] = ()) -> GraphView:
    """Return the graph of an atlas as it is now, with the cameras of refused candidates.

    Fragments that have no place in the map are not in it.
    """
    cameras = {one.id: _cameras(one) for one in atlas.located()}
    counts = [len(one) for one in cameras.values()]
    unconnected = atlas.unconnected()
    edges: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
        JOIN: [], ACCEPTED: [], REJECTED: [], UNJUDGED: [], REFUSED: []}
    for one in atlas.constraints:
        if not {one.first, one.second} <= set(cameras):
            continue
        first, second = cameras[one.first], cameras[one.second]
        if not (len(first) and len(second)):
            continue
        kind = _kind(one)
        edges[kind].append((first[-1], second[0]) if kind == JOIN
                           else (first[len(first) // 2], second[len(second) // 2]))
    for pair in refused:
        if all(one.fragment_id in cameras for one in pair):
            edges[REFUSED].append(tuple(
                one.in_map(atlas.fragments[one.fragment_id].map_from_fragment)
                .world_from_camera[:3, 3] for one in pair))
    return GraphView(
        np.concatenate(list(cameras.values())), np.repeat(list(cameras), counts),
        np.repeat([one not in unconnected for one in cameras], counts),
        {kind: np.array(ends).reshape(-1, 2, 3) for kind, ends in edges.items()})


def _cameras(fragment: Fragment) -> np.ndarray:
    """Return the places [n, 3] of a fragment's cameras in the map."""
    place = fragment.map_from_fragment
    return fragment.path.transforms[:, :3, 3] @ place[:3, :3].T + place[:3, 3]


def _kind(one: Constraint) -> str:
    if one.kind == 'overlap':
        return JOIN
    return {None: UNJUDGED, True: ACCEPTED, False: REJECTED}[one.accepted]
