# SPDX-License-Identifier: Apache-2.0
"""Poses in the order of their frames, as arrays that grow at the end and shrink at the front."""
from __future__ import annotations

from typing import Any

import numpy as np

from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.storage.saved_tree import SavedNode

LEAST_CAPACITY = 8


class PoseSeries:
    """The poses of a fragment's keyframes, in the fragment.

    `received` counts all poses, `length` is that of the way through all of them. Both have those
    that were removed since.
    """

    def __init__(self) -> None:
        self._stamps = np.empty(LEAST_CAPACITY, np.int64)
        self._transforms = np.empty((LEAST_CAPACITY, 4, 4))
        self._covariances = np.empty((LEAST_CAPACITY, 6, 6))  # NaN where unknown
        self._begin = self._end = 0
        self.received, self.length = 0, 0.0
        self._sum = np.zeros(3)
        self._newest: np.ndarray | None = None  # position

    @classmethod
    def of(cls, stamps: np.ndarray, transforms: np.ndarray,
           covariances: np.ndarray) -> PoseSeries:
        """Return a series of stamps [n], transforms [n, 4, 4] and covariances [n, 6, 6]."""
        series = cls()
        for place in transforms[:, :3, 3]:
            series._count(place)
        series._reserve(max(LEAST_CAPACITY, len(stamps)))
        series._end = len(stamps)
        for column, values in zip(series._columns, (stamps, transforms, covariances),
                                  strict=True):
            column[:len(stamps)] = values
        return series

    def __len__(self) -> int:
        """Return the number of poses."""
        return self._end - self._begin

    @property
    def stamps(self) -> np.ndarray:
        """Return the stamps in nanoseconds, int64 [n]."""
        return self._stamps[self._begin:self._end]

    @property
    def transforms(self) -> np.ndarray:
        """Return `fragment_from_camera` [n, 4, 4]."""
        return self._transforms[self._begin:self._end]

    @property
    def covariances(self) -> np.ndarray:
        """Return the covariances [n, 6, 6]; NaN where unknown."""
        return self._covariances[self._begin:self._end]

    @property
    def middle(self) -> np.ndarray | None:
        """Return the mean position [3] of all poses, also of removed ones; None without any."""
        return self._sum / self.received if self.received else None

    def totals(self) -> dict[str, Any]:
        """Return what is known of all poses, for a saved map."""
        return {'received': self.received, 'length': self.length, 'sum': self._sum,
                'newest': self._newest}

    def restore_totals(self, node: SavedNode) -> None:
        """Take over what is known of all poses; raise ValueError if it is wrong."""
        self.received = node.integer('received', len(self))
        self.length = node.number('length', 0.0)
        self._sum = node.array('sum', np.float64, (3,))
        self._newest = node.array('newest', np.float64, (3,)) if node.has('newest') else None

    def append(self, pose: FragmentPose) -> None:
        """Add the pose of the newest frame."""
        self._count(pose.fragment_from_camera[:3, 3])
        if self._end == len(self._stamps):
            self._reserve(max(LEAST_CAPACITY, 2 * len(self)))
        self._stamps[self._end] = pose.stamp_ns
        self._transforms[self._end] = pose.fragment_from_camera
        self._covariances[self._end] = np.nan if pose.covariance is None else pose.covariance
        self._end += 1

    def drop_oldest(self, count: int) -> int:
        """Remove at most so many of the oldest poses; return how many were removed."""
        dropped = min(count, len(self))
        self._begin += dropped
        return dropped

    def _count(self, place: np.ndarray) -> None:
        if self._newest is not None:
            self.length += float(np.linalg.norm(place - self._newest))
        self._sum = self._sum + place
        self.received += 1
        self._newest = np.array(place, float)

    @property
    def _columns(self) -> list[np.ndarray]:
        return [self._stamps, self._transforms, self._covariances]

    def _reserve(self, capacity: int) -> None:
        copies = [np.empty((capacity, *column.shape[1:]), column.dtype)
                  for column in self._columns]
        for copy, column in zip(copies, self._columns, strict=True):
            copy[:len(self)] = column[self._begin:self._end]
        self._stamps, self._transforms, self._covariances = copies
        self._begin, self._end = 0, len(self)
