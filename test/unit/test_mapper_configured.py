# SPDX-License-Identifier: Apache-2.0
"""Settings that a running mapper is given reach all of its parts, from the next frame on."""
from __future__ import annotations

from dataclasses import replace

import pytest
from mapper_runs import CAMERA, SCENE, every_frame, make_mapper, run
from synthetic import orbit_trajectory, render_frames

from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig, PoseConfig, VoxelMapConfig

FRAMES = 12
POSES = orbit_trajectory(60)[:FRAMES]
HALF = FRAMES // 2


def mapped(changed: MapperConfig, begun: MapperConfig | None = None,
           given: bool = False) -> Mapper:
    """Return a mapper whose settings changed after half of the frames."""
    mapper = make_mapper(POSES, config=begun)
    frames = render_frames(SCENE, POSES, CAMERA)
    if given:
        frames = [replace(frame, world_from_camera=pose)
                  for frame, pose in zip(frames, POSES, strict=True)]
    for frame in frames[:HALF]:
        mapper.process(frame)
    mapper.configure(changed)
    run(mapper, frames[HALF:])
    return mapper


def test_gate_path_and_kept_keyframes_follow() -> None:
    config = every_frame(MapperConfig(path_max_size=3))
    stride = mapped(replace(config, keyframes=replace(config.keyframes, stride=3)))
    assert stride.status().skipped == 4  # of the last six
    assert len(stride.trajectory) == 3
    bounded = mapped(replace(config, keyframes=replace(config.keyframes, max_full_bytes=0,
                                                       max_bytes=0)))
    assert bounded.status().kept.compacted > 0 and bounded.status().kept.evicted > 0


@pytest.mark.parametrize('given', [False, True])
@pytest.mark.parametrize('track_corners', [True, False])
def test_thresholds_of_poses_follow(given: bool, track_corners: bool) -> None:
    begun = every_frame(MapperConfig(pose=PoseConfig(track_corners=track_corners)))
    changed = replace(begun, pose=replace(begun.pose, min_confidence=1.0))
    assert mapped(begun, begun, given).status().poses_failed == 0
    assert mapped(changed, begun, given).status().poses_failed > 0


def test_the_filter_follows() -> None:
    plain = mapped(every_frame()).trajectory
    stiff = mapped(every_frame(MapperConfig(pose=PoseConfig(pointmap_weight=1e-6)))).trajectory
    same = [bool((one.world_from_camera == other.world_from_camera).all())
            for one, other in zip(plain, stiff, strict=True)]
    # The keyframe of the last frame before the change is finished after it.
    assert all(same[:HALF - 1]) and not any(same[HALF:])


def test_map_and_its_reset_follow() -> None:
    config = every_frame(MapperConfig(
        voxel_map=VoxelMapConfig(min_confidence=1.0, min_observations=7)))
    mapper = mapped(config)
    early = make_mapper(POSES)
    for frame in render_frames(SCENE, POSES, CAMERA)[:HALF]:
        early.process(frame)
    assert mapper.status().voxels == early.status().voxels > 0
    assert len(mapper.cloud()) == 0
    mapper.reset()
    for frame in render_frames(SCENE, POSES, CAMERA)[:HALF]:
        mapper.process(frame)
    assert mapper.status().voxels == 0
