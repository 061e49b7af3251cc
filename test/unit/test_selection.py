# SPDX-License-Identifier: Apache-2.0
"""Keyframes by parallax and overlap, and the poses of the frames between them."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from boards import BoardRoom
from fake_network import FakeNetwork
from mapper_runs import live_in_map, pose_errors, run
from selected import select, with_noise
from synthetic import look_at, square_camera

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.core.types import Frame, Pointmap
from spann3r_ros.core.views import preprocess
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    KeyframeConfig,
    MapperConfig,
    PoseConfig,
    SightConfig,
)
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.selection.view_change import View
from spann3r_ros.mapping.storage.map_directory import encode_map, map_hashes, read_map
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree

ROOM = BoardRoom()
CAMERA = Intrinsics(120.0, 120.0, 79.5, 59.5, 160, 120)
SQUARE = square_camera(112)
FOV_DEG = 2.0 * np.degrees(np.arctan(0.5 * CAMERA.width / CAMERA.fx))
SECOND_NS = 10**9
WIDE_APART = KeyframeConfig(min_parallax=0.04, min_overlap=0.6)


def walk(count: int, length: float = 1.0) -> list[np.ndarray]:
    """Return poses along a walk through the room, with turns; `length` is a share of it."""
    poses = []
    for share in np.linspace(0.0, length, count):
        angle = 0.9 * np.pi * share
        place = np.array([1.2 * np.cos(angle) - 0.2, np.sin(angle) - 0.6,
                          1.2 + 0.1 * np.sin(5.0 * angle)])
        yaw = angle + 2.2 + 0.5 * np.sin(3.0 * angle)
        poses.append(look_at(place, place + [np.cos(yaw), np.sin(yaw), -0.1]))
    return poses


def turn(count: int) -> list[np.ndarray]:
    """Return poses of a full turn on the spot."""
    place = np.array([0.3, 0.2, 1.3])
    return [look_at(place, place + [np.cos(angle), np.sin(angle), 0.0])
            for angle in np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)]


def draw(poses: list[np.ndarray], camera: Intrinsics = CAMERA) -> list[np.ndarray]:
    return [ROOM.draw(pose, camera) for pose in poses]


class BoardNetwork(FakeNetwork):
    """Answers with the true points of the frames that it is given; it counts them."""

    def __init__(self, poses: list[np.ndarray], images: list[np.ndarray],
                 camera: Intrinsics = SQUARE) -> None:
        super().__init__((camera.height, camera.width))
        self._poses, self._camera, self._depths = poses, camera, {}
        self._numbers = {image.tobytes(): index for index, image in enumerate(images)}
        self.used: list[int] = []
        self._begun = 0

    def begin(self) -> None:
        self._begun = len(self.used)

    def check(self, image: np.ndarray, index: int) -> None:
        self.used.append(self._numbers[image.tobytes()])

    def answer(self, index: int) -> Pointmap:
        first, number = self.used[self._begun], self.used[self._begun + index]
        if number not in self._depths:
            self._depths[number] = ROOM.draw_with_depth(self._poses[number], self._camera)[1]
        depth, camera = self._depths[number], self._camera
        columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        points = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy,
                           np.ones_like(depth)], axis=-1) * depth[..., None]
        points = transform_points(invert(self._poses[first]) @ self._poses[number], points)
        return Pointmap(points.astype(np.float32), np.full(depth.shape, 0.9, np.float32))


def make(poses: list[np.ndarray], images: list[np.ndarray], camera: Intrinsics | None = SQUARE,
         rate: float = 10.0, **config: object) -> tuple[Mapper, list[Frame], BoardNetwork]:
    network = BoardNetwork(poses, images, camera or SQUARE)
    frames = [Frame(SECOND_NS + round(index * SECOND_NS / rate), 'camera', image, camera)
              for index, image in enumerate(images)]
    return Mapper(network, MapperConfig(resampling='exact', **config)), frames, network


@pytest.fixture(scope='module')
def short_walk() -> tuple[list[np.ndarray], list[np.ndarray]]:
    poses = walk(40, 0.25)
    return poses, draw(poses, SQUARE)


def test_a_camera_that_stands_still_for_a_minute_gives_two_keyframes_at_most() -> None:
    rng, image = np.random.default_rng(0), draw(walk(1), SQUARE)[0]
    images = [with_noise(image, rng) for _ in range(600)]
    mapper, frames, network = make([walk(1)[0]] * 600, images)
    posed_at, voxels_at = None, None
    for frame in frames:
        update = mapper.process(frame)
        if update.live_pose is not None:
            assert np.linalg.eigvalsh(update.live_pose.covariance).min() > 0.0
            posed_at = posed_at or frame.stamp_ns
        assert (update.live_pose is None) == (posed_at is None)
        if mapper.status().voxels:
            voxels_at = voxels_at or frame.stamp_ns
    assert len(network.used) == 2
    assert max(posed_at, voxels_at) - frames[0].stamp_ns <= 2 * SECOND_NS
    status = mapper.status()
    assert (status.keyframes, status.skipped, status.live_poses_failed) == (1, 598, 0)


@pytest.mark.parametrize('count', [2, 3])
def test_a_recording_that_ends_before_the_view_changes_has_a_map(count: int) -> None:
    """The network needs two images: at the end it gets one that was skipped."""
    rng, image = np.random.default_rng(0), draw(walk(1), SQUARE)[0]
    images = [with_noise(image, rng) for _ in range(count)]
    mapper, frames, network = make([walk(1)[0]] * count, images)
    for frame in frames:
        mapper.process(frame)
    with mapper.ended() as update:
        assert [one.stamp_ns for one in update.keyframes] == [
            frames[0].stamp_ns, frames[-1].stamp_ns]
    assert (mapper.status().keyframes, mapper.status().skipped) == (0, count - 1)
    assert len(mapper.flush().keyframes) == 2 and mapper.status().voxels > 1000
    assert network.used[:2] == [0, count - 1]


def test_number_depends_little_on_speed_and_rate() -> None:
    """Every n-th image is a walk n times as fast, or a camera that takes fewer images."""
    dense_walk = draw(walk(241, 0.7))
    counts = {(speed, rate): len(select(dense_walk[::speed * 30 // rate], CAMERA, rate))
              for speed in (1, 2, 4) for rate in (10, 30)}
    assert counts[1, 30] >= 12
    assert max(counts.values()) <= 1.15 * min(counts.values()), counts


def test_the_same_keyframes_at_any_resolution() -> None:
    camera = Intrinsics(480.0, 480.0, 319.5, 239.5, 640, 480)
    images = draw(walk(30, 0.5), camera)
    chosen = []
    for width in (1280, 640, 320):
        scale = width / 640
        resized = [cv2.resize(image, (width, width * 3 // 4), interpolation=(
            cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)) for image in images]
        scaled = Intrinsics(480.0 * scale, 480.0 * scale, 319.5 * scale, 239.5 * scale, width,
                            width * 3 // 4)
        chosen.append(select(resized, scaled, size=(168, 224)))
    assert len(chosen[1]) >= 8
    for other in (chosen[0], chosen[2]):
        same = sum(min(abs(index - one) for one in other) <= 1 for index in chosen[1])
        assert same >= 0.9 * len(chosen[1]) and abs(len(other) - len(chosen[1])) <= 1, chosen


@pytest.mark.parametrize('calibrated', [True, False])
def test_a_turn_on_the_spot_gives_keyframes_by_overlap_only(calibrated: bool) -> None:
    images, camera = draw(turn(120)), CAMERA if calibrated else None
    expected = 360.0 / (0.4 * FOV_DEG)
    by_overlap = replace(WIDE_APART, min_parallax=1.0)
    chosen = select(images, camera, config=WIDE_APART)
    assert abs(len(chosen) - expected) <= 2.0
    assert len(select(images, camera, config=by_overlap)) == len(chosen)


@pytest.mark.parametrize('check', [True, False])
@pytest.mark.parametrize('level', [0, 90])
def test_images_that_show_nothing_are_no_keyframes(
        check: bool, level: int, short_walk: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    """Also if nothing else looks for them; tracking goes on behind them."""
    poses, images = short_walk
    rng = np.random.default_rng(1)
    empty = [with_noise(np.full_like(images[0], level), rng) for _ in range(10)]
    images = [*images[:20], *empty, *images[20:]]
    poses = [*poses[:20], *[poses[0]] * 10, *poses[20:]]
    mapper, frames, network = make(poses, images, sight=SightConfig(check=check))
    updates = run(mapper, frames)
    assert not set(network.used) & set(range(20, 30))
    assert all(update.live_pose is None for update in updates[20:30] if check)
    live = [live_in_map(update) for update in updates[30:-1] if update.live_pose is not None]
    assert len(live) == 20 and pose_errors(live, poses, frames)[0] < 0.02


def test_losing_all_corners_in_an_image_that_shows_something_is_a_keyframe() -> None:
    here, there = draw([walk(1)[0], turn(2)[1]])
    assert select([here, here, here, there, there, there], CAMERA) == [0, 3]


def test_noise_in_a_picture_of_little_contrast_is_no_loss_of_corners() -> None:
    rows, columns = np.mgrid[:120, :160]
    soft = 110 + 0.2 * columns + 0.1 * rows
    image = np.repeat(soft[..., None], 3, axis=2)
    rng = np.random.default_rng(2)
    assert select([with_noise(image, rng) for _ in range(30)], CAMERA) == [0]


def test_any_motion_makes_a_keyframe_after_the_longest_interval() -> None:
    place = walk(1)[0][:3, 3]
    poses = [look_at(place, place + [np.cos(angle), np.sin(angle), 0.0])
             for angle in np.radians([0.0] * 70 + [1.5] * 70)]
    assert select(draw(poses), CAMERA) == [0, 70]


def test_intervals_between_keyframes_are_kept() -> None:
    images = draw(walk(30, 0.4))
    assert min(np.diff(select(images, CAMERA, config=KeyframeConfig(
        min_parallax=0.005)))) < 5
    slow = select(images, CAMERA, config=KeyframeConfig(min_parallax=0.005, min_interval_sec=0.5))
    assert len(slow) > 2 and min(np.diff(slow)) >= 5


@pytest.mark.parametrize('calibrated', [True, False])
def test_every_frame_has_a_pose_with_a_covariance(
        calibrated: bool, short_walk: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    poses, images = short_walk
    mapper, frames, network = make(poses, images, SQUARE if calibrated else None)
    updates = run(mapper, frames)
    posed = [update for update in updates if update.live_pose is not None]
    assert 3 <= len(network.used) <= len(frames) // 2
    # The first keyframe is complete when the network gets a second one, after 0.3 s at the latest.
    assert len(posed) >= len(frames) - 3
    assert sum(update.skipped for update in updates) == len(frames) - len(network.used)
    assert all(np.linalg.eigvalsh(update.live_pose.covariance).min() > 0.0 for update in posed)
    distance, angle = pose_errors([live_in_map(update) for update in posed], poses, frames)
    limits = (0.02, 1.0) if calibrated else (0.1, 3.0)
    assert distance < limits[0] and angle < limits[1]


def test_frames_between_keyframes_of_a_turn_are_tracked_from_one_to_the_next() -> None:
    """Corners that move by 40 % of the width at once would not be found."""
    poses = turn(120)[:40]
    camera = square_camera(224)
    images = draw(poses, camera)
    mapper, frames, network = make(poses, images, camera, keyframes=WIDE_APART)
    updates = run(mapper, frames)
    assert len(network.used) <= 6
    live = [live_in_map(update) for update in updates if update.live_pose is not None]
    assert len(live) >= 36 and mapper.status().live_poses_failed == 0
    for pose in live:
        distance, angle = pose_errors([pose], poses, frames)
        deviations = [np.sqrt(np.trace(pose.covariance[part, part]))
                      for part in (slice(3), slice(3, 6))]
        assert distance < 1e-3 + 3.0 * deviations[0]
        assert np.radians(angle) < 1e-3 + 3.0 * deviations[1]
    assert np.median([pose_errors([pose], poses, frames)[0] for pose in live]) < 0.03


def test_without_tracked_corners_every_frame_is_a_keyframe(
        short_walk: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    poses, images = (part[:12] for part in short_walk)
    mapper, frames, network = make(poses, images, pose=PoseConfig(track_corners=False))
    updates = run(mapper, frames)
    begun = next(index for index, update in enumerate(updates) if update.live_pose is not None)
    assert begun <= 3 and not any(update.skipped for update in updates[begun:])


def test_frames_skipped_by_a_stride_have_a_pose_too(
        short_walk: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    poses, images = (part[:16] for part in short_walk)
    mapper, frames, network = make(poses, images,
                                   keyframes=KeyframeConfig(selection='stride', stride=4))
    updates = run(mapper, frames)
    assert network.used == [0, 4, 8, 12]
    assert [update.live_pose is not None for update in updates[:-1]] == [False] * 4 + [True] * 12


def test_given_poses_are_those_of_frames_between_keyframes(
        short_walk: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    poses, images = short_walk
    mapper, frames, network = make(poses, images)
    frames = [replace(frame, world_from_camera=pose)
              for frame, pose in zip(frames, poses, strict=True)]
    updates = [mapper.process(frame) for frame in frames]
    assert len(network.used) < len(frames) / 2
    for update, pose in zip(updates[4:], poses[4:], strict=True):
        np.testing.assert_allclose(live_in_map(update).world_from_camera, pose, atol=1e-9)


def test_a_second_run_selects_the_same(
        short_walk: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    def once() -> tuple[list[int], dict[str, str], list[MapUpdate]]:
        mapper, frames, network = make(*short_walk)
        updates = run(mapper, frames)
        return network.used, map_hashes(mapper), [
            None if one.live_pose is None else one.live_pose.fragment_from_camera.tobytes()
            for one in updates]
    assert once() == once()


@pytest.mark.parametrize('after', [9, 17, 26])
def test_a_loaded_map_selects_as_if_it_had_not_been_saved(
        after: int, tmp_path: Path, short_walk: tuple[list[np.ndarray], list[np.ndarray]]
        ) -> None:
    plain, frames, network = make(*short_walk)
    poses = [plain.process(frame).live_pose for frame in frames]
    saved, _, used = make(*short_walk)
    for frame in frames[:after]:
        saved.process(frame)
    encode_map(saved).write(tmp_path)
    loaded, _, others = make(*short_walk)
    others.used = list(used.used)
    loaded.load(read_map(tmp_path))
    for frame, pose in zip(frames[after:], poses[after:], strict=True):
        found = loaded.process(frame).live_pose
        np.testing.assert_array_equal(found.fragment_from_camera, pose.fragment_from_camera)
        np.testing.assert_array_equal(found.covariance, pose.covariance)
    assert others.used == network.used


def test_a_saved_view_is_checked() -> None:
    images = draw(walk(6, 0.1))
    views = [preprocess(Frame(0, 'camera', image, CAMERA), (120, 160)) for image in images]
    view = View.of(views[0])
    for other in views[1:5]:
        view.change(other.image, None)
    tree = view.tree()
    found = View.read(decode_tree(*encode_tree(tree))).change(views[5].image, None)
    assert found == view.change(views[5].image, None)
    for name, wrong in (('corners', tree['path']['corners'] + 1000),
                        ('corners', tree['path']['corners'][::-1].copy()),
                        ('pixels', tree['path']['pixels'][1:]),
                        ('passed', np.zeros((1, 3, 3), np.uint8))):
        spoilt = {**tree, 'path': {**tree['path'], name: wrong}}
        with pytest.raises(ValueError, match=name if name != 'pixels' else 'path'):
            View.read(decode_tree(*encode_tree(spoilt)))
