# SPDX-License-Identifier: Apache-2.0
"""Poses in the order of their frames, as arrays that grow at the end and shrink at the front."""
from __future__ import annotations

import numpy as np

from spann3r_ros.core.types import FragmentPose

LEAST_CAPACITY = 8


class PoseSeries:
    """The poses of a fragment's keyframes, in the fragment."""

    def __init__(self) -> None:
        self._stamps = np.empty(LEAST_CAPACITY, np.int64)
        self._transforms = np.empty((LEAST_CAPACITY, 4, 4))
        self._covariances = np.empty((LEAST_CAPACITY, 6, 6))  # NaN where unknown
        self._begin = self._end = 0

    @classmethod
    def of(cls, stamps: np.ndarray, transforms: np.ndarray,
           covariances: np.ndarray) -> PoseSeries:
        """Return a series of stamps [n], transforms [n, 4, 4] and covariances [n, 6, 6]."""
        series = cls()
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

    def append(self, pose: FragmentPose) -> None:
        """Add the pose of the newest frame."""
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
