# SPDX-License-Identifier: Apache-2.0
"""The tree of stamped transforms: look-up at a stamp, interpolation, and the publisher of an edge.

It has the rules of tf2. Between two stamps a transform is interpolated; it is never extrapolated.
A look-up without a stamp uses the newest time at which the whole chain is known.
"""
from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from spann3r_ros.core.transforms import quaternion_to_matrix, slerp, to_rigid

# The node receives its own broadcasts after a short time. The newest ones are kept, to distinguish
# them from those of other nodes.
MAX_OWN = 500
# After a jump back, transforms that are this close to the new stamp are kept.
NEAR_NS = 5_000_000_000
# Transforms of the new time often arrive before its first image. The newest transforms are kept
# apart, so that they can be used after the jump.
MAX_RECENT = 1000
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
        return bool(self.parent and self.child and self.parent != self.child
                    and self.stamp_ns >= 0 and np.isfinite(self.translation).all()
                    # Also false for NaN.
                    and abs(np.linalg.norm(self.quaternion) - 1.0) < MAX_DENORMALISED)


@dataclass
class _Edge:
    """The known transforms from a frame to its parent, oldest first; one entry when static."""

    parent: str
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
        old = bisect_left(self.stamps, self.stamps[-1] - keep_ns)
        del self.stamps[:old], self.transforms[:old]

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """Return `parent_from_child` [4, 4] at a stamp; None outside the known stamps."""
        if self.static:
            return _matrix(self.transforms[-1])
        if not self.stamps[0] <= stamp_ns <= self.stamps[-1]:
            return None
        after = bisect_left(self.stamps, stamp_ns)
        if self.stamps[after] == stamp_ns:
            return _matrix(self.transforms[after])
        first, second = self.transforms[after - 1:after + 1]
        share = (stamp_ns - first.stamp_ns) / (second.stamp_ns - first.stamp_ns)
        place, next_place = np.array(first.translation), np.array(second.translation)
        return to_rigid(quaternion_to_matrix(slerp(first.quaternion, second.quaternion, share)),
                        place + share * (next_place - place))


class TransformTree:
    """Transforms of the last `keep_sec`, and all parents that a frame ever had; thread-safe.

    `changed` is called after each new transform, on the thread that added it.
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
        self.changed: Callable[[], None] = lambda: None

    def take(self, transform: StampedTransform, static: bool = False) -> None:
        """Add a transform, valid at its stamp or always if `static`; reject an invalid one."""
        if not transform.is_sound:
            logger.warning('TF: expected two frames, a stamp from 0 on, finite numbers and a unit '
                           'quaternion, got %s', transform)
            return
        with self._lock:
            self._note(transform)
            if not static:
                self._recent.append(transform)
            self._set(transform, static)
        self.changed()

    def lookup(self, target: str, source: str, stamp_ns: int | None) -> np.ndarray | None:
        """Return `target_from_source` [4, 4] at a stamp (None: the newest); None if not known."""
        with self._lock:
            ups, downs = self._ancestors(source), self._ancestors(target)
            common = next((name for name in ups if name in downs), None)
            if common is None or not self._is_known(target) or not self._is_known(source):
                return None
            ups, downs = ups[:ups.index(common)], downs[:downs.index(common)]
            if stamp_ns is None:
                stamp_ns = min((self._edges[name].stamps[-1] for name in ups + downs
                                if not self._edges[name].static), default=0)
            common_from_source = self._climb(ups, stamp_ns)
            common_from_target = self._climb(downs, stamp_ns)
        if common_from_source is None or common_from_target is None:
            return None
        return np.linalg.inv(common_from_target) @ common_from_source

    def has_any(self) -> bool:
        """Return whether another node ever published a transform."""
        with self._lock:
            return bool(self._foreign)

    def announce(self, parent: str, child: str, stamp_ns: int) -> None:
        """Record a transform that this node is about to broadcast."""
        with self._lock:
            self._own_edges.add((parent, child))
            self._own.append((parent, child, stamp_ns))

    def is_foreign(self, parent: str, child: str) -> bool:
        """Return whether another node ever published this edge."""
        with self._lock:
            return (parent, child) in self._foreign

    def parents_of(self, frame: str) -> set[str]:
        """Return all parents that a frame ever had."""
        with self._lock:
            return set(self._parents.get(frame, ()))

    def ancestors_of(self, frame: str) -> set[str]:
        """Return all frames that were ever above a frame."""
        found: set[str] = set()
        ahead = self.parents_of(frame)
        while ahead:
            found |= ahead
            ahead = set().union(*map(self.parents_of, ahead)) - found
        return found

    def begin_again(self, stamp_ns: int) -> None:
        """Remove the transforms that are not near this stamp, to which time has jumped back.

        Static transforms are kept. Transforms of the new time often came before its first image
        and were then too old to be added; they are added now.
        """
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}
            for transform in self._recent:
                if abs(transform.stamp_ns - stamp_ns) < NEAR_NS:
                    self._set(transform, static=False)

    def _set(self, transform: StampedTransform, static: bool) -> None:
        edge = self._edges.get(transform.child)
        if edge is None or static or edge.static:
            edge = self._edges[transform.child] = _Edge(transform.parent, static)
        edge.parent = transform.parent
        edge.add(transform, self._keep_ns)

    def _note(self, transform: StampedTransform) -> None:
        edge = transform.parent, transform.child
        self._parents.setdefault(transform.child, set()).add(transform.parent)
        if edge not in self._own_edges or (*edge, transform.stamp_ns) not in self._own:
            self._foreign.add(edge)

    def _is_known(self, frame: str) -> bool:
        return frame in self._edges or any(
            edge.parent == frame for edge in self._edges.values())

    def _ancestors(self, name: str) -> list[str]:
        """Return a frame and those above it; a loop is followed once."""
        chain = [name]
        while (edge := self._edges.get(chain[-1])) is not None and edge.parent not in chain:
            chain.append(edge.parent)
        return chain

    def _climb(self, names: list[str], stamp_ns: int) -> np.ndarray | None:
        transform = np.eye(4)
        for name in names:
            step = self._edges[name].at(stamp_ns)
            if step is None:
                return None
            transform = step @ transform
        return transform


def _matrix(transform: StampedTransform) -> np.ndarray:
    return to_rigid(quaternion_to_matrix(transform.quaternion), np.array(transform.translation))
