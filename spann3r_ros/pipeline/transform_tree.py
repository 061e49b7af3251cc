# SPDX-License-Identifier: Apache-2.0
"""The tree of stamped transforms: look-up at a stamp, interpolation, and the publisher of an edge.

It has the rules of tf2. Between two stamps a transform is interpolated; it is never extrapolated.
A frame that gets another parent keeps the former one up to the stamp of the new transform.
A look-up without a stamp uses the newest time at which the whole chain is known. A slash at the
beginning of a frame's name is ignored.
"""
from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np

from spann3r_ros.core.transforms import quaternion_to_matrix, slerp, to_rigid

# The node receives its own broadcasts after a short time. The newest ones are kept, to distinguish
# them from those of other nodes.
MAX_OWN = 1000
# After a jump back, transforms that are this close to the new stamp are kept.
NEAR_NS = 5_000_000_000
# Transforms of the new time often arrive before its first image. The newest transforms are kept
# apart, so that they can be used after the jump.
# Three images decide that time has jumped. At one image a second that takes three seconds, in
# which 40 edges at 80 Hz bring 9600 transforms.
MAX_RECENT = 10_000
# Most transforms of one edge, whatever the time they span.
MAX_STAMPS = 100_000
# An edge whose stamps step back by this much has jumped back in time. Images jump by a second or
# more; an edge with a low rate shows a part of it. Less is the disorder of one publisher.
EDGE_JUMP_NS = 500_000_000
# An edge comes from two publishers if its stamps alternate so often between two times. A bag that
# is played again and again steps back too, but not ahead by as much.
TWO_PUBLISHERS = 5
# Largest deviation of a quaternion's length from 1, the same as in tf2.
MAX_DENORMALISED = 0.005

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StampedTransform:
    """The pose of a child frame in its parent: translation [3], quaternion [4] (x, y, z, w)."""

    parent: str
    child: str
    stamp_ns: int
    translation: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]

    @property
    def is_sound(self) -> bool:
        """Return whether the names differ and the numbers are a valid transform."""
        # Without numpy, which takes several times as long for so few numbers.
        return bool(self.parent and self.child and self.parent != self.child
                    and self.stamp_ns >= 0 and all(map(math.isfinite, self.translation))
                    # Also false for NaN.
                    and abs(math.hypot(*self.quaternion) - 1.0) < MAX_DENORMALISED)


@dataclass
class _Edge:
    """The known transforms from a frame to its parents, oldest first; one entry when static."""

    static: bool
    stamps: list[int] = field(default_factory=list)
    transforms: list[StampedTransform] = field(default_factory=list)

    def add(self, transform: StampedTransform, keep_ns: int) -> None:
        stamp_ns = transform.stamp_ns
        if self.stamps and stamp_ns < self.stamps[-1] - keep_ns:
            return
        at = bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            self.transforms[at] = transform
        else:
            self.stamps.insert(at, stamp_ns)
            self.transforms.insert(at, transform)
        old = max(bisect_left(self.stamps, self.stamps[-1] - keep_ns),
                  len(self.stamps) - MAX_STAMPS)
        del self.stamps[:old], self.transforms[:old]

    def parent_at(self, stamp_ns: int | None) -> str | None:
        """Return the parent at a stamp (None: the newest); None outside the known stamps."""
        first = self.transforms[-1] if stamp_ns is None else self._around(stamp_ns)[0]
        return None if first is None else first.parent

    def _around(self, stamp_ns: int
                ) -> tuple[StampedTransform | None, StampedTransform | None]:
        """Return the transform at or before a stamp and the one after it, None if not needed."""
        if self.static:
            return self.transforms[-1], None
        if not self.stamps[0] <= stamp_ns <= self.stamps[-1]:
            return None, None
        after = bisect_left(self.stamps, stamp_ns)
        if self.stamps[after] == stamp_ns:
            return self.transforms[after], None
        return self.transforms[after - 1], self.transforms[after]

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """Return `parent_from_child` [4, 4] at a stamp; None outside the known stamps."""
        first, second = self._around(stamp_ns)
        if first is None:
            return None
        if second is None or second.parent != first.parent:
            return _matrix(first)
        share = (stamp_ns - first.stamp_ns) / (second.stamp_ns - first.stamp_ns)
        place, next_place = np.array(first.translation), np.array(second.translation)
        return to_rigid(quaternion_to_matrix(slerp(first.quaternion, second.quaternion, share)),
                        place + share * (next_place - place))


@dataclass
class _EdgeTime:
    """The stamps of one edge: the newest since it jumped back, and how they alternate."""

    newest_ns: int
    has_jumped: bool = False
    largest_step_ns: int = 0  # ahead, since it jumped back last
    alternations: int = 0

    def note(self, stamp_ns: int) -> int:
        """Take the next stamp; return by how much the edge jumped back with it, otherwise 0."""
        step_ns = stamp_ns - self.newest_ns
        if step_ns > -EDGE_JUMP_NS:
            self.largest_step_ns = max(step_ns, self.largest_step_ns)
            self.newest_ns = max(stamp_ns, self.newest_ns)
            return 0
        # The edge had stepped ahead by most of what it now jumps back.
        self.alternations += 2 * self.largest_step_ns > -step_ns
        self.newest_ns, self.has_jumped, self.largest_step_ns = stamp_ns, True, 0
        return -step_ns


class TransformTree:
    """Transforms of the last `keep_sec`, and all parents that a frame ever had; thread-safe.

    Only other nodes' transforms are kept: what this node broadcasts is no knowledge for itself.
    `changed` is called after each new transform, on the thread that added it. `refresh` is called
    before each look-up whose answer moving transforms may change: it may add what has come.
    Of one edge there are `MAX_STAMPS` at most.
    """

    def __init__(self, keep_sec: float) -> None:
        self._keep_ns = round(keep_sec * 1e9)
        self._lock = Lock()
        self._edges: dict[str, _Edge] = {}
        self._parents: dict[str, set[str]] = {}
        self._own_edges: set[tuple[str, str]] = set()
        self._own: deque[tuple[str, str, int]] = deque(maxlen=MAX_OWN)
        self._foreign: set[tuple[str, str]] = set()
        self._recent: deque[StampedTransform] = deque(maxlen=MAX_RECENT)
        self._times: dict[tuple[str, str], _EdgeTime] = {}  # since `begin_again`, by edge
        self.changed: Callable[[], None] = lambda: None
        self.refresh: Callable[[], None] = lambda: None

    def take(self, transform: StampedTransform, static: bool = False) -> None:
        """Add a transform, valid at its stamp or always if `static`; reject an invalid one."""
        if '/' in (transform.parent[:1], transform.child[:1]):
            transform = replace(transform, parent=_bare(transform.parent),
                                child=_bare(transform.child))
        if not transform.is_sound:
            logger.warning('TF: expected two frames, a stamp from 0 on, finite numbers and a unit '
                           'quaternion, got %s', transform)
            return
        with self._lock:
            if self._is_own(transform):
                return
            self._note(transform)
            if not static:
                self._note_time(transform)
            self._set(transform, static)
        self.changed()

    def lookup(self, target: str, source: str, stamp_ns: int | None) -> np.ndarray | None:
        """Return `target_from_source` [4, 4] at a stamp (None: the newest); None if not known."""
        target, source = _bare(target), _bare(source)
        if not self._is_static(target, source):
            self.refresh()
        return self._known(target, source, stamp_ns)

    def lookup_nearest(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        """Return as `lookup`, at the time nearest to a stamp at which the whole chain is known."""
        target, source = _bare(target), _bare(source)
        if not self._is_static(target, source):
            self.refresh()
        span = self._span(target, source)
        if span is not None:
            stamp_ns = min(max(stamp_ns, span[0]), span[1])
        return self._known(target, source, stamp_ns)

    def awaits(self, target: str, source: str, stamp_ns: int) -> bool:
        """Return whether two frames are connected, but not known at this stamp yet."""
        self.refresh()
        span = self._span(_bare(target), _bare(source))
        return span is not None and span[1] < stamp_ns

    def missing_link(self, target: str, source: str) -> str:
        """Return which transform would connect two frames; empty if they are, or without TF."""
        target, source = _bare(target), _bare(source)
        with self._lock:
            if not self._foreign or self._chains(target, source, None) is not None:
                return ''
            unknown = [name for name in (target, source) if not self._is_known(name)]
            tops = [self._ancestors(name, None)[-1] for name in (target, source)]
        if unknown:
            link = f'no transform from or to {" or ".join(unknown)} has come'
        else:
            link = f'no transform between {tops[0]} and {tops[1]} has come'
        return (f'TF does not connect {target} with {source}: {link}; does a node publish it, or '
                'was /tf_static left out of a recording?')

    def static_edge(self, child: str) -> StampedTransform | None:
        """Return the static transform of a frame in its parent; None if it has none."""
        with self._lock:
            edge = self._edges.get(_bare(child))
            return edge.transforms[-1] if edge is not None and edge.static else None

    def has_any(self) -> bool:
        """Return whether another node ever published a transform."""
        with self._lock:
            return bool(self._foreign)

    def knows(self, frame: str) -> bool:
        """Return whether another node ever published a transform from or to a frame."""
        with self._lock:
            return self._is_known(_bare(frame))

    def announce(self, parent: str, child: str, stamp_ns: int) -> None:
        """Record a transform that this node is about to broadcast."""
        parent, child = _bare(parent), _bare(child)
        with self._lock:
            self._own_edges.add((parent, child))
            self._own.append((parent, child, stamp_ns))

    def is_foreign(self, parent: str, child: str) -> bool:
        """Return whether another node ever published this edge."""
        with self._lock:
            return (_bare(parent), _bare(child)) in self._foreign

    def parents_of(self, frame: str) -> set[str]:
        """Return all parents that other nodes ever gave a frame."""
        with self._lock:
            return set(self._parents.get(_bare(frame), ()))

    def ancestors_of(self, frame: str) -> set[str]:
        """Return all frames that were ever above a frame."""
        found: set[str] = set()
        ahead = self.parents_of(frame)
        while ahead:
            found |= ahead
            ahead = set().union(*map(self.parents_of, ahead)) - found
        return found

    def begin_again(self, stamp_ns: int) -> None:
        """Remove the transforms of the old time, because time has jumped back to this stamp.

        Static transforms are kept. Transforms of the new time often came before its first image:
        those near the stamp that came since their edge itself jumped back are kept.
        """
        self.refresh()
        with self._lock:
            kept = [one for one in self._recent if self._times[one.parent, one.child].has_jumped
                    and abs(one.stamp_ns - stamp_ns) < NEAR_NS]
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}
            self._recent.clear()
            self._times.clear()
            for transform in kept:
                self._note_time(transform)
                self._set(transform, static=False)

    def _known(self, target: str, source: str, stamp_ns: int | None) -> np.ndarray | None:
        """Return as `lookup`, by what has been taken; the names are bare."""
        with self._lock:
            chains = self._chains(target, source, stamp_ns)
            if chains is not None and stamp_ns is None:
                stamp_ns = min((self._edges[name].stamps[-1] for name in chains[0] + chains[1]
                                if not self._edges[name].static), default=0)
                # At this time a frame may have had another parent than now.
                chains = self._chains(target, source, stamp_ns)
            if chains is None or not self._is_known(target) or not self._is_known(source):
                return None
            common_from_target, common_from_source = (
                self._climb(chain, stamp_ns) for chain in chains)
        return np.linalg.inv(common_from_target) @ common_from_source

    def _set(self, transform: StampedTransform, static: bool) -> None:
        edge = self._edges.get(transform.child)
        if edge is None or static or edge.static:
            edge = self._edges[transform.child] = _Edge(static)
        edge.add(transform, self._keep_ns)

    def _note_time(self, transform: StampedTransform) -> None:
        """Keep a transform among the recent ones; forget those of before a jump of its edge."""
        edge, stamp_ns = (transform.parent, transform.child), transform.stamp_ns
        times = self._times.setdefault(edge, _EdgeTime(stamp_ns))
        before = times.alternations
        jump_ns = times.note(stamp_ns)
        if jump_ns:
            self._recent = deque((one for one in self._recent if (one.parent, one.child) != edge),
                                 MAX_RECENT)
        self._recent.append(transform)
        if before < times.alternations == TWO_PUBLISHERS:
            logger.warning(
                'TF: %s -> %s comes from two publishers whose stamps are %.3g s apart, for '
                'example a recording and the robot itself; the older transforms are lost: stop '
                'or remap one of them', *edge, jump_ns * 1e-9)

    def _is_own(self, transform: StampedTransform) -> bool:
        edge = transform.parent, transform.child
        return edge in self._own_edges and (*edge, transform.stamp_ns) in self._own

    def _note(self, transform: StampedTransform) -> None:
        self._parents.setdefault(transform.child, set()).add(transform.parent)
        self._foreign.add((transform.parent, transform.child))

    def _span(self, target: str, source: str) -> tuple[int, int] | None:
        """Return the first and the last stamp at which all moving edges between two frames are
        known; None if all are static, or if the frames are not connected.
        """
        with self._lock:
            chains = self._chains(target, source, None)
            edges = [edge for chain in chains or () for edge in map(self._edges.get, chain)
                     if not edge.static]
        if not edges:
            return None
        return (max(edge.stamps[0] for edge in edges), min(edge.stamps[-1] for edge in edges))

    def _is_static(self, target: str, source: str) -> bool:
        """Return whether static transforms connect two frames, at every stamp."""
        with self._lock:
            chains = self._chains(target, source, None)
            return chains is not None and all(
                self._edges[name].static for chain in chains for name in chain)

    def _is_known(self, frame: str) -> bool:
        return frame in self._parents or any(
            frame in parents for parents in self._parents.values())

    def _chains(self, target: str, source: str,
                stamp_ns: int | None) -> tuple[list[str], list[str]] | None:
        """Return the frames from each frame up to below the lowest common one; None without it.

        The parents are those at a stamp (None: the newest ones).
        """
        downs, ups = self._ancestors(target, stamp_ns), self._ancestors(source, stamp_ns)
        common = next((name for name in ups if name in downs), None)
        if common is None:
            return None
        return downs[:downs.index(common)], ups[:ups.index(common)]

    def _ancestors(self, name: str, stamp_ns: int | None) -> list[str]:
        """Return a frame and those above it at a stamp; a loop is followed once."""
        chain = [name]
        while (edge := self._edges.get(chain[-1])) is not None:
            parent = edge.parent_at(stamp_ns)
            if parent is None or parent in chain:
                break
            chain.append(parent)
        return chain

    def _climb(self, names: list[str], stamp_ns: int) -> np.ndarray:
        transform = np.eye(4)
        for name in names:
            transform = self._edges[name].at(stamp_ns) @ transform
        return transform


def _bare(frame: str) -> str:
    return frame.removeprefix('/')


def _matrix(transform: StampedTransform) -> np.ndarray:
    return to_rigid(quaternion_to_matrix(transform.quaternion), np.array(transform.translation))
