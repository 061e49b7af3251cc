# SPDX-License-Identifier: Apache-2.0
"""Known camera motion tells how long a network's unit is, or that it cannot be told."""
from __future__ import annotations

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE
from scipy.spatial.transform import Rotation
from synthetic import look_at, orbit_trajectory

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.mapping.scale.parallax import ScaleFromParallax, View

METRES_PER_UNIT = 2.5
ORBIT = orbit_trajectory(60)


def view(pose: np.ndarray, told: np.ndarray | None = None, image: np.ndarray | None = None,
         depth: np.ndarray | float = 1.0) -> View:
    """Return a view at a pose that is `told` otherwise; its depths times `depth`, in units."""
    rgb, points = SCENE.render(pose, CAMERA)
    return View(rgb if image is None else image, depth * points[..., 2] / METRES_PER_UNIT, CAMERA,
                pose if told is None else told)


def by_patches(rng: np.random.Generator, noise: float) -> np.ndarray:
    """Return factors by which a network errs."""
    return np.exp(noise * rng.standard_normal((8, 8)).repeat(12, 0).repeat(12, 1))


def shaken(pose: np.ndarray, rng: np.random.Generator, metres: float, degrees: float
           ) -> np.ndarray:
    told = pose.copy()
    told[:3, 3] += metres * rng.standard_normal(3)
    turn = Rotation.from_rotvec(np.radians(degrees) * rng.standard_normal(3)).as_matrix()
    told[:3, :3] = turn @ pose[:3, :3]
    return told


def told_by(views: list[View]) -> ScaleFromParallax:
    scales = ScaleFromParallax()
    for one in views:
        scales.add(one)
    return scales


def test_scale_is_found_within_its_deviation_despite_wrong_depths() -> None:
    errors, deviations = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        start = 4 * seed
        scale = told_by([view(pose, depth=by_patches(rng, 0.15))
                         for pose in ORBIT[start:start + 10]]).scale
        assert scale.metric
        errors.append(scale.value / METRES_PER_UNIT - 1.0)
        deviations.append(scale.variance**0.5 / scale.value)
    assert abs(np.mean(errors)) < 0.02
    assert 0.5 < np.sqrt(np.mean(np.square(errors))) / np.mean(deviations) < 2.0


def test_scale_is_honest_about_wrong_poses() -> None:
    misses = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scale = told_by([view(pose, told=shaken(pose, rng, 0.01, 0.1))
                         for pose in ORBIT[4 * seed:4 * seed + 12]]).scale
        assert scale.metric
        misses.append((scale.value / METRES_PER_UNIT - 1.0) / (scale.variance**0.5 / scale.value))
    assert np.sqrt(np.mean(np.square(misses))) < 2.0


def test_steps_of_a_hand_are_enough() -> None:
    scales = told_by([view(pose) for pose in ORBIT[:4]])
    assert scales.scale.value == pytest.approx(METRES_PER_UNIT, rel=0.03)


def test_a_slow_camera_gets_there() -> None:
    scales = told_by([view(pose) for pose in orbit_trajectory(2000)[:60]])  # 4 mm each
    assert scales.scale.value == pytest.approx(METRES_PER_UNIT, rel=0.03)


def test_a_camera_that_only_turns_tells_nothing() -> None:
    centre = np.array([1.3, 0.0, 1.2])
    turning = [look_at(centre, centre + [-np.cos(a), np.sin(a), 0.0])
               for a in np.linspace(0.0, 0.5, 8)]
    assert not told_by([view(pose) for pose in turning]).scale.metric


def test_bare_walls_tell_nothing() -> None:
    blank = np.full((96, 96, 3), 128, np.uint8)
    assert not told_by([view(pose, image=blank) for pose in ORBIT[:8]]).scale.metric


def test_depths_without_relation_to_the_image_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    views = [view(pose, depth=np.exp(rng.normal(0.0, 3.0, (96, 96)))) for pose in ORBIT[:4]]
    assert not told_by(views).scale.metric


def test_unknown_depths_are_left_out() -> None:
    views = [view(pose) for pose in ORBIT[:6]]
    for one in views:
        one.depth[:, :30] = np.nan
    assert told_by(views).scale.value == pytest.approx(METRES_PER_UNIT, rel=0.03)
    hidden = [view(pose, depth=np.nan) for pose in ORBIT[:6]]
    assert not told_by(hidden).scale.metric


def test_poses_that_contradict_the_images_are_not_believed() -> None:
    """Optical axes taken for those of a robot: corners leave the lines of their motion."""
    wrong = [view(pose, told=pose @ MAP_FROM_OPTICAL.T) for pose in ORBIT[:6]]
    assert not told_by(wrong).scale.metric


def test_scale_follows_a_network_that_drifts() -> None:
    views = [view(pose, depth=1.0 if n < 30 else 2.0) for n, pose in enumerate(ORBIT)]
    scales = ScaleFromParallax()
    values = []
    for one in views:
        scales.add(one)
        values.append(scales.scale.value)
    assert values[29] == pytest.approx(METRES_PER_UNIT, rel=0.02)
    assert values[-1] == pytest.approx(METRES_PER_UNIT / 2, rel=0.02)
