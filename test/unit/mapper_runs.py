# SPDX-License-Identifier: Apache-2.0
"""Mappers on the synthetic room, and how far their poses are from the truth."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
from synthetic import (
    SyntheticNetwork,
    SyntheticOptions,
    SyntheticScene,
    every_frame,
    square_camera,
)

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert
from spann3r_ros.core.types import Frame, StampedPose
from spann3r_ros.evaluation.recorded_runs import MappedFrame, in_world
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import FragmentConfig, MapperConfig
from spann3r_ros.mapping.mapping_status import MapUpdate

SCENE = SyntheticScene()
CAMERA = square_camera(96)


def make_mapper(poses: list[np.ndarray], options: SyntheticOptions | None = None,
                config: MapperConfig | None = None) -> Mapper:
    """Return a mapper on the synthetic room for which every frame is a keyframe."""
    options = options or SyntheticOptions()
    config = every_frame(config)
    if not options.index_from_image:
        # The network counts its steps, so that no image may be shown again.
        config = replace(config, fragments=FragmentConfig(max_keyframes=0))
    return Mapper(SyntheticNetwork(SCENE, poses, options, CAMERA), config)


def run(mapper: Mapper, frames: list[Frame]) -> list[MapUpdate]:
    return [*(mapper.process(frame) for frame in frames), mapper.flush()]


def failures(update: MapUpdate) -> list[str]:
    """Return the errors of the frames that turned out to be unusable."""
    return [str(one.error) for one in update.failed]


def located(*updates: MapUpdate) -> list[MappedFrame]:
    """Return the keyframes of updates in the map."""
    return in_world(updates, np.eye(4))


def live_in_map(update: MapUpdate) -> StampedPose:
    """Return the live pose of an update in the map."""
    return update.live_pose.in_map(update.places[update.live_pose.fragment_id])


def pose_errors(found: list[StampedPose], poses: list[np.ndarray],
                frames: list[Frame]) -> tuple[float, float]:
    """Return the largest error in metres and in degrees against the truth in map axes."""
    truth = {frame.stamp_ns: MAP_FROM_OPTICAL @ invert(poses[0]) @ pose
             for frame, pose in zip(frames, poses, strict=True)}
    distances, angles = [], []
    for item in found:
        error = invert(truth[item.stamp_ns]) @ item.world_from_camera
        distances.append(np.linalg.norm(error[:3, 3]))
        cosine = np.clip((np.trace(error[:3, :3]) - 1) / 2, -1, 1)
        angles.append(np.degrees(np.arccos(cosine)))
    return max(distances), max(angles)
