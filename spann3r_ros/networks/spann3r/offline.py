# SPDX-License-Identifier: Apache-2.0
"""Reconstruction of unordered images: the next image is the one of highest confidence."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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


@torch.no_grad()
def reconstruct_offline(model: Spann3R, images: Tensor,
                        memory: MemoryConfig) -> OfflineReconstruction:
    """Reconstruct images [n, 3, height, width] in [-1, 1], given in any order.

    Every image is encoded once and every ordered pair decoded once. Raises ValueError below two
    images.
    """
    if images.ndim != 4 or images.shape[0] < 2 or images.shape[1] != 3:
        raise ValueError('images: expected two or more [n, 3, height, width], '
                         f'got shape {tuple(images.shape)}')
    with model.arithmetic():
        return _reconstruct(model, images, memory)


def _reconstruct(model: Spann3R, images: Tensor, memory: MemoryConfig) -> OfflineReconstruction:
    state = model.start(*images.shape[-2:], memory)
    features = [model.dust3r.encode(image[None]) for image in images]
    first, choice, pair_confidence = _start_pair(model, features, state.grid)
    state.feature, attention = features[first], None
    order, predictions, scores = [first], [], []
    while True:
        model.advance(state, features[choice.target], choice.pair, choice.refined.points,
                      attention)
        order.append(choice.target)
        predictions.append(choice.refined)
        remaining = [index for index in range(len(features)) if index not in order]
        if not remaining:
            break
        reference, attention = model.fuse(state)
        choice = _most_confident(_candidates(model, reference, features, remaining, state.grid))
        scores.append(choice.score)
    return OfflineReconstruction(tuple(order), (*predictions, choice.provisional),
                                 pair_confidence, tuple(scores))


def _start_pair(model: Spann3R, features: list[Tensor],
                grid: tuple[int, int]) -> tuple[int, _Candidate, Tensor]:
    """Return the pair of highest confidence, and the confidence of all pairs."""
    count = len(features)
    confidence = torch.zeros(count, count)
    best: tuple[int, _Candidate] | None = None
    for index, feature in enumerate(features):
        targets = [target for target in range(count) if target != index]
        for candidate in _candidates(model, feature, features, targets, grid):
            confidence[index, candidate.target] = candidate.score
            if best is None or candidate.score > best[1].score:
                best = index, candidate
    return *best, confidence


def _candidates(model: Spann3R, reference: Tensor, features: list[Tensor], targets: list[int],
                grid: tuple[int, int]) -> Iterable[_Candidate]:
    # A generator, so that the decoder outputs of all but the best are freed at once.
    for target in targets:
        pair = model.dust3r.decode(reference, features[target], grid)
        refined = model.predict_reference(pair[0], grid)
        provisional = model.predict_target(pair[1], grid)
        score = float(refined.confidence.mean() + provisional.confidence.mean())
        yield _Candidate(target, score, pair, refined, provisional)


def _most_confident(candidates: Iterable[_Candidate]) -> _Candidate:
    return max(candidates, key=lambda candidate: candidate.score)
