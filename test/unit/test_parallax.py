# SPDX-License-Identifier: Apache-2.0
"""Known camera motion tells how long a network's unit is, or that it cannot be told."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE
from synthetic import look_at, orbit_trajectory

from spann3r_ros.mapping.geometry import MAP_FROM_OPTICAL
from spann3r_ros.mapping.parallax import ScaleFromParallax, View

METRES_PER_UNIT = 2.5
ORBIT = orbit_trajectory(60)


def view(pose: np.ndarray, rng: np.random.Generator | None = None, noise: float = 0.0) -> View:
    """Return a view whose depths are in the network's unit, wrong by patches."""
    image, points = SCENE.render(pose, CAMERA)
    depth = points[..., 2] / METRES_PER_UNIT
    if rng is not None:
        patches = rng.standard_normal((8, 8)).repeat(12, 0).repeat(12, 1)
        depth = depth * np.exp(noise * patches)
    return View(image, depth, CAMERA, pose)


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
        scale = told_by([view(pose, rng, 0.15) for pose in ORBIT[start:start + 6]]).scale
        assert scale.metric
        errors.append(scale.value / METRES_PER_UNIT - 1.0)
        deviations.append(scale.variance**0.5 / scale.value)
    assert abs(np.mean(errors)) < 0.02
    assert 0.5 < np.sqrt(np.mean(np.square(errors))) / np.mean(deviations) < 2.0


def test_one_step_of_a_hand_is_enough() -> None:
    scales = told_by([view(pose) for pose in ORBIT[:2]])
    assert scales.scale.value == pytest.approx(METRES_PER_UNIT, rel=0.03)


def test_a_camera_that_only_turns_tells_nothing() -> None:
    centre = np.array([1.3, 0.0, 1.2])
    turning = [look_at(centre, centre + [-np.cos(a), np.sin(a), 0.0])
               for a in np.linspace(0.0, 0.5, 8)]
    assert not told_by([view(pose) for pose in turning]).scale.metric


def test_bare_walls_tell_nothing() -> None:
    blank = [replace(view(pose), image=np.full((96, 96, 3), 128, np.uint8)) for pose in ORBIT[:8]]
    assert not told_by(blank).scale.metric


def test_depths_without_relation_to_the_image_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    views = [replace(view(pose), depth=np.exp(rng.normal(0.0, 3.0, (96, 96))))
             for pose in ORBIT[:3]]
    assert not told_by(views).scale.metric


def test_unknown_depths_are_left_out() -> None:
    views = [view(pose) for pose in ORBIT[:6]]
    for one in views:
        one.depth[:, :30] = np.nan
    assert told_by(views).scale.value == pytest.approx(METRES_PER_UNIT, rel=0.03)
    hidden = [replace(one, depth=np.full((96, 96), np.nan)) for one in views]
    assert not told_by(hidden).scale.metric


def test_poses_that_contradict_the_images_are_not_believed() -> None:
    """Optical axes taken for those of a robot: corners leave the lines of their motion."""
    wrong = [replace(view(pose), world_from_camera=pose @ MAP_FROM_OPTICAL.T)
             for pose in ORBIT[:6]]
    assert not told_by(wrong).scale.metric


def test_scale_follows_a_network_that_drifts() -> None:
    views = [view(pose) for pose in ORBIT]
    views = [*views[:30], *(replace(one, depth=one.depth * 2.0) for one in views[30:])]
    scales = ScaleFromParallax()
    values = []
    for one in views:
        scales.add(one)
        values.append(scales.scale.value)
    assert values[29] == pytest.approx(METRES_PER_UNIT, rel=0.02)
    assert values[-1] == pytest.approx(METRES_PER_UNIT / 2, rel=0.02)
