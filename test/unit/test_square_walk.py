# SPDX-License-Identifier: Apache-2.0
"""A walk round a square corridor: the path drifts, and loops make the walls one again."""
from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.spatial import cKDTree

from spann3r_ros.core.similarity import carry_covariance, similarities_of
from spann3r_ros.core.transforms import invert, to_rigid
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.loops.correction import Correction
from spann3r_ros.mapping.mapper_config import LoopConfig, MapperConfig, VoxelMapConfig

# The corridor's middle is a square of 8 m: a round is 32 m, and the walk is a round and a quarter.
SIDE, ROUND, LENGTH = 8.0, 32, 40
HALF_WIDTH, HEIGHT, REACH = 1.0, 0.6, 2.0
# Each metre is also a step of 3 cm to one side of the world, and a turn of 0.1 degrees.
DRIFT, TURN = 0.03, np.radians(0.1)
VOXEL = 0.05
NOISE = np.diag([0.005] * 3 + [0.002] * 3 + [0.003]) ** 2


def true_camera(way: float) -> np.ndarray:
    """Return the camera [4, 4] after so many metres."""
    side, along = divmod(way % ROUND, SIDE)
    angle = 0.5 * np.pi * side
    corner = SIDE * np.array([(0, 0), (1, 0), (1, 1), (0, 1)][int(side)], float)
    ahead = np.array([np.cos(angle), np.sin(angle)])
    return to_rigid(np.array([0.0, 0.0, angle]), np.array([*(corner + along * ahead), 0.0]))


def mapped_from_true(way: float) -> np.ndarray:
    """Return the drift [4, 4] that the map has after so many metres."""
    return to_rigid(np.array([0.0, 0.0, TURN * way]), DRIFT * way * np.array([0.6, 0.8, 0.0]))


def drifted_camera(way: float) -> np.ndarray:
    """Return the camera [4, 4] in the map after so many metres."""
    return mapped_from_true(way) @ true_camera(way)


@cache
def walls() -> np.ndarray:
    """Return points [n, 3] on both walls of the corridor, 4 cm apart."""
    found = []
    heights = np.arange(-HEIGHT / 2, HEIGHT / 2, 0.04)
    for offset in (-HALF_WIDTH, HALF_WIDTH):
        low, high = offset, SIDE - offset
        along = np.arange(low, high, 0.04)
        level = np.full_like(along, low)
        for x, y in ((along, level), (along, level - low + high), (level, along),
                     (level - low + high, along)):
            grid = np.repeat(np.stack([x, y], axis=1), len(heights), axis=0)
            found.append(np.column_stack([grid, np.tile(heights, len(along))]))
    return np.concatenate(found)


def walked() -> tuple[Atlas, VoxelMap, Correction]:
    """Return a map of forty fragments, of a metre each, with their joins."""
    config = MapperConfig(voxel_map=VoxelMapConfig(voxel_size=VOXEL, max_voxels=2_000_000))
    layer = VoxelMap(config.voxel_map)
    atlas, rng = Atlas(config, (layer,)), np.random.default_rng(1)
    for index in range(LENGTH):
        if index:
            atlas.begin()
        fragment = atlas.current
        fragment.fragment_from_sequence = drifted_camera(index)
        for step in range(5):
            way = index + 0.2 * step
            fragment.path.append(FragmentPose(int(1e9 * way), 'camera', fragment.id,
                                              drifted_camera(way)))
            # What the camera sees from here; the drift goes on within the fragment.
            near = walls()[np.abs(walls() - true_camera(way)[:3, 3]).max(axis=1) < REACH]
            place = mapped_from_true(way)
            points = near @ place[:3, :3].T + place[:3, 3]
            points += rng.normal(0.0, 0.005, points.shape)
            store = fragment.stores[layer.name]
            layer.merge(store, [store], points.astype(np.float32),
                        np.full(points.shape, 90, np.uint8),
                        np.full(len(points), 0.9, np.float32), points[:, 2])
        fragment.received = 5
        if index:
            atlas.constraints.append(noisy('overlap', index - 1, index, np.eye(4), rng))
    return atlas, layer, Correction(LoopConfig())


def noisy(kind: str, first: int, second: int, between: np.ndarray,
          rng: np.random.Generator) -> Constraint:
    """Return a constraint whose covariance is right at the camera of the second fragment."""
    camera = drifted_camera(second)
    covariance = carry_covariance(camera, NOISE)
    error = camera @ similarities_of(rng.multivariate_normal(np.zeros(7), NOISE)) @ invert(camera)
    return Constraint(kind, first, second, between @ error, covariance)


def true_loop(first: int, second: int, rng: np.random.Generator) -> Constraint:
    """Return a loop between fragments that see one place, `ROUND` metres apart on the way."""
    return noisy('loop', first, second, mapped_from_true(first + 0.4)
                 @ invert(mapped_from_true(second + 0.4)), rng)


def end_error(atlas: Atlas) -> float:
    """Return how far the last camera is from where it is as seen from the first one."""
    first, last = (np.array(atlas.path().map_from_camera[index]) for index in (0, -1))
    true = invert(true_camera(0.0)) @ true_camera(LENGTH - 0.2)
    return float(np.linalg.norm((invert(first) @ last)[:3, 3] - true[:3, 3]))


def doubling(atlas: Atlas, layer: VoxelMap) -> np.ndarray:
    """Return how far the voxels of the second round are from those of the first, in voxels [n]."""
    parts = layer.snapshot(atlas.located_stores(layer.name)).parts
    places = [part.rows.means @ part.map_from_fragment[:3, :3].T + part.map_from_fragment[:3, 3]
              for part in parts]
    # The last fragments of each are left out: they see walls that the other round does not.
    first, second = np.concatenate(places[:12]), np.concatenate(places[ROUND + 2:LENGTH - 2])
    return cKDTree(first).query(second)[0] / VOXEL


def test_loops_round_a_square_make_the_walls_one() -> None:
    atlas, layer, correction = walked()
    before, doubled = end_error(atlas), doubling(atlas, layer)
    assert before == pytest.approx(DRIFT * LENGTH, rel=0.5)
    assert np.quantile(doubled, 0.5) > 8.0
    rng = np.random.default_rng(2)
    loops = [true_loop(index, index + ROUND, rng) for index in (1, 3, 5, 7)]
    # One that is false: two opposite sides of the square look the same.
    false = noisy('loop', 10, 26, drifted_camera(10) @ invert(drifted_camera(26)), rng)
    correction.add([*loops[:2], false, *loops[2:]], atlas)
    correction.finish(atlas)
    assert [one.accepted for one in atlas.constraints if one.kind == 'loop'] == [
        True, True, False, True, True]
    assert end_error(atlas) <= 0.2 * before
    corrected = doubling(atlas, layer)
    assert np.quantile(corrected, 0.95) <= 1.0
