# SPDX-License-Identifier: Apache-2.0
"""Retrieval of places: the kept keyframes whose descriptors are most similar to a new one.

Descriptors of one network have a large common part, and few directions vary much. Each descriptor
x is therefore whitened over the map's own statistics, and has length one:

    y = V^T (x - m),    y_i / sqrt(w_i + s w_1),    normalised

m is the mean, V and w >= 0 are the principal directions and variances of a sample of the map, s is
`SHRINKAGE`. The similarity of two keyframes is the product of both, the cosine of an angle.
"""
from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spann3r_ros.mapping.storage.saved_tree import SavedNode

# Share of the largest variance that is added to each.
SHRINKAGE = 0.01
# So many descriptors, evenly over the map, are the sample of the statistics.
SAMPLE = 256
# The statistics are computed again when the map has grown by this factor.
GROWTH = 1.25
# With fewer keyframes there are no statistics.
MIN_KEYFRAMES = 10
# The keyframes before a new one whose similarity to it shows how similar images of one place are.
NEIGHBOURS = 3
# A candidate is more similar than others of the map by so many standard deviations.
OUTSTANDING = 3.0
# A normal standard deviation in units of the median distance from the median.
DEVIATION_OF_MEDIAN = 1.4826
COLUMNS = ('_numbers', '_groups', '_descriptors', '_whitened')


@dataclass(frozen=True)
class Candidate:
    """A kept keyframe, by its number, that may show the place of a new one."""

    number: int
    similarity: float


class Places:
    """The descriptors of the kept keyframes, by ascending numbers."""

    def __init__(self) -> None:
        self._numbers = np.zeros(0, np.int64)
        self._groups = np.zeros(0, np.int64)
        self._descriptors = np.zeros((0, 0), np.float32)
        self._whitened = np.zeros((0, 0), np.float32)
        self._count = 0
        self._mean = np.zeros(0, np.float32)
        self._basis = np.zeros((0, 0), np.float32)
        self._sampled = 0  # how many keyframes there were at the last statistics

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return self._count

    def add(self, number: int, group: int, descriptor: np.ndarray) -> None:
        """Add a keyframe of a fragment, its `group`; `number` is larger than those before.

        `descriptor` [n] is finite. If its length differs from those before, these are forgotten.
        """
        if self._descriptors.shape[1] != len(descriptor):
            self.__init__()
            self._descriptors = np.zeros((0, len(descriptor)), np.float32)
        self._reserve(self._count + 1)
        row = self._count
        self._numbers[row], self._groups[row] = number, group
        self._descriptors[row] = descriptor
        self._count += 1
        if self._count >= max(MIN_KEYFRAMES, GROWTH * self._sampled):
            self._sample()
        elif self._sampled:
            self._whitened[row] = self._whiten(self._descriptors[row:row + 1])[0]

    def fill(self, numbers: Sequence[int], groups: Sequence[int],
             descriptors: np.ndarray) -> None:
        """Replace all keyframes by others [n], by ascending numbers; `descriptors` is [n, d].

        The statistics are computed once.
        """
        self.__init__()
        self._descriptors = np.zeros((0, descriptors.shape[1]), np.float32)
        self._reserve(len(numbers))
        self._count = len(numbers)
        self._numbers[:self._count], self._groups[:self._count] = numbers, groups
        self._descriptors[:self._count] = descriptors
        if self._count >= MIN_KEYFRAMES:
            self._sample()

    def retain(self, numbers: Container[int]) -> None:
        """Forget all keyframes but these."""
        kept = self._among(numbers)
        if kept.all():
            return
        for name in COLUMNS:
            setattr(self, name, getattr(self, name)[:self._count][kept])
        self._count = len(self._numbers)

    def tree(self, numbers: Container[int]) -> dict[str, Any]:
        """Return the statistics, and the keyframes among `numbers`, for a saved map.

        The descriptors are saved with the keyframes.
        """
        kept = self._among(numbers)
        return {'numbers': self._numbers[:self._count][kept],
                'whitened': self._whitened[:self._count][kept] if self._sampled else None,
                'mean': self._mean, 'basis': self._basis, 'sampled': self._sampled}

    def restore(self, node: SavedNode, descriptors: Mapping[int, np.ndarray],
                groups: Mapping[int, int]) -> None:
        """Take over a saved state; `descriptors` and `groups` are those of the kept keyframes.

        Raises ValueError if it does not fit them.
        """
        numbers = node.array('numbers', np.int64, (None,))
        size = len(next(iter(descriptors.values()))) if descriptors else 0
        if not all(one in descriptors and len(descriptors[one]) == size
                   for one in numbers.tolist()) or (np.diff(numbers) <= 0).any():
            raise node.fault('numbers', 'ascending numbers of keyframes with descriptors',
                             numbers.tolist())
        self.__init__()
        self._descriptors = np.zeros((0, size), np.float32)
        sampled = node.integer('sampled')
        mean = node.array('mean', np.float32, (size if sampled else None,))
        basis = node.array('basis', np.float32, (len(mean), None))
        if basis.shape[1] > SAMPLE:
            raise node.fault('basis', f'{SAMPLE} directions at most', basis.shape[1])
        self._whitened = np.zeros((0, basis.shape[1]), np.float32)
        self._reserve(len(numbers))
        n = self._count = len(numbers)
        self._numbers[:n] = numbers
        for row, number in enumerate(numbers.tolist()):
            self._groups[row], self._descriptors[row] = groups[number], descriptors[number]
        if sampled:
            self._mean, self._basis, self._sampled = mean, basis, sampled
            self._whitened[:n] = node.array('whitened', np.float32, (n, basis.shape[1]))

    def whitened(self) -> np.ndarray:
        """Return the whitened descriptors [n, d], of length one; empty without statistics."""
        return self._whitened[:self._count].copy()

    def candidates(self, min_gap: int, min_similarity: float, most: int) -> list[Candidate]:
        """Return the keyframes that may show the place of the newest one, most similar first.

        They are of other fragments, and at least `min_gap` older by number. Their similarity is at
        least `min_similarity` times that of the newest keyframe to those just before it, and
        stands out among those of the map. Ties are in the order of the numbers.
        """
        if not self._sampled or self._count <= NEIGHBOURS:
            return []
        last = self._count - 1
        similarity = self._whitened[:last] @ self._whitened[last]
        eligible = ((self._groups[:last] != self._groups[last])
                    & (self._numbers[:last] <= self._numbers[last] - min_gap))
        if not eligible.any():
            return []
        others = similarity[eligible]
        middle = float(np.median(others))
        deviation = DEVIATION_OF_MEDIAN * float(np.median(np.abs(others - middle)))
        beside = float(np.median(similarity[-NEIGHBOURS:]))
        least = max(min_similarity * beside, middle + OUTSTANDING * deviation)
        found = np.flatnonzero(eligible & (similarity >= least))
        found = found[np.argsort(-similarity[found], kind='stable')][:most]
        return [Candidate(int(self._numbers[one]), float(similarity[one])) for one in found]

    def similarities(self) -> list[Candidate]:
        """Return all keyframes before the newest one, with their similarity to it.

        Without statistics the similarities are zero.
        """
        last = self._count - 1
        similarity = (self._whitened[:last] @ self._whitened[last] if self._sampled and last > 0
                      else np.zeros(max(last, 0)))
        return [Candidate(number, float(one)) for number, one in zip(
            self._numbers[:max(last, 0)].tolist(), similarity, strict=True)]

    def _among(self, numbers: Container[int]) -> np.ndarray:
        """Return which of the keyframes are among `numbers`, bool [n]."""
        return np.fromiter((one in numbers for one in self._numbers[:self._count].tolist()), bool,
                           self._count)

    def _sample(self) -> None:
        """Compute the statistics, and whiten all descriptors by them."""
        chosen = np.unique(np.linspace(0, self._count - 1, min(SAMPLE, self._count)).astype(int))
        sample = self._descriptors[chosen].astype(float)
        mean = sample.mean(0)
        # The eigenvectors of the Gram matrix give those of the much larger covariance.
        centred = sample - mean
        variances, vectors = np.linalg.eigh(centred @ centred.T / len(sample))
        positive = variances > 1e-9 * max(variances[-1], 1e-30)
        variances, vectors = variances[positive], vectors[:, positive]
        directions = centred.T @ vectors / np.sqrt(len(sample) * variances)
        self._mean = mean.astype(np.float32)
        self._basis = (directions / np.sqrt(variances + SHRINKAGE * variances[-1:])).astype(
            np.float32)
        self._whitened = np.zeros((len(self._numbers), self._basis.shape[1]), np.float32)
        self._whitened[:self._count] = self._whiten(self._descriptors[:self._count])
        self._sampled = self._count

    def _whiten(self, descriptors: np.ndarray) -> np.ndarray:
        rows = (descriptors - self._mean) @ self._basis
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def _reserve(self, count: int) -> None:
        if count <= len(self._numbers):
            return
        room = max(64, 2 * count)
        for name in COLUMNS:
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[:len(old)] = old
            setattr(self, name, new)
