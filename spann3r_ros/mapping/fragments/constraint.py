# SPDX-License-Identifier: Apache-2.0
"""A measured similarity between two fragments."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spann3r_ros.core.similarity import composed, inverted
from spann3r_ros.core.transforms import invert_similarity
from spann3r_ros.mapping.storage.saved_tree import SavedNode
from spann3r_ros.mapping.storage.saved_values import read_covariance, read_similarity


@dataclass(frozen=True)
class Constraint:
    """A measured similarity `first_from_second` [4, 4] between two fragments, by their ids.

    `kind` is its source: overlap (a keyframe that both fragments have), or loop (both saw the same
    place). `covariance` [7, 7] is that of the error vector of E in `first_from_second` E, the true
    similarity; None if it was not measured. `accepted` is what the pose graph says of a loop; None
    before it has said anything.
    """

    kind: str
    first: int
    second: int
    first_from_second: np.ndarray
    covariance: np.ndarray | None = None
    accepted: bool | None = None


def without_fragment(constraints: Sequence[Constraint], fragment_id: int) -> list[Constraint]:
    """Return constraints without a fragment, whose own ones connect its neighbours.

    Each is joined with the first overlap of the fragment, and keeps its kind. Errors that they
    then have in common are taken as independent.
    """
    left = [one for one in constraints if fragment_id not in (one.first, one.second)]
    own = [one for one in constraints if fragment_id in (one.first, one.second)]
    pivot = next((one for one in own if one.kind == 'overlap'), None)
    if pivot is None:
        return left
    other, other_from_own, covariance = _towards(pivot, fragment_id)
    for one in own:
        end, end_from_own, end_covariance = _towards(one, fragment_id)
        if end == other:
            continue
        unknown = covariance is None or end_covariance is None
        zeros = np.zeros((7, 7))
        own_from_end, own_covariance = inverted(
            end_from_own, zeros if unknown else end_covariance)
        joined, joined_covariance = composed(
            other_from_own, zeros if unknown else covariance, own_from_end, own_covariance)
        left.append(replace(one, first=other, second=end, first_from_second=joined,
                            covariance=None if unknown else joined_covariance))
    return left


def _towards(one: Constraint, fragment_id: int) -> tuple[int, np.ndarray, np.ndarray | None]:
    """Return the other fragment of a constraint, its frame from that of the one, covariance."""
    if one.second == fragment_id:
        return one.first, one.first_from_second, one.covariance
    if one.covariance is None:
        return one.second, invert_similarity(one.first_from_second), None
    return one.second, *inverted(one.first_from_second, one.covariance)


def read_constraint(node: SavedNode) -> Constraint:
    """Return the constraint of a node; those of earlier versions have no covariance."""
    return Constraint(
        node.text('kind'), node.integer('first'), node.integer('second'),
        read_similarity(node, 'first_from_second'),
        read_covariance(node, 'covariance', 7) if node.has('covariance') else None,
        node.flag('accepted') if node.has('accepted') else None)
