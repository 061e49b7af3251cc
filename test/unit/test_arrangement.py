# SPDX-License-Identifier: Apache-2.0
"""The order of unordered images: the paper's, over a sparse graph, and without a memory."""
from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from tiny import tiny_model

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import FrameError, Pointmap
from spann3r_ros.networks.arrangement import PairArrangement, all_pairs, arrange, choose_order
from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.offline import reconstruct_offline
from spann3r_ros.networks.spann3r.spann3r_network import Spann3RNetwork
from spann3r_ros.networks.spann3r.streams import to_input
from spann3r_ros.reconstruction.neighbours import choose_pairs, similarities


class Line:
    """A network without a memory: images are numbers, near ones are confident pairs."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        places = int(first[0, 0, 0]), int(second[0, 0, 0])
        self.asked.append(places)
        confidence = np.full((2, 2), 1.0 / (1.0 + abs(places[0] - places[1])))
        return tuple(Estimate(number, 0, Pointmap(np.zeros((2, 2, 3)), confidence),
                              descriptor=np.array([float(places[number])]))
                     for number in (0, 1))


def images(places: list[int]) -> list[np.ndarray]:
    return [np.full((2, 2, 3), place, np.uint8) for place in places]


def test_order_is_that_of_the_offline_mode() -> None:
    model = tiny_model(image_height=32, image_width=48)
    rng = np.random.default_rng(3)
    shots = rng.integers(0, 256, (6, 32, 48, 3), np.uint8)
    network = Spann3RNetwork(model)
    arrangement = arrange(network, shots)
    confidence = all_pairs(arrangement, 6)
    order = list(choose_order(arrangement, confidence))
    expected = reconstruct_offline(
        model, torch.cat([to_input(one, torch.device('cpu')) for one in shots]), MemoryConfig())
    assert tuple(order) == expected.order
    np.fill_diagonal(confidence, 0.0)
    np.testing.assert_allclose(confidence, expected.pair_confidence.numpy(), atol=1e-5)
    # In that order, step by step, the network gives the points of the offline mode.
    estimates = [one for index in order for one in network.step(shots[index], index)]
    estimates += network.flush()
    for one, other in zip(estimates, expected.predictions, strict=True):
        np.testing.assert_allclose(one.pointmap.points, other.points[0].numpy(), atol=1e-4)


def test_arrangement_refuses_images_of_other_sizes() -> None:
    network = Spann3RNetwork(tiny_model(image_height=32, image_width=48))
    with pytest.raises(FrameError, match='image: expected uint8'):
        network.arrange(np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match='images: expected at least one'):
        network.arrange([])


def test_network_without_a_memory_orders_by_its_pairs() -> None:
    network = Line()
    places = [9, 0, 7, 3, 8]
    arrangement = arrange(network, images(places))
    assert isinstance(arrangement, PairArrangement)
    order = list(choose_order(arrangement, all_pairs(arrangement, 5)))
    # 9 and 8, then 7 beside them, then 3, then 0.
    assert [places[index] for index in order] == [9, 8, 7, 3, 0]
    assert len(network.asked) == 20
    assert arrangement.descriptor(2) == [7.0]


def test_sparse_graph_weighs_few_and_leaves_out_what_is_not_connected() -> None:
    network = Line()
    places = list(range(30))
    arrangement = PairArrangement(network, images(places))
    confidence = np.full((30, 30), np.nan)
    for first in range(28):  # the last two share nothing with the others
        for second in range(max(0, first - 3), first):
            for pair in ((first, second), (second, first)):
                confidence[pair] = sum(float(one.pointmap.confidence.mean())
                                       for one in arrangement.pair(*pair))
    order, weighed = [], []
    arrangement.confidences = lambda indices: (
        weighed.append(len(indices)) or PairArrangement.confidences(arrangement, indices))
    strength = np.nan_to_num(np.fmax(confidence, confidence.T))
    order = list(choose_order(arrangement, confidence, strength, most=2))
    assert sorted(order) == list(range(28))
    assert max(weighed) == 2
    with pytest.raises(ValueError, match='confidence: expected a connected pair'):
        next(choose_order(arrangement, np.full((2, 2), np.nan)))


def test_pairs_of_many_photographs_are_few_and_connect_all() -> None:
    angles = np.linspace(0.0, 2.0 * np.pi, 60, endpoint=False)
    descriptors = np.column_stack([np.cos(angles), np.sin(angles)])
    pairs = choose_pairs(descriptors, 60, 4)
    assert len(pairs) <= 60 * 4 + 60
    assert {(index, index + 1) for index in range(59)} <= set(pairs)
    # Two clouds of descriptors: the spanning tree joins them.
    far = np.concatenate([descriptors[:30] + 40.0, descriptors[30:] - 40.0])
    reached = {0}
    for _ in range(60):
        for pair in choose_pairs(far, 60, 3):
            if reached & set(pair):
                reached |= set(pair)
    assert len(reached) == 60


@pytest.mark.parametrize(('count', 'neighbours', 'expected'), [
    (20, None, 190), (40, 0, 780), (5, 4, 10), (1, None, 0), (2, None, 1)])
def test_all_pairs_of_few_photographs(count: int, neighbours: int | None, expected: int) -> None:
    descriptors = np.random.default_rng(0).normal(size=(count, 8))
    pairs = choose_pairs(descriptors, count, neighbours)
    assert len(pairs) == expected and pairs == list(combinations(range(count), 2))
    assert choose_pairs(None, 30) == list(combinations(range(30), 2))


def test_similarity_of_equal_descriptors_is_no_number_less() -> None:
    assert np.isfinite(similarities(np.ones((4, 3)))).all()
