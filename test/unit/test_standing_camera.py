# SPDX-License-Identifier: Apache-2.0
"""A camera that stands still, with the default selection of keyframes, while things move."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from boards import BoardRoom
from fake_network import FakeNetwork
from moving_scene import VOXEL, MovingScene
from selected import select, with_noise
from synthetic import look_at, square_camera

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, transform_points
from spann3r_ros.core.types import Frame, Pointmap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import KeyframeConfig, MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.occupancy.occupancy_grid import GridView
from spann3r_ros.mapping.storage.map_directory import encode_map, read_map
from spann3r_ros.mapping.storage.saved_tree import encode_tree

CAMERA = square_camera(112)
ROOM = MovingScene()
HEIGHT = 1.2
POSE = look_at(np.array([0.0, -1.9, HEIGHT]), np.array([0.0, 2.0, HEIGHT]))
WORLD_FROM_MAP = POSE @ invert(MAP_FROM_OPTICAL)
SECOND_NS = 10**9
Boxes = Callable[[float], Sequence[np.ndarray]]


def box(x: float, y: float = 1.2) -> np.ndarray:
    """Return a box half a metre wide that stands on the floor."""
    return np.array([[x - 0.25, y - 0.25, 0.0], [x + 0.25, y + 0.25, 0.9]])


@dataclass(frozen=True)
class Shot:
    """A moment: its time, its image with noise, and the true points in the camera's frame."""

    time_sec: float
    image: np.ndarray
    points: np.ndarray


class Film:
    """The room before a camera, with boxes that depend on the time."""

    def __init__(self, boxes: Boxes, seconds: float, rate: float = 10.0, noise: float = 3.0,
                 pose: Callable[[float], np.ndarray] = lambda _: POSE) -> None:
        rng, self.shots, self.poses, scenes = np.random.default_rng(0), [], [], {}
        for time_sec in np.arange(round(seconds * rate) + 1) / rate:
            present = boxes(time_sec)
            scene = scenes.setdefault(np.array(present).tobytes(), ROOM.with_boxes(present))
            image, points = scene.render(pose(time_sec), CAMERA)
            image = image + noise * rng.standard_normal(image.shape)
            self.shots.append(Shot(time_sec, np.clip(image, 0, 255).astype(np.uint8), points))
            self.poses.append(pose(time_sec))


class FilmNetwork(FakeNetwork):
    """Answers with the true points of the shots that it is given; `used` are their numbers."""

    def __init__(self, film: Film) -> None:
        super().__init__((CAMERA.height, CAMERA.width))
        self._film = film
        self._numbers = {shot.image.tobytes(): index for index, shot in enumerate(film.shots)}
        self.used: list[int] = []
        self._begun = 0

    def begin(self) -> None:
        self._begun = len(self.used)

    def check(self, image: np.ndarray, index: int) -> None:
        self.used.append(self._numbers[image.tobytes()])

    def answer(self, index: int) -> Pointmap:
        first, number = self.used[self._begun], self.used[self._begun + index]
        points = transform_points(invert(self._film.poses[first]) @ self._film.poses[number],
                                  self._film.shots[number].points)
        return Pointmap(points.astype(np.float32), np.full(points.shape[:2], 0.9, np.float32))


class Run:
    """A mapper with the default selection of keyframes that is shown a film."""

    def __init__(self, film: Film, **config: object) -> None:
        self.network = FilmNetwork(film)
        self.mapper = Mapper(self.network, MapperConfig(
            resampling='exact', voxel_map=VoxelMapConfig(voxel_size=VOXEL),
            grid=GridConfig(force=True, floor='fixed', floor_height=-HEIGHT), **config))
        self._film, self._shown = film, 0

    def until(self, time_sec: float) -> Run:
        """Show the film up to a time."""
        for shot in self._film.shots[self._shown:]:
            if shot.time_sec > time_sec + 1e-6:
                break
            self.mapper.process(Frame(SECOND_NS + round(shot.time_sec * SECOND_NS), 'camera',
                                      shot.image, CAMERA))
            self._shown += 1
        return self

    def continue_after(self, other: Run) -> None:
        """Go on with the film where another run has stopped."""
        self._shown, self.network.used = other._shown, list(other.network.used)

    @property
    def keyframes(self) -> list[float]:
        """Return the times of the keyframes so far."""
        return [self._film.shots[number].time_sec for number in self.network.used]

    def beside(self) -> int:
        """Return how many points of the map are more than a voxel off the empty room."""
        points = self.mapper.cloud().points.astype(float)
        return int((ROOM.distances(transform_points(WORLD_FROM_MAP, points)) > VOXEL).sum())



    def cells(self, x: float, y: float) -> np.ndarray:
        """Return the cells of the grid within 0.2 m of a place in the room."""
        grid = GridView()(self.mapper.grid_snapshot())
        place = invert(WORLD_FROM_MAP) @ [x, y, 0.0, 1.0]
        column, row = np.floor((place[:2] - grid.origin[:2]) / grid.resolution).astype(int)
        return grid.values[row - 4:row + 4, column - 4:column + 4]


def crossing(time_sec: float) -> list[np.ndarray]:
    """Return a box that stands for a moment, crosses the view and is out of it after 4 s."""
    return [box(-0.6 + 0.8 * max(time_sec - 0.3, 0.0))] if time_sec < 4.0 else []


def parked(time_sec: float) -> list[np.ndarray]:
    """Return a box that is there from the second to the fifth second."""
    return [box(0.0)] if 2.0 <= time_sec < 5.0 else []


@pytest.mark.parametrize('rate', [5.0, 10.0, 30.0])
def test_a_box_that_crosses_is_gone_three_seconds_after_it_left(rate: float) -> None:
    run = Run(Film(crossing, 7.0, rate)).until(3.9)
    before = run.beside()
    assert before > 100
    assert run.until(7.0).beside() <= 0.02 * before


def test_a_parked_box_is_in_the_map_and_gone_five_seconds_after_it_left() -> None:
    run = Run(Film(parked, 10.0)).until(4.9)
    before, cells = run.beside(), run.cells(0.0, 0.95)
    assert before > 100 and cells.max() == 100
    run.until(10.0)
    assert run.beside() <= 0.02 * before
    assert (run.cells(0.0, 0.95) == 0).all()
    assert len(run.keyframes) == 2 + 2 * KeyframeConfig().after_change


def test_images_without_noise_repeat_and_clear_the_map_too() -> None:
    run = Run(Film(parked, 10.0, noise=0.0)).until(4.9)
    before = run.beside()
    assert before > 100
    assert run.until(10.0).beside() <= 0.02 * before
    status = run.mapper.status()
    assert status.blind_reason and len(run.keyframes) == 2 + 2 * KeyframeConfig().after_change


def test_a_camera_that_sways_a_little_sees_what_has_changed() -> None:
    def pose(time_sec: float) -> np.ndarray:
        sway = 0.01 * np.sin(3.0 * time_sec)
        return look_at(POSE[:3, 3] + [sway, 0.0, 0.0], np.array([4.0 * sway, 2.0, HEIGHT]))
    run = Run(Film(parked, 10.0, pose=pose)).until(4.9)
    before = run.beside()
    assert before > 100
    assert run.until(10.0).beside() <= 0.02 * before
    assert len(run.keyframes) <= 4 + 2 * KeyframeConfig().after_change


def test_a_change_after_the_camera_stopped_between_two_keyframes_is_seen() -> None:
    def pose(time_sec: float) -> np.ndarray:
        turned = 0.1 * min(time_sec, 1.5) / 1.5
        return look_at(POSE[:3, 3], POSE[:3, 3] + [np.sin(turned), np.cos(turned), 0.0])
    run = Run(Film(parked, 10.0, pose=pose)).until(4.9)
    before = run.beside()
    assert before > 100
    assert run.until(10.0).beside() <= 0.02 * before


def test_nothing_is_removed_if_a_change_makes_no_keyframes() -> None:
    run = Run(Film(crossing, 7.0), keyframes=KeyframeConfig(after_change=0)).until(3.9)
    before = run.beside()
    assert run.until(7.0).beside() == before and len(run.keyframes) == 2


def disturbed(name: str) -> list[np.ndarray]:
    """Return images of a standing camera whose pictures change, but not what they show."""
    image = BoardRoom().draw(POSE, CAMERA).astype(float)
    rng, images = np.random.default_rng(0), []
    rows = np.arange(CAMERA.height)[:, None, None]
    for time_sec in np.arange(120) / 10.0:
        wave = np.sin(0.8 * time_sec)
        changed = {
            'noise': lambda: image,
            'exposure': lambda wave=wave: image * (1.0 + 0.6 * wave),
            'white balance': lambda wave=wave: image * (1.0 + 0.3 * wave * np.array([1, 0, -1])),
            'flicker': lambda at=time_sec: image * (1.0 + 0.1 * np.sin(17.0 * at)),
            'bands': lambda at=time_sec: image * (1.0 + 0.08 * np.sin(0.1 * rows + 7.0 * at)),
            'compression': lambda: image}[name]()
        changed = np.clip(changed + 3.0 * rng.standard_normal(image.shape), 0, 255)
        if name == 'compression':
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95 if time_sec < 5.0 else 10]
            changed = cv2.imdecode(cv2.imencode('.jpg', changed, quality)[1], cv2.IMREAD_COLOR)
        images.append(changed.astype(np.uint8))
    return images


@pytest.mark.parametrize('name', ['noise', 'exposure', 'white balance', 'flicker', 'bands',
                                  'compression'])
def test_what_changes_the_picture_alone_makes_no_keyframe(name: str) -> None:
    assert select(disturbed(name), CAMERA, size=(112, 112)) == [0]


def test_a_small_motion_of_the_camera_is_no_change_of_the_scene() -> None:
    image, rng = BoardRoom().draw(POSE, CAMERA), np.random.default_rng(0)
    shift = np.float32([[1.0, 0.0, 1.7], [0.0, 1.0, -1.0]])
    moved = cv2.warpAffine(image, shift, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    images = [with_noise(one, rng) for one in (image, moved) for _ in range(20)]
    assert select(images, CAMERA, size=(112, 112)) == [0]


def test_a_screen_makes_few_keyframes() -> None:
    """In the long run one keyframe after each longest interval, however often it changes."""
    config, rng = KeyframeConfig(), np.random.default_rng(0)
    image, images = BoardRoom().draw(POSE, CAMERA), []
    for index in range(400):
        if index % 20 == 0:
            shown = cv2.resize(rng.uniform(0, 255, (8, 10, 3)), (40, 30)).astype(np.uint8)
        images.append(image.copy())
        images[-1][40:70, 40:80] = shown
    chosen = select([with_noise(one, rng) for one in images], CAMERA, size=(112, 112))
    assert 1 < len(chosen) <= 1 + 3 * config.after_change + 40.0 / config.max_interval_sec


@pytest.mark.parametrize('after_sec', [2.2, 5.8])
def test_a_loaded_map_is_cleared_as_if_it_had_not_been_saved(
        after_sec: float, tmp_path: Path) -> None:
    film = Film(parked, 8.0, rate=5.0)
    plain = Run(film).until(8.0)
    saved, loaded = Run(film).until(after_sec), Run(film)
    encode_map(saved.mapper).write(tmp_path)
    loaded.mapper.load(read_map(tmp_path))
    loaded.continue_after(saved)
    assert loaded.until(8.0).keyframes == plain.keyframes
    assert loaded.beside() == plain.beside()


@pytest.mark.parametrize('forward', [False, True], ids=['sideways', 'forward'])
@pytest.mark.parametrize('speed', [0.05, 0.2])
def test_a_slow_camera_is_none_that_stands(forward: bool, speed: float) -> None:
    """Near things move before far ones: that is no change of the scene."""
    def pose(time_sec: float) -> np.ndarray:
        shift = np.array([0.0, speed, 0.0] if forward else [speed, 0.0, 0.0]) * (time_sec - 4.0)
        return look_at(POSE[:3, 3] + shift, np.array([0.0, 2.0, HEIGHT]) + shift)
    film = Film(lambda _: [box(0.3, 0.2), box(-0.6, 1.0)], 8.0, pose=pose)
    plain, watching = (Run(film, keyframes=KeyframeConfig(after_change=count)).until(8.0)
                       for count in (0, KeyframeConfig().after_change))
    assert watching.network.used == plain.network.used


def test_what_is_to_be_saved_does_not_change_afterwards() -> None:
    run = Run(Film(crossing, 4.0)).until(2.0)
    tree = run.mapper.tree()
    before = encode_tree(tree)
    run.until(4.0)
    assert encode_tree(tree) == before
