# SPDX-License-Identifier: Apache-2.0
"""A fragment that moves takes its path, cloud and later keyframes with it."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, every_frame, live_in_map, located, make_mapper
from scipy.spatial.transform import Rotation
from synthetic import SyntheticOptions, orbit_trajectory, render_frames

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import (
    MAP_FROM_OPTICAL,
    invert,
    map_axes,
    to_rigid,
    transform_points,
)
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.fragments.keyframe_store import CompactKeyframe
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import KeyframeConfig, MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.occupancy.grid_config import GridConfig

POSES = orbit_trajectory(30)[:18]
FRAMES = render_frames(SCENE, POSES, CAMERA, indexed=True)
INDEXED = SyntheticOptions(index_from_image=True, stretch=1.7)
EXACT = 1e-6


def similarity(seed: int, scale: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    transform = np.eye(4)
    transform[:3, :3] = scale * Rotation.random(random_state=seed).as_matrix()
    transform[:3, 3] = rng.normal(0.0, 3.0, 3)
    return transform


def three_fragments(until: int = 18) -> Mapper:
    mapper = make_mapper(POSES, INDEXED)
    for index, frame in enumerate(FRAMES[:until]):
        if index in (6, 12):
            mapper.new_fragment()
        mapper.process(frame)
    return mapper


def means(mapper: Mapper) -> list[np.ndarray]:
    """Return the means of the voxels of each fragment in the map, before they are joined."""
    return [transform(part.map_from_fragment, part.rows.means)
            for part in mapper.snapshot().parts]


def transform(similarity: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ similarity[:3, :3].T + similarity[:3, 3]


@pytest.mark.parametrize('moved', [0, 1, 2])
@pytest.mark.parametrize('scale', [1.0, 0.4, 2.5])
def test_everything_of_a_fragment_moves_with_it_and_nothing_else(
        moved: int, scale: float) -> None:
    mapper, place = three_fragments(), similarity(moved, scale)
    before, path = means(mapper), mapper.path()
    poses = mapper.trajectory
    update = mapper.move_fragment(moved, place)
    assert update.moved == (moved,) and update.revision == mapper.status().revision == 1
    assert np.array_equal(update.places[moved], place)
    for index, (old, new) in enumerate(zip(before, means(mapper), strict=True)):
        expected = transform(place, old) if index == moved else old
        np.testing.assert_allclose(new, expected, atol=EXACT)
    stamps = [pose.stamp_ns for pose in poses]
    # The frame that waited for its estimate when a fragment began is in the new fragment.
    own = (np.arange(len(stamps)) + 1) // 6 == moved
    found = mapper.path()
    assert found.stamps_ns.tolist() == stamps
    np.testing.assert_allclose(
        found.map_from_camera[own, :3, 3],
        transform(place, path.map_from_camera[own, :3, 3]), atol=EXACT)
    np.testing.assert_allclose(
        found.map_from_camera[own, :3, :3],
        (place[:3, :3] / scale) @ path.map_from_camera[own, :3, :3], atol=EXACT)
    assert np.array_equal(found.map_from_camera[~own], path.map_from_camera[~own])
    # The poses with covariances are the same path.
    for pose, expected in zip(mapper.trajectory, found.map_from_camera, strict=True):
        np.testing.assert_allclose(pose.world_from_camera, expected, atol=EXACT)
    # The variance of positions scales by the square.
    one = np.flatnonzero(own)[2]
    trace = np.trace(mapper.trajectory[one].covariance[:3, :3])
    assert trace == pytest.approx(scale**2 * np.trace(poses[one].covariance[:3, :3]), rel=1e-9)


def test_later_keyframes_of_a_moved_fragment_are_in_its_new_place() -> None:
    plain, moved, place = three_fragments(15), three_fragments(15), similarity(5, 1.8)
    moved.move_fragment(2, place)
    for frame in FRAMES[15:]:
        expected, found = plain.process(frame), moved.process(frame)
        # In the fragment nothing has changed.
        for one, other in zip(found.keyframes, expected.keyframes, strict=True):
            assert np.array_equal(one.pose.fragment_from_camera, other.pose.fragment_from_camera)
            assert np.array_equal(one.depth, other.depth)
        np.testing.assert_allclose(
            transform_points(place, located(expected)[0].pointmap.points),
            located(found)[0].pointmap.points, atol=1e-4)
        np.testing.assert_allclose(
            live_in_map(found).world_from_camera[:3, 3],
            transform(place, live_in_map(expected).world_from_camera[:3, 3]), atol=EXACT)


@pytest.mark.parametrize('scale', [1.0, 0.5, 2.0])
def test_a_fragment_that_begins_after_a_move_is_placed_at_the_moved_path(scale: float) -> None:
    mapper, place = three_fragments(12), similarity(3, scale)
    mapper.move_fragment(0, place)
    mapper.move_fragment(1, place)
    mapper.new_fragment()
    for frame in FRAMES[12:]:
        mapper.process(frame)
    assert mapper.status().fragment_id == 2
    # The new fragment is in the frame of the map, at the place of the moved camera.
    for pose, true in zip(mapper.trajectory, POSES, strict=False):
        expected = place @ MAP_FROM_OPTICAL @ invert(POSES[0]) @ true
        assert np.linalg.norm(pose.world_from_camera[:3, 3] - expected[:3, 3]) < 0.01 * scale
    world_from_map = POSES[0] @ invert(MAP_FROM_OPTICAL) @ np.linalg.inv(place)
    errors = SCENE.distances(transform(world_from_map, mapper.cloud().points))
    assert np.quantile(errors, 0.95) < 0.02


def test_each_fragment_is_connected_with_the_one_before_it() -> None:
    mapper, place = three_fragments(8), similarity(1, 1.6)
    mapper.move_fragment(0, place)
    mapper.new_fragment()
    for frame in FRAMES[8:12]:
        mapper.process(frame)
    atlas = mapper._state.atlas
    assert [(one.kind, one.first, one.second) for one in atlas.constraints] == [
        ('overlap', 0, 1), ('overlap', 1, 2)]
    # Fragment 1 has not moved with fragment 0: the constraint keeps what was measured.
    np.testing.assert_allclose(atlas.constraints[0].first_from_second, np.eye(4))


def test_unknown_fragments_and_other_transforms_are_refused_and_change_nothing() -> None:
    mapper = three_fragments(8)
    cloud = mapper.cloud().points
    mirrored, sheared = np.diag([1.0, 1.0, -1.0, 1.0]), np.eye(4)
    sheared[0, 1] = 0.5
    for fragment, place, reason in (
            (7, np.eye(4), r'fragment: expected one of \[0, 1\], got 7'),
            (0, mirrored, 'map_from_fragment: expected a finite similarity'),
            (0, sheared, 'map_from_fragment'), (0, np.zeros((4, 4)), 'map_from_fragment'),
            (0, np.full((4, 4), np.nan), 'map_from_fragment'), (0, np.eye(3), 'similarity')):
        with pytest.raises(ValueError, match=reason):
            mapper.move_fragment(fragment, place)
    assert mapper.status().revision == 0
    assert np.array_equal(mapper.cloud().points, cloud)


@pytest.mark.parametrize('first_up', [0, 1, 5, 9])
def test_gravity_that_becomes_known_late_levels_the_map(first_up: int) -> None:
    """The map is as if gravity, and nothing else, had been known at the first frame."""
    from dataclasses import replace
    tilt = Rotation.from_euler('xz', [-20.0, 8.0], degrees=True).as_matrix()
    poses = []
    for pose in orbit_trajectory(30)[:12]:
        poses.append(pose.copy())
        poses[-1][:3, :3] = pose[:3, :3] @ tilt
    frames = render_frames(SCENE, poses, CAMERA, indexed=True)
    level_poses = [map_axes(pose[:3, :3].T @ [0.0, 0.0, 1.0]) for pose in poses]
    base_from_level = to_rigid(np.array([0.0, 0.0, 0.9]), np.array([0.3, -0.2, 1.2]))
    mappers = []
    for known_from in (0, first_up):
        mapper = make_mapper(poses, SyntheticOptions(index_from_image=True, stretch=1.4))
        for index, frame in enumerate(frames):
            if index == 7:
                mapper.new_fragment()
            first_pose = level_poses[index] if known_from == 0 else (
                base_from_level @ level_poses[index] if index >= known_from else None)
            mapper.process(replace(frame, first_pose=first_pose))
        mappers.append(mapper)
    level, late = mappers
    for one, other in zip(level.trajectory, late.trajectory, strict=True):
        np.testing.assert_allclose(one.world_from_camera, other.world_from_camera, atol=5e-3)
    assert late.status().revision == (0 if first_up == 0 else 1 + (first_up >= 7))
    floor = np.quantile(late.cloud().points[:, 2], 0.02)
    assert floor == pytest.approx(-poses[0][2, 3], abs=0.03)


def keyframe(index: int, size: int = 8) -> Keyframe:
    rng = np.random.default_rng(index)
    pose = FragmentPose(index, 'camera', 0, np.eye(4), np.eye(6))
    image = np.full((size, size, 3), 20 * index % 255, np.uint8)
    return Keyframe(index, 'camera', 0, image,
                    CAMERA, rng.uniform(1.0, 3.0, (size, size)).astype(np.float32),
                    rng.uniform(0.0, 1.0, (size, size)).astype(np.float32), pose)


def filled(count: int, **bounds: int) -> Atlas:
    config = every_frame(MapperConfig(keyframes=KeyframeConfig(**bounds), path_max_size=100))
    atlas = Atlas(config, (VoxelMap(config.voxel_map),))
    for index in range(count):
        atlas.add(keyframe(index), None)
        report = atlas.kept()
        assert report.bytes <= bounds['max_bytes'] or report.keyframes <= 2
    return atlas


def test_keyframes_stay_within_their_bytes_and_every_eviction_is_counted() -> None:
    full = keyframe(0)
    one = full.image.nbytes + full.depth.nbytes + full.confidence.nbytes
    atlas = filled(1000, max_full_bytes=5 * one, max_bytes=30 * one)
    report, kept = atlas.kept(), atlas.current.keyframes
    assert report.keyframes == len(kept) and report.keyframes + report.evicted == 1000
    full_ones = [isinstance(item, Keyframe) for item in kept.values()]
    assert sum(full_ones) == 5 and full_ones[-1] and not full_ones[0]
    assert report.evicted > report.compacted > 500  # some were removed before they were compact
    # Those kept are spread evenly, and the first and the newest are among them.
    gaps = np.diff(list(kept))
    assert list(kept)[0] == 0 and list(kept)[-1] == 999
    assert gaps.max() <= 2 * np.median(gaps)
    assert len(atlas.path().stamps_ns) == 100


def test_a_compact_keyframe_keeps_image_depth_and_pose() -> None:
    atlas = filled(3, max_full_bytes=0, max_bytes=10**6)
    first = atlas.current.keyframes[0]
    assert isinstance(first, CompactKeyframe)
    original, image = keyframe(0), cv2.imdecode(first.jpeg, cv2.IMREAD_COLOR)[..., ::-1]
    least = VoxelMapConfig().min_confidence
    sure = original.confidence >= least
    np.testing.assert_allclose(first.depth[sure], original.depth[sure], rtol=1e-3)
    assert np.isnan(first.depth[~sure]).all()
    assert np.abs(image.astype(int) - original.image).max() < 4
    assert np.array_equal(first.pose.fragment_from_camera,
                          original.pose.fragment_from_camera)


def test_far_given_poses_are_mapped_without_loss() -> None:
    from dataclasses import replace
    far = np.eye(4)
    far[:3, 3] = 447_123.4, 5_411_876.5, 312.0  # as UTM coordinates
    options = SyntheticOptions(index_from_image=True)
    clouds = []
    for shift in (np.eye(4), far):
        mapper = make_mapper(POSES, options, every_frame(MapperConfig(
            voxel_map=VoxelMapConfig(voxel_size=0.05))))
        for index, frame in enumerate(FRAMES[:10]):
            if index == 6:
                mapper.new_fragment()
            mapper.process(replace(frame, world_from_camera=shift @ POSES[index]))
        assert mapper.status().voxels > 1000
        clouds.append(np.concatenate(means(mapper)) - shift[:3, 3])
        for pose, true in zip(mapper.trajectory, POSES, strict=False):
            np.testing.assert_allclose(pose.world_from_camera, shift @ true, atol=1e-9)
    errors = [np.quantile(SCENE.distances(points), 0.95) for points in clouds]
    assert errors[1] < 1.2 * errors[0] + 1e-4


@pytest.mark.parametrize('moved_at', [3, 8])
@pytest.mark.parametrize('scale', [1.0, 2.0])
def test_later_given_poses_follow_a_moved_fragment(moved_at: int, scale: float) -> None:
    from dataclasses import replace
    place = similarity(4, scale)
    mapper = make_mapper(POSES, SyntheticOptions(index_from_image=True, unit=2.0))
    for index, frame in enumerate(FRAMES):
        if index == moved_at:
            mapper.move_fragment(0, place)
        mapper.process(replace(frame, world_from_camera=POSES[index]))
    mapper.flush()
    assert len(mapper.trajectory) == len(FRAMES)
    for pose, true in zip(mapper.trajectory, POSES, strict=True):
        np.testing.assert_allclose(pose.world_from_camera[:3, 3],
                                   transform(place, true[:3, 3][None])[0], atol=EXACT)
    world = transform(np.linalg.inv(place), mapper.cloud().points)
    assert np.quantile(SCENE.distances(world), 0.95) < 0.03


def test_an_assumed_scale_follows_the_scale_of_the_map() -> None:
    from spann3r_ros.mapping.fragments import overlap, sequence_alignment

    def unfit(*_: object) -> None:
        raise sequence_alignment.AlignmentError('no')
    mapper = make_mapper(POSES, SyntheticOptions(index_from_image=True))
    for frame in FRAMES[:8]:
        mapper.process(frame)
    mapper.move_fragment(0, np.diag([3.0, 3.0, 3.0, 1.0]))
    mapper.new_fragment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, 'align', unfit)
        for frame in FRAMES[8:]:
            mapper.process(frame)
        mapper.flush()
    path = np.array([pose.world_from_camera[:3, 3] for pose in mapper.trajectory])
    stamps = [frame.stamp_ns for frame in FRAMES]
    true = np.array([POSES[stamps.index(pose.stamp_ns)][:3, 3] for pose in mapper.trajectory])
    lengths = [np.linalg.norm(np.diff(one, axis=0), axis=1) for one in (path, true)]
    np.testing.assert_allclose(lengths[0], 3.0 * lengths[1], rtol=0.05)


def test_a_fragment_of_which_nothing_is_left_is_removed() -> None:
    config = every_frame(MapperConfig(
        path_max_size=4, voxel_map=VoxelMapConfig(max_voxels=2000), grid=GridConfig(enabled=False),
        keyframes=KeyframeConfig(max_full_bytes=0, max_bytes=0)))
    mapper = make_mapper(POSES, INDEXED, config)
    for index, frame in enumerate(FRAMES):
        if index and index % 3 == 0:
            mapper.new_fragment()
        mapper.process(frame)
    assert mapper.status().fragment_id == 5
    # The first keyframe is always kept.
    assert list(mapper._state.atlas.fragments) in ([0, 4, 5], [0, 3, 4, 5])
    assert all({one.first, one.second} <= set(mapper._state.atlas.fragments)
               for one in mapper._state.atlas.constraints)


def test_keyframes_of_a_loaded_map_are_evicted_as_before() -> None:
    from spann3r_ros.mapping.fragments.keyframe_store import KeyframeStore
    from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree
    config = KeyframeConfig(max_full_bytes=0, max_bytes=4000)
    kept = []
    for interrupted in (False, True):
        store, owner = KeyframeStore(config, 0.1), {}
        for index in range(60):
            if interrupted and index == 41:
                tree = decode_tree(*encode_tree(store.tree()))
                store = KeyframeStore(config, 0.1)
                store.restore(tree, [owner])
            store.add(keyframe(index), owner)
        kept.append(list(owner))
    assert kept[0] == kept[1]


def test_only_fragments_that_measurements_connect_carve_each_other() -> None:
    config = MapperConfig()
    layer = VoxelMap(config.voxel_map, config.carving)
    atlas = Atlas(config, (layer,))
    first = atlas.current
    for connected in (False, True):
        # Something is kept of each, so that it is not removed.
        atlas.current.received, atlas.current.keyframes = 1, {atlas.current.id: None}
        atlas.begin().connected = connected
    atlas.current.received = 1
    atlas.constraints.append(Constraint('overlap', 1, 2, np.eye(4)))

    def carved() -> list[int]:
        around = atlas._stores_around(atlas.current, layer.name)
        return [number for number, (_, place) in zip(atlas.fragments, around, strict=True)
                if place is not None]
    assert atlas.unconnected() == {1, 2} and carved() == [2]
    ordered = [one for one, _ in atlas.located_stores(layer.name, assumed_first=True)]
    assert ordered[-1] is first.stores[layer.name]
    loop = Constraint('loop', 0, 2, np.eye(4))
    for accepted, expected in ((None, [2]), (False, [2]), (True, [0, 1, 2])):
        atlas.constraints[1:] = [replace(loop, accepted=accepted)]
        assert carved() == expected
