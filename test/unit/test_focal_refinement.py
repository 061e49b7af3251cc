# SPDX-License-Identifier: Apache-2.0
"""Without calibration the focal length comes from several keyframes, not from the first alone."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, every_frame, pose_errors, run
from synthetic import SyntheticNetwork, SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.transforms import transform_points
from spann3r_ros.core.types import Pointmap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.tracking import focal_length
from spann3r_ros.mapping.tracking.focal_length import FOCAL_KEYFRAMES, fit_focal
from spann3r_ros.mapping.tracking.pnp import PoseError

POSES = orbit_trajectory(60)[:20]


class BiasedFirst(SyntheticNetwork):
    """The first pointmap is flattened sideways, as if the lens were `bias` times as long."""

    bias = 1.0

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        pointmap = super()._pointmap(index, origin)
        if index == 0:
            pointmap.points[..., :2] /= self.bias
        return pointmap


def uncalibrated(noise: float, bias: float = 1.0) -> tuple[Mapper, list[float]]:
    """Return a mapper after a walk, and the focal length of each keyframe over the true one."""
    network = BiasedFirst(SCENE, POSES, SyntheticOptions(noise=noise), CAMERA)
    network.bias = bias
    mapper = Mapper(network, every_frame())
    updates = run(mapper, render_frames(SCENE, POSES, CAMERA, calibrated=False))
    return mapper, [keyframe.intrinsics.fx / CAMERA.fx for update in updates
                    for keyframe in update.keyframes]


@pytest.mark.parametrize('bias', [1.3, 1 / 1.3])
def test_biased_first_pointmap_is_outvoted(bias: float) -> None:
    mapper, ratios = uncalibrated(0.01, bias)
    assert ratios[0] == pytest.approx(bias, rel=0.02)
    np.testing.assert_allclose(ratios[2:], 1.0, atol=0.03)
    frames = render_frames(SCENE, POSES, CAMERA)
    assert pose_errors(mapper.trajectory[8:], POSES, frames)[0] < 0.08


def test_good_first_estimate_stays_good_and_is_fixed_in_the_end() -> None:
    _, ratios = uncalibrated(0.02)
    np.testing.assert_allclose(ratios, 1.0, atol=0.03)
    assert len(set(ratios[FOCAL_KEYFRAMES - 1:])) == 1 < len(set(ratios))


@pytest.mark.parametrize('factor', [0.55, 0.75, 1.0, 1.3, 1.9])
def test_focal_length_and_pose_are_found_together(factor: float) -> None:
    points = transform_points(POSES[7], SCENE.render(POSES[7], CAMERA)[1])
    points = points + 0.01 * np.random.default_rng(0).normal(size=points.shape)
    pointmap = Pointmap(points.astype(np.float32), np.full(points.shape[:2], 0.9, np.float32))
    guess = replace(CAMERA, fx=factor * CAMERA.fx, fy=factor * CAMERA.fy)
    assert fit_focal(pointmap, guess, PoseConfig()) == pytest.approx(CAMERA.fx, rel=0.01)


@pytest.mark.parametrize(('factor', 'several'), [(1.0, False), (0.4, True)])
def test_further_guesses_are_made_only_where_the_first_one_fits_too_few_points(
        factor: float, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    points = transform_points(POSES[7], SCENE.render(POSES[7], CAMERA)[1]).astype(np.float32)
    solve, guesses = focal_length.solve_pose, []
    monkeypatch.setattr(focal_length, 'solve_pose', lambda *arguments: (
        guesses.append(arguments[1].fx), solve(*arguments))[1])
    guess = replace(CAMERA, fx=factor * CAMERA.fx, fy=factor * CAMERA.fy)
    fit_focal(Pointmap(points, np.full((96, 96), 0.9, np.float32)), guess, PoseConfig())
    assert (len(guesses) > 1) is several


def test_points_of_no_camera_give_no_focal_length() -> None:
    points = np.random.default_rng(0).normal(size=(96, 96, 3)).astype(np.float32)
    with pytest.raises(PoseError):
        fit_focal(Pointmap(points, np.full((96, 96), 0.9, np.float32)), CAMERA, PoseConfig())
