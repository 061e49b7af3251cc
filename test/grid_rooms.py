# SPDX-License-Identifier: Apache-2.0
"""Rooms seen by a camera with true poses, as keyframes, and the occupancy grid of these.

World: z up, floor at z = 0, metres. The fragment is the world moved by `fragment_from_world`.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from synthetic import SyntheticScene, look_at, square_camera

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import move_pose, similarity_scale
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.occupancy.evidence_layer import Occupancy
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.occupancy.occupancy_grid import Grid, GridView
from spann3r_ros.mapping.occupancy.occupancy_store import OccupancyStore

CAMERA = square_camera(96)
IDENTITY = np.eye(4)
UNKNOWN, FREE, OCCUPIED = -1, 0, 100
PILLAR = np.array([[0.7, -0.25, 0.0], [1.2, 0.25, 2.6]])


def room(*boxes: np.ndarray, width: float = 6.0, depth: float = 4.0) -> SyntheticScene:
    """Return an empty room about the origin, 2.6 m high, with boxes [2, 3] in it."""
    scene = SyntheticScene(width, depth)
    scene.boxes = np.array(boxes).reshape(-1, 2, 3)
    return scene


def walk_around(turns: int = 16, places: Sequence[Sequence[float]] = (
        (-2.0, -1.1), (-2.0, 1.1), (0.0, -1.1), (0.0, 1.1), (2.2, -1.1), (2.2, 1.1)),
        height: float = 0.6) -> list[np.ndarray]:
    """Return `world_from_camera` [4, 4] of a camera that turns at some places, slightly down."""
    poses = []
    for x, y in places:
        for angle in 2.0 * np.pi * np.arange(turns) / turns:
            target = x + np.cos(angle), y + np.sin(angle), height - 0.1
            poses.append(look_at(np.array([x, y, height]), np.array(target)))
    return poses


def keyframe(scene: SyntheticScene, pose: np.ndarray, camera: Intrinsics = CAMERA,
             fragment_from_world: np.ndarray = IDENTITY, noise: float = 0.0,
             confidence: float = 0.9, seed: int = 0) -> Keyframe:
    """Return a keyframe with true depth and pose; `noise` is that of the depth, in depth^2 / m."""
    x, y = np.meshgrid((np.arange(camera.width) - camera.cx) / camera.fx,
                       (np.arange(camera.height) - camera.cy) / camera.fy)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    depth, _ = scene.cast(pose[:3, 3], rays @ pose[:3, :3].T)
    rng = np.random.default_rng(seed)
    depth = depth + noise * depth**2 * rng.standard_normal(depth.shape)
    scale = similarity_scale(fragment_from_world)
    shape = camera.height, camera.width
    return Keyframe(
        1 + seed, 'camera', 0, np.zeros((*shape, 3), np.uint8), camera,
        (scale * depth).astype(np.float32).reshape(shape),
        np.full(shape, confidence, np.float32),
        FragmentPose(1 + seed, 'camera', 0, move_pose(fragment_from_world, pose)))


class Rig:
    """An occupancy layer with its fragments, each with its place in the map."""

    def __init__(self, config: GridConfig | None = None) -> None:
        self.config = config or GridConfig()
        self.layer = Occupancy(self.config, min_confidence=0.1)
        self.stores: list[OccupancyStore] = []
        self.places: list[np.ndarray] = []
        self.view = GridView()
        self.begin()

    def begin(self, map_from_fragment: np.ndarray = IDENTITY) -> None:
        self.stores.append(self.layer.new_store())
        self.places.append(map_from_fragment)

    def add(self, keyframes: Iterable[Keyframe], metric: bool = True) -> None:
        for one in keyframes:
            self.layer.integrate(self.stores[-1], self.located(), one, one.points, metric)

    def located(self) -> list[tuple[OccupancyStore, np.ndarray]]:
        return list(zip(self.stores, self.places, strict=True))

    def grid(self) -> Grid:
        return self.view(self.layer.snapshot(self.located()))


def states(grid: Grid, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the values of a grid at points of the map; unknown outside of it."""
    column = np.floor((x - grid.origin[0]) / grid.resolution).astype(int)
    row = np.floor((y - grid.origin[1]) / grid.resolution).astype(int)
    rows, columns = grid.values.shape
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    found = np.full(x.shape, UNKNOWN, int)
    found[inside] = grid.values[row[inside], column[inside]]
    return found


def lattice(low: Sequence[float], high: Sequence[float],
            step: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y [n] of the centres of squares that fill a rectangle."""
    x, y = (np.arange(a + step / 2, b, step) for a, b in zip(low, high, strict=True))
    return tuple(one.ravel() for one in np.meshgrid(x, y))


def share(values: np.ndarray, wanted: int) -> float:
    return float(np.mean(values == wanted))
