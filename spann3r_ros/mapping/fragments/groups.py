# SPDX-License-Identifier: Apache-2.0
"""Which fragments hold together, and which of them have no place in the map yet."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from .constraint import Constraint
from .fragment import Fragment


def group_of(fragment_ids: set[int], constraints: Sequence[Constraint]) -> set[int]:
    """Return some fragments with all that joins and accepted loops connect with them."""
    believed = [one for one in constraints if one.kind == 'overlap' or one.accepted]
    group, size = set(fragment_ids), 0
    while len(group) > size:
        size = len(group)
        for one in believed:
            if {one.first, one.second} & group:
                group |= {one.first, one.second}
    return group


def unlocated(fragments: Mapping[int, Fragment], constraints: Sequence[Constraint]) -> set[int]:
    """Return the fragments whose place in the map is unknown, with those joined to them.

    The oldest fragment is the map: it and its group have a place.
    """
    begun = {one.id for one in fragments.values() if one.unlocated}
    if not begun:
        return set()
    joined = {one.second for one in constraints if one.kind == 'overlap'}
    # Those without the flag that no join has placed have a place of their own, if only assumed.
    placed = {one.id for one in fragments.values() if not one.unlocated and one.id not in joined}
    return group_of(begun, constraints) - group_of({min(fragments), *placed}, constraints)
