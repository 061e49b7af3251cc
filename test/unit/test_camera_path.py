# SPDX-License-Identifier: Apache-2.0
"""The path through rooms whose pointmaps have a network's errors: smooth, new in every frame."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_network import FakeNetwork
from mapper_runs import every_frame
from scipy.spatial.transform import Rotation

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, transform_points
from spann3r_ros.core.types import FragmentPose, Frame, Pointmap
from spann3r_ros.evaluation.held_out.held_out_rooms import Sequence, to_sequence
from spann3r_ros.evaluation.measures.solved_poses import solve_poses
from spann3r_ros.evaluation.measures.trajectories import path_errors
from spann3r_ros.evaluation.recorded_runs import run_recording, to_frames
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig, PoseConfig, SightConfig
from spann3r_ros.mapping.tracking import measured_pose
from spann3r_ros.mapping.tracking.corner_motion import CornerMotion
from spann3r_ros.mapping.tracking.corner_tracks import Tracks, find_corners, follow, to_gray
from spann3r_ros.mapping.tracking.pose_filter import MIN_GATING_INLIERS
from spann3r_ros.rooms.room_generator import RoomConfig, RoomGenerator

FRAMES = 16


@pytest.fixture(scope='module')
def sequence() -> Sequence:
    rooms = RoomGenerator(RoomConfig(textures=24), seed=5, textures_seed=6)
    return to_sequence(rooms.batch(1, FRAMES, trajectory='turn', turn_deg_per_frame=4.0), 0)


def erring(sequence: Sequence, seed: int = 0) -> list[Pointmap]:
    """Return the true pointmaps, each bent by 6 cm and moved by some 5 cm and a degree."""
    rng = np.random.default_rng(seed)
    made = []
    for points, pose in zip(sequence.points, sequence.poses, strict=True):
        bent = points + 0.06 * np.sin(2.0 * points[..., [1, 2, 0]] + rng.uniform(0, 6, 3))
        turn = Rotation.from_rotvec(np.radians(rng.normal(0.0, 1.0, 3))).as_matrix()
        centre = pose[:3, 3]
        moved = (bent - centre) @ turn.T + centre + rng.normal(0.0, 0.05, 3)
        made.append(Pointmap(moved.astype(np.float32),
                             np.full(points.shape[:2], 0.9, np.float32)))
    return made


class GivenPointmaps(FakeNetwork):
    """Returns given pointmaps."""

    def __init__(self, pointmaps: list[Pointmap]) -> None:
        super().__init__(96)
        self._pointmaps = pointmaps

    def answer(self, index: int) -> Pointmap:
        return self._pointmaps[index]


def mapped(sequence: Sequence, pointmaps: list[Pointmap], **changes: object) -> list:
    """Return the keyframes and the live poses of a mapper whose network gives these pointmaps."""
    config = every_frame(MapperConfig(pose=replace(PoseConfig(), **changes),
                                      sight=SightConfig(check=False)))
    mapper = Mapper(GivenPointmaps(pointmaps), config)
    updates = [mapper.process(Frame(10**9 + index, 'camera', image, sequence.intrinsics))
               for index, image in enumerate(sequence.images)]
    updates.append(mapper.flush())
    return [[keyframe for update in updates for keyframe in update.keyframes],
            [update.live_pose for update in updates if update.live_pose]]


def errors(poses: list[FragmentPose], sequence: Sequence, first: int = 0) -> tuple[float, float]:
    """Return the RMS error of the path and of its steps, metres."""
    found = np.stack([pose.fragment_from_camera for pose in poses])
    result = path_errors(found, sequence.poses[first:first + len(found)])
    return result.trajectory_error, result.translation


def test_tracked_corners_reduce_the_errors_of_the_path(sequence: Sequence) -> None:
    pointmaps = erring(sequence)
    plain, _ = mapped(sequence, pointmaps, track_corners=False)
    carried, live = mapped(sequence, pointmaps)
    assert len(carried) == len(plain) == FRAMES
    path, steps = errors([item.pose for item in carried], sequence)
    plain_path, plain_steps = errors([item.pose for item in plain], sequence)
    assert path < 0.75 * plain_path
    assert steps < 0.6 * plain_steps
    assert len(live) == FRAMES - 1
    assert errors(live, sequence, first=1)[1] < 0.6 * plain_steps


@pytest.mark.parametrize('exact', [False, True])
def test_provisional_pointmap_is_used_where_its_gain_is_large(
        exact: bool, sequence: Sequence, monkeypatch: pytest.MonkeyPatch) -> None:
    solved, provisionals = [], []
    provisional = GivenPointmaps.provisional
    monkeypatch.setattr(GivenPointmaps, 'provisional', lambda self: (
        provisionals.append(self), provisional(self))[1])
    solve = measured_pose.solve_pose
    monkeypatch.setattr(measured_pose, 'solve_pose', lambda pointmap, *rest: (
        solved.append(pointmap), solve(pointmap, *rest))[1])
    truth = [Pointmap(points.astype(np.float32), np.full(points.shape[:2], 0.9, np.float32))
             for points in sequence.points]
    _, live = mapped(sequence, truth if exact else erring(sequence))
    assert len(live) == FRAMES - 1
    # The first image has no provisional pointmap.
    if exact:
        assert (len(solved), len(provisionals)) == (2 * FRAMES - 1, FRAMES - 1)
    else:
        assert FRAMES <= len(solved) < 1.3 * FRAMES
        assert len(provisionals) < 0.3 * FRAMES + 1


def test_points_move_with_their_camera(sequence: Sequence) -> None:
    pointmaps = erring(sequence)
    (plain, _), (carried, _) = (
        mapped(sequence, pointmaps, track_corners=track, gate_probability=1.0)
        for track in (False, True))
    for one, other in zip(plain, carried, strict=True):
        np.testing.assert_allclose(other.depth, one.depth, atol=1e-4)
    assert max(np.abs(one.points_in(np.eye(4)) - other.points_in(np.eye(4))).max()
               for one, other in zip(plain, carried, strict=True)) > 0.03


def test_exact_pointmaps_give_exact_poses(sequence: Sequence) -> None:
    exact = [Pointmap(points.astype(np.float32), np.full(points.shape[:2], 0.9, np.float32))
             for points in sequence.points]
    keyframes, live = mapped(sequence, exact)
    for poses, first in (([item.pose for item in keyframes], 0), (live, 1)):
        for pose, truth in zip(poses, sequence.poses[first:], strict=True):
            error = MAP_FROM_OPTICAL @ truth - pose.fragment_from_camera
            assert np.abs(error[:3, 3]).max() < 0.01 and np.abs(error[:3, :3]).max() < 0.005


def test_without_corners_the_path_has_the_poses_of_the_pointmaps(sequence: Sequence) -> None:
    blank = replace(sequence, images=np.full_like(sequence.images, 90))
    (plain, _), (carried, live) = (mapped(blank, erring(sequence), track_corners=track)
                                   for track in (False, True))
    for one, other in zip(plain, carried, strict=True):
        np.testing.assert_allclose(one.pose.fragment_from_camera, other.pose.fragment_from_camera,
                                   atol=1e-9)
    assert len(live) == FRAMES - 1


def test_pose_of_a_frame_whose_pointmap_gives_none_comes_from_corners(
        sequence: Sequence) -> None:
    pointmaps = erring(sequence)
    shuffled = np.random.default_rng(0).permutation(pointmaps[8].points.reshape(-1, 3))
    pointmaps[8] = replace(pointmaps[8], points=shuffled.reshape(96, 96, 3))
    (plain, _), (carried, _) = (mapped(sequence, pointmaps, track_corners=track)
                                for track in (False, True))
    assert [item.pose is None for item in plain] == [index == 8 for index in range(FRAMES)]
    assert all(item.pose for item in carried)
    before, lost = (np.sqrt(np.trace(carried[index].pose.covariance[:3, :3]))
                    for index in (7, 8))
    assert lost > before
    found = np.stack([item.pose.fragment_from_camera for item in carried[7:9]])
    step = np.linalg.inv(found[0]) @ found[1]
    true_step = np.linalg.inv(sequence.poses[7]) @ sequence.poses[8]
    np.testing.assert_allclose(step, true_step, atol=0.03)


def test_path_of_the_evaluation_is_the_mappers(sequence: Sequence) -> None:
    pointmaps = erring(sequence)
    keyframes, _ = mapped(sequence, pointmaps)
    run = run_recording(GivenPointmaps(pointmaps), to_frames(sequence.images, sequence.intrinsics))
    found, frames = run.poses
    assert frames == list(range(FRAMES))
    assert all(one is other for one, other in zip(run.pointmaps, pointmaps, strict=True))
    for pose, keyframe in zip(found, keyframes, strict=True):
        np.testing.assert_allclose(MAP_FROM_OPTICAL @ pose, keyframe.pose.fragment_from_camera,
                                   atol=1e-5)
    alone, _ = solve_poses(pointmaps, [sequence.intrinsics] * FRAMES)
    assert path_errors(found, sequence.poses).translation < 0.6 * path_errors(
        alone, sequence.poses).translation


def true_depth(sequence: Sequence, index: int) -> np.ndarray:
    return transform_points(invert(sequence.poses[index]), sequence.points[index])[..., 2]


def test_doubtful_depth_gets_the_scale_of_the_corners_that_reached_it(sequence: Sequence) -> None:
    corners, sure = CornerMotion(PoseConfig()), np.full((96, 96), 0.9)
    camera, images = sequence.intrinsics, sequence.images
    corners.follow(images[0], true_depth(sequence, 0), sure)
    assert corners.motion_to(1, images[1], camera).inliers >= MIN_GATING_INLIERS
    scale = corners.carry(1, 1.7 * true_depth(sequence, 1), sure)
    assert scale == pytest.approx(1 / 1.7, rel=0.02)
    motion = corners.motion_to(2, images[2], camera)
    truth = np.linalg.inv(sequence.poses[1]) @ sequence.poses[2]
    np.testing.assert_allclose(motion.first_from_second, truth, atol=0.02)
    # Without any depth the corners themselves go on.
    corners.carry(2, np.full((96, 96), np.nan), sure)
    motion = corners.motion_to(3, images[3], camera)
    truth = np.linalg.inv(sequence.poses[2]) @ sequence.poses[3]
    np.testing.assert_allclose(motion.first_from_second, truth, atol=0.02)
    # A scale that is not credible ends the tracks.
    corners.carry(3, 3.0 * true_depth(sequence, 3), sure)
    assert corners.motion_to(4, images[4], camera) is None
    # Nothing reached an image that `motion_to` has not seen.
    corners.carry(7, true_depth(sequence, 3), sure)
    assert corners.motion_to(8, images[4], camera) is None


def test_no_corner_is_near_the_border_of_a_mask(sequence: Sequence) -> None:
    gray = to_gray(sequence.images[0])
    usable = np.zeros(gray.shape, bool)
    usable[30:70, 30:70] = True
    corners = find_corners(gray, usable).reshape(-1, 2)
    assert len(corners) > 3
    assert corners.min() >= 35 and corners.max() <= 64


def test_tracks_follow_a_shifted_image() -> None:
    rng = np.random.default_rng(0)
    canvas = np.repeat(np.repeat(rng.integers(0, 255, (30, 30), np.uint8), 6, 0), 6, 1)
    first, second = canvas[20:116, 20:116], canvas[18:114, 25:121]
    tracks = follow(first.copy(), second.copy(), find_corners(first.copy()))
    assert isinstance(tracks, Tracks) and len(tracks) > 20
    np.testing.assert_allclose(np.median(tracks.ends - tracks.starts, axis=0), [-5.0, 2.0],
                               atol=0.1)
    assert len(follow(first.copy(), np.zeros_like(first), find_corners(first.copy()))) < 12
