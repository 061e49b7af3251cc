# SPDX-License-Identifier: Apache-2.0
"""Ablations of the memory are compared room by room."""
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from fake_network import FakeNetwork

from spann3r_ros.core.types import Pointmap
from spann3r_ros.evaluation.held_out import held_out_rooms
from spann3r_ros.evaluation.held_out.ablation import ablate, ablated_settings, compare
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    HeldOutConfig,
    Turn,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.networks.spann3r import KIND
from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.rooms.room_generator import RoomConfig

SIZE = (24, 32)
CONFIG = HeldOutConfig(rooms=3, turns=(Turn(3), Turn(4)), query_points=300)


@pytest.fixture(autouse=True)
def few_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_rooms, 'RoomConfig',
                        partial(RoomConfig, textures=6, texture_size=16))


class Stretching(FakeNetwork):
    """Returns the true points of the held-out rooms with x stretched."""

    def __init__(self, stretch: float) -> None:
        super().__init__(SIZE)
        self._stretch = stretch
        self._sequences = (
            sequence for turn in CONFIG.turns
            for sequence in draw_sequences(unseen_rooms(CONFIG, SIZE), CONFIG.rooms, turn))

    def begin(self) -> None:
        self._sequence = next(self._sequences)

    def check(self, image: np.ndarray, index: int) -> None:
        np.testing.assert_array_equal(image, self._sequence.images[index])

    def answer(self, index: int) -> Pointmap:
        points = self._sequence.points[index] * [self._stretch, 1.0, 1.0]
        return Pointmap(points.astype(np.float32), np.full(SIZE, 0.5, np.float32))


def test_each_memory_lacks_one_part() -> None:
    whole, *others = ablated_settings(KIND, MemoryConfig(working_frames=3)).values()
    assert whole == MemoryConfig(working_frames=3)
    assert others == [replace(whole, long_term_tokens=0), replace(whole, attention_threshold=0.0),
                      replace(whole, similarity_threshold=1.0)]


def test_all_memories_see_the_same_rooms_and_the_worse_one_adds_error() -> None:
    results = ablate({'whole': Stretching(1.0), 'worse': Stretching(1.5)}, CONFIG)
    assert [(item.turn, item.memory) for item in results] == [
        (turn.name, name) for turn in CONFIG.turns for name in ('whole', 'worse')]
    for whole, worse in zip(results[::2], results[1::2], strict=True):
        assert all(item.mean == 0.0 and item.error == 0.0 for item in whole.differences)
        assert whole.scores[2].mean < 1e-5 and worse.scores[2].mean > 0.05
        assert worse.differences[2].mean == pytest.approx(
            worse.scores[2].mean - whole.scores[2].mean)


def test_pairing_removes_the_variation_between_rooms() -> None:
    rooms = np.array([[1.0], [5.0], [9.0]])
    whole, other = compare('turn', {'whole': rooms, 'other': rooms + [[0.1], [0.2], [0.3]]})
    assert whole.scores[0].error == pytest.approx(4.0 / np.sqrt(3.0))
    assert other.differences[0].mean == pytest.approx(0.2)
    assert other.differences[0].error == pytest.approx(0.1 / np.sqrt(3.0))


def test_rooms_without_a_path_are_left_out() -> None:
    _, other = compare('turn', {'whole': np.array([[1.0], [np.nan], [2.0]]),
                                'other': np.array([[2.0], [7.0], [np.nan]])})
    assert other.scores[0].mean == pytest.approx(4.5)
    assert other.differences[0].mean == pytest.approx(1.0)
    assert np.isnan(other.differences[0].error)
