# SPDX-License-Identifier: Apache-2.0
"""The pose filter alone: its covariance is that of its errors, and its gate rejects jumps."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spann3r_ros.core.transforms import (
    invert,
    move_covariance,
    move_pose,
    rotation_vector,
    to_rigid,
)
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.tracking.corner_motion import Motion
from spann3r_ros.mapping.tracking.pnp import PoseSolution
from spann3r_ros.mapping.tracking.pose_filter import (
    MAX_REJECTED,
    MIN_GATING_INLIERS,
    FilteredPose,
    PoseFilter,
    move_solution,
)

CONFIG = PoseConfig()
DEPTH = 2.0
Q = np.diag([1e-4] * 3 + [2e-5] * 3)
R_1 = np.diag([4e-3] * 3 + [1e-3] * 3)
# Steps of 0.1 forward with a slow turn.
STEP = to_rigid(np.array([0.0, 0.02, 0.0]), np.array([0.0, 0.0, 0.1]))


def motion(step: np.ndarray = STEP, inliers: int = 100) -> Motion:
    return Motion(step, Q, inliers)


def measured(pose: np.ndarray, shared: np.ndarray = R_1) -> PoseSolution:
    return PoseSolution(pose, 0.1 * shared, shared, 1.0, DEPTH)


def moved(pose: np.ndarray, error: np.ndarray) -> np.ndarray:
    rotation = to_rigid(error[3:], np.zeros(3))[:3, :3] @ pose[:3, :3]
    return to_rigid(rotation, pose[:3, 3] + error[:3])


def draw(rng: np.random.Generator, covariance: np.ndarray) -> np.ndarray:
    return np.linalg.cholesky(covariance + 1e-18 * np.eye(6)) @ rng.normal(size=6)


def walked(steps: int, config: PoseConfig = CONFIG,
           step: np.ndarray = STEP) -> tuple[PoseFilter, np.ndarray]:
    """Return a filter after exact measurements of a walk, and the true pose at its end."""
    pose_filter, pose = PoseFilter(config), np.eye(4)
    pose_filter.update(None, measured(pose))
    for _ in range(steps):
        pose = pose @ step
        pose_filter.update(motion(step), measured(pose))
    return pose_filter, pose


def last(pose_filter: PoseFilter) -> FilteredPose:
    """Return the pose of the last keyframe: that of a camera that has certainly not moved."""
    return pose_filter.estimate(Motion(np.eye(4), np.zeros((6, 6)), 100), None)


def shifted(pose: np.ndarray, distance: float) -> np.ndarray:
    return to_rigid(pose[:3, :3], pose[:3, 3] + [distance, 0.0, 0.0])


@pytest.mark.parametrize('lose', [0, 12])
def test_errors_of_the_models_own_draws_have_its_covariance(lose: int) -> None:
    """NEES / 6 is one, or less after a lost track, and the gate rejects next to none."""
    rng, normalised, gated = np.random.default_rng(0), [], 0
    for _ in range(60):
        pose_filter, truth, network = PoseFilter(CONFIG), np.eye(4), np.eye(4)
        pose_filter.update(None, measured(moved(network, draw(
            rng, R_1 / CONFIG.pointmap_weight))))
        for count in range(1, 31):
            change = 0.1 / DEPTH + 0.02
            truth, network = truth @ STEP, network @ STEP
            network = moved(network, draw(rng, CONFIG.drift * change * R_1))
            error = draw(rng, Q)
            step = moved(STEP, error)
            seen = measured(moved(network, draw(rng, R_1 / CONFIG.pointmap_weight)))
            filtered = pose_filter.update(None if count == lose else motion(step), seen)
            gated += filtered.gated
        found = filtered.fragment_from_camera
        difference = np.concatenate([found[:3, 3] - truth[:3, 3],
                                     rotation_vector(found[:3, :3] @ truth[:3, :3].T)])
        normalised.append(difference @ np.linalg.solve(filtered.covariance, difference) / 6.0)
    assert (0.5 if lose else 0.75) < np.mean(normalised) < 1.25
    assert gated <= 2


@pytest.mark.parametrize('shared', [R_1, 1e-4 * R_1])
def test_pointmap_in_a_wrong_place_does_not_move_the_path(shared: np.ndarray) -> None:
    """It is consistent in itself: its residuals are small, however far away it is."""
    pose_filter, pose = walked(20)
    for _ in range(2):
        pose = pose @ STEP
        wrong = shifted(pose, 5.0)
        filtered = pose_filter.update(motion(), measured(wrong, shared))
        assert filtered.gated and filtered.mean_gain == 0.0
        np.testing.assert_allclose(filtered.fragment_from_camera, pose, atol=1e-6)
        # Its points keep their depth in its own camera, which gets the pose of the corners.
        np.testing.assert_allclose(filtered.pointmap_correction @ wrong, pose, atol=1e-6)
    pose = pose @ STEP
    filtered = pose_filter.update(motion(), measured(pose))
    assert not filtered.gated and not filtered.reset
    np.testing.assert_allclose(filtered.fragment_from_camera, pose, atol=1e-6)


def test_without_the_gate_a_wrong_pointmap_moves_the_path() -> None:
    pose_filter, pose = walked(20, replace(CONFIG, gate_probability=1.0))
    pose = pose @ STEP
    filtered = pose_filter.update(motion(), measured(shifted(pose, 5.0)))
    assert not filtered.gated
    assert filtered.fragment_from_camera[0, 3] > pose[0, 3] + 0.1


def test_motion_of_few_corners_rejects_no_pointmap() -> None:
    pose_filter, pose = walked(20)
    filtered = pose_filter.update(motion(inliers=MIN_GATING_INLIERS - 1),
                                  measured(shifted(pose @ STEP, 5.0)))
    assert not filtered.gated


def test_filter_follows_pointmaps_that_agree_with_each_other() -> None:
    """The corners slipped by two units; all later pointmaps are right."""
    pose_filter, pose = walked(20)
    slip = shifted(np.eye(4), 2.0)
    flags = []
    for count in range(MAX_REJECTED + 3):
        pose = pose @ STEP
        filtered = pose_filter.update(motion(slip @ STEP if count == 0 else STEP), measured(pose))
        flags.append((filtered.gated, filtered.reset))
        if filtered.reset:
            np.testing.assert_allclose(filtered.fragment_from_camera, pose, atol=1e-6)
            # Nothing shows which of both jumped: the covariance has the jump.
            assert np.sqrt(np.linalg.eigvalsh(filtered.covariance[:3, :3])[-1]) > 1.9
    assert flags == [*[(True, False)] * (MAX_REJECTED - 1), (False, True), *[(False, False)] * 3]
    np.testing.assert_allclose(filtered.fragment_from_camera, pose, atol=1e-4)


def test_pointmaps_that_disagree_are_rejected_for_any_time() -> None:
    pose_filter, pose = walked(20)
    for count in range(12):
        pose = pose @ STEP
        filtered = pose_filter.update(motion(), measured(shifted(pose, 5.0 + 3.0 * (count % 2))))
        assert filtered.gated and not filtered.reset
    np.testing.assert_allclose(filtered.fragment_from_camera, pose, atol=1e-4)


def deviation(pose_filter: PoseFilter) -> float:
    return float(np.sqrt(np.trace(last(pose_filter).covariance[:3, :3])))


def test_covariance_grows_with_the_distance() -> None:
    straight = to_rigid(np.eye(3), np.array([0.0, 0.0, 0.1]))
    found = [deviation(walked(steps, step=straight)[0]) for steps in (100, 1000, 5000)]
    # At least as fast as the root of the distance.
    assert found[1] > 3.0 * found[0] and found[2] > 2.2 * found[1]
    fixed = replace(CONFIG, drift=0.0)  # the pointmaps have no drift: each is an absolute fix
    assert deviation(walked(5000, fixed, straight)[0]) < deviation(walked(100, step=straight)[0])


def test_covariance_does_not_grow_where_the_camera_stands() -> None:
    still = np.eye(4)
    before = deviation(walked(10, step=still)[0])
    assert deviation(walked(1000, step=still)[0]) <= before


def test_pose_after_a_lost_track_includes_the_drift_until_then() -> None:
    pose_filter, pose = walked(500)
    before = deviation(pose_filter)
    lost = pose_filter.update(None, None)
    assert lost.fragment_from_camera is None
    assert pose_filter.update(motion(), None).fragment_from_camera is None
    pose = pose @ STEP @ STEP
    found = pose_filter.update(motion(), measured(pose))
    np.testing.assert_allclose(found.fragment_from_camera, pose, atol=1e-6)
    alone = np.sqrt(np.trace(R_1[:3, :3]))
    assert deviation(pose_filter) > max(before, 3.0 * alone)


def test_correction_of_the_network_is_kept_without_corners() -> None:
    """The pointmaps are moved by one unit while corners follow: later ones are moved back."""
    pose_filter, pose = walked(20)
    for offset in np.linspace(0.0, 1.0, 100):
        pose = pose @ STEP
        pose_filter.update(motion(), measured(shifted(pose, offset)))
    kept = np.linalg.norm(last(pose_filter).fragment_from_camera[:3, 3] - pose[:3, 3])
    assert kept < 0.6
    pose = pose @ STEP
    filtered = pose_filter.update(None, measured(shifted(pose, 1.0)))
    assert np.linalg.norm(filtered.fragment_from_camera[:3, 3] - pose[:3, 3]) < kept + 0.05
    pose_filter.begin_fragment(np.eye(4))
    np.testing.assert_allclose(pose_filter.estimate(None, measured(shifted(pose, 1.0)))
                               .fragment_from_camera, shifted(pose, 1.0))


def test_result_does_not_depend_on_the_frame_and_the_unit() -> None:
    similarity = to_rigid(np.array([0.4, -0.2, 0.9]), np.array([3.0, 1.0, -2.0]))
    similarity = similarity @ np.diag([1.7, 1.7, 1.7, 1.0])
    unit = np.repeat([1.7, 1.0], 3)
    rng, pose = np.random.default_rng(1), np.eye(4)
    filters = PoseFilter(CONFIG), PoseFilter(CONFIG)
    for count in range(15):
        seen = measured(moved(pose, draw(rng, R_1)))
        there = move_solution(similarity, seen)
        step, other = None, None
        if count % 7:
            step = motion()
            scaled = STEP.copy()
            scaled[:3, 3] *= 1.7
            other = Motion(scaled, unit[:, None] * Q * unit, 100)
        own, moved_one = filters[0].update(step, seen), filters[1].update(other, there)
        np.testing.assert_allclose(moved_one.fragment_from_camera,
                                   move_pose(similarity, own.fragment_from_camera), atol=1e-9)
        np.testing.assert_allclose(moved_one.covariance,
                                   move_covariance(similarity, own.covariance), atol=1e-9)
        pose = pose @ STEP


def test_estimate_changes_nothing() -> None:
    pose_filter, pose = walked(5)
    before = last(pose_filter)
    first = pose_filter.estimate(motion(), measured(pose @ STEP))
    pose_filter.estimate(motion(), measured(shifted(pose, 5.0)))
    pose_filter.estimate(None, None)
    again = pose_filter.estimate(motion(), measured(pose @ STEP))
    np.testing.assert_array_equal(first.fragment_from_camera, again.fragment_from_camera)
    np.testing.assert_array_equal(before.covariance, last(pose_filter).covariance)
    assert pose_filter.prior_suffices(motion()) and not pose_filter.prior_suffices(None)
    assert np.allclose(invert(pose) @ before.fragment_from_camera, np.eye(4), atol=1e-6)


@pytest.mark.parametrize('lost', [False, True])
def test_a_new_fragment_keeps_what_is_known_of_the_path(lost: bool) -> None:
    """Its frame is placed at the camera, so its pointmaps are no fixes of the path."""
    pose_filter, pose = walked(60)
    before = deviation(pose_filter)
    if lost:
        pose_filter.update(None, None)
    pose_filter.begin_fragment(np.eye(4))
    for _ in range(3):
        pose = pose @ STEP
        filtered = pose_filter.update(None if lost else motion(), measured(pose))
        lost = False
        assert np.sqrt(np.trace(filtered.covariance[:3, :3])) > 0.95 * before


@pytest.mark.parametrize('yaw', [0.3, 1.57, 3.0])
def test_a_network_that_turned_is_followed_after_three_measurements(yaw: float) -> None:
    pose_filter, pose = walked(20)
    jump = to_rigid(np.array([0.0, yaw, 0.0]), np.array([0.5, 0.0, 0.2]))
    seen = []
    for _ in range(4):
        pose = pose @ STEP
        filtered = pose_filter.update(motion(), measured(jump @ pose))
        seen.append('gated' if filtered.gated else 'reset' if filtered.reset else 'used')
    assert seen == ['gated', 'gated', 'reset', 'used']


def test_exact_measurements_leave_the_covariance_positive() -> None:
    pose_filter, pose = PoseFilter(CONFIG), np.eye(4)
    tiny = 1e-14 * np.eye(6)
    for _ in range(200):
        pose = pose @ STEP
        pose_filter.update(Motion(STEP, 1e-8 * np.eye(6), 100),
                           PoseSolution(pose, tiny, tiny, 1.0, 2.0))
        covariance = pose_filter._state.covariance
        assert np.linalg.eigvalsh(covariance).min() > -1e-12 * np.abs(covariance).max()


def test_rotations_stay_rotations_over_hundreds_of_fragments() -> None:
    """Each fragment begins at the last pose, so that rounding errors could double with it."""
    pose_filter, place = PoseFilter(CONFIG), np.eye(4)
    pose_filter.update(None, measured(place))
    for _ in range(300):
        pose_filter.begin_fragment(np.eye(4))
        in_sequence = np.eye(4)
        for tracked in (True, False, True):
            in_sequence = in_sequence @ STEP
            found = pose_filter.update(motion() if tracked else None,
                                       measured(place @ in_sequence))
        place = found.fragment_from_camera
    rotation = place[:3, :3]
    assert np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-10
