# SPDX-License-Identifier: Apache-2.0
"""Estimates from videos: of image pairs by the network alone, and of the mapper as in the node."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spann3r_ros.core.network import Network
from spann3r_ros.core.types import FrameError
from spann3r_ros.core.views import prepare_resize
from spann3r_ros.evaluation.recorded_runs import EVERY_FRAME, MappedFrame, in_world
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.pipeline.runner import run_frames

from .true_views import Video


@dataclass(frozen=True)
class MapperRun:
    """The result of mapping a video of `frames` frames, all of them keyframes.

    `keyframes` are in the map frame, `numbers` are their frames' numbers, `cloud` is the map.
    `failed` frames were refused by the network or the mapper, `recoveries` counts resets of the
    network's memory after a failure. `coverage` is the share of an image that the network sees.
    """

    calibrated: bool
    frames: int
    keyframes: tuple[MappedFrame, ...]
    numbers: tuple[int, ...]
    cloud: VoxelCloud
    failed: int
    recoveries: int
    coverage: float

    @property
    def poses(self) -> tuple[np.ndarray, list[int]]:
        """Return map-from-camera [m, 4, 4] of the frames with a pose, and their numbers."""
        posed = [(number, one.world_from_camera) for number, one in
                 zip(self.numbers, self.keyframes, strict=True)
                 if one.world_from_camera is not None]
        return (np.array([pose for _, pose in posed]).reshape(-1, 4, 4),
                [number for number, _ in posed])

    def depths(self) -> list[np.ndarray | None]:
        """Return each frame's depth [h, w], NaN where unknown; None without a solved pose."""
        depths: list[np.ndarray | None] = [None] * self.frames
        for number, keyframe in zip(self.numbers, self.keyframes, strict=True):
            if keyframe.world_from_camera is not None:
                depths[number] = keyframe.depth
        return depths


def run_mapper(network: Network, video: Video, calibrated: bool,
               observe: Callable[[], object] = lambda: None) -> MapperRun:
    """Map a video as the node in replay mode does, but with every frame as a keyframe.

    `observe` is called after each frame.
    """
    config = MapperConfig(keyframes=EVERY_FRAME)
    prepare_resize(config.resampling == 'exact')
    mapper = Mapper(network, config)
    result = run_frames(mapper, video.frames(calibrated), observe)
    keyframes = tuple(in_world(result.updates, np.eye(4)))
    number_of = {stamp: number for number, stamp in enumerate(video.stamps_ns)}
    status = mapper.status()
    return MapperRun(calibrated, len(video), keyframes,
                     tuple(number_of[one.stamp_ns] for one in keyframes),
                     mapper.cloud(), len(result.failures), status.memory.recoveries,
                     status.coverage)


def pair_depths(network: Network, images: np.ndarray, gap: int,
                observe: Callable[[], object] = lambda: None) -> list[np.ndarray | None]:
    """Return the depth [h, w] of each image i that the network estimates from i and i + gap.

    `images` is uint8 [n, h, w, 3]; the result has n - gap entries, None where the network failed.
    The points of a pair are in the first camera's frame, so that no pose is needed. `observe` is
    called after each pair. ValueError for a gap that is not within the images.
    """
    if not 0 < gap < len(images):
        raise ValueError(f'pair-gap: expected 1 to {len(images) - 1}, got {gap}')
    depths: list[np.ndarray | None] = []
    for first, second in zip(images[:-gap], images[gap:], strict=True):
        try:
            depths.append(network.pair(first, second)[0].pointmap.points[..., 2])
        except FrameError:
            depths.append(None)
        observe()
    return depths
