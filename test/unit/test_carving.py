# SPDX-License-Identifier: Apache-2.0
"""Flying pixels and things that move leave the voxel map; all else stays."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from moving_scene import OFF, ON, POLE, VOXEL, Mapped, MovingScene, cells_of
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from synthetic import SyntheticScene, look_at, orbit_trajectory, square_camera

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.mapping.layers.point_filters import flying_pixels, usable_points
from spann3r_ros.mapping.mapper_config import CarvingConfig, VoxelMapConfig
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree

CAMERA = square_camera(128)
ROOM = MovingScene()
FURNISHED = MovingScene(SyntheticScene().boxes)


def box(x: float, y: float = 1.2) -> np.ndarray:
    """Return a box half a metre wide that stands on the floor."""
    return np.array([[x - 0.25, y - 0.25, 0.0], [x + 0.25, y + 0.25, 0.9]])


def watch(time_sec: float) -> np.ndarray:
    """Return the pose of a camera that sways a little before one wall of the room."""
    sway = 0.2 * np.sin(2.0 * round(5.0 * time_sec % 6.0))
    return look_at(np.array([sway, -1.9, 1.3]), np.array([0.3 * sway, 2.0, 1.0]))


def spoilt(keyframe: Keyframe, rng: np.random.Generator, position: float = 0.02,
           angle_deg: float = 1.0, depth: float = 0.0) -> Keyframe:
    """Return a keyframe with noise: standard deviations of pose in metres, and of depth."""
    pose = keyframe.pose.fragment_from_camera.copy()
    turn = np.radians(angle_deg) * rng.standard_normal(3) / np.sqrt(3.0)
    pose[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ pose[:3, :3]
    pose[:3, 3] += position * rng.standard_normal(3) / np.sqrt(3.0)
    noise = rng.standard_normal(keyframe.depth.shape)
    return replace(keyframe, depth=(keyframe.depth * (1.0 + depth * noise)).astype(np.float32),
                   pose=replace(keyframe.pose, fragment_from_camera=pose))


def with_flying_pixels(keyframe: Keyframe, rng: np.random.Generator) -> Keyframe:
    """Return a keyframe in which all pixels at depth edges hang between both surfaces."""
    depth = keyframe.depth.copy()
    beside = np.concatenate([depth[:, :1], depth[:, :-1]], axis=1)
    edge = np.abs(depth - beside) > 0.2
    share = rng.random(depth.shape).astype(np.float32)
    depth[edge] = (depth + share * (beside - depth))[edge]
    return replace(keyframe, depth=depth)


def around(scene: MovingScene, count: int, radius: float = 1.3) -> list[Keyframe]:
    """Return keyframes of a turn that takes 60 of them, five in a second."""
    poses = orbit_trajectory(60, radius)
    return [scene.keyframe(0.2 * index, poses[index % 60], CAMERA) for index in range(count)]


def beside(scene: MovingScene, mapped: Mapped) -> int:
    """Return how many points of a map are more than a voxel off all surfaces."""
    return int((scene.distances(mapped.points()) > VOXEL).sum())


def covered(mapped: Mapped, truth: np.ndarray) -> float:
    """Return the share of points [n, 3] that have a point of the map within a voxel."""
    return float((cKDTree(mapped.points()).query(truth)[0] < VOXEL).mean())


def test_flying_pixels_are_gone_and_true_points_stay() -> None:
    clean, rng = around(FURNISHED, 60), np.random.default_rng(0)
    flown = [with_flying_pixels(one, rng) for one in clean]
    injected = beside(FURNISHED, Mapped(OFF, flown, edge_jump=0.0))
    filtered = Mapped(ON, flown)
    assert injected > 4000
    assert beside(FURNISHED, filtered) <= 0.05 * injected
    truth = cells_of(Mapped(OFF, clean, edge_jump=0.0).points())
    assert len(truth - cells_of(filtered.points())) <= 0.02 * len(truth)


def test_a_point_between_two_surfaces_is_flying_and_one_of_a_slope_or_a_pole_is_not() -> None:
    slope = 1.0 / np.linspace(1.0, 0.05, 24)  # steep: the depth of the last pixels doubles
    rows = np.array([
        np.where(np.arange(24) < 12, 2.0, 4.0),
        np.where(np.arange(24) == 12, 1.0, 4.0),  # a pole one pixel wide
        slope])
    for row in rows:
        assert not len(flying_pixels(np.tile(row, (24, 1)), 0.03))
    for smear in ([3.0], [2.5, 3.2]):
        row = rows[0].copy()
        row[12:12 + len(smear)] = smear
        depth = np.tile(row, (24, 1))
        found = np.zeros(depth.shape, bool)
        found.reshape(-1)[flying_pixels(depth, 0.03)] = True
        assert found[3:-3, 12:12 + len(smear)].all()
        assert found.sum() <= 24 * len(smear)


def test_points_far_beyond_the_median_are_left_out() -> None:
    depth = np.full((10, 10), 2.0, np.float32)
    depth[0] = 11.0
    confidence = np.full((10, 10), 0.9, np.float32)
    confidence[1], depth[2, 0] = 0.05, np.nan
    usable = usable_points(depth, confidence, VoxelMapConfig(max_depth=5.0))
    assert not usable[:2].any() and not usable[2, 0] and usable[3:].all()
    assert usable_points(depth, confidence, VoxelMapConfig())[0].all()


@pytest.mark.parametrize('rate', [2, 5])
def test_a_box_that_crosses_is_gone_three_seconds_after_it_left(rate: int) -> None:
    static = MovingScene([POLE - np.array([1.0, 0.0, 0.0])])
    maps, empty, times = (Mapped(ON), Mapped(OFF)), Mapped(OFF), np.arange(8 * rate + 1) / rate
    for time in times:
        boxes = [box(-2.0 + 0.8 * time)] if time < 5.0 else []
        for one in maps:
            one.add(static.with_boxes(boxes).keyframe(time, watch(time), CAMERA))
        empty.add(static.keyframe(time, watch(time), CAMERA))
    assert beside(static, maps[1]) > 2000
    assert beside(static, maps[0]) <= 0.02 * beside(static, maps[1])
    # The rest of the room is as if there had been no box.
    truth = cells_of(empty.points())
    assert len(truth - cells_of(maps[0].points())) <= 0.005 * len(truth)


def test_a_box_that_parked_for_a_minute_is_gone_five_seconds_after_it_left() -> None:
    mapped = parked(seconds=60.0, step_sec=0.5)
    assert left_by(mapped, cleared(start_sec=60.0, count=10, step_sec=0.5)) <= 0.02


@pytest.mark.parametrize(('position', 'angle_deg'), [(0.0, 0.0), (0.02, 1.0)])
def test_a_thin_pole_survives(position: float, angle_deg: float) -> None:
    rng, scene = np.random.default_rng(0), MovingScene([POLE])
    keyframes = [spoilt(one, rng, position, angle_deg, 0.01) for one in around(scene, 60, 2.0)]
    mapped = Mapped(ON, keyframes)
    height = np.linspace(0.1, 2.1, 200)
    sides = np.concatenate([np.column_stack([np.full(200, x), np.full(200, y), height])
                            for x, y in ((0.025, 0.0), (-0.025, 0.0), (0.0, 0.025),
                                         (0.0, -0.025))])
    assert covered(mapped, sides) >= 0.95
    if angle_deg:
        return
    pole = [one for one in cells_of(Mapped(OFF, keyframes).points())
            if one[0] in (-1, 0) and one[1] in (-1, 0) and 2 <= one[2] < 42]
    left = cells_of(mapped.points())
    assert sum(one in left for one in pole) >= 0.95 * len(pole)


def test_errors_of_poses_cost_hardly_any_static_points() -> None:
    rng, clean = np.random.default_rng(0), around(FURNISHED, 90)
    keyframes = [spoilt(one, rng) for one in clean]
    maps = [Mapped(one, keyframes) for one in (OFF, ON)]
    truth = np.concatenate([one.points.reshape(-1, 3)[::40] for one in clean[:60:3]])
    assert covered(maps[0], truth) - covered(maps[1], truth) <= 0.02
    near = [cells_of(one.points()[FURNISHED.distances(one.points()) < VOXEL]) for one in maps]
    assert len(near[0] - near[1]) <= 0.02 * len(near[0])


@pytest.mark.parametrize('angle_deg', [0.0, 0.3])
def test_a_floor_that_is_far_away_is_not_carved(angle_deg: float) -> None:
    """Neighbouring pixels differ there by more than the margin."""
    hall = MovingScene(width=24.0, depth=3.0, height=2.5)
    rng, keyframes = np.random.default_rng(0), []
    for index in range(40):
        pose = look_at(np.array([-11.0 + 0.1 * index, 0.1 * np.sin(index), 0.5]),
                       np.array([11.0, 0.0, 0.8]))
        keyframes.append(spoilt(hall.keyframe(0.2 * index, pose, CAMERA), rng, 0.0, angle_deg))
    maps = [Mapped(one, keyframes, edge_jump=0.0) for one in (OFF, ON)]
    cells = [cells_of(one.points()[hall.distances(one.points()) < VOXEL]) for one in maps]
    assert len(cells[0] - cells[1]) <= (0.01 if angle_deg else 0.0) * len(cells[0])


def left_by(mapped: Mapped, keyframes: Sequence[Keyframe]) -> float:
    """Return the share of the points beside the surfaces that is left after some keyframes."""
    before = beside(ROOM, mapped)
    assert before > 100
    for one in keyframes:
        mapped.add(one)
    return beside(ROOM, mapped) / before


def parked(carving: CarvingConfig = ON, seconds: float = 0.9, step_sec: float = 0.2) -> Mapped:
    """Return the map of a box that stood in the room for a time."""
    scene = ROOM.with_boxes([box(0.0)])
    return Mapped(carving, [scene.keyframe(time, watch(time), CAMERA)
                            for time in np.arange(0.0, seconds, step_sec)])


def cleared(start_sec: float = 1.0, count: int = 25, step_sec: float = 0.2) -> list[Keyframe]:
    """Return keyframes of the room without the box."""
    times = start_sec + step_sec * np.arange(count)
    return [ROOM.keyframe(time, watch(time), CAMERA) for time in times]


def test_unknown_depth_does_not_vote() -> None:
    assert left_by(parked(), cleared()) <= 0.02
    unsure = [replace(one, confidence=np.full_like(one.confidence, 0.05)) for one in cleared()]
    assert left_by(parked(), unsure) == 1.0
    # Every twelfth pixel is unknown: the windows of most pixels still contain none.
    holes = []
    for one in cleared():
        depth, confidence = one.depth.copy(), one.confidence.copy()
        depth[::12, ::12], confidence[::12, ::12] = np.nan, 0.0
        holes.append(replace(one, depth=depth, confidence=confidence))
    assert left_by(parked(), holes) <= 0.2


def test_nothing_is_removed_before_the_gap_in_the_time_of_the_images() -> None:
    assert left_by(parked(replace(ON, gap_sec=2.0)), cleared(count=25, step_sec=0.03)) == 1.0
    assert left_by(parked(replace(ON, gap_sec=0.0)), cleared(count=25, step_sec=0.03)) <= 0.02
    # Stamps that jump back: what was there before is old.
    assert left_by(parked(), cleared(start_sec=-9.0, count=12)) <= 0.02


def test_votes_for_a_voxel_are_bounded() -> None:
    for hits, share in ((1, 0.02), (3, 0.02), (20, 1.0)):
        mapped = parked(replace(ON, max_hits=hits), seconds=8.0)
        left = left_by(mapped, cleared(start_sec=8.0, count=12))
        assert left <= 0.02 if share < 1.0 else left > 0.5


def test_nothing_is_removed_if_carving_is_off() -> None:
    assert left_by(parked(OFF), cleared()) >= 1.0


@pytest.mark.parametrize('connected', [True, False])
def test_another_fragment_is_carved_where_it_is_placed(connected: bool) -> None:
    mapped, scale = parked(), 1.7
    place = np.eye(4)
    place[:3, :3] = scale * Rotation.from_rotvec([0.3, -0.5, 1.2]).as_matrix()
    place[:3, 3] = 5.0, -3.0, 0.4
    before = len(mapped.store)
    mapped.atlas.current.received = 1
    mapped.atlas.move(0, place)
    second = mapped.atlas.begin()
    second.connected = connected
    # The second fragment has the unit of the map.
    turned = place.copy()
    turned[:3, :3] /= scale
    for one in cleared():
        pose = turned @ one.pose.fragment_from_camera
        pose[:3, 3] = place[:3, :3] @ one.pose.fragment_from_camera[:3, 3] + place[:3, 3]
        mapped.add(replace(one, fragment_id=1, depth=scale * one.depth, pose=replace(
            one.pose, fragment_id=1, fragment_from_camera=pose)))
    means = mapped.store.rows().means
    if connected:
        assert (ROOM.distances(means) > VOXEL).sum() <= 2
        assert len(mapped.store) > 0.9 * before
    else:
        assert len(mapped.store) == before
    assert (mapped.layer.carved > 0) is connected


def test_removed_voxels_make_room_and_a_later_point_makes_them_anew() -> None:
    mapped = parked()
    assert left_by(mapped, cleared()) <= 0.02
    assert mapped.layer.carved > 100
    assert mapped.layer.evicted == 0
    again = ROOM.with_boxes([box(0.0)]).keyframe(20.0, watch(0.0), CAMERA)
    mapped.add(again)
    assert beside(ROOM, mapped) > 100
    rows = mapped.store.rows()
    assert (rows.observations[ROOM.distances(rows.means) > VOXEL] == 1).mean() > 0.95


def test_carving_makes_room_so_that_less_is_evicted() -> None:
    keyframes = [ROOM.with_boxes([box(0.0)]).keyframe(0.0, watch(0.0), CAMERA), *cleared()]
    behind = look_at(np.array([0.0, 1.0, 1.3]), np.array([0.0, -2.0, 1.0]))
    keyframes.append(ROOM.keyframe(7.0, behind, CAMERA))
    most = len(Mapped(OFF, keyframes).store) - 100
    maps = [Mapped(carving, keyframes, max_voxels=most) for carving in (ON, OFF)]
    assert maps[0].layer.carved > 200
    assert maps[0].layer.evicted == 0 < maps[1].layer.evicted
    for mapped in (*maps, Mapped(ON, keyframes, max_voxels=most // 2)):
        rows = mapped.store.rows()
        assert len(rows) <= most
        assert len(rows.balance) == len(rows) == len(np.unique(rows.sorted_keys))
        blocks = mapped.store.points.blocks(np.arange(-(-len(rows) // 1024)))
        kept = blocks.transpose(0, 2, 1).reshape(-1, 3)
        np.testing.assert_array_equal(kept[:len(rows)], rows.means.astype(np.float32))
        assert np.isnan(kept[len(rows):]).all()


def arrays(mapped: Mapped) -> list[bytes]:
    return [value.tobytes() for value in vars(mapped.store.rows()).values()]


def test_a_saved_map_goes_on_bit_by_bit_and_one_of_an_earlier_version_loads() -> None:
    first = parked()
    for one in cleared(count=4):
        first.add(one)
    state = {'layer': first.layer.tree(), 'atlas': first.atlas.tree()}
    node = decode_tree(*encode_tree(state))
    second = Mapped(ON)
    counters = second.layer.read(node.node('layer'))
    second.atlas.restore(node.node('atlas'), {'voxels': counters}, 'camera')
    second.layer.restore(counters)
    assert arrays(first) == arrays(second)
    for one in cleared(start_sec=1.8, count=20):
        first.add(one)
        second.add(one)
    assert first.layer.carved == second.layer.carved > 100
    assert arrays(first) == arrays(second)
    del state['layer']['carving']
    for one in state['atlas']['fragments']:
        del one['stores']['voxels']['balance']
    node, third = decode_tree(*encode_tree(state)), Mapped(ON)
    counters = third.layer.read(node.node('layer'))
    third.atlas.restore(node.node('atlas'), {'voxels': counters}, 'camera')
    third.layer.restore(counters)
    for one in cleared(start_sec=1.8, count=20):
        third.add(one)
    assert beside(ROOM, third) <= 2


@pytest.mark.parametrize(('name', 'value'), [('times', np.array([[2, 5], [1, 6]])),
                                             ('carved', -1)])
def test_wrong_saved_counters_are_refused(name: str, value: object) -> None:
    state = parked().layer.tree()
    state['carving'][name] = value
    with pytest.raises(ValueError, match=f'carving.{name}'):
        Mapped(ON).layer.read(decode_tree(*encode_tree(state)))


def test_a_snapshot_stays_as_it_was_while_voxels_are_carved() -> None:
    mapped = parked()
    rows = mapped.store.rows()
    before = [value.copy() for value in vars(rows).values()]
    for one in cleared():
        mapped.add(one)
        mapped.store.rows()
    assert mapped.layer.carved > 100
    for value, former in zip(vars(rows).values(), before, strict=True):
        np.testing.assert_array_equal(value, former)
