# SPDX-License-Identifier: Apache-2.0
"""Whether the join of a fragment that began after a gap is believed.

The images of the overlap join a new fragment. After a jump of the stamps, or a load, the first new
image may show another place, and the network places it somewhere nevertheless. So the first
keyframe of the fragment has to show what the last keyframes before it show, by the tests with
which a loop is verified. Until then, and if it does not, the fragment is not connected.
"""
from __future__ import annotations

import logging
from dataclasses import replace

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.mapper_config import MapperConfig

from .pair_alignment import MismatchError
from .verification import check_overlap, compare, view_of

# So many of the last keyframes before the gap are compared, newest first.
COMPARED = 3
# The depths come from two sequences of the network, and differ more than in a pair of images.
DEPTH_TOLERANCE = 2.0

logger = logging.getLogger(__name__)


def check_join(keyframe: Keyframe, atlas: Atlas, config: MapperConfig) -> None:
    """Connect the fragment of a keyframe, or let it be unconnected, if that is still open."""
    fragment = atlas.fragments[keyframe.fragment_id]
    if keyframe.pose is None or not fragment.after_gap:
        return
    join = fragment.take_join()
    if join is None:
        return
    try:
        _compare(join, keyframe, atlas, config)
    except MismatchError as error:
        logger.warning('fragment %d is not connected: its first keyframe shows another place than '
                       'those before it: %s', fragment.id, error)
        return
    fragment.connected = True
    atlas.constraints.append(join)


def _compare(join: Constraint, keyframe: Keyframe, atlas: Atlas, config: MapperConfig) -> None:
    """Raise MismatchError unless a keyframe shows what one of those before the gap shows."""
    least = config.voxel_map.min_confidence
    view = view_of(keyframe, least)
    former = atlas.fragments[join.first].keyframes if join.first in atlas.fragments else {}
    limits = replace(config.loops, max_residual=min(
        DEPTH_TOLERANCE * config.loops.max_residual, 0.5))
    reason = 'none of them is left'
    for kept in reversed(list(former.values())[-COMPARED:]):
        between = (invert(kept.pose.fragment_from_camera) @ join.first_from_second
                   @ keyframe.pose.fragment_from_camera)
        try:
            check_overlap(compare(view_of(kept, least), view, between, limits), limits)
        except MismatchError as error:
            reason = str(error)
        else:
            return
    raise MismatchError(reason)
