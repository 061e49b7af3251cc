# SPDX-License-Identifier: Apache-2.0
"""Depth and its calibration, back-projected, are the cloud: whatever the shape of the image."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import (
    SyntheticNetwork,
    SyntheticOptions,
    SyntheticScene,
    every_frame,
    orbit_trajectory,
    render_frames,
)

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import transform_points
from spann3r_ros.core.views import preprocess
from spann3r_ros.evaluation.recorded_runs import in_world
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.ros import conversions

SHAPES = {'4:3': (160, 120), '16:9': (192, 108), 'portrait': (108, 192)}


@pytest.mark.parametrize('noise', [0.0, 0.02])
@pytest.mark.parametrize('calibrated', [True, False])
@pytest.mark.parametrize('fit', ['crop', 'letterbox'])
@pytest.mark.parametrize('shape', SHAPES)
def test_back_projected_depth_agrees_with_the_points(
        shape: str, fit: str, calibrated: bool, noise: float) -> None:
    width, height = SHAPES[shape]
    camera = Intrinsics(130.0, 131.0, 0.49 * width, 0.52 * height, width, height)
    scene, poses = SyntheticScene(), orbit_trajectory(60)[:4]
    frames = render_frames(scene, poses, camera)
    intrinsics = preprocess(frames[0], (96, 96), fit == 'letterbox').intrinsics
    if not calibrated:
        frames = [replace(frame, intrinsics=None) for frame in frames]
    seen = preprocess(frames[0], (96, 96), fit == 'letterbox')
    mapper = Mapper(
        SyntheticNetwork(scene, poses, SyntheticOptions(noise=noise), intrinsics),
        every_frame(MapperConfig(field_of_view=fit)))
    updates = [mapper.process(frame) for frame in frames]
    keyframes = [keyframe for update in updates for keyframe in update.keyframes]
    assert len(keyframes) == 3
    for keyframe, mapped in zip(keyframes, in_world(updates, np.eye(4)), strict=True):
        header = conversions.to_header(keyframe.stamp_ns, 'camera')
        info = conversions.to_camera_info(keyframe.intrinsics, header)
        image = conversions.to_float_image(keyframe.depth, header)
        depth = np.frombuffer(image.data, '<f4').reshape(image.height, image.width)
        rows, columns = np.indices(depth.shape)
        in_camera = np.stack([(columns - info.k[2]) / info.k[0] * depth,
                              (rows - info.k[5]) / info.k[4] * depth, depth], axis=-1)
        in_map = transform_points(mapped.world_from_camera, in_camera)
        distance = np.linalg.norm(in_map - mapped.pointmap.points, axis=-1)
        usable = np.ones((96, 96), bool) if seen.usable is None else seen.usable
        assert np.array_equal(np.isfinite(distance), usable)
        assert distance[usable].max() < 1e-3
    assert mapper.status().coverage == pytest.approx(seen.coverage)
