# SPDX-License-Identifier: Apache-2.0
"""The pose graph of an atlas, and a pose graph as a part of a saved map.

A fragment is rigid in the graph, but the path in it has drifted. So the covariance of a constraint
gets a part of its own for the fragments that it connects, with d = `loops.fragment_drift`: the
standard deviations d L of the translation, d of the rotation and d of the log scale, where L is
the length of the path. A join is at the end of the first fragment and at the beginning of the
second: all of the first has drifted, and fragments between both that were removed. A loop may be
anywhere: half of both is assumed. Poses that a path has dropped count as well.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from spann3r_ros.core.similarity import SCALE, SHIFT, SIZE, TURN, adjoints, similarity_scales
from spann3r_ros.core.transforms import is_similarity
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint, read_constraint
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of

from .loop_selection import LOOP
from .pose_graph import PoseGraph, ScalePrior

# A path without a length still has a variance.
LEAST_LENGTH = 1e-3


def graph_of(atlas: Atlas, priors: Iterable[ScalePrior], drift: float) -> PoseGraph:
    """Return the graph of an atlas; `drift` is `loops.fragment_drift`."""
    places = {one.id: one.map_from_fragment for one in atlas.fragments.values()}
    constraints = atlas.constraints
    return PoseGraph(
        places, [replace(one, covariance=covariance) for one, covariance in zip(
            constraints, _covariances(atlas, constraints, drift), strict=True)],
        min(places), [one for one in priors if one.fragment in places])


def _covariances(atlas: Atlas, constraints: list[Constraint], drift: float) -> np.ndarray:
    """Return the covariances [n, 7, 7] of constraints, with the drift of their fragments."""
    first = [atlas.fragments[one.first] for one in constraints]
    second = [atlas.fragments[one.second] for one in constraints]
    is_loop = np.array([one.kind == LOOP for one in constraints], bool)
    lengths = {one: _length(atlas.fragments[one]) for one in atlas.fragments}
    scales = similarity_scales(np.array([one.first_from_second for one in constraints]).reshape(
        -1, 4, 4))
    before = np.array([lengths[one.id] for one in first]) / scales
    after = np.array([lengths[one.id] for one in second])
    between = np.array([one.gap for one in second])
    variances = np.zeros((len(constraints), SIZE))
    variances[:, SHIFT] = np.where(is_loop, 0.25 * (before**2 + after**2),
                                   before**2 + between**2)[:, None]
    variances[:, TURN] = variances[:, SCALE, None] = np.where(is_loop, 0.5, 1.0)[:, None]
    at_points = np.zeros((len(constraints), 4, 4))
    at_points[:] = np.eye(4)
    at_points[:, :3, 3] = np.array([
        _middle(one) if loop else one.fragment_from_sequence[:3, 3]
        for one, loop in zip(second, is_loop, strict=True)]).reshape(-1, 3)
    jacobians = adjoints(at_points)
    measured = np.array([np.zeros((SIZE, SIZE)) if one.covariance is None else one.covariance
                         for one in constraints]).reshape(-1, SIZE, SIZE)
    return measured + drift**2 * (jacobians * variances[:, None]) @ np.swapaxes(jacobians, 1, 2)


def _length(fragment: Fragment) -> float:
    return max(fragment.path.length, LEAST_LENGTH)


def _middle(fragment: Fragment) -> np.ndarray:
    middle = fragment.path.middle
    return fragment.fragment_from_sequence[:3, 3] if middle is None else middle


def graph_tree(graph: PoseGraph) -> dict[str, Any]:
    """Return a graph for a saved map."""
    return {'ids': np.array(list(graph.places), np.int64),
            'places': np.array(list(graph.places.values())), 'fixed': graph.fixed,
            'constraints': [vars_of(one) for one in graph.constraints],
            'priors': [vars_of(one) for one in graph.priors]}


def read_graph(node: SavedNode) -> PoseGraph:
    """Return a saved graph; raise ValueError if it is wrong."""
    ids = node.array('ids', np.int64, (None,)).tolist()
    places = node.array('places', np.float64, (len(ids), 4, 4))
    if not all(map(is_similarity, places)):
        raise node.fault('places', 'similarities', 'others')
    constraints = [read_constraint(one) for one in node.nodes('constraints')]
    if any(one.covariance is None for one in constraints):
        raise node.fault('constraints', 'constraints with a covariance', 'one without')
    priors = [ScalePrior(one.integer('fragment'), one.number('log_scale'),
                         one.number('variance')) for one in node.nodes('priors')]
    return PoseGraph(dict(zip(ids, places, strict=True)), constraints, node.integer('fixed'),
                     priors)
