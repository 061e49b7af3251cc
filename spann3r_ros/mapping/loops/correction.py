# SPDX-License-Identifier: Apache-2.0
"""The correction of an atlas by its pose graph: solved beside the live stream, applied in it.

A loop makes a solution due. At the next keyframe a snapshot of the graph is taken, and a thread of
its own solves it. The places are applied `DELAY_KEYFRAMES` keyframes later, and waited for if they
are late. So the result depends on the frames alone.

A fragment may have moved between snapshot and application: with all others (M, by which the fixed
fragment has moved), or alone, within its own frame (D). With its place X in the snapshot it is now
at M X D, and its solved place Y becomes M Y D.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np

from spann3r_ros.core.similarity import without_rounding
from spann3r_ros.core.transforms import invert_similarity, is_similarity
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.mapper_config import LoopConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .atlas_graph import graph_of, graph_tree, read_graph
from .loop_bounds import superfluous
from .loop_selection import LOOP, Judgement, solve
from .pose_graph import PoseGraph, ScalePrior

# A solution is applied so many keyframes after its snapshot.
DELAY_KEYFRAMES = 2
# A fragment whose place changes by less stays where it is.
UNMOVED = 1e-9

logger = logging.getLogger(__name__)


class Correction:
    """Applies what the pose graph of an atlas says, as soon as it is due.

    `priors` are the measured scales of fragments of the atlas. They take part in the next solution
    that a loop makes due.
    """

    def __init__(self, config: LoopConfig) -> None:
        self._config = config
        self._is_due = False
        self._keyframes_left = 0
        self._running: _Running | None = None

    @property
    def is_pending(self) -> bool:
        """Return whether a solution is due or running."""
        return self._is_due or self._running is not None

    def configure(self, config: LoopConfig) -> None:
        """Use other thresholds from the next snapshot on."""
        self._config = config

    def add(self, loops: Iterable[Constraint], atlas: Atlas) -> None:
        """Add loop constraints to the atlas; with one or more a solution is due.

        Raises ValueError, and adds none, if one is no measured loop between two fragments.
        """
        loops = list(loops)
        for one in loops:
            if one.kind != LOOP or not {one.first, one.second} <= set(atlas.fragments):
                raise ValueError(f'constraint: expected a {LOOP} between two of the fragments '
                                 f'{list(atlas.fragments)}, got {one.kind} between {one.first} '
                                 f'and {one.second}')
            if not is_similarity(one.first_from_second) or not _is_positive(one.covariance):
                raise ValueError('constraint: expected a finite similarity with a positive '
                                 f'definite covariance, got {one.first_from_second} with '
                                 f'{one.covariance}')
        atlas.constraints.extend(loops)
        self._is_due |= bool(loops)

    def observe(self, atlas: Atlas, priors: Sequence[ScalePrior] = ()) -> None:
        """Count a keyframe; apply a solution whose time has come, begin one that is due.

        Raises RuntimeError if there is no solution; the map then stays as it is.
        """
        if self._running is not None:
            self._keyframes_left -= 1
            if self._keyframes_left <= 0:
                self._apply(atlas)
        if self._is_due and self._running is None:
            self._begin(atlas, priors)

    def finish(self, atlas: Atlas, priors: Sequence[ScalePrior] = ()) -> None:
        """Apply all that is running or due, because no keyframe follows; raise as `observe`."""
        while self.is_pending:
            if self._running is None:
                self._begin(atlas, priors)
            if self._running is not None:
                self._apply(atlas)

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map; a running solution begins again when it is loaded."""
        return {'is_due': self._is_due, 'keyframes_left': self._keyframes_left,
                'graph': None if self._running is None else graph_tree(self._running.graph),
                'probability': None if self._running is None else self._running.probability}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self._is_due = node.flag('is_due')
        self._keyframes_left = node.integer('keyframes_left', 0, DELAY_KEYFRAMES)
        if node.has('graph'):
            self._running = _Running(read_graph(node.node('graph')),
                                     node.number('probability', 0.0, 1.0))

    def _begin(self, atlas: Atlas, priors: Sequence[ScalePrior]) -> None:
        """Begin to solve the graph of an atlas, unless it has no loop."""
        self._is_due = False
        if any(one.kind == LOOP for one in atlas.constraints):
            self._running = _Running(graph_of(atlas, priors, self._config.fragment_drift),
                                     self._config.gate_probability)
            self._keyframes_left = DELAY_KEYFRAMES

    def _apply(self, atlas: Atlas) -> None:
        """Move the fragments to the places of the solution, and note which loops it believes."""
        running, self._running = self._running, None
        graph = running.graph
        try:
            judgement = running.result()
        except RuntimeError:
            # With them, the next graph would have no solution either.
            new = {_key(one) for one in graph.constraints if one.accepted is None}
            atlas.forget([one for one in atlas.constraints if one.kind == LOOP
                          and one.accepted is None and _key(one) in new])
            raise
        moves = _moves(atlas, graph, judgement.places)
        farthest = max((float(np.linalg.norm(
            place[:3, 3] - atlas.fragments[one].map_from_fragment[:3, 3]))
            for one, place in moves.items()), default=0.0)
        atlas.move_to(moves)
        _note_loops(atlas, graph, judgement)
        # The removal of a fragment may have replaced a loop since the snapshot.
        self._is_due |= any(one.kind == LOOP and one.accepted is None
                            for one in atlas.constraints)
        atlas.forget(superfluous(atlas.constraints))
        loops = [on for one, on in zip(graph.constraints, judgement.accepted, strict=True)
                 if one.kind == LOOP]
        logger.info('pose graph of %d fragments: %d of %d loops are accepted, %d fragments moved, '
                    'by up to %.3g', len(graph.places), sum(loops), len(loops), len(moves),
                    farthest)


class _Running:
    """A graph that is being solved on a thread of its own."""

    def __init__(self, graph: PoseGraph, probability: float) -> None:
        self.graph, self.probability = graph, probability
        self._judgement: Judgement | None = None
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, name='pose_graph')
        self._thread.start()

    def __deepcopy__(self, _: dict[int, object]) -> _Running:
        """Return itself: graph and result do not change."""
        return self

    def result(self) -> Judgement:
        """Wait for the end; return the solution, or raise RuntimeError if there is none."""
        self._thread.join()
        if self._judgement is None:
            raise RuntimeError('the pose graph has no solution: '
                               f'{self._error or "its thread has died"}') from self._error
        return self._judgement

    def _run(self) -> None:
        try:
            self._judgement = solve(self.graph, self.probability)
        # It is reported on the thread that waits for the result.
        except Exception as error:
            self._error = error


def _moves(atlas: Atlas, graph: PoseGraph,
           solved: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Return the new places of the fragments that move, by their ids."""
    left = [one for one in graph.places if one in atlas.fragments]
    if not left:
        return {}
    oldest = graph.fixed if graph.fixed in left else min(left)
    moved = _change(graph.places[oldest], atlas.fragments[oldest].map_from_fragment)
    last = max(graph.places)
    follows = moved @ solved[last] @ invert_similarity(moved @ graph.places[last])
    moves = {}
    for fragment in atlas.fragments.values():
        now = fragment.map_from_fragment
        if fragment.id in graph.places:
            before = moved @ graph.places[fragment.id]
            alone = (np.eye(4) if _is_same(before, now) else invert_similarity(before) @ now)
            place = moved @ solved[fragment.id] @ alone
        elif fragment.id > last:
            place = follows @ now
        else:
            continue
        if not _is_same(place, now):
            moves[fragment.id] = without_rounding(place)
    return moves


def _change(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return the similarity [4, 4] from one place to another, exact if they are equal."""
    return np.eye(4) if _is_same(before, now) else now @ invert_similarity(before)


def _is_same(first: np.ndarray, second: np.ndarray) -> bool:
    return np.allclose(first, second, rtol=UNMOVED, atol=UNMOVED)


def _is_positive(covariance: np.ndarray | None) -> bool:
    """Return whether a covariance [7, 7] is known, finite and positive definite."""
    return (covariance is not None and bool(np.isfinite(covariance).all())
            and bool(np.linalg.eigvalsh(covariance)[0] > 0.0))


def _note_loops(atlas: Atlas, graph: PoseGraph, judgement: Judgement) -> None:
    """Write into the constraints of the atlas which loops are believed."""
    accepted = {_key(one): bool(on) for one, on in zip(graph.constraints, judgement.accepted,
                                                       strict=True) if one.kind == LOOP}
    atlas.constraints = [replace(one, accepted=accepted[_key(one)]) if _key(one) in accepted
                         else one for one in atlas.constraints]


def _key(one: Constraint) -> tuple[str, int, int, bytes]:
    return one.kind, one.first, one.second, one.first_from_second.tobytes()
