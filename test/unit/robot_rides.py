# SPDX-License-Identifier: Apache-2.0
"""A robot that drives through the synthetic room with a camera on it and odometry that errs."""
from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from synthetic import SyntheticScene, square_camera

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, to_rigid
from spann3r_ros.core.types import FragmentPose

SCENE = SyntheticScene()
CAMERA = square_camera(128)
PERIOD_SEC = 0.1
# Steps of the simulation in one period of the camera.
STEPS = 10
UP = np.array([0.0, 0.0, 1.0])
Speed = Callable[[float], float]


def mounted(x: float = 0.1, y: float = 0.0, z: float = 1.2, left_deg: float = 0.0) -> np.ndarray:
    """Return base_from_camera [4, 4] of a camera that looks ahead, or to the left of it."""
    turned = to_rigid(math.radians(left_deg) * UP, np.zeros(3))
    pose = turned @ MAP_FROM_OPTICAL
    pose[:3, 3] = x, y, z
    return pose


@dataclass(frozen=True)
class Ride:
    """Poses of the base in the room [n, 4, 4], `STEPS` in one period of the camera."""

    base: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """Return the indices of the poses at which an image is taken."""
        return np.arange(STEPS, len(self.base) - STEPS, STEPS)

    @property
    def way(self) -> float:
        """Return the length of the base's path in metres, up to the last image."""
        return float(np.linalg.norm(np.diff(self.base[self.images, :3, 3], axis=0), axis=1).sum())

    def cameras(self, mount: np.ndarray) -> np.ndarray:
        """Return world_from_camera [m, 4, 4] at the images."""
        return self.base[self.images] @ mount

    def odometry(self, mount: np.ndarray, seed: int = 0, noise: float = 0.02,
                 slips: Collection[int] = (), late_sec: float = 0.0) -> np.ndarray:
        """Return odom_from_camera [m, 4, 4] at the images, by wheels.

        Every period's motion has a relative error. In the periods `slips` the wheels turn twice
        as far. The odometry of an image is that of a time later by `late_sec`.
        """
        rng = np.random.default_rng(seed)
        shares = 1.0 + noise * rng.standard_normal((len(self.base) // STEPS + 1, 2))
        shares[list(slips), 0] *= 2.0
        poses = [np.eye(4)]
        for index in range(1, len(self.base)):
            step = invert(self.base[index - 1]) @ self.base[index]
            along, turn = shares[index // STEPS]
            angle = turn * cv2.Rodrigues(step[:3, :3])[0].ravel()
            poses.append(poses[-1] @ to_rigid(angle, along * step[:3, 3]))
        late = round(late_sec / PERIOD_SEC * STEPS)
        return np.array(poses)[self.images + late] @ mount


def ride(seconds: float, speed: Speed, turn: Speed,
         start: tuple[float, float, float] = (-1.0, -1.3, 0.0)) -> Ride:
    """Return a ride with a speed in m/s and a turn in rad/s at each time, from (x, y, angle)."""
    x, y, angle = start
    step = PERIOD_SEC / STEPS
    poses = []
    for index in range(round(seconds / step) + 2 * STEPS):
        time = index * step
        poses.append(to_rigid(angle * UP, np.array([x, y, 0.0])))
        angle += turn(time) * step
        x += speed(time) * step * math.cos(angle)
        y += speed(time) * step * math.sin(angle)
    return Ride(np.array(poses))


@lru_cache(maxsize=1000)
def _seen(camera: bytes, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image uint8 and depth float32 of a world_from_camera [4, 4], given as bytes."""
    pose = np.frombuffer(camera).reshape(4, 4)
    rgb, points = SCENE.render(pose, CAMERA)
    if samples > 1:
        fine = replace(CAMERA, fx=CAMERA.fx * samples, fy=CAMERA.fy * samples,
                       cx=(CAMERA.cx + 0.5) * samples - 0.5, cy=(CAMERA.cy + 0.5) * samples - 0.5,
                       width=CAMERA.width * samples, height=CAMERA.height * samples)
        rgb = cv2.resize(SCENE.render(pose, fine)[0], rgb.shape[1::-1],
                         interpolation=cv2.INTER_AREA)
    return rgb, points[..., 2].astype(np.float32)


def true_keyframes(cameras: np.ndarray, unit: float, samples: int = 1) -> list[Keyframe]:
    """Return keyframes with true depth in units of so many metres, and true poses.

    A pixel is the mean of `samples` times `samples` places in it.
    """
    keyframes = []
    for index, camera in enumerate(cameras):
        rgb, metres = _seen(camera.tobytes(), samples)
        stamp_ns = 1_000_000_000 + round(index * PERIOD_SEC * 1e9)
        in_fragment = invert(cameras[0]) @ camera
        in_fragment[:3, 3] /= unit
        depth = metres / np.float32(unit)
        keyframes.append(Keyframe(
            stamp_ns, 'camera', 0, rgb, CAMERA, depth, np.full(depth.shape, 0.9, np.float32),
            FragmentPose(stamp_ns, 'camera', 0, in_fragment)))
    return keyframes
