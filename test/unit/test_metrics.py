# SPDX-License-Identifier: Apache-2.0
"""Point metrics on cases whose results are known or recorded."""
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from spann3r_ros.evaluation.held_out import baselines
from spann3r_ros.evaluation.measures import metrics

RECORDINGS = Path(os.environ.get('SPANN3R_GOLDENS') or Path(__file__).parents[1] / 'parity/data')


def counter_noise(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Return the recordings' own float32 noise: hashed counters, mean 0, variance 1."""
    mask = (1 << 64) - 1
    start = (zlib.crc32(name.encode()) << 32) | salt

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    hashed = [mix((start + (i + 1) * 0x9E3779B97F4A7C15) & mask) >> 40
              for i in range(int(np.prod(shape)))]
    unit = (2.0 * np.array(hashed) * 2.0 ** -24 - 1.0) * np.sqrt(3.0)
    return unit.reshape(shape).astype(np.float32).astype(np.float64)


def test_cloud_distances_match_the_recording() -> None:
    path = RECORDINGS / 'extras.npz'
    if not path.exists():
        pytest.skip(f'no extras.npz in {RECORDINGS}')
    with np.load(path) as file:
        salt = json.loads(str(file['meta']))['salt']
        recorded = {name: file[name] for name in ('accuracy', 'completion')}
    truth = counter_noise('acc.a', (300, 3), salt)
    predicted = counter_noise('acc.b', (400, 3), salt)
    for name, measure in (('accuracy', metrics.accuracy), ('completion', metrics.completion)):
        found = measure(predicted, truth)
        np.testing.assert_allclose([found.mean, found.median], recorded[name][:2], rtol=1e-6)


def test_missing_half_costs_completion_not_accuracy() -> None:
    truth = np.stack([np.arange(10.0), np.zeros(10), np.zeros(10)], axis=1)
    half = truth[:5]
    assert metrics.accuracy(half, truth).mean == 0.0
    # points 5..9 lie 1..5 beyond the last predicted point
    assert metrics.completion(half, truth).mean == pytest.approx(15.0 / 10)


def test_scale_of_noisy_points_is_recovered() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(40, 50, 3)) + [0.0, 0.0, 4.0]
    predicted = (truth + 0.01 * rng.normal(size=truth.shape)) / 2.5
    assert metrics.fit_scale(predicted, truth) == pytest.approx(2.5, rel=1e-3)


def test_point_error_of_doubled_points_is_one() -> None:
    truth = np.random.default_rng(2).normal(size=(100, 3))
    assert metrics.point_error(2.0 * truth, truth) == pytest.approx(1.0)


def test_subsample_repeats_with_its_seed() -> None:
    points = np.random.default_rng(3).normal(size=(1000, 3))
    first = metrics.subsample(points, 100, seed=4)
    assert first.shape == (100, 3)
    np.testing.assert_array_equal(first, metrics.subsample(points, 100, seed=4))
    assert not np.array_equal(first, metrics.subsample(points, 100, seed=5))


@pytest.mark.parametrize('points', [np.zeros((0, 3)), np.zeros((4, 2)), np.full((4, 3), np.nan)])
def test_bad_points_are_named(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match='source: expected'):
        metrics.nearest_distances(points, np.zeros((1, 3)))


def test_plane_baseline_is_flat_and_seen_through_the_pixels() -> None:
    matrix = np.array([[50.0, 0.0, 2.0], [0.0, 50.0, 1.0], [0.0, 0.0, 1.0]])
    rays = baselines.pixel_rays(matrix, 3, 5)
    plane = baselines.plane_pointmaps(2.0, 4, rays)
    assert plane.shape == (4, 3, 5, 3)
    assert (plane[..., 2] == 2.0).all()
    pixels = plane[0] @ matrix.T
    np.testing.assert_allclose(pixels[1, 4, :2] / pixels[1, 4, 2], [4.0, 1.0])


def test_posed_depth_moves_with_the_camera() -> None:
    rays = baselines.pixel_rays(np.diag([50.0, 50.0, 1.0]), 2, 2)
    poses = np.stack([np.eye(4), np.eye(4)])
    poses[1, :3, 3] = [1.0, 0.0, 0.0]
    points = baselines.posed_depth_pointmaps(np.full((2, 2), 3.0), poses, rays)
    np.testing.assert_allclose(points[1] - points[0], np.broadcast_to([1.0, 0.0, 0.0], (2, 2, 3)))


def test_median_baseline_ignores_one_wild_room() -> None:
    rooms = np.ones((5, 2, 3, 3, 3))
    rooms[0] = 1e6
    assert (baselines.median_pointmaps(rooms) == 1.0).all()
