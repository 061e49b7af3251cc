# SPDX-License-Identifier: Apache-2.0
"""A network's answer to a pair of images whose depths and poses are known.

Images that overlap are answered with the true geometry, spoilt. Of others a network has learned no
geometry: it shows both depths as if the second camera stood near the first one, so that what they
show coincides as well as possible, just as confidently, and consistently in both orders.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from office_walk import OfficeErrors, OfficeNetwork, OfficeWalk, smooth_field
from synthetic import SyntheticNetwork, SyntheticOptions, SyntheticScene, look_at, shade, thumbnail

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.types import Pointmap

CONFIDENCE = 0.9


@dataclass(frozen=True)
class OracleErrors:
    """What is wrong with the answers; shares are of the depth."""

    warp: float = 0.03  # largest smooth error of the depth, one field an image
    shift: float = 0.01  # standard deviation of the second camera's position, along each axis
    turn_deg: float = 0.5  # and of its rotation, about each axis
    unit: float = 0.6  # metres in what the network calls one
    least_overlap: float = 0.2  # share of the pixels that both images must show
    tries: int = 16  # near poses, of which an answer without overlap takes the best one
    seed: int = 0


EXACT = OracleErrors(warp=0.0, shift=0.0, turn_deg=0.0)


@dataclass(frozen=True)
class TrueView:
    """An image with its depth [h, w] in metres, 0 where unknown, and its pose in a world."""

    image: np.ndarray
    depth: np.ndarray
    world_from_camera: np.ndarray
    intrinsics: Intrinsics
    world: int = 0


def overlap(first: TrueView, second: TrueView) -> float:
    """Return the share of the pixels that the other image shows too, the smaller of both."""
    if first.world != second.world:
        return 0.0
    second_from_first = np.linalg.inv(second.world_from_camera) @ first.world_from_camera
    return min(_agreement(first, second, second_from_first),
               _agreement(second, first, np.linalg.inv(second_from_first)))


def answer(first: TrueView, second: TrueView, errors: OracleErrors,
           numbers: Sequence[int]) -> tuple[Estimate, Estimate]:
    """Return a network's answer to two images; equal `numbers` of both give equal answers."""
    swapped = numbers[0] > numbers[1]
    pair = [errors.seed, *sorted(numbers)]
    if overlap(first, second) >= errors.least_overlap:
        relative = np.linalg.inv(first.world_from_camera) @ second.world_from_camera
    else:
        one, other = (second, first) if swapped else (first, second)
        relative = _imagined(one, other, errors, np.random.default_rng(pair))
        relative = np.linalg.inv(relative) if swapped else relative
    rng = np.random.default_rng([*pair, swapped])
    near = float(np.median(second.depth[second.depth > 0.0]))
    relative = relative @ _small(rng, errors.shift * near, np.radians(errors.turn_deg))
    return tuple(
        Estimate(index, 0, _pointmap(view, pose, errors, rng))
        for index, (view, pose) in enumerate(((first, np.eye(4)), (second, relative))))


def _pointmap(view: TrueView, pose: np.ndarray, errors: OracleErrors,
              rng: np.random.Generator) -> Pointmap:
    known = view.depth > 0.0
    depth = np.where(known, view.depth, np.median(view.depth[known]))
    depth = depth * np.exp(errors.warp * smooth_field(rng, depth.shape))
    points = _rays(view.intrinsics) * depth[..., None] @ pose[:3, :3].T + pose[:3, 3]
    return Pointmap((points / errors.unit).astype(np.float32),
                    np.where(known, CONFIDENCE, 0.0).astype(np.float32))


def _imagined(first: TrueView, second: TrueView, errors: OracleErrors,
              rng: np.random.Generator) -> np.ndarray:
    """Return the best of some near poses, first_from_second, by the agreement of the depths."""
    near = float(np.median(first.depth[first.depth > 0.0]))
    poses = [_small(rng, 0.2 * near, np.radians(8.0)) for _ in range(errors.tries)]
    scores = [_agreement(second, first, pose, step=4) for pose in poses]
    return poses[int(np.argmax(scores))]


def _agreement(view: TrueView, other: TrueView, other_from_view: np.ndarray,
               step: int = 3) -> float:
    camera = other.intrinsics
    depth = view.depth[::step, ::step].reshape(-1)
    points = (_rays(view.intrinsics)[::step, ::step].reshape(-1, 3) * depth[:, None]
              ) @ other_from_view[:3, :3].T + other_from_view[:3, 3]
    ahead = (points[:, 2] > 0.05) & (depth > 0.0)
    z = np.where(ahead, points[:, 2], 1.0)
    columns = np.rint(camera.fx * points[:, 0] / z + camera.cx)
    rows = np.rint(camera.fy * points[:, 1] / z + camera.cy)
    inside = (ahead & (columns >= 0) & (columns < camera.width) & (rows >= 0)
              & (rows < camera.height))
    seen = other.depth[rows[inside].astype(int), columns[inside].astype(int)]
    agreeing = (seen > 0.0) & (np.abs(seen - z[inside]) < 0.05 * z[inside])
    return float(agreeing.sum() / max((depth > 0.0).sum(), 1))


def _rays(camera: Intrinsics) -> np.ndarray:
    rays = np.ones((camera.height, camera.width, 3))
    rays[..., 0] = ((np.arange(camera.width) - camera.cx) / camera.fx)[None, :]
    rays[..., 1] = ((np.arange(camera.height) - camera.cy) / camera.fy)[:, None]
    return rays


def _small(rng: np.random.Generator, shift: float, turn: float) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = cv2.Rodrigues(turn * rng.standard_normal(3))[0]
    motion[:3, 3] = shift * rng.standard_normal(3)
    return motion


@dataclass(frozen=True)
class World:
    """A synthetic room: a scene, where its patterns are cut from, and whether it is mirrored."""

    scene: SyntheticScene
    style: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mirrored: bool = False

    def view(self, pose: np.ndarray, camera: Intrinsics, number: int) -> TrueView:
        """Return what a camera at world_from_camera [4, 4] sees; `number` is that of the world."""
        mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        inner = mirror @ pose @ mirror if self.mirrored else pose
        points = self.scene.render(inner, camera)[1]
        hits = points.reshape(-1, 3) @ inner[:3, :3].T + inner[:3, 3]
        directions = points.reshape(-1, 3) @ inner[:3, :3].T
        surface = self.scene.cast(inner[:3, 3], directions)[1]
        rgb = shade(hits + np.array(self.style), surface + round(7 * sum(self.style)))
        rgb, depth = rgb.reshape(points.shape), points[..., 2]
        if self.mirrored:
            rgb, depth = np.ascontiguousarray(rgb[:, ::-1]), depth[:, ::-1]
        return TrueView(rgb, depth, pose, camera, number)


@dataclass
class PairNetwork:
    """Answers pairs of known images; it has no sequence."""

    errors: OracleErrors = field(default_factory=OracleErrors)

    def __post_init__(self) -> None:
        self._views: dict[bytes, tuple[int, TrueView]] = {}

    def learn(self, view: TrueView) -> None:
        """Know an image."""
        self._views.setdefault(view.image.tobytes(), (len(self._views), view))

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the answer; KeyError for an image that is not known."""
        numbers, views = zip(*(self._views[one.tobytes()] for one in (first, second)),
                             strict=True)
        return answer(*views, self.errors, numbers)


class PairingOffice(OfficeNetwork):
    """The office's network, whose pairs the oracle answers; `describe` gives its descriptors."""

    def __init__(self, walk: OfficeWalk, describe: Callable[[np.ndarray], np.ndarray],
                 errors: OfficeErrors | None = None, pairs: OracleErrors | None = None) -> None:
        super().__init__(walk, errors)
        self._describe = describe
        self._described: list[np.ndarray] = []
        self.pairs = pairs or OracleErrors()

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Take the next image."""
        self._described = [*self._described[-1:], self._describe(image)]
        return super().step(image, image_id)

    def _estimate(self, place: int) -> Estimate:
        return replace(super()._estimate(place), descriptor=self._described[place])

    def view(self, index: int) -> TrueView:
        """Return an image of the walk with its truth."""
        return TrueView(self.walk.images[index], self.walk.depths[index], self.walk.poses[index],
                        self.walk.intrinsics)

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the answer to two images of the walk."""
        numbers = [self.walk.recognise(one) for one in (first, second)]
        return answer(*map(self.view, numbers), self.pairs, numbers)


ROOM = 5.0  # length of a twin room along x, in metres
DOOR = 0.5  # half of the width of the door between them


class TwinRooms(SyntheticScene):
    """Two rooms of the same shape, furniture and patterns, one behind the other along x."""

    def __init__(self) -> None:
        super().__init__(2.0 * ROOM)
        things = np.array([[[-0.3, -0.3, 0.0], [0.4, 0.3, 0.75]],
                           [[1.5, 0.9, 0.0], [2.2, 2.1, 0.9]],
                           [[-1.2, 1.7, 0.5], [-0.2, 2.2, 1.6]],
                           [[0.7, -2.2, 0.0], [1.5, -1.7, 1.9]]])
        half = np.array([0.5 * ROOM, 0.0, 0.0])
        wall = np.array([[[-0.05, -2.2, 0.0], [0.05, -DOOR, 2.6]],
                         [[-0.05, DOOR, 0.0], [0.05, 2.2, 2.6]]])
        self._things = len(things)
        self.boxes = np.concatenate([things - half, things + half, wall])

    def _render(self, pose: np.ndarray, intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
        rays = _rays(intrinsics)
        directions = rays.reshape(-1, 3) @ pose[:3, :3].T
        reach, surface = self.cast(pose[:3, 3], directions)
        hits = pose[:3, 3] + directions * reach[:, None]
        # What belongs to the second room looks as its twin in the first one.
        surface = np.where(surface >= 6, 6 + (surface - 6) % (3 * self._things), surface)
        wall = np.abs(np.abs(hits[:, 0]) % ROOM) < 0.06
        surface = np.where(wall | (np.abs(np.abs(hits[:, 0]) - ROOM) < 0.06),
                           (directions[:, 0] > 0).astype(int), surface)
        place = hits.copy()
        place[:, 0] = np.where(wall, 0.0, place[:, 0] % ROOM)
        shape = (intrinsics.height, intrinsics.width)
        return shade(place, surface).reshape(*shape, 3), rays * reach.reshape(*shape, 1)


class ViewsNetwork(SyntheticNetwork):
    """Maps known views with their true depth, and answers pairs of them."""

    def __init__(self, views: Sequence[TrueView], pairs: OracleErrors | None = None,
                 options: SyntheticOptions | None = None) -> None:
        super().__init__(None, [one.world_from_camera for one in views],
                         options or SyntheticOptions(), views[0].intrinsics)
        self.pairs = pairs or OracleErrors()
        self._know(views)

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the answer to two images of the views."""
        numbers = [self._index_of(one) for one in (first, second)]
        return answer(*(self.views[one] for one in numbers), self.pairs, numbers)

    def _know(self, views: Sequence[TrueView]) -> None:
        self.views = list(views)
        self._numbers = {one.image.tobytes(): index for index, one in enumerate(views)}
        self._thumbnails = np.array([thumbnail(one.image) for one in views])

    def _index_of(self, image: np.ndarray) -> int:
        number = self._numbers.get(image.tobytes())
        if number is not None:
            return number
        # The image was a JPEG meanwhile.
        return int((self._thumbnails @ thumbnail(image)).argmax())

    def _estimate(self, place: int) -> Estimate:
        return replace(super()._estimate(place),
                       descriptor=thumbnail(self.views[self._indices[place]].image))

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        view = self.views[index]
        pose = np.linalg.inv(self.poses[origin]) @ view.world_from_camera
        points = _rays(view.intrinsics) * view.depth[..., None] @ pose[:3, :3].T + pose[:3, 3]
        points *= self.options.stretch ** self._fragments / self.options.unit
        return Pointmap(points.astype(np.float32),
                        np.full(view.depth.shape, CONFIDENCE, np.float32))


class RoomsNetwork(ViewsNetwork):
    """Maps a walk through rooms with true depth, and takes rooms that look alike for one.

    `alike_from_world` [4, 4] for each pose moves it into the room that the network takes it for.
    """

    def __init__(self, scene: SyntheticScene, poses: list[np.ndarray],
                 alike_from_world: Sequence[np.ndarray], camera: Intrinsics,
                 options: SyntheticOptions | None = None,
                 pairs: OracleErrors | None = None) -> None:
        SyntheticNetwork.__init__(self, scene, poses, options or SyntheticOptions(), camera)
        self.pairs = pairs or OracleErrors()
        views = []
        for pose, place in zip(poses, alike_from_world, strict=True):
            rgb, points = scene.render(pose, camera)
            views.append(TrueView(rgb, points[..., 2], place @ pose, camera))
        self._know(views)

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        return SyntheticNetwork._pointmap(self, index, origin)


def twin_walk(returns: bool, turns: float = 1.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the poses of a walk through twin rooms, and where a network thinks that they are.

    The camera orbits in the first room, goes through the door and orbits in the second one. If it
    `returns`, it goes back and orbits in the first room again, at other angles, instead.
    """
    def orbit(middle: float, phase: float, first: float) -> list[np.ndarray]:
        angles = first + 2.0 * np.pi * turns * (np.arange(round(40 * turns)) + phase) / (
            40 * turns)
        return [look_at(np.array([middle + 1.2 * np.cos(a), 1.2 * np.sin(a), 1.2]),
                        np.array([middle, 0.0, 1.15])) for a in angles]

    def way(first: float, last: float) -> list[np.ndarray]:
        return [look_at(np.array([x, 0.0, 1.2]), np.array([x + 2.0 * np.sign(last - first), 0.01,
                                                           1.15]))
                for x in np.linspace(first, last, 12)]
    half = 0.5 * ROOM
    poses = [*orbit(-half, 0.0, 0.0), *way(-half + 1.2, half - 1.2)]
    poses += [*way(half - 1.3, -half + 1.3), *orbit(-half, 0.5, 0.0)] if returns else orbit(
        half, 0.5, np.pi)
    alike = []
    for pose in poses:
        place = np.eye(4)
        place[0, 3] = half if pose[0, 3] < 0.0 else -half
        alike.append(place)
    return poses, alike
