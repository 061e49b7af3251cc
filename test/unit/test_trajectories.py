# SPDX-License-Identifier: Apache-2.0
"""Trajectory errors on motions with known results."""
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spann3r_ros.evaluation.measures import trajectories

RECORDED = Path(__file__).with_name('evo_recorded.json')


def turn(axis: int, degrees: float) -> np.ndarray:
    """Return the rotation about one coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [k for k in range(3) if k != axis]
    rotation = np.eye(3)
    rotation[i, i] = rotation[j, j] = c
    rotation[i, j], rotation[j, i] = -s, s
    return rotation


def orbit(count: int = 20) -> np.ndarray:
    """Return poses on a tilted circle, turning 9 degrees a frame."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for i in range(count):
        poses[i, :3, :3] = turn(2, 9.0 * i)
        poses[i, :3, 3] = turn(0, 20.0) @ turn(2, 9.0 * i) @ [1.5, 0.0, 0.2 * np.sin(i)]
    return poses


def moved(poses: np.ndarray, scale: float, rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the same motion in another world of another scale."""
    result = poses.copy()
    result[:, :3, :3] = rotation @ poses[:, :3, :3]
    result[:, :3, 3] = scale * poses[:, :3, 3] @ rotation.T + shift
    return result


def test_similarity_is_recovered() -> None:
    rotation, shift = turn(0, 40.0) @ turn(1, -70.0), np.array([3.0, -1.0, 0.5])
    source = np.random.default_rng(0).normal(size=(30, 3))
    found = trajectories.fit_similarity(source, 2.5 * source @ rotation.T + shift)
    assert found.scale == pytest.approx(2.5)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, shift, atol=1e-12)


def test_similarity_never_mirrors() -> None:
    source = np.random.default_rng(1).normal(size=(30, 3))
    found = trajectories.fit_similarity(source, source * [1.0, 1.0, -1.0])
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)


def test_mean_rotation_is_recovered_even_from_one_place() -> None:
    rotation = turn(0, 40.0) @ turn(1, -70.0)
    estimate = orbit(6)
    estimate[:, :3, 3] = 0.0
    found = trajectories.mean_rotation(estimate, moved(estimate, 1.0, rotation, np.zeros(3)))
    np.testing.assert_allclose(found, rotation, atol=1e-12)


def test_ate_ignores_world_and_scale() -> None:
    truth = orbit()
    estimate = moved(truth, 0.4, turn(1, 33.0), np.array([1.0, 2.0, 3.0]))
    assert trajectories.path_errors(estimate, truth).trajectory_error < 1e-12


def test_ate_of_known_noise_is_its_size() -> None:
    truth = orbit(400)
    estimate = truth.copy()
    estimate[:, :3, 3] += 0.01 * np.random.default_rng(2).normal(size=(400, 3))
    error = trajectories.path_errors(estimate, truth).trajectory_error
    assert error == pytest.approx(0.01 * np.sqrt(3.0), rel=0.1)


def test_rotation_error_is_the_angle_between() -> None:
    truth = orbit()
    estimate = truth.copy()
    estimate[:, :3, :3] = truth[:, :3, :3] @ turn(0, 7.0)
    np.testing.assert_allclose(trajectories.rotation_errors_deg(estimate, truth), 7.0)


def test_half_turn_is_180_degrees() -> None:
    np.testing.assert_allclose(trajectories.rotation_angles_deg(turn(1, 180.0)[None]), 180.0)


def test_relative_errors_see_only_the_broken_step() -> None:
    truth = orbit(10)
    estimate = truth.copy()
    estimate[5:, 0, 3] += 0.3
    errors = trajectories.relative_pose_errors(estimate, truth)
    assert errors.translation[4] == pytest.approx(0.3)
    assert np.delete(errors.translation, 4).max() < 1e-12
    assert errors.rotation_deg.max() < 1e-6


def test_relative_errors_apply_the_scale() -> None:
    truth = orbit(10)
    estimate = moved(truth, 0.5, np.eye(3), np.zeros(3))
    assert trajectories.relative_pose_errors(estimate, truth).translation.min() > 0.05
    assert trajectories.relative_pose_errors(estimate, truth, scale=2.0).translation.max() < 1e-12


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match='as many poses'):
        trajectories.path_errors(orbit(5), orbit(6))


def paths() -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy path in another world and scale, and the true one."""
    truth = orbit(25)
    estimate = moved(truth, 0.4, turn(1, 33.0) @ turn(0, -20.0), np.array([1.0, 2.0, 3.0]))
    for i in range(25):
        estimate[i, :3, :3] = estimate[i, :3, :3] @ turn(i % 3, 2.0 * np.sin(5.0 * i))
        estimate[i, :3, 3] += 0.02 * np.sin([3.0 * i, 7.0 * i, 11.0 * i])
    return estimate, truth


def test_path_errors_are_those_of_evo() -> None:
    recorded = json.loads(RECORDED.read_text())
    found = trajectories.path_errors(*paths())
    for name in ('path_length', 'trajectory_error', 'translation', 'rotation_deg'):
        assert getattr(found, name) == pytest.approx(recorded[name], rel=1e-9), name


def test_path_of_a_camera_that_does_not_move_is_refused() -> None:
    with pytest.raises(ValueError, match='expected at least two different points'):
        trajectories.path_errors(np.tile(np.eye(4), (3, 1, 1)), orbit(3))


def test_normalised_errors_of_drawn_poses_are_one_in_any_unit() -> None:
    rng, truth = np.random.default_rng(0), orbit(400)
    root = np.diag([0.05, 0.02, 0.1, 0.01, 0.03, 0.02]) + 0.01 * rng.normal(size=(6, 6))
    estimate = truth.copy()
    for pose, error in zip(estimate, rng.normal(size=(400, 6)) @ root.T, strict=True):
        pose[:3, 3] += error[:3]
        pose[:3, :3] = Rotation.from_rotvec(error[3:]).as_matrix() @ pose[:3, :3]
    covariances = np.tile(root @ root.T, (400, 1, 1))
    found = trajectories.normalised_errors_squared(estimate, covariances, truth, 1.0)
    assert found.shape == (400,)
    assert found.mean() == pytest.approx(1.0, abs=0.1)
    small = estimate.copy()
    small[:, :3, 3] /= 4.0
    unit = np.repeat([0.25, 1.0], 3)
    other = trajectories.normalised_errors_squared(
        small, unit[:, None] * covariances * unit, truth, 4.0)
    np.testing.assert_allclose(other, found)
    confident = trajectories.normalised_errors_squared(estimate, 0.01 * covariances, truth, 1.0)
    assert confident.mean() == pytest.approx(100.0, rel=0.1)
