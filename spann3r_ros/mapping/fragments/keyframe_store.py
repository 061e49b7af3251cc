# SPDX-License-Identifier: Apache-2.0
"""What is kept of the keyframes: complete while they are new, later what verification needs."""
from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.mapper_config import KeyframeConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode

JPEG_QUALITY = 90


@dataclass(frozen=True)
class CompactKeyframe:
    """A keyframe without its full payload: the image as JPEG, the depth in half precision.

    `depth`, float16 [h, w], is NaN where the confidence was below the map's.
    """

    stamp_ns: int
    frame_id: str
    fragment_id: int
    jpeg: np.ndarray
    intrinsics: Intrinsics
    depth: np.ndarray
    pose: FragmentPose | None
    descriptor: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Return the bytes of image, depth and descriptor."""
        return self.jpeg.nbytes + self.depth.nbytes + _bytes_of(self.descriptor)

    def rgb(self) -> np.ndarray:
        """Return the image, uint8 [h, w, 3], decoded."""
        return cv2.cvtColor(cv2.imdecode(self.jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def __deepcopy__(self, _: dict[int, object]) -> CompactKeyframe:
        """Return itself, which never changes."""
        return self


KeptKeyframe = Keyframe | CompactKeyframe


@dataclass(frozen=True)
class KeptReport:
    """What is kept: numbers of keyframes, their bytes, and how many were compacted or evicted."""

    keyframes: int
    bytes: int
    compacted: int
    evicted: int


class KeyframeStore:
    """Bounds the keyframes of all fragments by their bytes; the fragments own them.

    Beyond `max_full_bytes` the oldest complete keyframes become compact. Beyond `max_bytes` in
    total, keyframes are removed evenly: every second one from the oldest on, then every second one
    of those left, and so on. The first and the newest keyframe are always kept.
    """

    def __init__(self, config: KeyframeConfig, min_confidence: float) -> None:
        self._config = config
        self._min_confidence = min_confidence
        self._owners: dict[int, dict[int, KeptKeyframe]] = {}  # by number, in order
        self._full: deque[int] = deque()
        self._candidates: deque[int] = deque()  # numbers that are no multiple of the stride
        self._stride = 1
        self._full_bytes = self._compact_bytes = 0
        self._added = self._compacted = self._evicted = 0

    def configure(self, config: KeyframeConfig, min_confidence: float) -> None:
        """Use other bounds from the next keyframe on."""
        self._config, self._min_confidence = config, min_confidence

    def add(self, keyframe: KeptKeyframe, owner: dict[int, KeptKeyframe]) -> None:
        """Put a keyframe into its fragment's `owner`; compact or remove older ones."""
        number = self._added
        self._added += 1
        self._owners[number], owner[number] = owner, keyframe
        if isinstance(keyframe, Keyframe):
            owner[number] = replace(keyframe)  # without the points that it may have computed
            self._full.append(number)
            self._full_bytes += full_bytes(keyframe)
        else:
            self._compact_bytes += keyframe.nbytes
        if number - 1 in self._owners and (number - 1) % self._stride:
            self._candidates.append(number - 1)  # it is not the newest any more
        while len(self._full) > 1 and self._full_bytes > self._config.max_full_bytes:
            self._compact_oldest()
        while (len(self._owners) > 2
               and self._full_bytes + self._compact_bytes > self._config.max_bytes):
            self._evict_one()

    def tree(self) -> dict[str, int]:
        """Return the counters for a saved map."""
        return {'added': self._added, 'stride': self._stride, 'compacted': self._compacted,
                'evicted': self._evicted}

    def restore(self, node: SavedNode, owners: Iterable[dict[int, KeptKeyframe]]) -> None:
        """Take over saved counters and the keyframes of the fragments, oldest first."""
        self._stride, self._compacted = node.integer('stride', 1), node.integer('compacted')
        self._evicted = node.integer('evicted')
        for owner in owners:
            for number, keyframe in list(owner.items()):
                self._added = number
                self.add(keyframe, owner)
        self._added = node.integer('added', self._added)
        self._candidates = deque(number for number in list(self._owners)[:-1]
                                 if number % self._stride)

    def report(self) -> KeptReport:
        """Return the counters."""
        return KeptReport(len(self._owners), self._full_bytes + self._compact_bytes,
                          self._compacted, self._evicted)

    def _compact_oldest(self) -> None:
        number = self._full.popleft()
        owner = self._owners[number]
        compact = compacted(owner[number], self._min_confidence)
        self._full_bytes -= full_bytes(owner[number])
        self._compact_bytes += compact.nbytes
        owner[number] = compact
        self._compacted += 1

    def _evict_one(self) -> None:
        while not self._candidates:
            self._stride *= 2
            self._candidates.extend(number for number in list(self._owners)[:-1]
                                    if number % self._stride)
        number = self._candidates.popleft()
        removed = self._owners.pop(number).pop(number)
        if isinstance(removed, Keyframe):
            self._full.remove(number)
            self._full_bytes -= full_bytes(removed)
        else:
            self._compact_bytes -= removed.nbytes
        self._evicted += 1


def full_bytes(keyframe: Keyframe) -> int:
    """Return the bytes of a complete keyframe's arrays."""
    return (keyframe.image.nbytes + keyframe.depth.nbytes + keyframe.confidence.nbytes
            + _bytes_of(keyframe.descriptor))


def compacted(keyframe: Keyframe, min_confidence: float) -> CompactKeyframe:
    """Return what verification needs of a keyframe."""
    _, jpeg = cv2.imencode('.jpg', cv2.cvtColor(keyframe.image, cv2.COLOR_RGB2BGR),
                           [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    with np.errstate(over='ignore'):
        depth = keyframe.depth.astype(np.float16)
    depth[(keyframe.confidence < min_confidence) | ~np.isfinite(depth)] = np.nan
    return CompactKeyframe(keyframe.stamp_ns, keyframe.frame_id, keyframe.fragment_id, jpeg,
                           keyframe.intrinsics, depth, keyframe.pose, keyframe.descriptor)


def confident_depth(kept: KeptKeyframe, min_confidence: float) -> np.ndarray:
    """Return the depth, float32 [h, w], of a kept keyframe; NaN below `min_confidence`.

    In a compact one the depth below the map's confidence is NaN already.
    """
    if isinstance(kept, CompactKeyframe):
        return kept.depth.astype(np.float32)
    return np.where(kept.confidence >= min_confidence, kept.depth, np.float32(np.nan))


def _bytes_of(array: np.ndarray | None) -> int:
    return 0 if array is None else array.nbytes
