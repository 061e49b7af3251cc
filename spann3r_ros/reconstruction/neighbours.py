# SPDX-License-Identifier: Apache-2.0
"""Which pairs of photographs are compared: all, or those that descriptors call similar.

With more than `ALL_UP_TO` photographs each one is compared with its k most similar ones, and a
spanning tree of the greatest similarities connects all of them: at most n k + n pairs.
"""
from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree

from spann3r_ros.mapping.loops.places import Places

ALL_UP_TO = 20
NEIGHBOURS = 8


def choose_pairs(descriptors: np.ndarray | None, count: int,
                 neighbours: int | None = None) -> list[tuple[int, int]]:
    """Return pairs (i, j), i < j, in order; `descriptors` [n, d], None: all pairs.

    `neighbours` is k; 0: all pairs; None: all up to `ALL_UP_TO` photographs, else `NEIGHBOURS`.
    """
    if neighbours is None:
        neighbours = 0 if count <= ALL_UP_TO else NEIGHBOURS
    if not neighbours or neighbours >= count - 1 or descriptors is None:
        return list(combinations(range(count), 2))
    similarity = similarities(descriptors)
    np.fill_diagonal(similarity, -np.inf)
    chosen = np.zeros((count, count), bool)
    nearest = np.argsort(-similarity, axis=1, kind='stable')[:, :neighbours]
    np.put_along_axis(chosen, nearest, True, axis=1)
    # Distances above 0: a zero is no edge in a graph of scipy.
    np.fill_diagonal(similarity, 0.0)
    tree = minimum_spanning_tree(np.triu(3.0 - similarity, 1)).toarray() > 0.0
    chosen |= tree
    return [tuple(pair) for pair in np.argwhere(np.triu(chosen | chosen.T, 1)).tolist()]


def similarities(descriptors: np.ndarray) -> np.ndarray:
    """Return the cosines [n, n] of descriptors [n, d], whitened as those of a map are.

    Too few for statistics are taken about their mean only.
    """
    places = Places()
    for number, descriptor in enumerate(descriptors):
        places.add(number, 0, descriptor)
    directions = places.whitened().astype(float)
    if not len(directions):
        directions = descriptors.astype(float) - descriptors.mean(0, dtype=float)
        directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    return directions @ directions.T
