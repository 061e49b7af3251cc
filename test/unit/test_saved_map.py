# SPDX-License-Identifier: Apache-2.0
"""A map that is saved, read back and continued."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mapper_runs import CAMERA, SCENE, every_frame, pose_errors
from safetensors.numpy import load_file, save_file
from synthetic import (
    SyntheticNetwork,
    SyntheticOptions,
    encode_index,
    orbit_trajectory,
    render_frames,
)

from spann3r_ros.core.types import Frame
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import KeyframeConfig, MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.storage.map_directory import (
    MapEmptyError,
    encode_map,
    map_hashes,
    read_map,
)
from spann3r_ros.mapping.storage.saved_tree import decode_tree, encode_tree
from spann3r_ros.pipeline.runner import Collector, Runner

POSES = orbit_trajectory(60)[:14]
BREAK = 8
LIMIT_M = 0.03


def frames(posed: bool = False) -> list[Frame]:
    rendered = render_frames(SCENE, POSES, CAMERA)
    return [replace(frame, rgb=encode_index(frame.rgb, index),
                    world_from_camera=POSES[index] if posed else None)
            for index, frame in enumerate(rendered)]


def make(config: MapperConfig | None = None, stretch: float = 1.0) -> Mapper:
    options = SyntheticOptions(index_from_image=True, stretch=stretch, noise=0.003)
    return Mapper(SyntheticNetwork(SCENE, POSES, options, CAMERA), config or every_frame())


def mapped(posed: bool = False, config: MapperConfig | None = None, fragment_at: int = 0,
           count: int = BREAK) -> Mapper:
    mapper = make(config)
    for index, frame in enumerate(frames(posed)[:count]):
        if index and index == fragment_at:
            mapper.new_fragment()
        mapper.process(frame)
    return mapper


def refuses(mapper: Mapper, folder: Path, reason: str) -> None:
    """Check that a mapper with a map of its own refuses a saved one, and does not change."""
    for frame in frames()[:4]:
        mapper.process(frame)
    before = mapper.status(), map_hashes(mapper)
    with pytest.raises(ValueError, match=reason):
        mapper.load(read_map(folder))
    assert (mapper.status(), map_hashes(mapper)) == before


def finished(mapper: Mapper, posed: bool = False) -> dict[str, str]:
    for frame in frames(posed)[BREAK:]:
        mapper.process(frame)
    mapper.flush()
    return map_hashes(mapper)


@pytest.mark.parametrize(('posed', 'fragment_at', 'stride'), [
    (False, 0, 1), (False, 5, 1), (False, 5, 2), (True, 0, 1), (True, 5, 1), (True, 0, 2)])
def test_a_continued_map_equals_one_without_an_interruption(
        tmp_path: Path, posed: bool, fragment_at: int, stride: int) -> None:
    config = every_frame(MapperConfig(keyframes=KeyframeConfig(stride=stride)))
    before = mapped(posed, config, fragment_at)
    encode_map(before, lambda _: None).write(tmp_path)
    status = before.status()
    expected = finished(before, posed)

    after = make(config)
    for frame in frames(posed)[:2]:
        after.process(frame)
    assert 'the sequence of the network goes on' in after.load(read_map(tmp_path))
    assert replace(after.status(), memory=None, kept=None) == replace(
        status, memory=None, kept=None)
    assert after.status().memory.resets == 1
    assert finished(after, posed) == expected


def test_saved_cloud_and_path_have_the_frames_that_wait(tmp_path: Path) -> None:
    mapper = mapped()
    before = map_hashes(mapper)
    seen = []
    encode_map(mapper, lambda update: seen.append((update, len(mapper.trajectory))))
    (update, poses), = seen
    assert [one.stamp_ns for one in update.keyframes] == [frames()[BREAK - 1].stamp_ns]
    assert poses == BREAK
    # Saving has not closed the map, and has not changed it.
    assert map_hashes(mapper) == before
    assert mapper.process(frames()[BREAK]).keyframes[0].stamp_ns == frames()[BREAK - 1].stamp_ns


def test_a_map_that_was_ended_is_continued_by_a_fragment(tmp_path: Path) -> None:
    before = mapped()
    before.flush()
    encode_map(before).write(tmp_path)
    # Fragments after the first have a scale of their own, and so has the one that goes on.
    after = make(stretch=1.7)
    for frame in frames()[:2]:
        after.process(frame)
    assert 'begins a fragment' in after.load(read_map(tmp_path))
    for one, other in zip(vars(after.cloud()).values(), vars(before.cloud()).values(),
                          strict=True):
        assert np.array_equal(one, other)
    assert [pose.stamp_ns for pose in after.trajectory] == [
        pose.stamp_ns for pose in before.trajectory]
    for frame in frames()[BREAK:]:
        after.process(frame)
    after.flush()
    assert len(after.trajectory) == len(POSES)
    # One load is one reset, also if a fragment begins after it.
    assert (after.status().memory.resets, after.status().memory.recoveries) == (1, 0)
    assert after.status().fragment_id == before.status().fragment_id + 1
    assert after.status().keyframes == len(POSES)
    distance, _ = pose_errors(after.trajectory, POSES, frames())
    assert distance <= LIMIT_M
    assert len(after.cloud()) > len(before.cloud())


def test_a_network_of_another_memory_continues_by_a_fragment(tmp_path: Path) -> None:
    encode_map(mapped()).write(tmp_path)

    class Forgetful(SyntheticNetwork):
        def restore(self, arrays: dict[str, np.ndarray]) -> None:
            raise ValueError('expected another number of tokens')

    after = Mapper(Forgetful(SCENE, POSES, SyntheticOptions(index_from_image=True), CAMERA),
                   every_frame())
    assert 'begins a fragment' in after.load(read_map(tmp_path))
    finished(after)
    # The frame that waited for its estimate is processed again.
    assert [pose.stamp_ns for pose in after.trajectory] == [one.stamp_ns for one in frames()]
    assert pose_errors(after.trajectory, POSES, frames())[0] <= LIMIT_M


def test_a_cloud_that_is_too_far_for_its_numbers_is_saved_with_a_warning(
        caplog: pytest.LogCaptureFixture) -> None:
    mapper = mapped()
    encode_map(mapper)
    assert not caplog.records
    far = np.eye(4)
    far[:3, 3] = 5e6
    mapper.move_fragment(0, far)
    encode_map(mapper)
    assert 'in float32, are 0.5 apart' in caplog.text


def test_an_empty_map_is_not_saved() -> None:
    mapper = make()
    with pytest.raises(MapEmptyError):
        encode_map(mapper)
    mapper.process(frames()[0])
    with pytest.raises(MapEmptyError):
        encode_map(mapper)


class Other(SyntheticNetwork):
    identity = 'others'


@pytest.mark.parametrize(('network', 'config', 'reason'), [
    (SyntheticNetwork, {'voxel_map': VoxelMapConfig(voxel_size=0.5)},
     'layers.voxels.voxel_size: expected 0.5 as configured'),
    (SyntheticNetwork, {'voxel_map': VoxelMapConfig(max_voxels=100)},
     r'expected 100 voxels at most \(max_voxels\)'),
    (SyntheticNetwork, {'field_of_view': 'letterbox'},
     r"field_of_view: expected one of \('letterbox',\), got 'crop'"),
    (Other, {}, 'network.identity: expected the weights others, with which this mapper runs, '
                'got synthetic')])
def test_a_map_that_does_not_fit_is_refused_and_changes_nothing(
        tmp_path: Path, network: type[SyntheticNetwork], config: dict, reason: str) -> None:
    encode_map(mapped()).write(tmp_path)
    options = SyntheticOptions(index_from_image=True)
    mapper = Mapper(network(SCENE, POSES, options, CAMERA), every_frame(MapperConfig(**config)))
    refuses(mapper, tmp_path, reason)
    assert mapper.process(frames()[4]).keyframes


@pytest.mark.parametrize('file', ['manifest.json', 'state.json', 'state.safetensors'])
@pytest.mark.parametrize('damage', ['cut', 'text', 'empty', 'flipped', 'missing'])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, file: str, damage: str) -> None:
    path = encode_map(mapped()).write(tmp_path) / file
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes({
        'cut': content[:-len(content) // 3], 'text': b'no map', 'empty': b'', 'missing': b'',
        'flipped': content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1:]}[damage])
    if damage == 'missing':
        path.unlink()
    if damage == 'flipped' and file == 'manifest.json':
        return  # one digit of a checksum: the other files do not fit any more, or nobody reads it
    with pytest.raises((ValueError, FileNotFoundError), match=file.replace('.', r'\.')):
        read_map(tmp_path)


def changed(folder: Path, change: str) -> None:
    """Change one value of a saved map, and write the checksums anew."""
    directory = folder / 'map'
    tree = json.loads((directory / 'state.json').read_text())
    arrays = load_file(directory / 'state.safetensors')
    state = tree['state']
    fragment = 'state.atlas.fragments[0]'
    if change == 'voxel_size':
        tree['layers']['voxels']['voxel_size'] = -1.0
    elif change == 'keyframes':
        state['keyframes'] = 'many'
    elif change == 'camera':
        del state['camera']
    elif change == 'phase':
        state['phase'] = 'asleep'
    else:
        name, value = {
            'weights': (f'{fragment}.stores.voxels.sums', 0.0),
            'not finite': (f'{fragment}.stores.voxels.sums', np.nan),
            'far': (f'{fragment}.stores.voxels.sums', 1e6),
            'keys': (f'{fragment}.stores.voxels.sorted_keys', 7),
            'place': (f'{fragment}.map_from_fragment', 0.0),
            'path': (f'{fragment}.path.transforms', 2.0),
            'covariance': (f'{fragment}.path.covariances', -1.0),
            'images': (f'{fragment}.keyframes.images', 0),
            'depth': ('state.poses.shared[0].depth', -1.0)}[change]
        arrays[name] = arrays[name].copy()
        arrays[name].flat[:12] = value
    (directory / 'state.json').write_text(json.dumps(tree))
    save_file(arrays, directory / 'state.safetensors')
    manifest = json.loads((directory / 'manifest.json').read_text())
    for name in ('state.json', 'state.safetensors'):
        content = (directory / name).read_bytes()
        manifest['files'][name] = {'bytes': len(content), 'sha256': digest(content)}
    (directory / 'manifest.json').write_text(json.dumps(manifest))


def digest(content: bytes) -> str:
    import hashlib
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(('change', 'reason'), [
    ('voxel_size', r'layers\.voxels\.voxel_size: expected a number from 0\.0 to inf, got -1\.0'),
    ('keyframes', "state.keyframes: expected an integer from 0 to [0-9]+, got 'many'"),
    ('camera', 'state.camera: missing'),
    ('phase', "state.phase: expected one of .*got 'asleep'"),
    ('weights', 'sums: expected weights and confidences above zero'),
    ('not finite', 'sums: expected finite values'),
    ('far', 'sums: expected'),
    ('keys', 'sorted_keys: expected ascending keys'),
    ('place', 'map_from_fragment: expected a similarity'),
    ('path', r'path\.transforms: expected rigid transforms'),
    ('covariance', r'path\.covariances: expected symmetric'),
    ('images', 'images: expected JPEG images of 96x96 pixels'),
    ('depth', r'shared.*depth: expected depths above zero')])
def test_a_wrong_value_is_named_and_changes_nothing(
        tmp_path: Path, change: str, reason: str) -> None:
    encode_map(mapped()).write(tmp_path)
    changed(tmp_path, change)
    refuses(make(), tmp_path, reason)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = encode_map(mapped()).write(tmp_path) / 'manifest.json'
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(ValueError, match='expected format 2, got 3'):
        read_map(tmp_path)


def test_saving_leaves_other_files_and_replaces_all_of_its_own(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    first = encode_map(mapped(count=4))
    directory = first.write(tmp_path)
    (directory / 'older.txt').write_text('of an older version')
    second = encode_map(mapped())
    assert second.write(tmp_path) == directory
    assert {one.name for one in directory.iterdir()} == set(second.contents)
    assert (directory / 'map.ply').read_bytes() == second.contents['map.ply']
    read_map(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ['map', 'notes.txt']


FORMER = Path(__file__).parent / 'data' / 'former_map.npz'


def test_a_map_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    (tmp_path / 'map.npz').write_bytes(FORMER.read_bytes())
    after = make(stretch=1.7)
    assert 'begins a fragment' in after.load(read_map(tmp_path))
    status = after.status()
    assert (status.keyframes, status.fragment_id, len(after.trajectory)) == (BREAK, 0, BREAK)
    assert np.quantile(SCENE_DISTANCES(after), 0.95) < 0.06
    for frame in frames()[BREAK:]:
        after.process(frame)
    after.flush()
    assert pose_errors(after.trajectory, POSES, frames())[0] <= LIMIT_M
    assert len(after.trajectory) == len(POSES)


def SCENE_DISTANCES(mapper: Mapper) -> np.ndarray:  # noqa: N802
    from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, transform_points
    world_from_map = POSES[0] @ invert(MAP_FROM_OPTICAL)
    return SCENE.distances(transform_points(world_from_map, mapper.cloud().points))


@pytest.mark.parametrize('damage', ['cut', 'text', 'empty', 'pickle', 'shape', 'format', 'size'])
def test_a_damaged_map_of_an_earlier_version_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / 'map.npz'
    content = FORMER.read_bytes()
    with np.load(FORMER) as file:
        arrays = dict(file)
    about = str(arrays['about'])
    if damage == 'pickle':
        arrays['voxel_sums'] = np.array([{}], object)
    elif damage == 'shape':
        arrays['anchor_points'] = arrays['anchor_points'][:-1]
    elif damage == 'format':
        arrays['about'] = np.array(about.replace('"format": 1', '"format": 2'))
    elif damage == 'size':
        arrays['about'] = np.array(about.replace('"voxel_size": ', '"voxel_size": -'))
    if damage in ('pickle', 'shape', 'format', 'size'):
        np.savez(path, **arrays)
    else:
        path.write_bytes({'cut': content[:-500], 'text': b'no map', 'empty': b''}[damage])
    with pytest.raises(ValueError, match='expected'):
        make().load(read_map(tmp_path))


def test_a_frame_of_a_loaded_map_that_fails_is_none_of_the_received_ones(tmp_path: Path) -> None:
    """It was counted by the process that saved the map."""
    options = SyntheticOptions(index_from_image=True, fault_at=BREAK - 1, fault='not_finite')
    before, after = (Mapper(SyntheticNetwork(SCENE, POSES, options, CAMERA), every_frame())
                     for _ in range(2))
    for frame in frames()[:BREAK]:
        before.process(frame)
    encode_map(before).write(tmp_path)
    collector = Collector()
    runner = Runner(after, True, collector)
    try:
        runner.load(read_map(tmp_path))
        runner.slot.open()
        for frame in frames()[BREAK:BREAK + 2]:
            runner.slot.put(frame)
        runner.call(lambda: None)
        accounts = runner.slot.accounts()
    finally:
        runner.stop()
    assert [frame.stamp_ns for frame, _ in collector.failures] == [frames()[BREAK - 1].stamp_ns]
    assert (accounts.processed, accounts.failed) == (2, 0) and accounts.balanced


def test_a_save_at_every_frame_changes_nothing() -> None:
    """An exact network leaves no room for rounding in its covariances."""
    options = SyntheticOptions(index_from_image=True)
    plain, saved = (Mapper(SyntheticNetwork(SCENE, POSES, options, CAMERA), every_frame())
                    for _ in range(2))
    for index, frame in enumerate(frames()):
        if index == 6:
            plain.new_fragment()
            saved.new_fragment()
        plain.process(frame)
        saved.process(frame)
        before = saved.status()
        if index:
            encode_map(saved, lambda _: None)
        assert saved.status() == before
    plain.flush()
    saved.flush()
    assert map_hashes(saved) == map_hashes(plain)


@pytest.mark.parametrize(('change', 'reason'), [
    ({'image_ids': 1}, 'pending: expected image ids up to 1'),
    ({'image_ids': 10**30}, 'image_ids: expected an integer from 0'),
    ({'coverage': float('nan')}, 'coverage: expected a number'),
    ({'coverage': 10**400}, 'coverage: expected a number')])
def test_inconsistent_numbers_are_refused(tmp_path: Path, change: dict, reason: str) -> None:
    tree = mapped().tree()
    tree['state'] |= change
    with pytest.raises(ValueError, match=reason):
        make().load(decode_tree(*encode_tree(tree)))


def test_a_shared_keyframe_of_another_fragment_is_refused() -> None:
    tree = mapped().tree()
    tree['state']['poses']['shared'][0]['fragment_id'] = 7
    with pytest.raises(ValueError, match='poses: expected keyframes of .* in fragment 0'):
        make().load(decode_tree(*encode_tree(tree)))
