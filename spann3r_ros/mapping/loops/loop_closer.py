# SPDX-License-Identifier: Apache-2.0
"""Finds loops: it retrieves places that a new keyframe may show, and verifies one at a time."""
from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.similarity import carry_covariance, invert_similarities
from spann3r_ros.core.transforms import invert
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.fragments.keyframe_store import KeptKeyframe
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.memory_manager import MemoryManager
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of
from spann3r_ros.mapping.storage.saved_values import pose_tree, read_pose, read_similarity

from .loop_selection import LOOP
from .pair_alignment import Alignment, MismatchError
from .path_prior import GATE, PathLengths, error_of, excess, length_in, map_from_camera
from .places import Candidate, Places
from .verification import Match, match, view_of

# So many candidates of a keyframe are considered.
MOST_CANDIDATES = 5
# Two candidates agree if their numbers differ by at most so much: the camera was near both.
AGREEING_NUMBERS = 10
# So many loops and refusals are remembered.
MOST_RECORDS = 1000
# So many of the newest refusals are shown.
MOST_SHOWN = 100
# A loop shortens the path if the map agrees with it up to this share of the depth.
AGREEING_SHIFT = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopRecord:
    """A candidate that was verified: the older keyframe and the newer one.

    `first` and `second` are their numbers, `first_pose` and `second_pose` their poses in their
    fragments. `reason` says why it was refused; it is empty for a loop. `first_from_second`
    [4, 4] is the measured similarity of the cameras; it is the identity if there is none.
    `distance` is the median depth of the second keyframe, in units of its fragment.
    """

    first: int
    second: int
    first_pose: FragmentPose
    second_pose: FragmentPose
    similarity: float
    reason: str
    first_from_second: np.ndarray
    distance: float


class LoopCloser:
    """Observes the keyframes of a map in their order.

    `records` are the newest candidates that were verified or refused, as far as their fragments
    are in the map. `verified` and `refused` count all of them. What it returns depends on the
    keyframes alone.
    """

    def __init__(self, config: MapperConfig, memory: MemoryManager) -> None:
        self._config = config
        self._memory = memory
        self._places = Places()
        self._is_indexed = False
        self._before: list[Candidate] = []  # of the keyframe before
        self._waited = 0  # keyframes since the last verification
        self._evicted = 0
        self.records: deque[LoopRecord] = deque(maxlen=MOST_RECORDS)
        self.verified = self.refused = 0

    def configure(self, config: MapperConfig) -> None:
        """Use other settings from the next keyframe on."""
        self._config = config

    @property
    def refusal(self) -> str:
        """Return why the newest refused candidate was refused, or an empty text."""
        return next((one.reason for one in reversed(self.records) if one.reason), '')

    def refused_pairs(self) -> list[tuple[FragmentPose, FragmentPose]]:
        """Return the cameras of the newest refused candidates, `MOST_SHOWN` at most."""
        refused = [one for one in self.records if one.reason]
        return [(one.first_pose, one.second_pose) for one in refused[-MOST_SHOWN:]]

    def observe(self, keyframe: Keyframe, atlas: Atlas) -> list[Constraint]:
        """Use a keyframe that the atlas has just received; return the loop that it closes, if any.

        Raises nothing that the network raises: a pair that it cannot estimate is refused.
        """
        if not self._config.loops.enabled:
            # A keyframe of long ago confirms nothing when loops are looked for again.
            self._is_indexed, self._before = False, []
            return []
        if (keyframe.pose is None or keyframe.descriptor is None
                or not np.isfinite(keyframe.descriptor).all()):
            return []
        self._forget_removed(atlas)
        number = next(reversed(atlas.fragments[keyframe.fragment_id].keyframes))
        if self._is_indexed:
            self._forget_evicted(atlas)
            self._places.add(number, keyframe.fragment_id, keyframe.descriptor)
        else:
            self._index(atlas)
        self._waited += 1
        return self._close(number, keyframe, atlas)

    def begin_again(self) -> None:
        """Take over the descriptors of all kept keyframes with the next one that is observed."""
        self._is_indexed = False

    def tree(self, atlas: Atlas) -> dict[str, Any]:
        """Return the state for a saved map; the descriptors are saved with the keyframes."""
        return {'waited': self._waited, 'accepted': self.verified, 'rejected': self.refused,
                'places': self._places.tree(atlas.keyframes()) if self._is_indexed else None,
                'before': [vars_of(one) for one in self._before],
                'records': [_record_tree(one) for one in self.records]}

    def restore(self, node: SavedNode, atlas: Atlas) -> None:
        """Take over the saved state of a map with an atlas; raise ValueError if it is wrong."""
        # Maps of earlier versions have no such entry.
        if node.has('places'):
            owners = atlas.keyframes()
            self._places.restore(
                node.node('places'), {number: one.descriptor for number, one in owners.items()
                                      if one.descriptor is not None},
                {number: one.fragment_id for number, one in owners.items()})
            self._is_indexed, self._evicted = True, atlas.kept().evicted
        self._waited = node.integer('waited')
        self.verified, self.refused = node.integer('accepted'), node.integer('rejected')
        self._before = [Candidate(one.integer('number'), one.number('similarity'))
                        for one in node.nodes('before')]
        self.records.extend(_read_record(one) for one in node.nodes('records'))

    def _close(self, number: int, keyframe: Keyframe, atlas: Atlas) -> list[Constraint]:
        """Verify the best candidate of the newest keyframe, if one is due."""
        limits = self._config.loops
        before, candidates = self._before, self._places.candidates(
            limits.min_gap, limits.min_similarity, MOST_CANDIDATES)
        self._before = candidates
        if self._waited < limits.interval:
            return []
        agreeing = [one for one in candidates if _is_confirmed(one, candidates, before)]
        if not agreeing:
            return []
        self._waited = 0
        best, owner = agreeing[0], atlas.keyframes()
        first, found, reason = owner[best.number], None, ''
        try:
            found = self._verify(first, keyframe, atlas)
            self._check_rivals(best, found, agreeing, keyframe, owner, atlas)
        except MismatchError as error:
            reason = str(error)
        self.records.append(LoopRecord(
            best.number, number, first.pose, keyframe.pose, best.similarity, reason,
            np.eye(4) if found is None else found.alignment.first_from_second,
            _distance(keyframe.depth)))
        if reason:
            self.refused += 1
            logger.debug('no loop of keyframes %d and %d: %s', best.number, number, reason)
            return []
        self.verified += 1
        logger.info('loop: keyframe %d of fragment %d shows the place of keyframe %d of fragment '
                    '%d', number, keyframe.fragment_id, best.number, first.fragment_id)
        return [constraint_between(found.alignment, first.pose, keyframe.pose)]

    def _verify(self, first: KeptKeyframe, second: Keyframe, atlas: Atlas) -> Match:
        """Return the match of two keyframes; MismatchError if it is none, or far from the path."""
        least = self._config.voxel_map.min_confidence
        views = view_of(first, least), view_of(second, least)
        try:
            found = match(*views, self._memory, self._config)
        except MismatchError:
            raise
        # Whatever the network raises for a pair, its sequence is as before and the map goes on.
        except Exception as error:
            reason = f'no answer: {type(error).__name__}: {error}'
            if reason != self.refusal:
                logger.exception('a loop is not verified')
            raise MismatchError(reason) from error
        if not _on_one_path(atlas, first.fragment_id, second.fragment_id):
            return found
        alignment = found.alignment
        error = error_of(alignment.first_from_second, atlas, first.pose, second.pose)
        lengths = PathLengths(atlas, self._shortcuts(atlas))
        length = length_in(second.pose, atlas, lengths.between(first.pose, second.pose))
        surplus = excess(error, alignment.covariance, length, _distance(views[1].depth),
                         second.pose, self._config.loops.drift)
        if not surplus <= GATE:
            raise MismatchError(f'far from the path: {surplus:.0f} for a limit of {GATE:.0f}, '
                                f'after a path of {length:.1f}')
        return found

    def _check_rivals(self, best: Candidate, found: Match, candidates: list[Candidate],
                      keyframe: Keyframe, owner: dict[int, KeptKeyframe], atlas: Atlas) -> None:
        """Raise MismatchError if another candidate, at another place, is verified as well."""
        rival = next((one for one in candidates
                      if abs(one.number - best.number) > AGREEING_NUMBERS), None)
        if rival is None:
            return
        try:
            other = self._verify(owner[rival.number], keyframe, atlas)
        except MismatchError:
            return
        distance = _distance(keyframe.depth)
        here, there = (error_of(one.alignment.first_from_second, atlas, owner[number].pose,
                                keyframe.pose)
                       for one, number in ((found, best.number), (other, rival.number)))
        # Both say by how much the map has the keyframe wrong.
        if np.linalg.norm(here[:3] - there[:3]) > 2.0 * AGREEING_SHIFT * distance:
            raise MismatchError(f'ambiguous: keyframe {rival.number} shows the same')

    def _index(self, atlas: Atlas) -> None:
        """Take over the descriptors of all kept keyframes: of a loaded map, or if switched on."""
        self._places, self._is_indexed = Places(), True
        for fragment in atlas.fragments.values():
            for number, kept in fragment.keyframes.items():
                if kept.descriptor is not None:
                    self._places.add(number, fragment.id, kept.descriptor)
        self._evicted = atlas.kept().evicted

    def _forget_removed(self, atlas: Atlas) -> None:
        """Forget the candidates of fragments that were removed."""
        if any(not _is_in(one, atlas) for one in self.records):
            self.records = deque((one for one in self.records if _is_in(one, atlas)),
                                 MOST_RECORDS)

    def _forget_evicted(self, atlas: Atlas) -> None:
        evicted = atlas.kept().evicted
        if evicted != self._evicted:
            self._evicted = evicted
            self._places.retain(atlas.keyframes())

    def _shortcuts(self, atlas: Atlas) -> list[tuple[FragmentPose, FragmentPose]]:
        """Return the cameras of the loops that are in the map where they were measured."""
        loops = [one for one in self.records if not one.reason and _is_in(one, atlas)]
        if not loops:
            return []
        first, second = (np.array([map_from_camera(atlas, pose) for pose in poses]) for poses in (
            [one.first_pose for one in loops], [one.second_pose for one in loops]))
        measured = np.array([one.first_from_second for one in loops])
        error = invert_similarities(first @ measured) @ second
        agreeing = np.linalg.norm(error[:, :3, 3], axis=1) < AGREEING_SHIFT * np.array(
            [one.distance for one in loops])
        return [(one.first_pose, one.second_pose)
                for one, agrees in zip(loops, agreeing, strict=True) if agrees]


def _is_in(record: LoopRecord, atlas: Atlas) -> bool:
    """Return whether the fragments of a record are in the map."""
    return (record.first_pose.fragment_id in atlas.fragments
            and record.second_pose.fragment_id in atlas.fragments)


def _distance(depth: np.ndarray) -> float:
    """Return the median of a depth [h, w]; 0 if none is known."""
    known = depth[np.isfinite(depth)]
    return float(np.median(known)) if len(known) else 0.0


def _is_confirmed(one: Candidate, candidates: list[Candidate], before: list[Candidate]) -> bool:
    """Return whether another candidate, of this keyframe or the one before, is near this one."""
    return any(abs(one.number - other.number) <= AGREEING_NUMBERS
               for other in [*(two for two in candidates if two is not one), *before])


def _on_one_path(atlas: Atlas, first: int, second: int) -> bool:
    """Return whether measurements connect two fragments, by their ids."""
    if {first, second} & atlas.unlocated():
        return False
    return not {first, second} & atlas.unconnected() or all(
        fragment.connected for fragment in atlas.fragments.values()
        if first < fragment.id <= second)


def constraint_between(alignment: Alignment, first: FragmentPose,
                       second: FragmentPose) -> Constraint:
    """Return what a measured similarity of two cameras says of their fragments."""
    return Constraint(
        LOOP, first.fragment_id, second.fragment_id,
        first.fragment_from_camera @ alignment.first_from_second
        @ invert(second.fragment_from_camera),
        carry_covariance(second.fragment_from_camera, alignment.covariance))


def _record_tree(record: LoopRecord) -> dict[str, Any]:
    return {**vars_of(record), 'first_pose': pose_tree(record.first_pose),
            'second_pose': pose_tree(record.second_pose)}


def _read_record(node: SavedNode) -> LoopRecord:
    return LoopRecord(node.integer('first'), node.integer('second'),
                      read_pose(node.node('first_pose')), read_pose(node.node('second_pose')),
                      node.number('similarity'), node.text('reason'),
                      read_similarity(node, 'first_from_second'), node.number('distance'))
