# SPDX-License-Identifier: Apache-2.0
"""A map that is saved, read back and continued."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, pose_errors
from synthetic import (
    SyntheticNetwork,
    SyntheticOptions,
    encode_index,
    orbit_trajectory,
    render_frames,
)

from spann3r_ros.core.types import Frame
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.storage.products import save_products
from spann3r_ros.mapping.storage.saved_map import encode_saved_map, read_saved_map

POSES = orbit_trajectory(60)[:14]
BREAK = 8
LIMIT_M = 0.01


def frames(posed: bool = False) -> list[Frame]:
    rendered = render_frames(SCENE, POSES, CAMERA)
    return [replace(frame, rgb=encode_index(frame.rgb, index),
                    world_from_camera=POSES[index] if posed else None)
            for index, frame in enumerate(rendered)]


def make(config: MapperConfig | None = None, stretch: float = 1.0) -> Mapper:
    options = SyntheticOptions(index_from_image=True, stretch=stretch)
    return Mapper(SyntheticNetwork(SCENE, POSES, options, CAMERA), config)


def saved(tmp_path: Path, posed: bool = False) -> tuple[Mapper, Path]:
    mapper, path = make(), tmp_path / 'map.npz'
    for frame in frames(posed)[:BREAK]:
        mapper.process(frame)
    mapper.flush()
    path.write_bytes(encode_saved_map(mapper.saved()))
    return mapper, path


def test_a_saved_map_is_continued(tmp_path: Path) -> None:
    before, path = saved(tmp_path)
    # Fragments after the first have a scale of their own, and so has the one that goes on.
    after = make(stretch=1.7)
    for frame in frames()[:2]:
        after.process(frame)
    after.load(read_saved_map(path))
    assert after.status().voxels == before.status().voxels
    assert after.voxel_map.voxel_size == before.voxel_map.voxel_size
    for one, other in zip(vars(after.voxel_map.arrays()).values(),
                          vars(before.voxel_map.arrays()).values(), strict=True):
        assert np.array_equal(one, other)
    assert [pose.stamp_ns for pose in after.trajectory] == [
        pose.stamp_ns for pose in before.trajectory]
    for frame in frames()[BREAK:]:
        after.process(frame)
    after.flush()
    assert len(after.trajectory) == len(POSES)
    assert after.status().fragment_id == before.status().fragment_id + 1
    assert after.status().keyframes == len(POSES)
    distance, _ = pose_errors(after.trajectory, POSES, frames())
    assert distance <= LIMIT_M
    assert len(after.voxel_map) > len(before.voxel_map)


def test_a_map_of_known_poses_is_continued_in_metres(tmp_path: Path) -> None:
    before, path = saved(tmp_path, posed=True)
    assert before.status().scale.metric
    after = make()
    after.load(read_saved_map(path))
    assert after.status().scale == before.status().scale
    for frame in frames(posed=True)[BREAK:]:
        after.process(frame)
    after.flush()
    assert after.status().scale.metric and after.status().keyframes > BREAK


def test_without_a_placed_keyframe_there_is_nothing_to_save() -> None:
    mapper = make()
    assert mapper.saved() is None
    mapper.process(frames()[0])
    assert mapper.saved() is None


@pytest.mark.parametrize('config, reason', [
    (VoxelMapConfig(voxel_size=0.5), 'voxel_size: expected 0.5 as configured'),
    (VoxelMapConfig(max_voxels=100), r'expected 100 at most \(max_voxels\)')])
def test_a_map_that_does_not_fit_is_refused_and_changes_nothing(
        tmp_path: Path, config: VoxelMapConfig, reason: str) -> None:
    _, path = saved(tmp_path)
    mapper = make(MapperConfig(voxel_map=config))
    for frame in frames()[:4]:
        mapper.process(frame)
    held, path_before = len(mapper.voxel_map), mapper.trajectory
    with pytest.raises(ValueError, match=reason):
        mapper.load(read_saved_map(path))
    assert (len(mapper.voxel_map), mapper.trajectory) == (held, path_before)
    assert mapper.process(frames()[4]).keyframes


def test_a_cloud_that_is_too_far_for_its_numbers_is_saved_with_a_warning(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    mapper, _ = saved(tmp_path)
    save_products(mapper, tmp_path)
    assert not caplog.records
    cloud = mapper.voxel_map.arrays()
    far = replace(cloud, points=cloud.points + np.float32(5e6))
    monkeypatch.setattr(mapper.voxel_map, 'arrays', lambda: far)
    save_products(mapper, tmp_path)
    assert 'in float32, are 0.5 apart' in caplog.text


def test_keyframes_of_another_size_are_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    whole = read_saved_map(path)
    other = replace(whole, anchor=replace(whole.anchor, image=np.zeros((64, 64, 3), np.uint8)))
    with pytest.raises(ValueError, match=r'height and width \(96, 96\).*\(64, 64\)'):
        make().load(other)


@pytest.mark.parametrize('damage', ['cut', 'text', 'empty', 'pickle', 'shape', 'format'])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    _, path = saved(tmp_path)
    content = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    if damage == 'pickle':
        arrays['voxel_sums'] = np.array([{}], object)
    elif damage == 'shape':
        arrays['anchor_points'] = arrays['anchor_points'][:-1]
    elif damage == 'format':
        arrays['about'] = np.array(str(arrays['about']).replace('"format": 1', '"format": 2'))
    if damage in ('pickle', 'shape', 'format'):
        np.savez(path, **arrays)
    else:
        path.write_bytes({'cut': content[:-500], 'text': b'no map', 'empty': b''}[damage])
    with pytest.raises(ValueError, match='map.npz: expected a map that this package saved'):
        read_saved_map(path)
