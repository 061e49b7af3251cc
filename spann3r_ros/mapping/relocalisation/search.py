# SPDX-License-Identifier: Apache-2.0
"""The search for the place of a keyframe in the map: candidates, and their verification.

Candidates come from the descriptors, as those of loops do. With a hint they are the keyframes near
it, most similar first, however similar they are. Each is verified as a loop is, except that no
path leads from the map to the keyframe. At most `relocalisation.tries` of them are verified: the
best one, then the best one elsewhere, then the others. If two of them are verified that contradict
each other, none counts.
"""
from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.keyframe_store import KeptKeyframe
from spann3r_ros.mapping.loops.loop_closer import AGREEING_NUMBERS
from spann3r_ros.mapping.loops.pair_alignment import MismatchError
from spann3r_ros.mapping.loops.path_prior import map_from_camera
from spann3r_ros.mapping.loops.places import MIN_KEYFRAMES, Candidate, Places
from spann3r_ros.mapping.loops.verification import match, view_of
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.memory_manager import MemoryManager

from .hint import Hint
from .hits import Hit

# So many candidates of a keyframe are considered.
MOST_CANDIDATES = 20
# In the index all that is unlocated is one group: a keyframe is no candidate of the others.
UNLOCATED = -1
# A candidate that was refused comes after all others for so many keyframes.
REFUSED_KEYFRAMES = 5

logger = logging.getLogger(__name__)


class Search:
    """Finds hits for the keyframes of an unlocated fragment, one after another.

    `refused` are the numbers of refused candidates with that of the keyframe they were refused
    for.
    """

    def __init__(self, memory: MemoryManager) -> None:
        self._memory = memory
        self._places: Places | None = None
        self._evicted = 0
        self.refused: dict[int, int] = {}

    def index(self, number: int, keyframe: Keyframe, atlas: Atlas) -> None:
        """Make the newest keyframe, by its number, known to the index.

        At first the index takes over all kept keyframes. Those that are evicted leave it.
        """
        evicted = atlas.kept().evicted
        if self._places is None:
            self._places = _filled(atlas, number)
        else:
            if evicted != self._evicted:
                self._places.retain(atlas.keyframes())
            self._places.add(number, UNLOCATED, keyframe.descriptor)
        self._evicted = evicted

    def hit(self, number: int, keyframe: Keyframe, atlas: Atlas, hint: Hint | None,
            used: set[int], config: MapperConfig) -> Hit:
        """Return the hit of a keyframe, by its number; the index has it.

        Candidates in `used` come last. Raises MismatchError with the reason if there is none.
        """
        owner = atlas.keyframes()
        candidates = (self._similar(owner, atlas, config) if hint is None
                      else self._near(hint, owner, atlas, config))
        found: list[Hit] = []
        reason = 'no keyframe of the map is similar' if hint is None else (
            'no keyframe of the map is near the pose on initialpose')
        for one in self._in_turn(candidates, number, used)[:config.relocalisation.tries]:
            try:
                found.append(self._verified(owner[one.number], one.number, keyframe, number,
                                            config))
            except MismatchError as error:
                reason = f'keyframe {one.number} of the map: {error}'
                self.refused[one.number] = number
                logger.debug('keyframe %d is not at the place of %d: %s', number, one.number,
                             error)
        if not found:
            raise MismatchError(reason)
        rival = next((one for one in found[1:] if not found[0].agrees_with(one, atlas)), None)
        if rival is not None:
            raise MismatchError(f'ambiguous: keyframes {found[0].first} and {rival.first} of the '
                                'map both show the same')
        return found[0]

    def _similar(self, owner: Mapping[int, KeptKeyframe], atlas: Atlas,
                 config: MapperConfig) -> list[Candidate]:
        """Return the located keyframes that are similar, or all of a very small map."""
        if len(self._places) < MIN_KEYFRAMES:
            return self._located(owner, atlas)
        return self._places.candidates(1, config.loops.min_similarity, MOST_CANDIDATES)

    def _near(self, hint: Hint, owner: Mapping[int, KeptKeyframe], atlas: Atlas,
              config: MapperConfig) -> list[Candidate]:
        """Return the located keyframes near a hint, most similar first."""
        found = self._located(owner, atlas)
        if not found:
            return []
        cameras = np.array([map_from_camera(atlas, owner[one.number].pose) for one in found])
        near = hint.is_near(cameras, config.relocalisation.hint_radius)
        chosen = [one for one, is_near in zip(found, near, strict=True) if is_near]
        return sorted(chosen, key=lambda one: -one.similarity)[:MOST_CANDIDATES]

    def _located(self, owner: Mapping[int, KeptKeyframe], atlas: Atlas) -> list[Candidate]:
        """Return all keyframes that are located, with their similarities to the newest one."""
        unlocated = atlas.unlocated()
        return [one for one in self._places.similarities() if one.number in owner
                and owner[one.number].fragment_id not in unlocated]

    def _in_turn(self, candidates: list[Candidate], number: int,
                 used: set[int]) -> list[Candidate]:
        """Return candidates in the order in which they are verified."""
        last = used | {one for one, refused in self.refused.items()
                       if number - refused <= REFUSED_KEYFRAMES}
        ordered = sorted(candidates, key=lambda one: one.number in last)
        if not ordered:
            return []
        elsewhere = next((one for one in ordered if abs(one.number - ordered[0].number)
                          > AGREEING_NUMBERS), None)
        if elsewhere is not None:
            ordered.remove(elsewhere)
            ordered.insert(1, elsewhere)
        return ordered

    def _verified(self, first: KeptKeyframe, first_number: int, second: Keyframe,
                  second_number: int, config: MapperConfig) -> Hit:
        least = config.voxel_map.min_confidence
        try:
            alignment = match(view_of(first, least), view_of(second, least), self._memory,
                              config).alignment
        except MismatchError:
            raise
        # Whatever the network raises for a pair, its sequence is as before and the map goes on.
        except Exception as error:
            logger.exception('a place is not verified')
            raise MismatchError(f'no answer: {type(error).__name__}: {error}') from error
        return Hit(first_number, second_number, first.pose, second.pose,
                   alignment.first_from_second, alignment.covariance,
                   float(np.nanmedian(second.depth)))


def _filled(atlas: Atlas, newest: int) -> Places:
    """Return an index of the located keyframes and those after them, up to the newest one.

    `newest` is its number. The unlocated ones come one by one, as they do in a search: one that
    goes on from a saved map then has the same statistics.
    """
    places, unlocated = Places(), atlas.unlocated()
    described = {number: kept for number, kept in atlas.keyframes().items()
                 if kept.descriptor is not None and number <= newest}
    located = {number: kept for number, kept in described.items()
               if kept.fragment_id not in unlocated}
    if located:
        places.fill(list(located), [one.fragment_id for one in located.values()],
                    np.array([one.descriptor for one in located.values()]))
    for number, kept in described.items():
        if number > max(located, default=-1):
            places.add(number, UNLOCATED, kept.descriptor)
    return places
