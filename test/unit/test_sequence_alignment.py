# SPDX-License-Identifier: Apache-2.0
"""Two sequences that have seen the same images are aligned rightly, or that is refused."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from mapper_runs import SCENE
from synthetic import look_at, orbit_trajectory, square_camera

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import (
    invert_similarity,
    move_pose,
    rotation_vector,
    similarity_scale,
    to_rigid,
    transform_points,
)
from spann3r_ros.mapping.fragments.sequence_alignment import (
    Alignment,
    AlignmentError,
    align,
)
from spann3r_ros.mapping.fragments.shared_views import SharedView

CAMERA = square_camera(96)
TRUE = to_rigid(np.array([0.3, -0.5, 0.2]), np.array([4.0, -3.0, 2.0]))
TRUE[:3, :3] *= 1.7
ORBIT = orbit_trajectory(120)[:3]

Field = Callable[[], np.ndarray]


def shared_views(poses: list[np.ndarray], rng: np.random.Generator, noise: float = 0.0,
                 outliers: float = 0.0, nearer_only: bool = False, warp: float = 0.0,
                 beside: float = 0.0, cells: int = 4,
                 camera: Intrinsics = CAMERA) -> list[SharedView]:
    """Return views of the room whose points the similarity `TRUE` moves to the first sequence.

    `noise` and `outliers` are those of the depth in both sequences and in the second one. `warp`
    and `beside` are standard deviations of smooth fields of the depth of both sequences and of the
    directions of the second one, the same in all images, with `cells` a side.
    """
    shape = camera.height, camera.width

    def smooth() -> np.ndarray:
        return cv2.resize(rng.standard_normal((cells, cells)), shape[::-1],
                          interpolation=cv2.INTER_CUBIC)

    fields = [warp * smooth(), warp * smooth(), beside * smooth(), beside * smooth()]
    second_from_first, views = invert_similarity(TRUE), []
    for pose in poses:
        points = SCENE.render(pose, camera)[1]
        factors = [np.exp(field + noise * rng.standard_normal(shape)) for field in fields[:2]]
        wrong = rng.uniform(-1.5, 0.0 if nearer_only else 1.5, shape)
        factors[1] = np.where(rng.random(shape) < outliers, np.exp(wrong), factors[1])
        seen = points * factors[1][..., None]
        seen[..., :2] += np.stack(fields[2:], axis=-1) * seen[..., 2:]
        views.append(SharedView(
            camera, (points[..., 2] * factors[0]).astype(np.float32), pose,
            transform_points(second_from_first @ pose, seen).astype(np.float32),
            move_pose(second_from_first, pose), np.full(shape, 0.9, np.float32)))
    return views


def errors(found: Alignment, camera: np.ndarray) -> tuple[float, float, float]:
    """Return the errors of log scale, angle in degrees, and of a camera in units of the depth."""
    error = found.first_from_second @ invert_similarity(TRUE)
    scale = similarity_scale(error)
    angle = np.degrees(np.linalg.norm(rotation_vector(error[:3, :3] / scale)))
    shift = np.linalg.norm((error @ camera[:, 3])[:3] - camera[:3, 3])
    return abs(np.log(scale)), float(angle), float(shift / found.distance)


@pytest.mark.parametrize('nearer_only', [False, True])
@pytest.mark.parametrize('images', [1, 3])
@pytest.mark.parametrize('seed', [0, 1])
def test_outliers_and_noise_hardly_matter(images: int, nearer_only: bool, seed: int) -> None:
    views = shared_views(ORBIT[:images], np.random.default_rng(seed), noise=0.02, outliers=0.4,
                         nearer_only=nearer_only)
    scale, angle, shift = errors(align(views), ORBIT[0])
    assert scale <= 0.005 and angle <= 0.2 and shift <= 0.005


@pytest.mark.parametrize('valid', [0, 5, 50])
def test_few_points_are_refused(valid: int) -> None:
    rng = np.random.default_rng(0)
    (view,) = shared_views(ORBIT[:1], rng)
    weights = np.zeros(view.weights.size, np.float32)
    weights[rng.permutation(weights.size)[:valid]] = 0.9
    with pytest.raises(AlignmentError, match=f'confident points .*got {valid}$'):
        align([replace(view, weights=weights.reshape(view.weights.shape))])


def test_nothing_shared_is_refused() -> None:
    with pytest.raises(AlignmentError, match='got 0'):
        align([])


def test_a_majority_of_outliers_is_refused() -> None:
    views = shared_views(ORBIT, np.random.default_rng(0), noise=0.02, outliers=0.75)
    with pytest.raises(AlignmentError, match='points to agree'):
        align(views)


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_a_mirrored_sequence_is_refused(axis: int) -> None:
    mirror = np.eye(4)
    mirror[axis, axis] = -1.0
    views = shared_views(ORBIT, np.random.default_rng(0), noise=0.01)
    mirrored = [replace(one, points=transform_points(mirror, one.points)) for one in views]
    with pytest.raises(AlignmentError):
        align(mirrored)


def test_a_mirrored_sequence_with_mirrored_cameras_is_no_reflection() -> None:
    """Each pixel has the point of the pixel on the other side."""
    views = shared_views(ORBIT, np.random.default_rng(0), noise=0.01)
    mirrored = [replace(one, points=one.points[:, ::-1]) for one in views]
    try:
        found = align(mirrored)
    except AlignmentError:
        return
    assert np.linalg.det(found.first_from_second[:3, :3]) > 0.0


def straight() -> list[np.ndarray]:
    return [look_at(np.array([-1.5 + 0.2 * step, -0.8, 1.2]), np.array([2.0, 0.5, 1.2]))
            for step in range(4)]


def on_the_spot() -> list[np.ndarray]:
    return [look_at(np.array([1.2, 0.3, 1.2]),
                    np.array([1.2 - np.cos(angle), 0.3 + np.sin(angle), 1.2]))
            for angle in (0.0, 0.1, 0.2)]


def at_a_wall() -> list[np.ndarray]:
    """Return cameras that see one plane only."""
    return [look_at(np.array([x, 1.0, 1.9]), np.array([x + 0.1, 2.2, 1.95])) for x in (1.0, 1.1)]


@pytest.mark.parametrize('walk', [straight, on_the_spot, at_a_wall])
def test_scarce_motion_and_flat_scenes_are_aligned_rightly(
        walk: Callable[[], list[np.ndarray]]) -> None:
    poses = walk()
    views = shared_views(poses, np.random.default_rng(0), noise=0.02)
    scale, angle, shift = errors(align(views), poses[0])
    assert scale <= 0.005 and angle <= 0.2 and shift <= 0.005


def test_points_on_a_line_are_refused() -> None:
    """They leave a turn about the line open."""
    views = shared_views(3 * at_a_wall()[:1], np.random.default_rng(0), noise=0.01)
    line = np.float32(0.9) * np.eye(96, dtype=np.float32)
    with pytest.raises(AlignmentError, match='parts of the image'):
        align([replace(one, weights=line) for one in views])


def test_a_second_sequence_that_moved_otherwise_is_refused() -> None:
    """The depth agrees, but the cameras do not: PnP contradicts the similarity."""
    views = shared_views(ORBIT, np.random.default_rng(0), noise=0.01)
    turned = to_rigid(np.array([0.0, 0.25, 0.0]), np.zeros(3))
    moved = [replace(one, second_from_camera=one.second_from_camera @ turned) for one in views]
    with pytest.raises(AlignmentError, match='cameras of both sequences'):
        align(moved)


@pytest.mark.parametrize(('images', 'cells'), [(1, 4), (3, 4), (3, 6), (3, 10)])
def test_errors_are_as_large_as_the_covariance_says(images: int, cells: int) -> None:
    """The mean of e^T P^-1 e is seven; errors smoother than a quarter of the image exceed it."""
    squared = []
    for seed in range(30):
        views = shared_views(ORBIT[:images], np.random.default_rng(seed), noise=0.01, warp=0.03,
                             beside=0.01, cells=cells)
        found = align(views)
        error = TRUE @ invert_similarity(found.first_from_second)
        scale = similarity_scale(error)
        vector = np.concatenate([error[:3, 3], rotation_vector(error[:3, :3] / scale),
                                 [np.log(scale)]])
        squared.append(vector @ np.linalg.solve(found.covariance, vector))
    assert 7.0 / 3.0 < np.mean(squared) < 7.0 * 2.0


def test_the_covariance_holds_wherever_the_origin_is() -> None:
    """The origin of a fragment may be far from what its images show."""
    views = shared_views(ORBIT, np.random.default_rng(3), noise=0.01, warp=0.02, beside=0.005)
    away = to_rigid(np.array([0.2, 0.4, -1.0]), np.array([300.0, -200.0, 10.0]))
    near, far = align(views), align([replace(one, first_from_camera=away @ one.first_from_camera)
                                     for one in views])
    np.testing.assert_allclose(far.first_from_second, away @ near.first_from_second, atol=1e-2)
    # About a camera, both are the same.
    deviations = []
    for found, moved in ((near, np.eye(4)), (far, away)):
        x, y, z = (moved @ ORBIT[0])[:3, 3]
        shift = np.eye(7)
        shift[:3, 3:6] = [[0.0, z, -y], [-z, 0.0, x], [y, -x, 0.0]]
        shift[:3, 6] = x, y, z
        about = shift @ found.covariance @ shift.T
        turn = moved[:3, :3].T
        deviations.append(np.sqrt(np.diag(turn @ about[:3, :3] @ turn.T)))
    np.testing.assert_allclose(*deviations, rtol=0.1)
