# SPDX-License-Identifier: Apache-2.0
"""Generated buildings: plan, way, true depth, wheel odometry."""
from __future__ import annotations

import numpy as np
import pytest

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.rooms.buildings.building import CLEARANCE, Building, draw_building
from spann3r_ros.rooms.buildings.building_views import (
    BuildingViews,
    base_from_camera,
    camera_poses,
    on_floor,
)
from spann3r_ros.rooms.buildings.floor_plan import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    BuildingConfig,
)
from spann3r_ros.rooms.buildings.robot_walk import RobotWalk, WheelErrors, drive

FRAMES = 600
CAMERA = Intrinsics(40.0, 40.0, 39.5, 29.5, 80, 60)


@pytest.fixture(scope='module')
def building() -> Building:
    return draw_building(5)


@pytest.fixture(scope='module')
def walk(building: Building) -> RobotWalk:
    return drive(building.way, FRAMES, 0.0, np.random.default_rng(1))


def to_surface(points: np.ndarray, building: Building) -> np.ndarray:
    """Return the distances of points [n, 3] to floor, ceiling, walls and furniture."""
    boxes = building.plan.boxes(0.0, 10.0)
    low, high = boxes[:, 0], boxes[:, 1]
    outside = np.maximum(np.maximum(low - points[:, None], points[:, None] - high), 0.0)
    distance = np.linalg.norm(outside, axis=2).min(axis=1)
    return np.min([distance, np.abs(points[:, 2]),
                   np.abs(points[:, 2] - building.plan.size[2])], axis=0)


def test_equal_seeds_give_equal_buildings_and_others_different_ones(building: Building) -> None:
    again, other = draw_building(5), draw_building(6)
    assert (again.place.surfaces.corners == building.place.surfaces.corners).all()
    assert (again.place.surfaces.texture == building.place.surfaces.texture).all()
    assert other.plan.size[0] != building.plan.size[0]


def test_depth_is_that_of_the_plan(building: Building, walk: RobotWalk) -> None:
    poses = camera_poses(walk)[::97]
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)],
                    axis=-1)
    for pose, (image, depth) in zip(poses, BuildingViews(building).render(poses, CAMERA),
                                    strict=True):
        assert image.shape == (60, 80, 3) and image.std() > 15.0
        assert depth.min() > 0.2
        points = (rays * depth[..., None]).reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3]
        # Pictures and skirting boards are up to a centimetre off their wall.
        assert to_surface(points, building).max() < 0.0102


def test_images_repeat_where_the_robot_returns(building: Building, walk: RobotWalk) -> None:
    views = BuildingViews(building)
    first, last = (image.astype(float) for image, _ in views.render(
        camera_poses(walk)[[0, -1]], CAMERA))
    other = next(views.render(camera_poses(walk)[[300]], CAMERA))[0]
    assert np.abs(first - last).mean() < 1.0 < np.abs(first - other).mean()


def test_way_is_smooth_and_clear_and_ends_where_it_began(
        building: Building, walk: RobotWalk) -> None:
    steps = np.diff(walk.poses, axis=0)
    lengths, turns = np.hypot(steps[:, 0], steps[:, 1]), np.degrees(np.abs(steps[:, 2]))
    assert 30.0 < lengths.sum() < 50.0
    assert lengths.max() < 0.12 and turns.max() < 6.0
    assert np.abs(np.diff(lengths)).max() < 0.05
    # It turns on the spot, and drives curves.
    assert ((lengths < 1e-3) & (turns > 1.0)).sum() > 20
    assert ((lengths > 0.02) & (turns > 1.0)).sum() > 60
    # A differential drive moves where it looks.
    ahead = np.arctan2(steps[:, 1], steps[:, 0]) - walk.poses[:-1, 2] - steps[:, 2] / 2
    assert np.abs(np.sin(ahead[lengths > 0.01])).max() < 0.02
    assert np.linalg.norm(walk.poses[-1, :2] - walk.poses[0, :2]) < 1e-3
    assert np.cos(walk.poses[-1, 2] - walk.poses[0, 2]) > 1 - 1e-6
    boxes = building.plan.furniture
    gaps = np.maximum(np.maximum(boxes[:, 0, :2] - walk.poses[:, None, :2],
                                 walk.poses[:, None, :2] - boxes[:, 1, :2]), 0.0)
    assert np.linalg.norm(gaps, axis=2).min() > CLEARANCE - 0.3
    cells = np.floor(walk.poses[:, :2] / 0.05).astype(int)
    assert (building.plan.grid(0.05)[cells[:, 1], cells[:, 0]] == FREE).all()


def test_way_revisits_the_corridor(building: Building, walk: RobotWalk) -> None:
    low, high = building.plan.spaces[0]
    inside = ((walk.poses[:, :2] > low) & (walk.poses[:, :2] < high)).all(axis=1)
    entries = (np.diff(inside.astype(int)) == 1).sum() + inside[0]
    assert entries == 3


def test_odometry_without_errors_is_the_truth(building: Building) -> None:
    exact = WheelErrors(0.0, 0.0, 0.0, slip_m=0.0, slip_rad=0.0)
    walk = drive(building.way, 200, 0.0, np.random.default_rng(1), exact)
    start = np.linalg.inv(on_floor(walk.poses[:1])[0])
    assert np.abs(start @ on_floor(walk.poses) - on_floor(walk.odometry)).max() < 2e-3


def test_odometry_drifts_as_its_errors_say(building: Building, walk: RobotWalk) -> None:
    length = np.linalg.norm(np.diff(walk.odometry[:, :2], axis=0), axis=1).sum()
    true = np.linalg.norm(np.diff(walk.poses[:, :2], axis=0), axis=1).sum()
    assert length / true - 1.0 == pytest.approx(0.01 + 0.15 / true, abs=0.004)
    end = np.linalg.norm(walk.odometry[-1, :2])
    assert 0.1 < end < 3.0


def test_grid_has_rooms_walls_and_doors(building: Building) -> None:
    plan, grid = building.plan, building.plan.grid(0.05)
    assert set(np.unique(grid)) == {UNKNOWN, FREE, OCCUPIED}
    inside = sum(np.prod(np.ptp(space, axis=0)) for space in plan.spaces)
    furniture = np.prod(np.ptp(plan.furniture[:, :, :2], axis=1), axis=1).sum()
    assert (grid == FREE).sum() * 0.05**2 == pytest.approx(inside - furniture, rel=0.02)
    for door in plan.doors.values():
        column, row = np.floor(door.middle / 0.05).astype(int)
        assert grid[row, column] == FREE
    assert not (grid[0] == FREE).any() and not (grid[:, 0] == FREE).any()


def test_long_building_has_a_way_through_all_its_blocks() -> None:
    building = draw_building(1, BuildingConfig(rooms=9))
    length = np.linalg.norm(np.diff(building.way, axis=0), axis=1).sum()
    assert 3 * 40.0 < length < 3 * 65.0
    seen = [((building.way > space[0]) & (building.way < space[1])).all(axis=1).any()
            for space in building.plan.spaces]
    assert seen[0] and sum(seen) == 1 + 3 * 5


def test_unusable_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match='rooms: expected 1 to 1000, got 0'):
        BuildingConfig(rooms=0)
    with pytest.raises(ValueError, match='room_width: expected a rising range'):
        BuildingConfig(room_width=(1.0, 4.0))


def test_camera_looks_ahead_and_a_little_up() -> None:
    mounted = base_from_camera()
    assert mounted[:3, 2] @ (1.0, 0.0, 0.0) > 0.99 and 0.0 < mounted[2, 2] < 0.2
    assert 0.3 <= mounted[2, 3] <= 0.5
