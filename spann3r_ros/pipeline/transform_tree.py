# SPDX-License-Identifier: Apache-2.0
"""The tree of stamped transforms: look-up at a stamp, interpolation, and who published what.

Its rules are those of tf2: a transform between two stamps is interpolated, never extrapolated; a
look-up without a stamp takes the newest time at which the whole chain is known.
"""
from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from spann3r_ros.core.transforms import to_rigid

# Own broadcasts come back within moments: so many are told from those of others.
MAX_OWN = 500
# Transforms this near to the first stamp of a new time belong to it.
NEAR_NS = 5_000_000_000
# What tf2 refused before time began again may have been of the new time: so many are kept.
MAX_RECENT = 1000
# How far the length of a quaternion may be from one, as tf2 has it.
MAX_DENORMALISED = 0.005

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StampedTransform:
    """Where a child frame lies in its parent: translation [3], quaternion [4] (x, y, z, w)."""

    parent: str
    child: str
    stamp_ns: int
    translation: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]

    @property
    def is_sound(self) -> bool:
        """Return whether the frames have names of their own and the numbers are a transform."""
        return bool(self.parent and self.child and self.parent != self.child
                    and self.stamp_ns >= 0 and np.isfinite(self.translation).all()
                    # Also false for NaN.
                    and abs(np.linalg.norm(self.quaternion) - 1.0) < MAX_DENORMALISED)


@dataclass
class _Edge:
    """What is known of a frame in its parent, oldest first; one entry when static."""

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
        """Return `parent_from_child` [4, 4] at a stamp; None outside of what is known."""
        if self.static:
            return _matrix(self.transforms[-1])
        if not self.stamps[0] <= stamp_ns <= self.stamps[-1]:
            return None
        after = bisect_left(self.stamps, stamp_ns)
        if self.stamps[after] == stamp_ns:
            return _matrix(self.transforms[after])
        first, second = self.transforms[after - 1:after + 1]
        share = (stamp_ns - first.stamp_ns) / (second.stamp_ns - first.stamp_ns)
        turns = Rotation.from_quat([first.quaternion, second.quaternion])
        place, next_place = np.array(first.translation), np.array(second.translation)
        return to_rigid(Slerp([0.0, 1.0], turns)(share).as_matrix(),
                        place + share * (next_place - place))


class TransformTree:
    """Transforms of the last `keep_sec`, and who ever was a frame's parent; thread-safe.

    `changed` is called, on the thread that brings it, when something new is known.
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
        """Take a transform that is valid at its stamp, or always; an unsound one is refused."""
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
        """Return `target_from_source` [4, 4] at a stamp, None: the newest; None if not known."""
        with self._lock:
            ups, downs = self._ancestors(source), self._ancestors(target)
            common = next((name for name in ups if name in downs), None)
            if common is None or not self._knows(target) or not self._knows(source):
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
        """Return whether anybody else ever published a transform."""
        with self._lock:
            return bool(self._foreign)

    def announce(self, parent: str, child: str, stamp_ns: int) -> None:
        """Take note of a transform that this node is about to broadcast."""
        with self._lock:
            self._own_edges.add((parent, child))
            self._own.append((parent, child, stamp_ns))

    def is_foreign(self, parent: str, child: str) -> bool:
        """Return whether somebody else ever published this edge."""
        with self._lock:
            return (parent, child) in self._foreign

    def parents_of(self, frame: str) -> set[str]:
        """Return the parents a frame was ever given."""
        with self._lock:
            return set(self._parents.get(frame, ()))

    def ancestors_of(self, frame: str) -> set[str]:
        """Return all frames ever above a frame."""
        found: set[str] = set()
        ahead = self.parents_of(frame)
        while ahead:
            found |= ahead
            ahead = set().union(*map(self.parents_of, ahead)) - found
        return found

    def begin_again(self, stamp_ns: int) -> None:
        """Forget all moving transforms but those about a stamp: time has jumped back to it.

        Those of the new time often come before its first image, too old then to be taken.
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

    def _knows(self, frame: str) -> bool:
        return frame in self._edges or any(
            edge.parent == frame for edge in self._edges.values())

    def _ancestors(self, name: str) -> list[str]:
        """Return a frame and those above it; a loop ends where it closes."""
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
    return to_rigid(Rotation.from_quat(transform.quaternion).as_matrix(),
                    np.array(transform.translation))
