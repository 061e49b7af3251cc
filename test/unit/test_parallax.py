# SPDX-License-Identifier: Apache-2.0
"""The scale of a network from known camera motion, or none if it cannot be measured."""
from __future__ import annotations

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE
from scipy.spatial.transform import Rotation
from synthetic import look_at, orbit_trajectory

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.mapping.scale.parallax import ScaleFromParallax, View
from spann3r_ros.mapping.tracking.corner_tracks import to_gray

METRES_PER_UNIT = 2.5
ORBIT = orbit_trajectory(60)


def view(pose: np.ndarray, given: np.ndarray | None = None, image: np.ndarray | None = None,
         depth: np.ndarray | float = 1.0) -> View:
    """Return a view at a pose that is given as `given`; its depths times `depth`, in units."""
    rgb, points = SCENE.render(pose, CAMERA)
    return View(to_gray(rgb if image is None else image),
                depth * points[..., 2] / METRES_PER_UNIT, CAMERA, pose if given is None else given)


def by_patches(rng: np.random.Generator, noise: float) -> np.ndarray:
    """Return factors of a network's depth errors."""
    return np.exp(noise * rng.standard_normal((8, 8)).repeat(12, 0).repeat(12, 1))


def shaken(pose: np.ndarray, rng: np.random.Generator, metres: float, degrees: float
           ) -> np.ndarray:
    shaken_pose = pose.copy()
    shaken_pose[:3, 3] += metres * rng.standard_normal(3)
    turn = Rotation.from_rotvec(np.radians(degrees) * rng.standard_normal(3)).as_matrix()
    shaken_pose[:3, :3] = turn @ pose[:3, :3]
    return shaken_pose


def scale_from(views: list[View]) -> ScaleFromParallax:
    scales = ScaleFromParallax()
    for one in views:
        scales.add(one)
    return scales


def test_scale_is_found_within_its_deviation_despite_wrong_depths() -> None:
    errors, deviations = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        start = 4 * seed
        scale = scale_from([view(pose, depth=by_patches(rng, 0.15))
                         for pose in ORBIT[start:start + 10]]).scale
        assert scale.metric
        errors.append(scale.value / METRES_PER_UNIT - 1.0)
        deviations.append(scale.variance**0.5 / scale.value)
    assert abs(np.mean(errors)) < 0.02
    assert 0.5 < np.sqrt(np.mean(np.square(errors))) / np.mean(deviations) < 2.0


def test_wrong_poses_increase_the_deviation_of_the_scale() -> None:
    misses = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scale = scale_from([view(pose, given=shaken(pose, rng, 0.01, 0.1))
                         for pose in ORBIT[4 * seed:4 * seed + 12]]).scale
        assert scale.metric
        misses.append((scale.value / METRES_PER_UNIT - 1.0) / (scale.variance**0.5 / scale.value))
    assert np.sqrt(np.mean(np.square(misses))) < 2.0


def test_short_motion_is_enough() -> None:
    scales = scale_from([view(pose) for pose in ORBIT[:4]])
    assert scales.scale.value == pytest.approx(METRES_PER_UNIT, rel=0.03)


def test_a_slow_camera_measures_the_scale() -> None:
    scales = scale_from([view(pose) for pose in orbit_trajectory(2000)[:60]])  # 4 mm each
    assert scales.scale.value == pytest.approx(METRES_PER_UNIT, rel=0.03)


def test_a_camera_that_only_turns_gives_no_scale() -> None:
    centre = np.array([1.3, 0.0, 1.2])
    turning = [look_at(centre, centre + [-np.cos(a), np.sin(a), 0.0])
               for a in np.linspace(0.0, 0.5, 8)]
    assert not scale_from([view(pose) for pose in turning]).scale.metric


def test_bare_walls_give_no_scale() -> None:
    blank = np.full((96, 96, 3), 128, np.uint8)
    assert not scale_from([view(pose, image=blank) for pose in ORBIT[:8]]).scale.metric


def test_depths_without_relation_to_the_image_give_no_scale() -> None:
    rng = np.random.default_rng(0)
    views = [view(pose, depth=np.exp(rng.normal(0.0, 3.0, (96, 96)))) for pose in ORBIT[:4]]
    assert not scale_from(views).scale.metric


def test_unknown_depths_are_left_out() -> None:
    views = [view(pose) for pose in ORBIT[:6]]
    for one in views:
        one.depth[:, :30] = np.nan
    assert scale_from(views).scale.value == pytest.approx(METRES_PER_UNIT, rel=0.03)
    hidden = [view(pose, depth=np.nan) for pose in ORBIT[:6]]
    assert not scale_from(hidden).scale.metric


def test_poses_that_contradict_the_images_give_no_scale() -> None:
    """Optical axes taken for those of a robot: tracks end far from their epipolar lines."""
    wrong = [view(pose, given=pose @ MAP_FROM_OPTICAL.T) for pose in ORBIT[:6]]
    assert not scale_from(wrong).scale.metric


def test_scale_follows_a_network_that_drifts() -> None:
    views = [view(pose, depth=1.0 if n < 30 else 2.0) for n, pose in enumerate(ORBIT)]
    scales = ScaleFromParallax()
    values = []
    for one in views:
        scales.add(one)
        values.append(scales.scale.value)
    assert values[29] == pytest.approx(METRES_PER_UNIT, rel=0.02)
    assert values[-1] == pytest.approx(METRES_PER_UNIT / 2, rel=0.02)
