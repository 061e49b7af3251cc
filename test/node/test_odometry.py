# SPDX-License-Identifier: Apache-2.0
"""Odometry follows the poses, measures speeds, and never jumps."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spann3r_ros.core.transforms import shift_covariance
from spann3r_ros.pipeline.odometer import UNKNOWN_VARIANCE, Odometer

SECOND_NS = 10**9


def pose(x: float = 0.0, y: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('z', yaw_deg, degrees=True).as_matrix()
    matrix[:2, 3] = x, y
    return matrix


def test_twist_is_in_the_moving_axes() -> None:
    odometer = Odometer()
    first = odometer.move(SECOND_NS, pose(1.0, 2.0, 90.0), 1e-4 * np.eye(6))
    assert first.twist_covariance[0, 0] == UNKNOWN_VARIANCE
    moved = odometer.move(3 * SECOND_NS, pose(1.0, 3.0, 110.0), 1e-4 * np.eye(6))
    np.testing.assert_allclose(moved.odom_from_base, pose(1.0, 3.0, 110.0))
    # A metre towards y in two seconds is half a metre a second straight ahead.
    np.testing.assert_allclose(moved.twist, [0.5, 0, 0, 0, 0, np.radians(10.0)], atol=1e-12)
    np.testing.assert_allclose(moved.twist_covariance, 2e-4 / 4.0 * np.eye(6), atol=1e-12)


def test_a_new_map_goes_on_where_the_old_one_ended() -> None:
    odometer = Odometer()
    odometer.restart()  # before anything moved there is no jump to hide
    odometer.move(SECOND_NS, pose(0.0), None)
    odometer.move(2 * SECOND_NS, pose(2.0, 1.0, 45.0), None)
    odometer.restart()
    first = odometer.move(3 * SECOND_NS, pose(0.0), None)
    np.testing.assert_allclose(first.odom_from_base, pose(2.0, 1.0, 45.0), atol=1e-12)
    assert first.twist_covariance[0, 0] == UNKNOWN_VARIANCE
    second = odometer.move(4 * SECOND_NS, pose(1.0), None)
    np.testing.assert_allclose(second.odom_from_base, pose(2.0, 1.0, 45.0) @ pose(1.0), atol=1e-12)
    np.testing.assert_allclose(second.twist[:3], [1.0, 0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize('restarts', [True, False])
def test_speed_is_unknown_where_time_does_not_increase(restarts: bool) -> None:
    odometer = Odometer()
    odometer.move(50 * SECOND_NS, pose(2.0, 1.0, 45.0), 1e-4 * np.eye(6))
    if restarts:
        odometer.restart()
    moved = odometer.move(10 * SECOND_NS, pose(2.0, 1.5, 45.0), 1e-4 * np.eye(6))
    np.testing.assert_allclose(moved.odom_from_base, pose(2.0, 1.0 if restarts else 1.5, 45.0),
                               atol=1e-12)
    assert not moved.twist.any()
    assert moved.twist_covariance[0, 0] == UNKNOWN_VARIANCE
    onward = odometer.move(11 * SECOND_NS, pose(2.0, 1.5, 55.0), 1e-4 * np.eye(6))
    np.testing.assert_allclose(onward.twist[3:], [0, 0, np.radians(10.0)], atol=1e-12)


def test_it_begins_at_the_robot_s_own_odometry() -> None:
    odometer = Odometer()
    odometer.begin_at(pose(5.0, 6.0, 30.0))
    motion = odometer.move(SECOND_NS, pose(1.0, 1.0, 10.0), None)
    np.testing.assert_allclose(motion.odom_from_base, pose(5.0, 6.0, 30.0), atol=1e-12)


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
