# SPDX-License-Identifier: Apache-2.0
"""The held-out evaluation: true points have no error, others do."""
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from fake_network import FakeNetwork

from spann3r_ros.cli.commands.scores.evaluate import table_rows
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import Pointmap
from spann3r_ros.evaluation.held_out import baselines, held_out_rooms
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    TURNS,
    HeldOutConfig,
    Sequence,
    TrivialPredictions,
    Turn,
    depth_images,
    draw_sequences,
    familiar_rooms,
    unseen_rooms,
)
from spann3r_ros.evaluation.held_out.references import Reference
from spann3r_ros.evaluation.held_out.room_scores import evaluate_held_out, score_map
from spann3r_ros.evaluation.recorded_runs import MappedFrame
from spann3r_ros.rooms.room_generator import RoomConfig

SIZE = (24, 32)
CONFIG = HeldOutConfig(rooms=2, training_rooms=3, turns=(Turn(3),), query_points=500)


@pytest.fixture(autouse=True)
def few_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_rooms, 'RoomConfig',
                        partial(RoomConfig, textures=6, texture_size=16))


class Oracle(FakeNetwork):
    """Returns the true points of the held-out rooms at half scale; can stretch x, lose frames."""

    def __init__(self, stretch: float = 1.0, forgetful: bool = False,
                 config: HeldOutConfig = CONFIG) -> None:
        super().__init__(SIZE)
        self._stretch = stretch
        self._forgetful = forgetful
        self._sequences: Iterator[Sequence] = (
            sequence for turn in config.turns
            for sequence in draw_sequences(unseen_rooms(config, SIZE), config.rooms, turn))

    def begin(self) -> None:
        self._sequence = next(self._sequences)

    def check(self, image: np.ndarray, index: int) -> None:
        np.testing.assert_array_equal(image, self._sequence.images[index])

    def flush(self) -> list[Estimate]:
        return [] if self._forgetful else super().flush()

    def answer(self, index: int) -> Pointmap:
        points = 0.5 * self._sequence.points[index] * [self._stretch, 1.0, 1.0]
        return Pointmap(points.astype(np.float32), np.full(SIZE, 0.5, np.float32))


def test_truth_at_another_scale_has_no_error() -> None:
    result = evaluate_held_out(Oracle(), CONFIG)[0]
    assert max(result.network.accuracy, result.network.completion, result.network.point) < 1e-5
    assert result.network_poses.rotation_deg < 0.01
    assert result.network_poses.position < 1e-4
    assert result.network_poses.unsolved == 0.0
    assert result.network_poses.trajectory < 1e-3 and result.network_poses.step_deg < 0.01
    assert result.normals > 0.999 and result.uncertainty.accuracy < 1e-5
    assert max(result.mapped.accuracy, result.mapped.completion) < 1e-3
    assert result.mapped.point < 1e-3


def test_rooms_of_a_turn_do_not_depend_on_the_others() -> None:
    config = replace(CONFIG, turns=(Turn(4), *CONFIG.turns))
    results = evaluate_held_out(Oracle(config=config), config)
    assert results[1] == evaluate_held_out(Oracle(), CONFIG)[0]


def test_map_is_scored_where_the_mapper_places_it() -> None:
    config = replace(CONFIG, rooms=1)
    sequence = next(draw_sequences(unseen_rooms(config, SIZE), 1, config.turns[0]))
    points = 2.0 * sequence.points
    points[2, 1] = np.nan  # behind the camera
    points[0, 0] += 5.0
    certain = np.ones(SIZE, np.float32)
    certain[0] = 0.0
    points[1] += 3.0  # the mapper leaves out a frame whose camera it could not place
    keyframes = [MappedFrame(index, 0, sequence.images[index], sequence.intrinsics,
                             points[index][..., 2], Pointmap(points[index], certain),
                             None if index == 1 else np.eye(4), None)
                 for index in range(3)]
    whole = score_map(keyframes, sequence, config)
    assert whole.accuracy < 1e-5 and whole.point < 1e-5
    assert whole.completion > 1e-3  # frame 1 is not mapped
    points[2] += 1.0
    assert score_map(keyframes, sequence, config).accuracy > 0.01
    assert np.isnan(score_map([], sequence, config).accuracy)


def test_stretched_truth_scores_worse() -> None:
    result = evaluate_held_out(Oracle(stretch=1.5), CONFIG)[0]
    assert result.network.point > 0.05
    assert result.network.accuracy > 0.01


def test_baselines_are_bad_and_true_poses_help() -> None:
    result = evaluate_held_out(Oracle(), CONFIG)[0]
    assert min(result.plane.accuracy, result.median.accuracy) > 0.02
    assert result.posed_depth.point < result.plane.point


def test_rooms_that_fail_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    result = evaluate_held_out(Oracle(forgetful=True), CONFIG)[0]
    assert (result.rooms, result.failed, result.posed) == (2, 2, 0)
    assert np.isnan(result.network.accuracy) and np.isnan(result.network_poses.trajectory)
    assert caplog.text.count('expected 3 pointmaps of one sequence, got 2') == 2
    row = table_rows([result], Reference())[0]
    assert row[2:5] == ['nan %', '2 of 2', 'nan +-nan']


def test_means_report_the_number_of_missing_rooms() -> None:
    class LostOnce(Oracle):
        """Returns no finite point for the last frames of the first room."""

        def begin(self) -> None:
            super().begin()
            self.rooms = getattr(self, 'rooms', 0) + 1

        def answer(self, index: int) -> Pointmap:
            pointmap = super().answer(index)
            if self.rooms == 1 and index > 0:
                pointmap.points[:] = np.random.default_rng(index).normal(size=(*SIZE, 3))
            return pointmap

    result = evaluate_held_out(LostOnce(), CONFIG)[0]
    assert (result.failed, result.posed) == (0, 1)
    assert result.network_poses.unsolved == 0.5
    row = table_rows([result], Reference())[0]
    assert row[2:4] == ['50.0 %', '0 of 2, poses 1 more']


def test_rooms_repeat_and_depth_is_each_cameras_own() -> None:
    first, again = (list(draw_sequences(unseen_rooms(CONFIG, SIZE), 1, Turn(3)))[0]
                    for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    depth = depth_images(first)
    assert depth.min() > 0.0
    rays = np.linalg.inv(first.intrinsics.matrix) @ [5.0, 7.0, 1.0]
    expected = first.poses[2][:3, :3] @ (rays * depth[2, 7, 5]) + first.poses[2][:3, 3]
    np.testing.assert_allclose(first.points[2, 7, 5], expected, atol=1e-4)


def test_one_kind_of_sequence_comes_back() -> None:
    assert any(turn.frames * turn.step_deg == 720 for turn in TURNS)
    turn = Turn(80, 9.0)
    sequence = next(draw_sequences(unseen_rooms(CONFIG, SIZE), 1, turn))
    headings = sequence.poses[:, :3, :3]
    np.testing.assert_allclose(headings[:40], headings[40:], atol=1e-4)
    assert np.abs(np.diff(sequence.poses[:, :3, 3], axis=0)).max() > 0.01


def test_varied_rooms_differ_in_their_cameras_and_keep_their_geometry() -> None:
    config = replace(CONFIG, varied=True, rooms=6)
    sequences = list(draw_sequences(unseen_rooms(config, SIZE), config.rooms, Turn(3)))
    focal = [sequence.intrinsics.fx for sequence in sequences]
    assert max(focal) > 1.1 * min(focal)
    trivial = TrivialPredictions(familiar_rooms(config, SIZE), 3, Turn(3))
    for sequence in sequences:
        rays = baselines.pixel_rays(sequence.intrinsics.matrix, *SIZE)
        depth = depth_images(sequence)
        for index in range(3):
            posed = baselines.posed_depth_pointmaps(depth[index], sequence.poses, rays)[index]
            np.testing.assert_allclose(posed, sequence.points[index], atol=1e-4)
        told = trivial.of(sequence)
        in_first = told['posed_depth'][0]  # the first camera is the frame
        np.testing.assert_allclose(in_first[..., :2], in_first[..., 2:] * rays[..., :2],
                                   atol=1e-9)
        np.testing.assert_allclose(told['plane'][0] / told['plane'][0, 0, 0, 2], rays)


def test_varied_rooms_are_others_and_a_wandering_walk_is_tilted() -> None:
    walk = Turn(4, motion=0.5)
    assert walk.name == '4 frames wandering' and Turn(4).name == '4 frames at 9 deg'
    plain, varied = (next(draw_sequences(unseen_rooms(replace(CONFIG, varied=one), SIZE), 1, walk))
                     for one in (False, True))
    assert not np.array_equal(plain.images, varied.images)
    steps = np.linalg.inv(plain.poses[:-1]) @ plain.poses[1:]
    assert np.abs(steps[:, 1, 3]).max() > 1e-3  # not level


def test_truth_of_varied_rooms_has_no_error() -> None:
    config = replace(CONFIG, varied=True, turns=(Turn(3), Turn(4, motion=0.3)))
    results = evaluate_held_out(Oracle(config=config), config)
    assert [result.turn for result in results] == ['3 frames at 9 deg', '4 frames wandering']
    for result in results:
        assert result.network.point < 1e-5
        assert result.network_poses.rotation_deg < 0.01 and result.posed_depth.point > 0.01


def test_training_seed_is_refused() -> None:
    with pytest.raises(ValueError, match='others than in training'):
        HeldOutConfig(textures_seed=HeldOutConfig().training_textures_seed)
