# SPDX-License-Identifier: Apache-2.0
"""Odometry follows the camera through fragments; what moves in the map does not move it."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spann3r_ros.core.transforms import (
    invert,
    move_pose,
    shift_covariance,
    similarity_scale,
    to_rigid,
)
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.pipeline.odometer import UNKNOWN_VARIANCE, Motion, Odometer

SECOND_NS = 10**9
STEP_NS = SECOND_NS // 10
CAMERA = 'camera_optical'


def pose(*place: float, yaw_deg: float = 0.0, pitch_deg: float = 0.0) -> np.ndarray:
    turn = Rotation.from_euler('zy', [yaw_deg, pitch_deg], degrees=True).as_matrix()
    return to_rigid(turn, np.array([*place, 0.0, 0.0, 0.0][:3]))


def similarity(scale: float, *place: float, yaw_deg: float = 0.0) -> np.ndarray:
    matrix = pose(*place, yaw_deg=yaw_deg)
    matrix[:3, :3] *= scale
    return matrix


IDENTITY = np.eye(4)
MOUNT = pose(0.1, -0.3, 1.2, yaw_deg=-90.0, pitch_deg=20.0)  # camera_from_base


class Walk:
    """A camera on its true path in the map; its poses in fragments of any place and unit."""

    def __init__(self) -> None:
        self.odometer = Odometer()
        self.map_from_fragment: dict[int, np.ndarray] = {}
        self._true_places: dict[int, np.ndarray] = {}

    @staticmethod
    def map_from_camera(index: int) -> np.ndarray:
        return pose(0.2 * index, 0.05 * index**2, 0.01 * index, yaw_deg=7.0 * index,
                    pitch_deg=2.0 * index)

    def begin_fragment(self, fragment_id: int, place: np.ndarray,
                       moved: np.ndarray = IDENTITY) -> None:
        """Put a fragment into the map, which has been moved as a whole."""
        self._true_places[fragment_id] = place
        self.place(fragment_id, moved @ place)

    def place(self, fragment_id: int, place: np.ndarray) -> None:
        self.map_from_fragment[fragment_id] = place
        self.odometer.take_places({fragment_id: place})

    def pose(self, fragment_id: int, index: int) -> FragmentPose:
        inverse = np.linalg.inv(self._true_places[fragment_id])
        return FragmentPose(SECOND_NS + index * STEP_NS, CAMERA, fragment_id,
                            move_pose(inverse, self.map_from_camera(index)), 1e-4 * np.eye(6))

    def go(self, fragment_id: int, *indices: int, child: str = 'base_link',
           mount: np.ndarray = MOUNT) -> list[Motion]:
        return [self.odometer.move(self.pose(fragment_id, index), child, mount)
                for index in indices]


def expected_steps(*indices: int, mount: np.ndarray = MOUNT) -> list[np.ndarray]:
    places = [Walk.map_from_camera(index) @ mount for index in indices]
    return [invert(first) @ second for first, second in zip(places, places[1:], strict=False)]


def steps(motions: list[Motion]) -> list[np.ndarray]:
    return [invert(first.odom_from_child) @ second.odom_from_child
            for first, second in zip(motions, motions[1:], strict=False)]


def check(motions: list[Motion], *indices: int) -> None:
    """Compare steps and twists with the true path."""
    np.testing.assert_allclose(steps(motions), expected_steps(*indices), atol=1e-9)
    seconds = STEP_NS * 1e-9
    for motion, step in zip(motions[1:], expected_steps(*indices), strict=True):
        turn = Rotation.from_matrix(step[:3, :3]).as_rotvec()
        np.testing.assert_allclose(motion.twist * seconds, [*step[:3, 3], *turn], atol=1e-9)


def test_odom_is_the_map_at_the_beginning_whatever_the_fragment_s_unit() -> None:
    walk = Walk()
    walk.begin_fragment(0, similarity(3.0, 1.0, -2.0, yaw_deg=50.0))
    first = walk.go(0, 0)[0]
    np.testing.assert_allclose(first.odom_from_camera, walk.map_from_camera(0), atol=1e-12)
    np.testing.assert_allclose(first.odom_from_child, walk.map_from_camera(0) @ MOUNT, atol=1e-12)


@pytest.mark.parametrize('scale', [1.0, 2.0, 0.5])
def test_a_fragment_moved_between_two_poses_moves_no_odometry(scale: float) -> None:
    walk = Walk()
    walk.begin_fragment(0, similarity(1.7, 1.0, 2.0, yaw_deg=30.0))
    motions = walk.go(0, 0, 1, 2)
    moved = similarity(scale, 5.0, 1.0, yaw_deg=80.0) @ walk.map_from_fragment[0]
    walk.place(0, moved)
    motions += walk.go(0, 3, 4)
    check(motions, *range(5))
    in_map = walk.odometer.in_map(walk.pose(0, 4)).world_from_camera
    np.testing.assert_allclose(in_map, move_pose(
        similarity(scale, 5.0, 1.0, yaw_deg=80.0), walk.map_from_camera(4)), atol=1e-9)


@pytest.mark.parametrize('scale', [1.0, 2.0])
def test_a_new_fragment_goes_on_without_a_step(scale: float) -> None:
    walk = Walk()
    walk.begin_fragment(4, similarity(0.5, 1.0, 2.0, yaw_deg=30.0))
    motions = walk.go(4, 0, 1, 2)
    # The whole map is moved and scaled before the new fragment begins: both are in its new place.
    loop = similarity(scale, -3.0, 1.0, yaw_deg=100.0)
    walk.place(4, loop @ walk.map_from_fragment[4])
    begun = similarity(2.5, 0.0, 7.0, yaw_deg=-20.0)
    walk.begin_fragment(5, begun, loop)
    # What moves alone before the first pose in the new fragment changes nothing either.
    walk.place(4, similarity(1.3, 9.0, 1.0) @ walk.map_from_fragment[4])
    motions += walk.go(5, 3, 4)
    # And the new one, after its first poses.
    walk.place(5, similarity(0.7, 1.0, 1.0) @ loop @ begun)
    motions += walk.go(5, 5, 6)
    check(motions, *range(7))


def test_the_unit_of_odometry_is_that_of_the_map_at_the_beginning() -> None:
    walk = Walk()
    walk.begin_fragment(0, np.eye(4))
    walk.go(0, 0)
    walk.place(0, similarity(2.0, 0.0))
    moved = walk.go(0, 1)[0]
    np.testing.assert_allclose(moved.odom_from_camera, walk.map_from_camera(1), atol=1e-12)
    assert similarity_scale(moved.odom_from_child) == pytest.approx(1.0)


def test_covariance_is_in_the_unit_of_odometry() -> None:
    walk = Walk()
    walk.begin_fragment(0, similarity(2.0, 0.0))
    first = walk.go(0, 0, child=CAMERA, mount=np.eye(4))[0]
    np.testing.assert_allclose(np.diag(first.covariance), [4e-4] * 3 + [1e-4] * 3, atol=1e-12)


def test_another_map_begins_at_the_last_place_and_without_a_twist() -> None:
    walk = Walk()
    walk.odometer.restart()  # before anything moved there is no jump to hide
    walk.begin_fragment(0, similarity(2.0, 0.0))
    last = walk.go(0, 0, 1)[-1]
    walk.odometer.restart()
    walk.odometer.restart()
    walk.begin_fragment(0, similarity(0.3, 9.0, yaw_deg=60.0))
    motions = walk.go(0, 2, 3)
    np.testing.assert_allclose(motions[0].odom_from_child, last.odom_from_child, atol=1e-12)
    assert not motions[0].twist.any()
    assert motions[0].twist_covariance[0, 0] == UNKNOWN_VARIANCE
    check(motions, 2, 3)


def test_a_camera_that_stands_still_has_no_step_and_no_twist_when_its_base_appears() -> None:
    walk = Walk()
    walk.begin_fragment(0, np.eye(4))
    before = walk.go(0, 3, child=CAMERA, mount=np.eye(4))[0]
    still = FragmentPose(5 * SECOND_NS, CAMERA, 0, walk.pose(0, 3).fragment_from_camera)
    after = walk.odometer.move(still, 'base_link', MOUNT)
    np.testing.assert_allclose(after.odom_from_camera, before.odom_from_camera, atol=1e-12)
    np.testing.assert_allclose(after.odom_from_child @ invert(MOUNT), before.odom_from_child,
                               atol=1e-12)
    assert not after.twist.any()
    assert after.twist_covariance[0, 0] == UNKNOWN_VARIANCE
    later = FragmentPose(6 * SECOND_NS, CAMERA, 0, still.fragment_from_camera)
    np.testing.assert_allclose(walk.odometer.move(later, 'base_link', MOUNT).twist, 0, atol=1e-12)


def test_a_turning_mount_is_not_a_motion_of_the_camera() -> None:
    walk = Walk()
    walk.begin_fragment(0, np.eye(4))
    base_from_world = pose(1.0, 0.0, 0.0)
    for index, yaw in enumerate((0.0, 25.0, 60.0)):
        camera_from_base = invert(pose(0.2, 0.0, 1.0, yaw_deg=yaw))
        camera = base_from_world @ invert(camera_from_base)
        motion = walk.odometer.move(
            FragmentPose(SECOND_NS * (index + 1), CAMERA, 0, camera), 'base_link',
            camera_from_base)
        np.testing.assert_allclose(motion.odom_from_child, base_from_world, atol=1e-12)
        np.testing.assert_allclose(motion.twist, 0, atol=1e-12)


def test_it_begins_where_it_is_told() -> None:
    walk = Walk()
    walk.begin_fragment(0, similarity(2.0, 0.0))
    walk.odometer.begin_at(pose(5.0, 6.0, yaw_deg=30.0))
    assert walk.odometer.has_begun
    motions = walk.go(0, 0, 1)
    np.testing.assert_allclose(motions[0].odom_from_camera, pose(5.0, 6.0, yaw_deg=30.0),
                               atol=1e-12)
    check(motions, 0, 1)


@pytest.mark.parametrize('restarts', [True, False])
def test_speed_is_unknown_where_time_does_not_increase(restarts: bool) -> None:
    walk = Walk()
    walk.begin_fragment(0, np.eye(4))
    walk.go(0, 50)
    if restarts:
        walk.odometer.restart()
        walk.place(0, np.eye(4))
    moved = walk.go(0, 10)[0]
    assert not moved.twist.any()
    assert moved.twist_covariance[0, 0] == UNKNOWN_VARIANCE
    check([moved, *walk.go(0, 11)], 10, 11)


def test_twist_has_the_covariance_of_both_poses() -> None:
    walk = Walk()
    walk.begin_fragment(0, np.eye(4))
    moved = walk.go(0, 0, 1, child=CAMERA, mount=np.eye(4))[1]
    np.testing.assert_allclose(moved.twist_covariance, 2e-4 / 0.1**2 * np.eye(6), atol=1e-12)


def test_a_pose_in_a_fragment_without_a_place_is_refused() -> None:
    walk = Walk()
    walk.begin_fragment(1, np.eye(4))
    with pytest.raises(ValueError, match=r'fragment 2: expected its place .* got those of \[1\]'):
        walk.odometer.move(FragmentPose(1, CAMERA, 2, np.eye(4)), CAMERA, np.eye(4))


@pytest.mark.parametrize('seed', range(3))
def test_shifted_covariance_is_that_of_the_shifted_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = 0.01 * rng.normal(size=(6, 6))
    covariance, lever = root @ root.T, rng.normal(size=3)
    errors = rng.multivariate_normal(np.zeros(6), covariance, size=20_000)
    turned = Rotation.from_rotvec(errors[:, 3:]).apply(lever) - lever
    shifted = np.concatenate([errors[:, :3] + turned, errors[:, 3:]], axis=1)
    expected = np.cov(shifted.T)
    found = shift_covariance(covariance, lever)
    np.testing.assert_allclose(found, expected, atol=0.06 * np.abs(expected).max())
    np.testing.assert_allclose(shift_covariance(found, -lever), covariance, atol=1e-12)
