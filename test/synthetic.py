# SPDX-License-Identifier: Apache-2.0
"""A rendered room with known poses, and a network that answers from it.

    scene = SyntheticScene()
    poses = orbit_trajectory(60)                       # list of world_from_camera [4, 4]
    camera = square_camera(96)                         # Intrinsics of the rendered images
    rgb, pointmap = scene.render(poses[0], camera)     # uint8 [h, w, 3], camera frame [h, w, 3]
    network = SyntheticNetwork(scene, poses, SyntheticOptions(noise=0.002))

The n-th `step` stands for pose n. With `SyntheticOptions(index_from_image=True)` the pose is the
one whose index `encode_index` drew into the image, so that dropped frames keep the truth aligned.
World: z up, floor at z = 0, metres. Cameras: optical frame (x right, y down, z forward).
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from drawn_index import decode_index, encode_index

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.network import Estimate, NetworkStatus
from spann3r_ros.core.types import DeviceMemoryError, Frame, FrameError, Pointmap
from spann3r_ros.mapping.mapper_config import MapperConfig

PATCH_PIXELS = 16
MAX_CACHED_RENDERS = 130
FAULTS = ('frame_error', 'crash', 'out_of_memory', 'not_finite', 'no_confidence')


@dataclass(frozen=True)
class SyntheticOptions:
    """What is wrong with the synthetic answers, in metres unless a field says otherwise."""

    noise: float = 0.0  # standard deviation of every point
    noise_before: float = 0.0  # the same, in frames whose index is below `noise_from`
    noise_from: int = 0
    corrupted_fraction: float = 0.0  # share of the columns that is displaced together
    corruption: float = 0.25  # largest displacement of a corrupted point
    corrupted_confidence: float = 0.05
    floater_fraction: float = 0.0  # share of the pixels at depth edges that hang in between
    drift: float = 0.0  # along world x, per step
    unit: float = 1.0  # what the network calls one
    stretch: float = 1.0  # factor on the scale of every further fragment
    delay_sec: float = 0.0  # per step
    fault_at: int | None = None  # index of the afflicted frame
    fault: str = 'frame_error'  # one of FAULTS
    index_from_image: bool = False
    describes: bool = False  # whether estimates have descriptors
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ValueError(f'fault: expected one of {FAULTS}, got {self.fault!r}')


def every_frame(config: MapperConfig | None = None) -> MapperConfig:
    """Return settings with which every frame is a keyframe, or every so many if they say so."""
    config = config or MapperConfig()
    return replace(config, keyframes=replace(config.keyframes, selection='stride'))


def square_camera(size: int = 96, fov_deg: float = 70.0) -> Intrinsics:
    """Return the intrinsics of a square camera with a centred principal point."""
    focal = 0.5 * size / np.tan(np.radians(0.5 * fov_deg))
    centre = 0.5 * (size - 1)
    return Intrinsics(focal, focal, centre, centre, size, size)


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return world_from_camera [4, 4] of an unrolled camera at `position` facing `target`."""
    forward = np.asarray(target, float) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = position
    return pose


def orbit_trajectory(
    n: int, radius: float = 1.3, height: float = 1.2, bob: float = 0.1
) -> list[np.ndarray]:
    """Return n poses of a closed orbit about the room's centre; the first one is level."""
    angles = 2.0 * np.pi * np.arange(n) / n
    return [
        look_at(
            np.array([radius * np.cos(a), radius * np.sin(a), height + bob * np.sin(3.0 * a)]),
            np.array([0.0, 0.0, height]),
        )
        for a in angles
    ]


class SyntheticScene:
    """A box room with boxes in it, every surface textured, ray-cast analytically."""

    def __init__(self, width: float = 5.0, depth: float = 4.4, height: float = 2.6) -> None:
        self.room = np.array([[-width / 2, -depth / 2, 0.0], [width / 2, depth / 2, height]])
        self.boxes = np.array([
            [[-0.3, -0.3, 0.0], [0.4, 0.3, 0.75]],
            [[-2.4, -1.9, 0.0], [-1.7, -0.8, 1.5]],
            [[1.7, 0.9, 0.0], [2.4, 2.1, 0.9]],
            [[-1.2, 1.7, 0.5], [-0.2, 2.2, 1.6]],
            [[0.7, -2.2, 0.0], [1.5, -1.7, 1.9]],
        ])
        self._renders: dict[tuple[bytes, Intrinsics], tuple[np.ndarray, np.ndarray]] = {}

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ray parameters [n] of the first hits and the hit surface's number [n].

        `directions` is [n, 3] and need not be normalised; `origin` lies in free space.
        """
        with np.errstate(divide='ignore', invalid='ignore'):
            planes = (self.room[:, None] - origin) / directions  # [2, n, 3]
        exits = np.fmax(planes[0], planes[1])  # [n, 3]
        axis = exits.argmin(axis=1)
        reach = exits[np.arange(len(exits)), axis]
        positive = directions[np.arange(len(axis)), axis] > 0
        surface = 2 * axis + positive
        for number, box in enumerate(self.boxes):
            with np.errstate(divide='ignore', invalid='ignore'):
                slabs = (box[:, None] - origin) / directions
            enter_axis = np.fmin(slabs[0], slabs[1])  # [n, 3]
            enter = enter_axis.max(axis=1)
            leave = np.fmax(slabs[0], slabs[1]).min(axis=1)
            hit = (enter < leave) & (enter > 0.0) & (enter < reach)
            reach = np.where(hit, enter, reach)
            surface = np.where(hit, 6 + 3 * number + enter_axis.argmax(axis=1), surface)
        return reach, surface

    def distances(self, points: np.ndarray) -> np.ndarray:
        """Return how far points [n, 3] are from the walls or the boxes, whichever is near."""
        def to_box(low: np.ndarray, high: np.ndarray) -> np.ndarray:
            outside = np.maximum(np.maximum(low - points, points - high), 0.0)
            inside = np.minimum(points - low, high - points).min(axis=1)
            return np.where(inside > 0.0, inside, np.linalg.norm(outside, axis=1))
        return np.min([to_box(low, high) for low, high in (self.room, *self.boxes)], axis=0)

    def render(self, pose: np.ndarray, intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
        """Return rgb uint8 [h, w, 3] and the pointmap float64 [h, w, 3] in the camera frame.

        The latest answers are kept and shared, hence read-only.
        """
        key = (pose.tobytes(), intrinsics)
        if key not in self._renders:
            if len(self._renders) >= MAX_CACHED_RENDERS:
                self._renders.pop(next(iter(self._renders)))
            self._renders[key] = self._render(pose, intrinsics)
            for array in self._renders[key]:
                array.setflags(write=False)
        return self._renders[key]

    def _render(self, pose: np.ndarray, intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
        h, w = intrinsics.height, intrinsics.width
        rays = np.ones((h, w, 3))
        rays[..., 0] = ((np.arange(w) - intrinsics.cx) / intrinsics.fx)[None, :]
        rays[..., 1] = ((np.arange(h) - intrinsics.cy) / intrinsics.fy)[:, None]
        directions = rays.reshape(-1, 3) @ pose[:3, :3].T  # [h*w, 3]
        reach, surface = self.cast(pose[:3, 3], directions)
        hits = pose[:3, 3] + directions * reach[:, None]
        return shade(hits, surface).reshape(h, w, 3), rays * reach.reshape(h, w, 1)


def shade(points: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Return colours uint8 [n, 3]: a tint per surface, a checker and a smooth pattern in space."""
    tint = np.stack([np.sin(surface * k + k) for k in (1.3, 2.1, 2.9)], axis=1)  # [n, 3]
    checker = np.where(np.floor(points / 0.25 + 1e-6).sum(axis=1) % 2, 0.25, -0.25)
    waves = np.sin(points @ np.array([[9.0, 4.0, 6.0], [5.0, 8.0, 3.0], [7.0, 6.0, 10.0]]))
    colors = 128 + 127 * (0.4 * tint + checker[:, None] + 0.3 * waves)  # [n, 3]
    return np.clip(colors, 0, 255).astype(np.uint8)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a small gray copy of an image as a descriptor, float32 [n]."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(gray, (10, 10), interpolation=cv2.INTER_AREA).ravel()
    return (small - small.mean()) / max(float(small.std()), 1e-6)


def render_frames(
    scene: SyntheticScene,
    poses: list[np.ndarray],
    intrinsics: Intrinsics,
    calibrated: bool = True,
    indexed: bool = False,
    period_ns: int = 100_000_000,
) -> list[Frame]:
    """Return one frame per pose; stamps start at one second, `indexed` draws the frame index."""
    frames = []
    for index, pose in enumerate(poses):
        rgb, _ = scene.render(pose, intrinsics)
        rgb = encode_index(rgb, index) if indexed else rgb
        stamp_ns = 1_000_000_000 + index * period_ns
        frames.append(Frame(stamp_ns, 'camera', rgb, intrinsics if calibrated else None))
    return frames


@dataclass
class SyntheticNetwork:
    """Answers `Network` calls with rendered truth, spoilt as the options say."""

    scene: SyntheticScene
    poses: list[np.ndarray]
    options: SyntheticOptions = field(default_factory=SyntheticOptions)
    intrinsics: Intrinsics = field(default_factory=square_camera)
    name = 'synthetic'
    identity = 'synthetic'
    measures_pose = False

    def __post_init__(self) -> None:
        self._steps = 0
        self._fragments = 0
        self._indices: list[int] = []
        self._ids: list[int] = []

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return (height, width) of the images `step` takes."""
        return self.intrinsics.height, self.intrinsics.width

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Take the next image; IndexError past the last pose, FrameError or a crash as told."""
        expected = (*self.input_size(1.0), 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise ValueError(f'image: expected uint8 {expected}, got {image.dtype} {image.shape}')
        time.sleep(self.options.delay_sec)
        index = self._index_of(image)
        self._steps += 1
        if index == self.options.fault_at and self.options.fault == 'frame_error':
            raise FrameError(f'frame {index} is faulty')
        if index == self.options.fault_at and self.options.fault == 'crash':
            raise RuntimeError(f'the synthetic network crashed at frame {index}')
        if index == self.options.fault_at and self.options.fault == 'out_of_memory':
            raise DeviceMemoryError(f'no memory left for frame {index}')
        self._indices.append(index)
        self._ids.append(image_id)
        return [] if len(self._ids) == 1 else [self._estimate(-2)]

    def provisional(self) -> Estimate | None:
        """Return the newest image's provisional estimate; None if under two images."""
        return replace(self._estimate(-1), final=False) if len(self._ids) > 1 else None

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Return the estimates of two images that have an index drawn into them."""
        indices = decode_index(first), decode_index(second)
        return (Estimate(0, 0, self._pointmap(indices[0], indices[0])),
                Estimate(1, 0, self._pointmap(indices[1], indices[0])))

    def flush(self) -> list[Estimate]:
        """Return the newest image's estimate; none if under two images."""
        return [self._estimate(-1)] if len(self._ids) > 1 else []

    def reset(self) -> None:
        """Forget every image; the count of steps, which chooses the pose, goes on."""
        self._fragments += bool(self._indices)
        self._indices, self._ids = [], []

    def state(self) -> dict[str, np.ndarray]:
        """Return all that lives between two steps."""
        return {'indices': np.array(self._indices, int), 'ids': np.array(self._ids, int),
                'counts': np.array([self._steps, self._fragments])}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what `state` returned."""
        self._indices, self._ids = arrays['indices'].tolist(), arrays['ids'].tolist()
        self._steps, self._fragments = arrays['counts'].tolist()

    def status(self) -> NetworkStatus:
        """Return counters of a memory that keeps five frames and drops the rest."""
        tokens = int(np.prod(self.input_size(1.0))) // PATCH_PIXELS**2
        frames = min(5, max(0, len(self._indices) - 1))
        return NetworkStatus(frames * tokens, 5 * tokens, values=(('working_frames', frames),))

    def _index_of(self, image: np.ndarray) -> int:
        return decode_index(image) if self.options.index_from_image else self._steps

    def _estimate(self, place: int) -> Estimate:
        index = self._indices[place]
        descriptor = None
        if self.options.describes:
            descriptor = thumbnail(self.scene.render(self.poses[index], self.intrinsics)[0])
        return Estimate(self._ids[place], self._ids[0], self._pointmap(index, self._indices[0]),
                        descriptor=descriptor)

    def _pointmap(self, index: int, origin: int) -> Pointmap:
        points = self.scene.render(self.poses[index], self.intrinsics)[1].copy()
        confidence = np.full(points.shape[:2], 0.9)
        rng = np.random.default_rng([self.options.seed, index])
        self._corrupt(points, confidence)
        self._float(points, rng)
        early = index < self.options.noise_from
        noise = self.options.noise_before if early else self.options.noise
        points += noise * rng.standard_normal(points.shape)
        if index == self.options.fault_at and self.options.fault == 'not_finite':
            points[:] = np.nan
        if index == self.options.fault_at and self.options.fault == 'no_confidence':
            confidence[:] = 0.0
        world_from_camera = self.poses[index].copy()
        world_from_camera[0, 3] += self.options.drift * (index - origin)
        origin_from_camera = np.linalg.inv(self.poses[origin]) @ world_from_camera
        points = points @ origin_from_camera[:3, :3].T + origin_from_camera[:3, 3]
        points *= self.options.stretch ** self._fragments / self.options.unit
        return Pointmap(points.astype(np.float32), confidence.astype(np.float32))

    def _corrupt(self, points: np.ndarray, confidence: np.ndarray) -> None:
        """Shear the left columns sideways and forward together, from nothing at their inner edge.

        A smooth displacement cannot be told from a camera motion by robust statistics alone.
        """
        columns = round(self.options.corrupted_fraction * points.shape[1])
        if columns:
            ramp = np.linspace(1.0, 0.0, columns, endpoint=False)[None, :, None]
            points[:, :columns] += self.options.corruption * ramp * np.array([0.8, 0.5, -0.3])
            confidence[:, :columns] = self.options.corrupted_confidence

    def _float(self, points: np.ndarray, rng: np.random.Generator) -> None:
        """Pull pixels at depth edges a random way towards the neighbour's depth, along the ray."""
        if not self.options.floater_fraction:
            return
        depth = points[..., 2].copy()
        beside = np.roll(depth, 1, axis=1)
        edge = np.abs(depth - beside) > 0.2
        edge &= rng.random(depth.shape) < self.options.floater_fraction
        share = rng.random(depth.shape)
        points[edge] *= (1 + share * (beside / depth - 1))[edge][:, None]
