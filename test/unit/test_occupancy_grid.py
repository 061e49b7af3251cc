# SPDX-License-Identifier: Apache-2.0
"""The occupancy grid of rooms with known walls, from rays with true poses."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grid_rooms import (
    CAMERA,
    FREE,
    IDENTITY,
    OCCUPIED,
    PILLAR,
    UNKNOWN,
    Rig,
    keyframe,
    lattice,
    room,
    share,
    states,
    walk_around,
)
from scipy.spatial.transform import Rotation
from synthetic import SyntheticScene, look_at

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert_similarity, similarity_scale, transform_points
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.datasets.layouts import detect_layout, read_videos
from spann3r_ros.evaluation.rgbd.true_views import load_views, open_video
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.occupancy.occupancy_grid import Grid, NoFloorError

# The walls lie inside of cells, not on the border between two of them.
SHIFT = np.eye(4)
SHIFT[:2, 3] = 0.013, 0.027
HALF = np.array([3.0, 2.0])
NOISE = 0.03 / 4.0**2  # 3 cm at 4 m
WALK = walk_around()


def keyframes(scene: SyntheticScene, poses: Sequence[np.ndarray],
              fragment_from_world: np.ndarray = SHIFT, noise: float = 0.0) -> list[Keyframe]:
    return [keyframe(scene, pose, fragment_from_world=fragment_from_world, noise=noise, seed=n)
            for n, pose in enumerate(poses)]


def wall_cells(grid: Grid, map_from_world: np.ndarray = SHIFT) -> np.ndarray:
    """Return which stretches of one centimetre of the walls lie in an occupied cell."""
    x = np.arange(-2.99, 3.0, 0.01)
    y = np.arange(-1.99, 2.0, 0.01)
    points = np.concatenate([
        *(np.stack([side * np.full_like(y, 3.0), y], axis=1) for side in (-1, 1)),
        *(np.stack([x, side * np.full_like(x, 2.0)], axis=1) for side in (-1, 1))])
    points = np.pad(points, ((0, 0), (0, 1)))
    moved = transform_points(map_from_world, points)
    return states(grid, moved[:, 0], moved[:, 1]) == OCCUPIED


def interior(grid: Grid, map_from_world: np.ndarray = SHIFT, border: float = 0.05) -> np.ndarray:
    """Return the values in the room beside the pillar, without cells that the walls lie in."""
    x, y = lattice(-HALF + border, HALF - border)
    beside = ((x < PILLAR[0, 0] - border) | (x > PILLAR[1, 0] + border)
              | (np.abs(y) > PILLAR[1, 1] + border))
    moved = transform_points(map_from_world, np.stack([x, y, 0.0 * x], axis=1)[beside])
    return states(grid, moved[:, 0], moved[:, 1])


def outside(grid: Grid, map_from_world: np.ndarray = SHIFT, border: float = 0.05) -> np.ndarray:
    x, y = lattice((-6.0, -5.0), (6.0, 5.0))
    out = (np.abs(x) > HALF[0] + border) | (np.abs(y) > HALF[1] + border)
    moved = transform_points(map_from_world, np.stack([x, y, 0.0 * x], axis=1)[out])
    return states(grid, moved[:, 0], moved[:, 1])


def check_room(grid: Grid, map_from_world: np.ndarray = SHIFT, border: float = 0.05) -> None:
    assert wall_cells(grid, map_from_world).mean() >= 0.98
    assert share(interior(grid, map_from_world, border), FREE) >= 0.97
    assert not (outside(grid, map_from_world, border) == FREE).any()


def turned(angle_deg: float, shift: Sequence[float], scale: float = 1.0) -> np.ndarray:
    """Return a similarity that turns about an axis near z."""
    place = np.eye(4)
    place[:3, :3] = scale * Rotation.from_euler('zyx', [angle_deg, 0.4, -0.3],
                                                degrees=True).as_matrix()
    place[:3, 3] = shift
    return place


@pytest.mark.parametrize('noise', [0.0, NOISE])
def test_room_with_a_pillar(noise: float) -> None:
    rig = Rig()
    rig.add(keyframes(room(PILLAR), WALK, noise=noise))
    check_room(rig.grid())


def test_shadow_of_the_pillar_is_unknown() -> None:
    rig, eye = Rig(), np.array([-0.5, 0.0, 0.6])
    poses = [look_at(eye + [0.0, dy, 0.0], np.array([3.0, dy, 0.5])) for dy in (-0.01, 0.0, 0.01)]
    rig.add(keyframes(room(PILLAR), poses))
    x, y = lattice((PILLAR[1, 0] + 0.1, -1.0), (2.9, 1.0))
    # Behind the pillar no ray of any of the eyes passes.
    slope = (0.25 - 0.06) / (PILLAR[0, 0] - eye[0])
    hidden = np.abs(y) < slope * (x - eye[0]) - 0.05
    seen = np.abs(y) > 0.30 / (PILLAR[0, 0] - eye[0]) * (x - eye[0]) + 0.08
    grid = rig.grid()
    values = states(grid, x + 0.013, y + 0.027)
    assert hidden.sum() > 300
    assert share(values[hidden], UNKNOWN) >= 0.95
    assert share(values[seen & (np.abs(y) < 0.4 * (x - eye[0]))], FREE) > 0.9


@pytest.mark.parametrize('noise', [0.0, NOISE])
@pytest.mark.parametrize('floor', ['auto', 'fixed'])
def test_tilted_floor_is_no_obstacle(floor: str, noise: float) -> None:
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler('xy', [1.4, -1.43], degrees=True).as_matrix()
    rig = Rig(GridConfig(floor=floor))
    rig.add(keyframes(room(PILLAR), WALK, SHIFT @ tilt, noise))
    # Walls 2.6 m high that lean by 2 degrees cover 6 cm of floor below a height of 1.8 m.
    values = interior(rig.grid(), SHIFT @ tilt, border=0.15)
    assert share(values, OCCUPIED) <= 0.01
    assert share(values, FREE) >= 0.97


def test_height_of_the_floor_is_estimated() -> None:
    down = SHIFT.copy()
    down[2, 3] = -1.24
    rig = Rig()
    rig.add(keyframes(room(PILLAR), WALK[:40], down))
    grid = rig.grid()
    assert grid.origin[2] == pytest.approx(-1.24, abs=0.03)
    assert share(interior(grid, down), OCCUPIED) < 0.01


def test_without_a_floor_there_is_no_grid() -> None:
    rig = Rig()
    up = [look_at(np.array([0.0, 0.0, 1.2]), np.array([np.cos(a), np.sin(a), 2.4]))
          for a in np.linspace(0.0, 6.0, 12)]
    rig.add(keyframes(room(), up))
    with pytest.raises(NoFloorError, match='no floor'):
        rig.grid()


def test_overhang_is_no_obstacle_and_a_table_top_is() -> None:
    beam = np.array([[-1.5, -1.0, 2.0], [-0.9, 1.0, 2.1]])
    table = np.array([[0.6, -0.6, 0.70], [1.8, 0.6, 0.74]])
    # Two heights: a camera that is level with the band above the table sees under it and over it.
    rig = Rig()
    for height in (0.5, 1.1):
        rig.add(keyframes(room(beam, table), walk_around(height=height)))
    grid = rig.grid()
    x, y = lattice(beam[0, :2], beam[1, :2])
    assert share(states(grid, x + 0.013, y + 0.027), FREE) > 0.97
    x, y = lattice(table[0, :2] + 0.05, table[1, :2] - 0.05)
    assert share(states(grid, x + 0.013, y + 0.027), OCCUPIED) > 0.97


def test_rays_above_an_obstacle_do_not_free_it() -> None:
    box = np.array([[0.5, -0.5, 0.0], [1.5, 0.5, 0.6]])
    rig = Rig()
    rig.add(keyframes(room(box), walk_around()))
    x, y = lattice(box[0, :2], box[1, :2])
    edge = states(rig.grid(), x + 0.013, y + 0.027) == OCCUPIED
    assert edge.any()
    above = [look_at(np.array([-2.5, dy, 1.9]), np.array([3.0, dy, 2.1]))
             for dy in np.linspace(-0.5, 0.5, 12)]
    rig.add(keyframes(room(box), above))
    after = states(rig.grid(), x + 0.013, y + 0.027)
    assert (after[edge] == OCCUPIED).all()
    assert not (after == FREE).any()


def test_unknown_depth_carves_nothing() -> None:
    rig, scene = Rig(), room()
    poses = [look_at(np.array([-2.0, dy, 0.6]), np.array([3.0, dy, 0.5])) for dy in (0.0, 0.02)]
    for one in keyframes(scene, poses):
        depth, confidence = one.depth.copy(), one.confidence.copy()
        depth[:, 50:] = np.nan
        confidence[:, 40:50] = 0.05  # below the least of the map
        rig.add([replace(one, depth=depth, confidence=confidence)])
    x, y = lattice((-1.5, -2.0), (2.9, 2.0))
    values = states(rig.grid(), x, y)
    border = (47.5 - 40.0) / CAMERA.fx * (x + 2.0)  # column 40
    assert share(values[y < border - 0.1], UNKNOWN) == 1.0
    assert share(values[(y > border + 0.1) & (y < 0.5 * (x + 2.0))], FREE) > 0.9


def crossing(time_sec: float) -> list[np.ndarray]:
    """Return the box of a person who walks through the room for 10 s at 0.4 m/s."""
    y = -2.4 + 0.4 * time_sec
    return [np.array([[0.9, y - 0.25, 0.0], [1.3, y + 0.25, 1.7]])] if time_sec <= 10.0 else []


def test_cells_are_free_two_seconds_after_a_person_left() -> None:
    rig, rate_hz = Rig(), 5.0
    x, y = lattice((0.8, -1.4), (1.4, 1.4))
    for n in range(int(12.0 * rate_hz)):
        time_sec = n / rate_hz
        pose = look_at(np.array([-2.4 + 0.02 * time_sec, 0.1 * np.sin(time_sec), 0.8]),
                       np.array([3.0, 0.0, 0.6]))
        rig.add(keyframes(room(*crossing(time_sec)), [pose]))
        if time_sec == 5.0:
            there = states(rig.grid(), x, y)
    assert (there == OCCUPIED).sum() >= 8  # the side that faces the camera
    assert share(states(rig.grid(), x, y), FREE) > 0.99


def test_growth_does_not_shift_the_content() -> None:
    rig = Rig()
    rig.add(keyframes(room(PILLAR), WALK[:32]))
    before = rig.grid()
    far = SHIFT.copy()
    far[:2, 3] = -17.3, -11.1
    rig.add(keyframes(room(), walk_around(8), far))
    after = rig.grid()
    assert after.values.size > 2 * before.values.size
    for origin in (before.origin, after.origin):
        cells = np.array(origin[:2]) / before.resolution
        np.testing.assert_array_equal(cells, np.rint(cells))
        assert np.abs(np.fmod(origin[:2], before.resolution)).max() == 0.0
    column, row = (round((b - a) / before.resolution)
                   for a, b in zip(after.origin[:2], before.origin[:2], strict=True))
    rows, columns = before.values.shape
    same = after.values[row:row + rows, column:column + columns]
    # The floor is estimated again, so that a few cells at the edge of the band may change.
    assert np.mean(same == before.values) > 0.995


def test_moved_fragment_is_right_again() -> None:
    first, second = turned(33.0, [2.0, -1.0, 0.1]), turned(-71.0, [-0.7, 3.1, -0.05])
    rig = Rig()
    rig.places = [SHIFT @ invert_similarity(first)]
    scene = room(PILLAR)
    rig.add(keyframes(scene, WALK[:48], first))
    wrong = turned(5.0, [0.4, 0.3, 0.0])
    rig.begin(wrong @ SHIFT @ invert_similarity(second))
    rig.add(keyframes(scene, WALK[48:], second))
    assert wall_cells(rig.grid()).mean() < 0.9
    rig.places[1] = SHIFT @ invert_similarity(second)
    check_room(rig.grid(), border=0.1)


@pytest.mark.parametrize('unit', [0.37, 1.0, 3.1])
def test_scale_that_becomes_known_later_is_right_again(unit: float) -> None:
    fragment_from_world = turned(20.0, [1.0, 2.0, 0.3], 1.0 / unit)
    rig, scene = Rig(), room(PILLAR)
    rig.add(keyframes(scene, WALK[:72], fragment_from_world), metric=False)
    rig.places[0] = SHIFT @ invert_similarity(fragment_from_world)
    assert similarity_scale(rig.places[0]) == pytest.approx(unit)
    # The next fragment begins in the metric map.
    rig.begin(IDENTITY)
    rig.add(keyframes(scene, WALK[72:]))
    assert rig.stores[1].cell_size == rig.config.cell_size
    check_room(rig.grid(), border=0.1)


def test_newer_fragment_frees_what_has_gone() -> None:
    chair = np.array([[-0.6, 0.5, 0.0], [-0.1, 1.0, 0.9]])
    rig = Rig()
    rig.add(keyframes(room(PILLAR, chair), WALK))
    x, y = lattice(chair[0, :2] - 0.1, chair[1, :2] + 0.1)
    assert (states(rig.grid(), x, y) == OCCUPIED).sum() > 30
    rig.begin()
    # Few rays: what the old fragment has there must not count beside them.
    rig.add(keyframes(room(PILLAR), WALK[::6]))
    values = states(rig.grid(), x, y)
    assert share(values, OCCUPIED) == 0.0 and share(values, FREE) > 0.9


def test_confidence_weighs_hits_and_misses() -> None:
    """A doubtful wall needs more keyframes, and doubtful rays do not remove a certain wall."""
    near, far = room(), room(width=6.0)
    wall = np.array([[1.0, -2.0, 0.0], [1.1, 2.0, 2.6]])
    near.boxes = wall[None]
    pose = look_at(np.array([-1.0, 0.0, 0.6]), np.array([3.0, 0.0, 0.4]))
    y = np.arange(-0.5, 0.5, 0.01)
    x = np.full_like(y, 1.0)

    def run(first: float, second: float, times: tuple[int, int]) -> float:
        rig = Rig(GridConfig(floor='fixed'))
        for scene, confidence, count in ((near, first, times[0]), (far, second, times[1])):
            for n in range(count):
                rig.add([keyframe(scene, pose, fragment_from_world=SHIFT, confidence=confidence,
                                  seed=n)])
        return share(states(rig.grid(), x + 0.013, y), OCCUPIED)

    assert run(0.9, 0.0, (2, 0)) > 0.95
    assert run(0.3, 0.9, (2, 0)) == 0.0
    assert run(0.9, 0.15, (4, 4)) > 0.95
    assert run(0.9, 0.9, (4, 8)) == 0.0


def test_thin_pole_is_an_obstacle() -> None:
    pole = np.array([[0.02, 0.51, 0.0], [0.07, 0.56, 2.6]])
    rig = Rig()
    rig.add(keyframes(room(pole), WALK))
    x, y = lattice(pole[0, :2], pole[1, :2], 0.01)
    assert share(states(rig.grid(), x + 0.013, y + 0.027), OCCUPIED) > 0.9
    check_room(rig.grid())


def test_recorded_walk_leads_through_no_obstacle() -> None:
    """True depth and poses of a real office: where the camera was carried there is no obstacle."""
    folder = os.environ.get('SPANN3R_OFFICE')
    if not folder:
        pytest.skip('SPANN3R_OFFICE: no folder of a recorded walk with depth and poses given')
    sequence = next(read_videos(Path(folder), detect_layout(Path(folder))))
    fourth = sequence.select(list(range(0, len(sequence.views), 4)))
    views = load_views(open_video(fourth, None, 10.0), (96, 144), True)
    # The world of the recording has y up.
    level = np.eye(4)
    level[:3, :3] = [[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
    rig = Rig()
    for n, (depth, pose) in enumerate(zip(views.depth, views.poses, strict=True)):
        known = depth > 0.0
        rig.add([Keyframe(n + 1, 'camera', 0, np.zeros((96, 144, 3), np.uint8), views.intrinsics,
                          np.where(known, depth, np.nan).astype(np.float32),
                          np.where(known, 0.9, 0.0).astype(np.float32),
                          FragmentPose(n + 1, 'camera', 0, level @ pose))])
    grid = rig.grid()
    walked = np.array([(level @ pose)[:2, 3] for pose in views.poses])
    values = states(grid, walked[:, 0], walked[:, 1])
    assert share(values, OCCUPIED) == 0.0 and share(values, FREE) > 0.7
    assert (grid.values == OCCUPIED).sum() > 2000


def test_heights_apply_when_the_grid_is_made() -> None:
    """Evidence is kept at all heights: another band needs no other keyframes."""
    box = np.array([[0.5, -0.5, 0.0], [1.5, 0.5, 0.35]])
    rig = Rig()
    rig.add(keyframes(room(box), walk_around(height=1.0)))
    x, y = lattice(box[0, :2] + 0.05, box[1, :2] - 0.05)
    assert share(states(rig.grid(), x + 0.013, y + 0.027), OCCUPIED) > 0.9
    rig.layer.configure(GridConfig(min_height=0.5), 0.1)
    assert share(states(rig.grid(), x + 0.013, y + 0.027), FREE) > 0.9
