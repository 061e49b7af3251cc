# SPDX-License-Identifier: Apache-2.0
"""Saved maps of the synthetic room whose poses and images are known, for the tests of exports.

The camera is neither square nor centred, and the network sees a part of its images.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from synthetic import (
    SyntheticNetwork,
    SyntheticOptions,
    SyntheticScene,
    every_frame,
    orbit_trajectory,
)

from spann3r_ros.core.camera import Distortion, Intrinsics
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import window_of
from spann3r_ros.mapping.exports.map_content import SavedView
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import FragmentConfig, MapperConfig
from spann3r_ros.mapping.storage.map_directory import encode_map

SCENE = SyntheticScene()
POSES = orbit_trajectory(60)[:6]
WHOLE = Intrinsics(260.0, 250.0, 172.3, 96.8, 320, 220)
INPUT_SIZE = 128, 192
PERIOD_NS, FIRST_NS = 100_000_000, 1_000_000_000
LENS = Distortion('plumb_bob', (-0.15, 0.04, 0.002, -0.001, 0.0))


def stamp_of(index: int) -> int:
    return FIRST_NS + index * PERIOD_NS


def index_of(stamp_ns: int) -> int:
    return (stamp_ns - FIRST_NS) // PERIOD_NS


def seen_by_network(whole: Intrinsics = WHOLE) -> Intrinsics:
    """Return the intrinsics of the network's input."""
    plain = replace(whole, distortion=None)
    size = whole.height, whole.width
    return window_of(size, plain, INPUT_SIZE, letterbox=False).follow(plain, INPUT_SIZE)


def image(index: int) -> np.ndarray:
    return SCENE.render(POSES[index], WHOLE)[0]


def distorted_image(index: int) -> np.ndarray:
    """Return what the camera with the lens `LENS` shows: the rays of its pixels, bent."""
    x, y = np.meshgrid(np.arange(WHOLE.width), np.arange(WHOLE.height))
    pixels = np.stack([x, y], axis=-1).reshape(-1, 1, 2).astype(np.float64)
    straight = cv2.undistortPoints(pixels, WHOLE.matrix, np.array(LENS.coefficients),
                                   P=WHOLE.matrix).reshape(WHOLE.height, WHOLE.width, 2)
    return cv2.remap(image(index), *np.moveaxis(straight.astype(np.float32), -1, 0),
                     cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def make_map(folder: Path, posed: bool = True, calibration: Intrinsics | None = WHOLE,
             distorted: bool = False, config: MapperConfig | None = None,
             noise: float = 0.0, ended: bool = True) -> Mapper:
    """Map the images of `POSES` and save the map; return the mapper.

    With given poses (`posed`) the map is the world of the scene. `noise` is the standard
    deviation of the points in metres. If not `ended`, the map is saved while images stream.
    """
    config = replace(every_frame(config), fragments=FragmentConfig(max_keyframes=0))
    mapper = Mapper(SyntheticNetwork(SCENE, POSES, SyntheticOptions(noise=noise),
                                     seen_by_network()), config)
    for index, pose in enumerate(POSES):
        rgb = distorted_image(index) if distorted else image(index)
        mapper.process(Frame(stamp_of(index), 'camera', rgb, calibration,
                             world_from_camera=pose if posed else None))
    if ended:
        mapper.flush()
    encode_map(mapper, None if ended else lambda _: None).write(folder)
    return mapper


def known_points(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points [n, 3] of the world that a view shows, and their pixels [n, 2]."""
    _, points = SCENE.render(POSES[index], WHOLE)
    rows, columns = np.mgrid[5:WHOLE.height:37, 5:WHOLE.width:41].reshape(2, -1)
    pixels = np.stack([columns, rows], axis=1).astype(float)
    return transform_points(POSES[index], points[rows, columns]), pixels


def truth_in(view: SavedView) -> np.ndarray:
    """Return `camera_from_world` [4, 4] of a view."""
    return invert(POSES[index_of(view.stamp_ns)])
