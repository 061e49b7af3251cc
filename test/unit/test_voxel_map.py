# SPDX-License-Identifier: Apache-2.0
"""The voxel map: means, bounds, eviction, and points that are left out."""
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.core.types import FrameError
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud, VoxelMap
from spann3r_ros.mapping.layers.voxel_store import VoxelStore
from spann3r_ros.mapping.mapper_config import VoxelMapConfig


def line(first: int, count: int) -> np.ndarray:
    """Return points in the middle of `count` neighbouring cells of one metre along x."""
    points = np.full((count, 3), 0.5, np.float32)
    points[:, 0] += first + np.arange(count)
    return points


class OneFragment(VoxelMap):
    """A voxel map of one fragment, which is the map."""

    def clear(self) -> None:
        super().clear()
        self.store = self.new_store()

    def __len__(self) -> int:
        return len(self.store)

    def arrays(self) -> VoxelCloud:
        return self.snapshot([(self.store, np.eye(4))]).cloud()


def integrate(voxels: OneFragment, points: np.ndarray, confidence: float | np.ndarray = 0.5,
              color: int = 100) -> int:
    points = np.asarray(points, np.float32)
    return voxels.merge(voxels.store, [voxels.store], points,
                        np.full((len(points), 3), color, np.uint8),
                        np.broadcast_to(np.float32(confidence), len(points)), points[:, 0])


def make(**settings: float) -> OneFragment:
    return OneFragment(VoxelMapConfig(**{'voxel_size': 1.0, 'max_voxels': 100, **settings}))


def test_points_of_one_cell_become_their_weighted_mean() -> None:
    voxels = make()
    integrate(voxels, [[0.1, 0.1, 0.1], [0.5, 0.1, 0.1]], np.array([0.25, 0.75], np.float32))
    cloud = voxels.arrays()
    np.testing.assert_allclose(cloud.points, [[0.4, 0.1, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(cloud.confidence, [0.5])


def test_later_keyframes_join_by_weight() -> None:
    voxels = make()
    integrate(voxels, [[0.2, 0.5, 0.5]], 0.2, color=0)
    integrate(voxels, [[0.8, 0.5, 0.5]], 0.6, color=200)
    cloud = voxels.arrays()
    assert len(cloud) == 1
    np.testing.assert_allclose(cloud.points[0, 0], 0.65, rtol=1e-6)
    assert cloud.colors[0].tolist() == [150, 150, 150]


def test_negative_coordinates_have_cells_of_their_own() -> None:
    voxels = make()
    integrate(voxels, [[-0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert len(voxels) == 2


def test_unusable_points_are_left_out() -> None:
    voxels = make(min_confidence=0.3)
    points = np.array([[np.nan, 0, 0], [np.inf, 0, 0], [1, 1, 1], [5e7, 0, 0], [2, 2, 2]])
    merged = integrate(voxels, points, np.array([0.9, 0.9, 0.2, 0.9, 0.9], np.float32))
    assert merged == 1
    np.testing.assert_array_equal(voxels.arrays().points, [[2, 2, 2]])


def test_zero_confidence_is_left_out_even_when_allowed() -> None:
    voxels = make(min_confidence=0.0)
    assert integrate(voxels, line(0, 3), 0.0) == 0
    assert len(voxels) == 0


def test_bound_evicts_least_recently_observed_first_down_to_98_percent() -> None:
    voxels = make(max_voxels=100)
    integrate(voxels, line(0, 60))
    integrate(voxels, line(60, 40))
    integrate(voxels, line(0, 30))  # cells 0 to 29 are seen again
    integrate(voxels, line(100, 10))
    cells = np.floor(voxels.arrays().points[:, 0]).astype(int)
    assert len(voxels) == 98
    assert voxels.evicted == 12
    # Of cells 30 to 59, equally old and equally heavy, twelve went.
    assert set(range(0, 30)) | set(range(60, 110)) <= set(cells)
    assert len(set(cells)) == 98


def test_equally_old_voxels_are_removed_by_weight() -> None:
    voxels = make(max_voxels=100)
    weights = np.full(100, 0.9, np.float32)
    weights[40:43] = 0.2
    integrate(voxels, line(0, 100), weights)
    integrate(voxels, line(100, 1))
    cells = set(np.floor(voxels.arrays().points[:, 0]).astype(int))
    assert cells == {*range(0, 40), *range(43, 101)}


def test_one_keyframe_larger_than_the_bound_keeps_its_most_confident() -> None:
    voxels = make(max_voxels=100)
    integrate(voxels, line(0, 150), np.linspace(0.2, 0.9, 150, dtype=np.float32))
    cells = np.floor(voxels.arrays().points[:, 0]).astype(int)
    assert sorted(cells) == list(range(50, 150))


def test_voxels_seen_by_the_keyframe_that_overflows_are_never_evicted() -> None:
    voxels = make(max_voxels=100)
    integrate(voxels, line(0, 96))
    integrate(voxels, line(0, 106))
    cells = set(np.floor(voxels.arrays().points[:, 0]).astype(int))
    assert voxels.evicted == 0
    assert len(cells) == 100
    assert set(range(96)) <= cells


def test_min_observations_hides_voxels_seen_once() -> None:
    voxels = make(min_observations=2)
    integrate(voxels, line(0, 5))
    integrate(voxels, line(3, 5))
    assert len(voxels) == 8
    assert len(voxels.arrays()) == 2


def test_automatic_size_is_a_hundredth_of_the_median_depth_until_cleared() -> None:
    voxels = make(voxel_size=0.0)
    integrate(voxels, [[3.0, 0, 0], [3.0, 1, 0], [9.0, 0, 0]])
    assert voxels.voxel_size == pytest.approx(0.03)
    voxels.clear()
    assert len(voxels) == 0
    integrate(voxels, [[5.0, 0, 0]])
    assert voxels.voxel_size == pytest.approx(0.05)


def test_automatic_size_needs_depth() -> None:
    with pytest.raises(FrameError, match='median depth'):
        integrate(make(voxel_size=0.0), [[0.0, 1.0, 0.0]])


@pytest.mark.parametrize(('points', 'colors', 'name'), [
    (np.zeros((2, 2)), np.zeros((3, 3), np.uint8), 'points'),
    (np.zeros((3, 3)), np.zeros((2, 3), np.uint8), 'colors'),
    (np.zeros((3, 3)), np.zeros((3, 3), np.float32), 'colors')])
def test_wrong_arrays_are_named(points: np.ndarray, colors: np.ndarray, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make().merge(VoxelStore(), [], points, colors, np.ones(3), np.ones(3))


def test_still_view_stays_where_it_is() -> None:
    """Rounding must not move voxels whose sums grow by equal terms many times."""
    voxels = make(voxel_size=0.05)
    point = [[19.987, 5.321, -3.006]]
    for _ in range(20_000):
        integrate(voxels, point, 0.9, color=201)
    cloud = voxels.arrays()
    np.testing.assert_allclose(cloud.points, np.float32(point), atol=1e-5)
    assert cloud.colors[0].tolist() == [201, 201, 201]
    np.testing.assert_allclose(cloud.confidence, [0.9], rtol=1e-5)


def test_points_come_in_the_order_in_which_they_were_first_seen() -> None:
    voxels = make()
    for first in (7, 2, 5, 7):
        integrate(voxels, line(first, 1))
    assert voxels.arrays().points[:, 0].tolist() == [7.5, 2.5, 5.5]


def test_a_snapshot_stays_as_it_was_and_its_memory_is_used_again_when_it_is_gone() -> None:
    voxels = make(max_voxels=1000)
    integrate(voxels, line(0, 100))
    held = [voxels.snapshot([(voxels.store, np.eye(4))])]
    before = held[0].parts[0].rows.sums.copy()
    for _ in range(3):  # a second snapshot is given away while the first is still there
        integrate(voxels, line(0, 120), 0.9)
        held.append(voxels.snapshot([(voxels.store, np.eye(4))]))
    np.testing.assert_array_equal(held[0].parts[0].rows.sums, before)
    assert [part.rows.observations[0] for one in held for part in one.parts] == [1, 2, 3, 4]
    memory = {one.parts[0].rows.sums.__array_interface__['data'][0] for one in held}
    assert len(memory) == 4
    del held
    seen = set()
    for _ in range(6):
        integrate(voxels, line(0, 120), 0.9)
        rows = voxels.snapshot([(voxels.store, np.eye(4))]).parts[0].rows
        seen.add(rows.sums.__array_interface__['data'][0])
        del rows
    assert len(seen) <= 3


def test_a_fragment_that_loses_its_voxels_gives_their_memory_back() -> None:
    voxels = make(max_voxels=20_000)
    old = voxels.store
    integrate(voxels, line(0, 15_000))
    snapshot = voxels.snapshot([(old, np.eye(4))])
    new = voxels.new_store()
    for start in (0, 12_000, 24_000):
        points = line(start, 12_000)
        voxels.merge(new, [old, new], points, np.full((12_000, 3), 9, np.uint8),
                     np.full(12_000, 0.5, np.float32), points[:, 0])
    assert len(old) == 0 and len(new) <= 20_000
    assert sum(column.nbytes for column in old._columns) < 10_000
    assert old.points._points.nbytes < 30_000
    # Who has looked at it before, and who adds to it later, sees all of it.
    assert len(snapshot.cloud()) == 15_000
    integrate(voxels, line(0, 100))
    np.testing.assert_allclose(voxels.arrays().points, line(0, 100))
    np.testing.assert_allclose(old.points.box(), [[0.5, 0.5, 0.5], [99.5, 0.5, 0.5]])
