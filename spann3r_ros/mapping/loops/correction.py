# SPDX-License-Identifier: Apache-2.0
"""The correction of an atlas by its pose graph: solved beside the live stream, applied in it.

A loop, or a measured scale, makes a solution due. At the next keyframe a snapshot of the graph is
taken, and a thread of its own solves it. The places are applied `DELAY_KEYFRAMES` keyframes later,
and waited for if they are late. So the result depends on the frames alone.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np

from spann3r_ros.core.similarity import without_rounding
from spann3r_ros.core.transforms import invert_similarity
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.mapper_config import LoopConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .atlas_graph import graph_of, graph_tree, priors_tree, read_graph, read_priors
from .loop_selection import LOOP, Judgement, solve
from .pose_graph import PoseGraph, ScalePrior

# A solution is applied so many keyframes after its snapshot.
DELAY_KEYFRAMES = 2
# A fragment whose place changes by less stays where it is.
UNMOVED = 1e-9

logger = logging.getLogger(__name__)


class Correction:
    """Applies what the pose graph of an atlas says, as soon as it is due.

    `priors` are the measured scales of fragments, by their ids.
    """

    def __init__(self, config: LoopConfig) -> None:
        self._config = config
        self.priors: dict[int, ScalePrior] = {}
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
        """Add loop constraints to the atlas; with one or more a solution is due."""
        loops = list(loops)
        for one in loops:
            if one.kind != LOOP or not {one.first, one.second} <= set(atlas.fragments):
                raise ValueError(f'constraint: expected a {LOOP} between two of the fragments '
                                 f'{list(atlas.fragments)}, got {one.kind} between {one.first} '
                                 f'and {one.second}')
        atlas.constraints.extend(loops)
        self._is_due |= bool(loops)

    def set_scale(self, prior: ScalePrior, is_due: bool = True) -> None:
        """Let the scale of a fragment's place be a measured one.

        If `is_due` is false, the next solution that is due for another reason uses it.
        """
        self.priors[prior.fragment] = prior
        self._is_due |= is_due

    def observe(self, atlas: Atlas) -> None:
        """Count a keyframe; apply a solution whose time has come, begin one that is due."""
        if self._running is not None:
            self._keyframes_left -= 1
            if self._keyframes_left <= 0:
                self._apply(atlas)
        if self._is_due and self._running is None:
            self._begin(graph_of(atlas, self.priors.values(), self._config.fragment_drift))

    def finish(self, atlas: Atlas) -> None:
        """Apply all that is running or due, because no keyframe follows."""
        while self.is_pending:
            if self._running is None:
                self._begin(graph_of(atlas, self.priors.values(), self._config.fragment_drift))
            if self._running is not None:
                self._apply(atlas)

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map; a running solution begins again when it is loaded."""
        return {'is_due': self._is_due, 'keyframes_left': self._keyframes_left,
                'priors': priors_tree(self.priors.values()),
                'graph': None if self._running is None else graph_tree(self._running.graph),
                'probability': None if self._running is None else self._running.probability}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self._is_due = node.flag('is_due')
        self._keyframes_left = node.integer('keyframes_left', 0, DELAY_KEYFRAMES)
        self.priors = {one.fragment: one for one in read_priors(node)}
        if node.has('graph'):
            self._running = _Running(read_graph(node.node('graph')),
                                     node.number('probability', 0.0, 1.0))

    def _begin(self, graph: PoseGraph) -> None:
        """Begin to solve a graph, unless all it has are the joins that gave the places."""
        self._is_due = False
        if graph.priors or any(one.kind == LOOP for one in graph.constraints):
            self._running = _Running(graph, self._config.gate_probability)
            self._keyframes_left = DELAY_KEYFRAMES

    def _apply(self, atlas: Atlas) -> None:
        """Move the fragments to the places of the solution, and note which loops it believes."""
        running, self._running = self._running, None
        graph, judgement = running.graph, running.result()
        if judgement is None:
            return
        _note_loops(atlas, graph, judgement)
        # All may have been moved meanwhile, for example to level the map.
        fixed = atlas.fragments.get(graph.fixed)
        if fixed is not None and not np.array_equal(fixed.map_from_fragment,
                                                    graph.places[graph.fixed]):
            moved = fixed.map_from_fragment @ invert_similarity(graph.places[graph.fixed])
        else:
            moved = np.eye(4)
        last = max(graph.places)
        follows = moved @ judgement.places[last] @ invert_similarity(moved @ graph.places[last])
        count, farthest = 0, 0.0
        for fragment in list(atlas.fragments.values()):
            now = fragment.map_from_fragment
            if fragment.id in graph.places:
                place = moved @ judgement.places[fragment.id]
            elif fragment.id > last:
                place = follows @ now
            else:
                continue
            if not np.allclose(place, now, rtol=UNMOVED, atol=UNMOVED):
                atlas.move(fragment.id, without_rounding(place))
                count += 1
                farthest = max(farthest, float(np.linalg.norm(place[:3, 3] - now[:3, 3])))
        loops = [on for one, on in zip(graph.constraints, judgement.accepted, strict=True)
                 if one.kind == LOOP]
        logger.info('pose graph of %d fragments: %d of %d loops are accepted, %d fragments moved, '
                    'by up to %.3g', len(graph.places), sum(loops), len(loops), count, farthest)


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

    def result(self) -> Judgement | None:
        """Wait for the end; return None, with an error in the log, if there is no solution."""
        self._thread.join()
        if self._error is not None:
            logger.error('the pose graph has no solution, the map stays as it is',
                         exc_info=self._error)
        return self._judgement

    def _run(self) -> None:
        try:
            self._judgement = solve(self.graph, self.probability)
        # It is reported on the thread that waits for the result.
        except Exception as error:
            self._error = error


def _note_loops(atlas: Atlas, graph: PoseGraph, judgement: Judgement) -> None:
    """Write into the constraints of the atlas which loops are believed."""
    accepted = {_key(one): bool(on) for one, on in zip(graph.constraints, judgement.accepted,
                                                       strict=True) if one.kind == LOOP}
    atlas.constraints = [replace(one, accepted=accepted[_key(one)]) if _key(one) in accepted
                         else one for one in atlas.constraints]


def _key(one: Constraint) -> tuple[str, int, int, bytes]:
    return one.kind, one.first, one.second, one.first_from_second.tobytes()
