# SPDX-License-Identifier: Apache-2.0
"""How many judged loops a map keeps: each solution of its graph tests all of them."""
from __future__ import annotations

from collections.abc import Sequence

from spann3r_ros.mapping.fragments.constraint import Constraint

from .loop_selection import LOOP
from .pose_graph import groups

# So many loops that the graph believes are kept, beside those that alone connect fragments.
MOST_ACCEPTED = 1000
# So many that it does not believe are kept and tested again: less drift may let them pass.
MOST_REJECTED = 50


def superfluous(constraints: Sequence[Constraint]) -> list[Constraint]:
    """Return the judged loops that are too many, the oldest ones."""
    loops = [one for one in constraints if one.kind == LOOP]
    rejected = [one for one in loops if one.accepted is False]
    found = rejected[:max(0, len(rejected) - MOST_REJECTED)]
    accepted = [one for one in loops if one.accepted]
    surplus = len(accepted) - MOST_ACCEPTED
    left = [one for one in constraints if one.kind != LOOP or one.accepted]
    for one in accepted:
        if surplus <= 0:
            break
        others = [other for other in left if other is not one]
        fragments = {end for other in left for end in (other.first, other.second)}
        numbers = groups(fragments, others)
        if numbers[one.first] == numbers[one.second]:
            left, surplus = others, surplus - 1
            found.append(one)
    return found
