# SPDX-License-Identifier: Apache-2.0
"""The order in which unordered images are reconstructed: the most confident one comes next."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from spann3r_ros.core.network import Arrangement, ArrangingNetwork, Estimate, Network


class PairArrangement:
    """An arrangement for a network that compares two images only.

    The confidence of an image is that of its best pair with an image of the sequence.
    """

    def __init__(self, network: Network, images: Sequence[np.ndarray]) -> None:
        self._network = network
        self._images = images
        self._known: dict[tuple[int, int], float] = {}
        self._taken: list[int] = []

    def descriptor(self, index: int) -> np.ndarray | None:
        """Return the descriptor that the network gives with the estimate of a pair."""
        image = self._images[index]
        return self._network.pair(image, image)[0].descriptor

    def pair(self, first: int, second: int) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images alone."""
        estimates = self._network.pair(self._images[first], self._images[second])
        self._known[first, second] = pair_confidence(estimates)
        return estimates

    def begin(self, first: int, second: int) -> None:
        """Begin the sequence with two images."""
        self._taken = [first, second]

    def confidences(self, indices: Sequence[int]) -> list[float]:
        """Return the confidence of the best known pair of each image with the sequence.

        An image without a known pair is compared with the newest one of the sequence.
        """
        found = []
        for index in indices:
            known = [self._known[key] for taken in self._taken
                     for key in ((taken, index), (index, taken)) if key in self._known]
            found.append(max(known) if known
                         else pair_confidence(self.pair(self._taken[-1], index)))
        return found

    def take(self, index: int) -> None:
        """Let an image come next."""
        self._taken.append(index)


def arrange(network: Network, images: Sequence[np.ndarray]) -> Arrangement:
    """Return the arrangement of a network, or one by its pairs."""
    if isinstance(network, ArrangingNetwork):
        return network.arrange(images)
    return PairArrangement(network, images)


def pair_confidence(estimates: tuple[Estimate, Estimate]) -> float:
    """Return the sum of the mean confidences of both estimates, in [0, 2)."""
    return float(sum(np.nanmean(one.pointmap.confidence, dtype=float) for one in estimates))


def all_pairs(arrangement: Arrangement, count: int) -> np.ndarray:
    """Return the confidence [count, count] of every ordered pair; NaN on the diagonal."""
    confidence = np.full((count, count), np.nan)
    for first in range(count):
        for second in range(count):
            if first != second:
                confidence[first, second] = pair_confidence(arrangement.pair(first, second))
    return confidence


def choose_order(arrangement: Arrangement, confidence: np.ndarray,
                 strength: np.ndarray | None = None, most: int = 0) -> Iterator[int]:
    """Yield indices of images: a start pair, then each time the image of highest confidence.

    `confidence` [n, n] is that of the ordered pairs, NaN for those that are not connected. The
    start pair has the highest one. The next image is connected with one that came before. With
    `strength` [n, n] of the connections, symmetric, only `most` images are weighed each time,
    those of the strongest ones. Of equal images the first one comes next. Images that are not
    connected do not come.
    Raises ValueError if no pair is connected.
    """
    if np.isnan(confidence).all():
        raise ValueError('confidence: expected a connected pair, got none')
    first, second = divmod(int(np.nanargmax(confidence)), len(confidence))
    arrangement.begin(first, second)
    links = np.fmax(confidence, confidence.T)
    if strength is not None:
        links = np.where(np.isnan(links), np.nan, strength)
    # Of each image that is left, the strongest connection with one that came before.
    best, left = np.fmax(links[first], links[second]), np.ones(len(links), bool)
    left[[first, second]] = False
    yield from (first, second)
    while (candidates := np.flatnonzero(left & ~np.isnan(best))).size:
        if strength is not None:
            ranked = np.argsort(-best[candidates], kind='stable')[:most]
            candidates = np.sort(candidates[ranked])
        chosen = int(candidates[np.argmax(arrangement.confidences(candidates.tolist()))])
        arrangement.take(chosen)
        best, left[chosen] = np.fmax(best, links[chosen]), False
        yield chosen
