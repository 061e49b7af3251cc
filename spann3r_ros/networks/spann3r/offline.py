# SPDX-License-Identifier: Apache-2.0
"""Reconstruction of unordered images: the next image is the one of highest confidence."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from spann3r_ros.networks.blocks.heads import DensePrediction

from .config import MemoryConfig
from .spann3r import Spann3R


@dataclass(frozen=True)
class OfflineReconstruction:
    """Predictions in the order of reconstruction; `order[i]` is the image of `predictions[i]`.

    `pair_confidence` [images, images] is the mean confidence of both maps of every (reference,
    target) pair, summed, in [0, 2), without memory; `scores` are the same with memory, for each
    image after the first pair.
    """

    order: tuple[int, ...]
    predictions: tuple[DensePrediction, ...]
    pair_confidence: Tensor
    scores: tuple[float, ...]


@dataclass(frozen=True)
class _Candidate:
    target: int
    score: float
    pair: tuple[list[Tensor], list[Tensor]]
    refined: DensePrediction
    provisional: DensePrediction


class OfflineSequence:
    """Unordered images [3, height, width] in [-1, 1], and a sequence of them by their indices.

    Every image is encoded once, and not kept. `refined` are the final predictions of the sequence
    so far.
    """

    def __init__(self, model: Spann3R, images: Iterable[Tensor], size: tuple[int, int],
                 memory: MemoryConfig) -> None:
        self._model = model
        self._state = model.start(*size, memory)
        with torch.no_grad(), model.arithmetic():
            self.features = [model.dust3r.encode(image[None]) for image in images]
        self.refined: list[DensePrediction] = []
        # The most confident pair so far, and the most confident of the images weighed last.
        self._best: tuple[int, _Candidate] | None = None
        self._weighed: _Candidate | None = None
        self._reference: tuple[Tensor, Tensor | None] | None = None

    @property
    def newest(self) -> DensePrediction:
        """Return the prediction of the newest image by the target head."""
        with torch.no_grad(), self._model.arithmetic():
            return self._model.predict_target(self._state.target_tokens, self._state.grid)

    @torch.no_grad()
    def pair(self, first: int, second: int) -> tuple[float, DensePrediction, DensePrediction]:
        """Return the confidence of two images alone, in [0, 2), and their predictions."""
        with self._model.arithmetic():
            found = self._candidate(self.features[first], second)
        if self._best is None or found.score > self._best[1].score:
            self._best = first, found
        return found.score, found.refined, found.provisional

    @torch.no_grad()
    def begin(self, first: int, second: int) -> None:
        """Begin the sequence with two images."""
        known = self._best
        with self._model.arithmetic():
            if known is None or (known[0], known[1].target) != (first, second):
                known = first, self._candidate(self.features[first], second)
            self._state.feature = self.features[first]
            self._advance(known[1], None)
        self._best = None

    @torch.no_grad()
    def weigh(self, indices: Sequence[int]) -> list[float]:
        """Return the confidence of each image if it comes next, in [0, 2)."""
        scores, self._weighed = [], None
        with self._model.arithmetic():
            self._reference = self._model.fuse(self._state)
            for index in indices:
                found = self._candidate(self._reference[0], index)
                scores.append(found.score)
                # The decoder outputs of all but the best are freed at once.
                if self._weighed is None or found.score > self._weighed.score:
                    self._weighed = found
        return scores

    @torch.no_grad()
    def take(self, index: int) -> None:
        """Let an image come next."""
        with self._model.arithmetic():
            reference, attention = self._reference or self._model.fuse(self._state)
            found = self._weighed
            if found is None or found.target != index:
                found = self._candidate(reference, index)
            self._advance(found, attention)

    def _advance(self, found: _Candidate, attention: Tensor | None) -> None:
        self._model.advance(self._state, self.features[found.target], found.pair,
                            found.refined.points, attention)
        self.refined.append(found.refined)
        self._weighed = self._reference = None

    def _candidate(self, reference: Tensor, target: int) -> _Candidate:
        model, grid = self._model, self._state.grid
        pair = model.dust3r.decode(reference, self.features[target], grid)
        refined = model.predict_reference(pair[0], grid)
        provisional = model.predict_target(pair[1], grid)
        score = float(refined.confidence.mean() + provisional.confidence.mean())
        return _Candidate(target, score, pair, refined, provisional)


def reconstruct_offline(model: Spann3R, images: Tensor,
                        memory: MemoryConfig) -> OfflineReconstruction:
    """Reconstruct images [n, 3, height, width] in [-1, 1], given in any order.

    Every image is encoded once and every ordered pair decoded once. Raises ValueError below two
    images.
    """
    if images.ndim != 4 or images.shape[0] < 2 or images.shape[1] != 3:
        raise ValueError('images: expected two or more [n, 3, height, width], '
                         f'got shape {tuple(images.shape)}')
    sequence, count = OfflineSequence(model, images, images.shape[-2:], memory), len(images)
    confidence = torch.zeros(count, count)
    for first, second in permutations(range(count), 2):
        confidence[first, second] = sequence.pair(first, second)[0]
    order, scores = list(divmod(int(confidence.argmax()), count)), []
    sequence.begin(*order)
    while len(order) < count:
        remaining = [index for index in range(count) if index not in order]
        weighed = sequence.weigh(remaining)
        scores.append(max(weighed))
        order.append(remaining[weighed.index(scores[-1])])
        sequence.take(order[-1])
    return OfflineReconstruction(tuple(order), (*sequence.refined, sequence.newest), confidence,
                                 tuple(scores))
