# SPDX-License-Identifier: Apache-2.0
"""Scores of videos with true depth: arrays made by hand, rooms with a network that knows them."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fake_network import FakeNetwork
from recorded_rooms import pose, render, write_plain
from scipy.spatial.transform import Rotation

from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import FrameError, Pointmap
from spann3r_ros.datasets.layouts import read_videos
from spann3r_ros.evaluation.measures.alignment import align_by_points
from spann3r_ros.evaluation.measures.trajectories import Similarity, fit_similarity
from spann3r_ros.evaluation.rgbd.depth_scores import (
    ScaledErrors,
    compare_depth,
    mean_image,
    score_depth,
)
from spann3r_ros.evaluation.rgbd.rgbd_runs import pair_depths
from spann3r_ros.evaluation.rgbd.rgbd_scores import (
    STEPS_PER_FRAME,
    VideoScores,
    evaluate_video,
    score_map,
    score_path,
)
from spann3r_ros.evaluation.rgbd.true_views import Video, load_views, open_video

# A pixel of the network is the middle one of 3x3 of the image.
SIZE, FACTOR, FRAMES, FOCAL = 32, 3, 6, 90.0
CAMERA = (FOCAL, FOCAL, 47.5, 47.5)
OWN_CAMERA = (FOCAL / FACTOR, FOCAL / FACTOR, 15.5, 15.5)


@pytest.fixture(scope='module')
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    root = tmp_path_factory.mktemp('rgbd')
    write_plain(root, FRAMES, camera=CAMERA, size=(SIZE * FACTOR,) * 2)
    (sequence,) = read_videos(root, 'plain')
    return open_video(sequence, None, 10.0)


class Oracle(FakeNetwork):
    """Knows the true points of the room at half scale, which `bend` changes by the frame."""

    def __init__(self, video: Video, bend: Callable[[int, np.ndarray], np.ndarray] | None = None,
                 failing: int | None = None) -> None:
        super().__init__(SIZE)
        self._images = load_views(video, (SIZE, SIZE), True).images
        self._bend = bend or (lambda index, depth: depth)
        self._failing = failing

    def points(self, index: int, reference: int) -> Pointmap:
        depth = self._bend(index, 0.5 * render(index, OWN_CAMERA, SIZE, SIZE)[1])
        rows, columns = np.indices(depth.shape)
        fx, fy, cx, cy = OWN_CAMERA
        rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(depth.shape)], axis=-1)
        motion = np.linalg.inv(pose(reference)) @ pose(index)
        points = depth[..., None] * rays @ motion[:3, :3].T + 0.5 * motion[:3, 3]
        return Pointmap(points.astype(np.float32), np.full(depth.shape, 0.5, np.float32))

    def find(self, image: np.ndarray) -> int:
        return int((self._images == image).all(axis=(1, 2, 3)).argmax())

    def begin(self) -> None:
        self._seen: list[int] = []

    def check(self, image: np.ndarray, index: int) -> None:
        if self.find(image) == self._failing:
            raise FrameError('the network fails')
        self._seen.append(self.find(image))

    def answer(self, index: int) -> Pointmap:
        return self.points(self._seen[index], self._seen[0])

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        indices = self.find(first), self.find(second)
        if self._failing in indices:
            raise FrameError('the network fails')
        return (Estimate(0, 0, self.points(indices[0], indices[0])),
                Estimate(1, 0, self.points(indices[1], indices[0])))


def scores_of(video: Video, network: Oracle, gap: int = 1) -> VideoScores:
    return evaluate_video(network, video, gap).scores


def test_true_points_score_as_the_truth_with_and_without_calibration(video: Video) -> None:
    seen = []
    scores = evaluate_video(Oracle(video), video, 2, lambda: seen.append(1)).scores
    assert len(seen) == STEPS_PER_FRAME * FRAMES - 2
    assert (scores.frames, scores.pairs.frames) == (FRAMES, FRAMES - 2)
    assert scores.seconds == pytest.approx(0.1 * (FRAMES - 1))
    assert [run.calibrated for run in scores.runs] == [True, False]
    for depth in (scores.pairs, *(run.depth for run in scores.runs)):
        assert depth.lacking == depth.unknown == 0
        for errors in (depth.network.sequence_scale, depth.network.frame_scale):
            assert errors.abs_rel < 2e-3 and errors.delta > 0.999
        assert depth.network.log_correlation > 0.9999 and depth.network.not_positive == 0.0
        assert depth.constant.frame_scale.abs_rel > 0.05
        assert depth.constant.log_correlation is None
    for run in scores.runs:
        assert (run.keyframes, run.failed, run.fragments) == (FRAMES, 0, 1)
        assert run.focal_ratio == pytest.approx(1.0, abs=2e-3)
        assert run.map.alignment.scale == pytest.approx(2.0, rel=2e-3)
        assert run.map.point_error < 0.005
        assert max(run.map.accuracy.mean, run.map.completion.mean) < 0.02  # voxels of 2 cm
        assert run.flat_map.point_error > 20 * run.map.point_error
        assert run.path.poses == FRAMES
        assert run.path.errors.trajectory_error < 0.01 * run.path.errors.path_length
        assert run.path.errors.rotation_deg < 0.1 < 7.9 < run.path.still.rotation_deg < 8.1


def test_scales_that_differ_by_frames_count_after_one_scale_only(video: Video) -> None:
    factors = np.array([0.85, 1.0, 1.0, 1.0, 1.3, 2.0])
    network = Oracle(video, lambda index, depth: factors[index] * depth)
    pairs = scores_of(video, network).pairs  # the frames 0 to 4
    assert pairs.network.frame_scale.abs_rel < 2e-3
    assert pairs.network.sequence_scale.abs_rel == pytest.approx((0.15 + 0.3) / 5, abs=2e-3)
    assert pairs.network.sequence_scale.delta == pytest.approx(4 / 5, abs=0.01)


def test_noise_of_known_size_is_measured(video: Video) -> None:
    def bend(index: int, depth: np.ndarray) -> np.ndarray:
        rows, columns = np.indices(depth.shape)
        return np.where((rows + columns) % 4 == 0, 1.4 * depth, depth)

    pairs = scores_of(video, Oracle(video, bend)).pairs
    assert pairs.network.frame_scale.abs_rel == pytest.approx(0.4 / 4, abs=2e-3)
    assert pairs.network.frame_scale.delta == pytest.approx(3 / 4, abs=2e-3)


def test_frames_that_fail_are_counted(video: Video) -> None:
    scores = scores_of(video, Oracle(video, failing=3))
    assert (scores.pairs.frames, scores.pairs.lacking) == (FRAMES - 3, 2)
    for run in scores.runs:
        assert (run.keyframes, run.failed, run.depth.lacking) == (FRAMES - 1, 1, 1)
        assert run.depth.network.frame_scale.abs_rel < 2e-3
        assert run.path.poses == FRAMES - 1


def test_network_without_any_estimate_has_no_scores(video: Video) -> None:
    network = Oracle(video, lambda index, depth: np.full_like(depth, np.nan))
    scores = scores_of(video, network)
    for run in scores.runs:
        assert run.depth.network is run.map is run.path.errors is run.focal_ratio is None
        assert run.depth.lacking == FRAMES and run.failed > 0
    # Without any depth every pixel is wrong, and none is left out.
    assert scores.pairs.network.frame_scale == ScaledErrors(1.0, 0.0)
    assert scores.pairs.network.not_positive == 1.0
    assert scores.pairs.network.log_correlation is None


def test_map_of_one_point_has_no_scores(video: Video) -> None:
    truth = load_views(video, (SIZE, SIZE), True).fuse()
    true = truth.points[:200]
    assert score_map(true, true, true, truth).point_error < 1e-6
    assert score_map(np.ones_like(true), np.ones_like(true), true, truth) is None
    assert score_map(true, true[:49], true[:49], truth) is None


TRUTH = np.tile([[[1.0, 2.0, 4.0]], [[2.0, 4.0, 8.0]]], (1, 20, 1))  # two frames, 60 pixels each


def test_trivial_answers_are_those_computed_by_hand() -> None:
    comparison = compare_depth([TRUTH[0], 7.0 * TRUTH[1]], TRUTH)
    assert comparison.network.frame_scale == ScaledErrors(0.0, 1.0)
    assert comparison.network.log_correlation == pytest.approx(1.0)
    # Each frame's median, 2 and 4: errors 1, 0, 1/2. The median of both is 3: 2, 1/2, 1/4 and
    # 1/2, 1/4, 5/8.
    assert comparison.constant.frame_scale.abs_rel == pytest.approx(0.5)
    assert comparison.constant.frame_scale.delta == pytest.approx(1 / 3)
    assert comparison.constant.sequence_scale.abs_rel == pytest.approx(
        ((2 + 0.5 + 0.25) / 3 + (0.5 + 0.25 + 0.625) / 3) / 2)
    assert comparison.constant.log_correlation is None
    # The mean of the logarithms is sqrt(2) of the first frame; one scale makes it 1.5 of it.
    assert comparison.mean_image.frame_scale.abs_rel == pytest.approx(0.0, abs=1e-6)
    assert comparison.mean_image.sequence_scale.abs_rel == pytest.approx((0.5 + 0.25) / 2)
    assert comparison.mean_image.log_correlation == pytest.approx(1.0)


def test_mean_depth_image_averages_what_is_known_of_each_pixel() -> None:
    truth = TRUTH.copy()
    truth[0, 0, 0], truth[:, 0, 1] = 0.0, 0.0
    image = mean_image(truth)
    np.testing.assert_allclose(image[0], [2.0, 0.0, np.sqrt(32.0)])
    np.testing.assert_allclose(image[1:], np.sqrt(2.0) * TRUTH[0, 1:])


def test_depth_that_is_not_positive_is_wrong_and_unknown_truth_is_left_out() -> None:
    predicted, truth = 3.0 * TRUTH[:1].copy(), TRUTH[:1].copy()
    predicted[0, 0] = 0.0, -1.0, np.nan
    truth[0, 10:] = 0.0
    predicted[0, 10:] = 100.0
    scores = score_depth(predicted, truth)
    assert scores.not_positive == pytest.approx(0.1)
    assert scores.frame_scale.abs_rel == pytest.approx(0.1)
    assert scores.frame_scale.delta == pytest.approx(0.9)
    assert scores.log_correlation == pytest.approx(1.0)


def test_frames_without_estimate_and_without_truth_are_in_no_mean() -> None:
    truth = np.concatenate([TRUTH, np.zeros_like(TRUTH[:1])])
    comparison = compare_depth([None, 2.0 * TRUTH[1], TRUTH[0]], truth)
    assert (comparison.frames, comparison.lacking, comparison.unknown) == (1, 1, 1)
    assert comparison.network.sequence_scale == ScaledErrors(0.0, 1.0)
    nothing = compare_depth([None] * 3, truth)
    assert (nothing.frames, nothing.lacking, nothing.network) == (0, 3, None)


def test_camera_that_stands_still_is_scored_as_computed_by_hand() -> None:
    truth = np.tile(np.eye(4), (3, 1, 1))
    truth[:, 0, 3] = 0.0, 1.0, 3.0
    truth[:, :3, :3] = Rotation.from_euler('y', [[0.0], [30.0], [70.0]],
                                             degrees=True).as_matrix()
    still = score_path(truth, [0, 1, 2], truth).still
    assert still.path_length == pytest.approx(3.0)
    assert still.trajectory_error == pytest.approx(np.sqrt((16 + 1 + 25) / 27))
    assert still.translation == pytest.approx(np.sqrt((1 + 4) / 2))
    assert still.rotation_deg == pytest.approx(np.sqrt((30**2 + 40**2) / 2))
    assert score_path(truth, [0, 1, 2], truth).errors.trajectory_error < 1e-9
    # A path that is not solved has no errors, but the camera still has them.
    found = np.tile(np.eye(4), (3, 1, 1))
    assert score_path(found, [0, 1, 2], truth).errors is None
    assert score_path(truth[:1], [0], truth).still is None


def test_alignment_by_points_tolerates_outliers_and_does_not_shrink() -> None:
    draw = np.random.default_rng(0)
    source = draw.normal(size=(900, 3))
    exact = Similarity(2.5, Rotation.from_euler('xyz', [20, 50, -70], degrees=True).as_matrix(),
                       np.array([1.0, -2.0, 3.0]))
    target = exact.apply(source)
    target[:250] += draw.uniform(2.0, 10.0, (250, 3))
    found = align_by_points(source, target)
    assert found.scale == pytest.approx(2.5, rel=1e-3)
    np.testing.assert_allclose(found.rotation, exact.rotation, atol=2e-3)
    np.testing.assert_allclose(found.translation, exact.translation, atol=0.02)
    noisy = source + draw.normal(size=source.shape)
    assert fit_similarity(noisy, exact.apply(source)).scale < 1.4  # least squares: half of 2.5
    assert align_by_points(noisy, exact.apply(source)).scale == pytest.approx(
        2.5 / np.sqrt(2), rel=0.1)


def test_gap_that_is_not_within_the_video_is_refused(video: Video) -> None:
    with pytest.raises(ValueError, match='pair-gap: expected 1 to 5, got 6'):
        pair_depths(Oracle(video), load_views(video, (SIZE, SIZE), True).images, 6)
