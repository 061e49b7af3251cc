# SPDX-License-Identifier: Apache-2.0
"""Transforms, and the focal length of rendered pointmaps."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp
from synthetic import SyntheticScene, orbit_trajectory, square_camera

from spann3r_ros.core.transforms import (
    MAP_FROM_OPTICAL,
    float32_step,
    invert,
    is_rigid,
    map_axes,
    matrix_to_quaternion,
    move_covariance,
    move_pose,
    quaternion_to_matrix,
    rounding_warning,
    slerp,
    to_rigid,
    transform_points,
)
from spann3r_ros.core.types import FragmentPose, FrameError, Pointmap
from spann3r_ros.mapping.tracking.focal_length import bound_focal, estimate_focal, weighted_median

CAMERA = square_camera(64)


@pytest.fixture(scope='module')
def seen() -> tuple[np.ndarray, Pointmap]:
    """Return a pose and its pointmap in the camera's own frame."""
    pose = orbit_trajectory(12)[2]
    points = SyntheticScene().render(pose, CAMERA)[1].astype(np.float32)
    return pose, Pointmap(points, np.full(points.shape[:2], 0.9, np.float32))


def test_map_axes_are_forward_left_up() -> None:
    forward, right, down = np.eye(3)[[2, 0, 1]]
    turned = transform_points(MAP_FROM_OPTICAL, np.array([forward, right, down]))
    np.testing.assert_array_equal(turned, [[1, 0, 0], [0, -1, 0], [0, 0, -1]])
    assert np.linalg.det(MAP_FROM_OPTICAL[:3, :3]) == pytest.approx(1.0)


def test_invert_undoes_a_transform() -> None:
    pose = orbit_trajectory(7)[3]
    np.testing.assert_allclose(invert(pose) @ pose, np.eye(4), atol=1e-12)


@pytest.mark.parametrize('index', range(8))
def test_quaternion_round_trip(index: int) -> None:
    rotation = orbit_trajectory(8)[index][:3, :3]
    quaternion = matrix_to_quaternion(rotation)
    assert np.linalg.norm(quaternion) == pytest.approx(1.0)
    np.testing.assert_allclose(quaternion_to_matrix(quaternion), rotation, atol=1e-12)


@pytest.mark.parametrize('angle_deg', [0.0, 1e-9, 1e-4, 3.0, 90.0, 179.9])
@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_slerp_is_that_of_scipy(angle_deg: float, sign: float) -> None:
    rng = np.random.default_rng(3)
    axis = rng.standard_normal(3)
    first = Rotation.from_quat(rng.standard_normal(4))
    second = first * Rotation.from_rotvec(np.radians(angle_deg) * axis / np.linalg.norm(axis))
    for share in (0.0, 0.25, 0.7, 1.0):
        # Lengths other than 1 must not matter.
        found = slerp(1.001 * first.as_quat(), sign * 0.998 * second.as_quat(), share)
        expected = Slerp([0.0, 1.0], Rotation.concatenate([first, second]))(share)
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(quaternion_to_matrix(found), expected.as_matrix(), rtol=0.0,
                                   atol=1e-12)


def test_quaternion_of_a_quarter_turn_about_z() -> None:
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(matrix_to_quaternion(turn), [0, 0, np.sqrt(0.5), np.sqrt(0.5)],
                               atol=1e-12)


def test_zero_quaternion_is_refused() -> None:
    with pytest.raises(ValueError, match='quaternion'):
        quaternion_to_matrix(np.zeros(4))


def test_focal_of_a_rendered_view_is_the_camera_s(seen: tuple[np.ndarray, Pointmap]) -> None:
    assert estimate_focal(seen[1]) == pytest.approx(CAMERA.fx, rel=1e-4)


def test_focal_tolerates_a_third_of_wrong_points(seen: tuple[np.ndarray, Pointmap]) -> None:
    points = seen[1].points.copy()
    points[:20, :, :2] *= 0.5
    assert estimate_focal(replace(seen[1], points=points)) == pytest.approx(CAMERA.fx, rel=0.02)


def test_focal_needs_points_in_front() -> None:
    behind = Pointmap(np.full((4, 4, 3), -1.0, np.float32), np.full((4, 4), 0.9, np.float32))
    with pytest.raises(FrameError, match='in front'):
        estimate_focal(behind)


def test_focals_are_clamped_to_their_bounds() -> None:
    assert bound_focal(1.0, 100, 200) == pytest.approx(60.0)
    assert bound_focal(1e9, 100, 200) == pytest.approx(1000.0)
    assert bound_focal(180.0, 100, 200) == 180.0


def test_weighted_median_follows_the_weight() -> None:
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 5.0])) == 2.0


def test_covariance_follows_the_axes() -> None:
    turned = move_covariance(MAP_FROM_OPTICAL, np.diag([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    np.testing.assert_allclose(turned, np.diag([3.0, 1.0, 2.0, 6.0, 4.0, 5.0]))


def test_a_similarity_stretches_places_and_leaves_rotations_rigid() -> None:
    pose = orbit_trajectory(7)[3]
    doubled = np.diag([2.0, 2.0, 2.0, 1.0])
    moved = move_pose(doubled, pose)
    np.testing.assert_allclose(moved[:3, 3], 2.0 * pose[:3, 3])
    np.testing.assert_allclose(moved[:3, :3], pose[:3, :3])
    np.testing.assert_allclose(move_covariance(doubled, np.eye(6)),
                               np.diag([4.0, 4.0, 4.0, 1.0, 1.0, 1.0]))


def test_a_level_camera_needs_no_levelling() -> None:
    np.testing.assert_allclose(map_axes(np.array([0.0, -2.0, 0.0])), MAP_FROM_OPTICAL, atol=1e-12)


@pytest.mark.parametrize('pitch_deg', [-90, -85, -40, 20, 60, 90])
@pytest.mark.parametrize('roll_deg', [0, 15, 180])
def test_map_is_level_however_the_camera_is_held(pitch_deg: float, roll_deg: float) -> None:
    """Pitch looks up about the camera's right, roll turns it about its axis."""
    roll, pitch = (Rotation.from_euler(axis, angle, degrees=True)
                   for axis, angle in (('z', roll_deg), ('x', pitch_deg)))
    level_from_camera = (pitch * roll).as_matrix()  # level optical axes: y down, z forward
    up = level_from_camera.T @ [0.0, -1.0, 0.0]
    transform = map_axes(up)
    rotation = transform[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation @ up, [0.0, 0.0, 1.0], atol=1e-9)
    if abs(pitch_deg) < 70:
        looking = rotation @ [0.0, 0.0, 1.0]
        np.testing.assert_allclose(
            looking, [np.cos(np.radians(pitch_deg)), 0.0, np.sin(np.radians(pitch_deg))],
            atol=1e-9)
    elif roll_deg == 0:
        # The robot's forward is at the top of an image that looks down, at the bottom of one up.
        forward = level_from_camera.T @ [0.0, 0.0, 1.0]
        np.testing.assert_allclose(rotation @ forward, [1.0, 0.0, 0.0], atol=0.1)


def test_pose_in_a_fragment_moves_with_the_fragment() -> None:
    generator = np.random.default_rng(4)
    rotation = to_rigid(generator.normal(size=3), np.zeros(3))[:3, :3]
    similarity = to_rigid(generator.normal(size=3), generator.normal(size=3))
    similarity[:3, :3] *= 2.5
    position = generator.normal(size=3)
    spread = generator.normal(size=(6, 6))
    pose = FragmentPose(7, 'camera', 3, to_rigid(rotation, position), spread @ spread.T)
    moved = pose.in_map(similarity)
    assert (moved.stamp_ns, moved.frame_id) == (7, 'camera')
    assert is_rigid(moved.world_from_camera)
    assert np.allclose(moved.world_from_camera[:3, 3],
                       similarity[:3, :3] @ position + similarity[:3, 3])
    # The variance of the position scales by the square, that of the rotation does not.
    assert np.isclose(np.trace(moved.covariance[:3, :3]),
                      2.5**2 * np.trace(pose.covariance[:3, :3]))
    assert np.isclose(np.trace(moved.covariance[3:, 3:]), np.trace(pose.covariance[3:, 3:]))
    assert FragmentPose(7, 'camera', 3, np.eye(4)).in_map(similarity).covariance is None


def test_step_of_float32_is_the_largest_rounding_of_a_cloud() -> None:
    offsets = np.linspace(0.0, 1.0, 2001)
    for far in (0.5, 1e3, 1e5, 5e6):
        points = np.zeros((len(offsets), 3))
        points[:, 1] = -far - offsets
        step = float32_step(points)
        rounding = np.abs(points.astype(np.float32).astype(float) - points).max()
        assert 0.4 * step < rounding <= 0.5 * step
    assert float32_step(np.array([[np.nan, np.inf, 2.0]])) == np.spacing(np.float32(2.0))
    assert float32_step(np.full((2, 3), np.nan)) == float32_step(np.empty((0, 3))) == 0.0


@pytest.mark.parametrize(('far', 'voxel_size', 'warns'), [
    (5e6, 0.05, True), (5e6, 10.0, False), (1e5, 0.05, True), (1e4, 0.05, False),
    (0.0, 0.05, False)])
def test_a_map_is_too_far_if_its_cloud_is_coarser_than_a_tenth_of_a_voxel(
        far: float, voxel_size: float, warns: bool) -> None:
    points = np.random.default_rng(0).uniform(0.0, 10.0, (100, 3)) + [far, 0.0, 0.0]
    for kind in (np.float64, np.float32):
        warning = rounding_warning(points.astype(kind), voxel_size)
        assert bool(warning) == warns
        assert not warns or f'{float32_step(points):.2g} apart' in warning
