# SPDX-License-Identifier: Apache-2.0
"""`spann3r map info` and `spann3r map merge`."""
from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import test_resumed_map as rooms
from mapper_runs import CAMERA, SCENE, every_frame
from scipy.spatial import cKDTree
from synthetic import SyntheticNetwork, SyntheticOptions, encode_index
from test_saved_map import BREAK, POSES, frames, make, mapped

from spann3r_ros.cli.main import main
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.storage.map_directory import encode_map, read_map

VOXEL = 0.05
POSED = every_frame(MapperConfig(voxel_map=VoxelMapConfig(voxel_size=VOXEL)))


def saved(folder: Path, mapper: Mapper) -> Path:
    encode_map(mapper, lambda _: None).write(folder)
    return folder


def run(*words: object) -> int:
    return main([str(one) for one in words])


def test_info_shows_what_a_map_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapper = rooms.make(rooms.FULL)
    for frame in rooms.frames()[:30]:
        mapper.process(frame)
    saved(tmp_path, mapper)
    assert run('map', 'info', tmp_path) == 0
    text = capsys.readouterr().out
    for part in ('version 0.1.0, network synthetic', 'crop of images of 96x96', 'metres, by odom',
                 'the first: 8 keyframes', 'joined to 0: 8 keyframes', 'state.json'):
        assert part in text, text
    assert run('map', 'info', tmp_path / 'map', '--json') == 0
    summary = json.loads(capsys.readouterr().out)
    status = mapper.status()
    assert sum(one['voxels'] for one in summary['fragments']) == status.voxels
    assert summary['counts']['fragments'] == len(summary['fragments']) == status.fragments
    assert summary['files'].keys() == {one.name for one in (tmp_path / 'map').iterdir()} - {
        'manifest.json'}


def test_info_of_a_damaged_map_is_one_line(tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, mapped())
    (tmp_path / 'map' / 'map.ply').write_bytes(b'ply')
    assert run('map', 'info', tmp_path) == 1
    error = capsys.readouterr().err
    assert 'map.ply: expected the file that the manifest describes' in error
    assert error.count('\n') == 1
    saved(tmp_path, mapped())
    manifest = tmp_path / 'map' / 'manifest.json'
    whole = manifest.read_text()
    # A manifest of something else may lie beside the map.
    (tmp_path / 'manifest.json').write_text('{}')
    for change in ({'counts': {}}, {'stamps_ns': [10**30]}, {'extent': 5}, {'scale': None}):
        manifest.write_text(json.dumps(json.loads(whole) | change))
        assert run('map', 'info', tmp_path) == 1
        error = capsys.readouterr().err
        assert 'manifest.json: expected the numbers of a map' in error and error.count('\n') == 1
    assert run('map', 'info', tmp_path / 'nothing') == 1
    assert 'expected the directory of a saved map' in capsys.readouterr().err


def test_images_of_keyframes_are_extracted_as_the_document_shows(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapper = mapped(fragment_at=5)
    saved(tmp_path, mapper)
    monkeypatch.chdir(tmp_path)
    document = Path(__file__).parents[2] / 'docs' / 'maps.md'
    code, = re.findall(r'```python\n(.*?)```', document.read_text(), re.DOTALL)
    exec(code, {})
    images = [cv2.imread(str(one)) for one in sorted(tmp_path.glob('keyframe_*.jpg'))]
    assert len(images) == mapper.status().kept.keyframes == 7
    for image, frame in zip(images, frames(), strict=False):
        assert np.abs(image[..., ::-1].astype(int) - frame.rgb).mean() < 12


def posed(first: int, last: int, config: MapperConfig = POSED) -> Mapper:
    mapper = make(config)
    for frame in frames(posed=True)[first:last]:
        mapper.process(frame)
    mapper.flush()
    return mapper


@pytest.mark.parametrize('grids', [(False, False), (True, True), (True, False)])
def test_halves_of_a_run_in_one_frame_give_the_cloud_of_the_whole(
        tmp_path: Path, grids: tuple[bool, bool]) -> None:
    """Each half measures its own scale, within the noise of the network."""
    configs = [replace(POSED, grid=GridConfig(enabled=one)) for one in grids]
    whole = posed(0, len(POSES))
    halves = [posed(0, BREAK, configs[0]), posed(BREAK - 1, len(POSES), configs[1])]
    for name, mapper in zip('ab', halves, strict=True):
        saved(tmp_path / name, mapper)
    assert run('map', 'merge', tmp_path / 'a', tmp_path / 'b', '--output', tmp_path / 'c',
               '--same-frame') == 0
    cloud, expected = read_ply(tmp_path / 'c' / 'map' / 'map.ply').points, whole.cloud().points
    # A voxel has one point, which is the mean of what fell into it.
    assert len(cloud) == pytest.approx(len(expected), rel=0.05)
    for one, other in ((cloud, expected), (expected, cloud)):
        distances = cKDTree(one).query(other)[0]
        assert np.quantile(distances, 0.95) < 0.5 * VOXEL and distances.max() < 3 * VOXEL
    cells = np.floor(cloud / VOXEL).astype(int)
    assert len(np.unique(cells, axis=0)) >= 0.99 * len(cells)
    poses = read_tum(tmp_path / 'c' / 'map' / 'trajectory.tum')
    assert [one.stamp_ns for one in poses] == [
        one.stamp_ns for mapper in halves for one in mapper.trajectory]
    merged = json.loads((tmp_path / 'c' / 'map' / 'manifest.json').read_text())
    assert merged['counts']['unconnected'] == 0 and merged['counts']['fragments'] == 2
    # The merged map goes on like any other.
    mapper = make(replace(POSED, grid=GridConfig(enabled=any(grids))))
    assert 'begins a fragment' in mapper.load(read_map(tmp_path / 'c'))
    for index, frame in enumerate(frames(posed=True)[2:8]):
        mapper.process(replace(frame, stamp_ns=10**10 + index * 10**8))
    assert mapper.status().fragment_id == 2


def test_maps_of_different_frames_stay_unconnected_and_all_ids_fit(tmp_path: Path) -> None:
    """Both have fragments, a scale and evidence; the first one has loops."""
    maps = []
    for count in (60, 30):
        mapper = rooms.make(rooms.FULL)
        for frame in rooms.frames()[:count]:
            mapper.process(frame)
        maps.append(mapper)
        saved(tmp_path / str(count), mapper)
    assert run('map', 'merge', tmp_path / '60', tmp_path / '30', '--output', tmp_path / 'c') == 0
    mapper = rooms.make(rooms.FULL)
    mapper.load(read_map(tmp_path / 'c'))
    first, second = (one.status() for one in maps)
    status = mapper.status()
    assert status.voxels == first.voxels + second.voxels
    assert status.fragments == first.fragments + second.fragments
    assert status.fragments_unconnected == second.fragments
    assert status.keyframes == first.keyframes + second.keyframes
    # A correction that was due is applied.
    assert status.loops_accepted >= first.loops_accepted > 0
    found = mapper.path().stamps_ns.tolist()
    assert found == [stamp for one in maps for stamp in one.path().stamps_ns.tolist()]
    # Keyframes and images of both are still pairs, and the map goes on.
    for frame in rooms.frames()[30:40]:
        mapper.process(replace(frame, stamp_ns=frame.stamp_ns + 10**11))
    assert mapper.status().keyframes > status.keyframes


class Other(SyntheticNetwork):
    identity = 'others'


def test_maps_that_do_not_fit_are_refused(tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / 'a', posed(0, BREAK))
    larger = every_frame(MapperConfig(voxel_map=VoxelMapConfig(voxel_size=0.08)))
    saved(tmp_path / 'larger', posed(0, BREAK, larger))
    saved(tmp_path / 'free', mapped(config=POSED))
    other = Mapper(Other(SCENE, POSES, SyntheticOptions(index_from_image=True), CAMERA), POSED)
    for index, frame in enumerate(frames(posed=True)[:BREAK]):
        other.process(replace(frame, rgb=encode_index(frame.rgb, index)))
    saved(tmp_path / 'others', other)
    for name, words, reason in (
            ('larger', (), 'maps: expected the same voxel size, got 0.05 and 0.08'),
            ('others', (), 'maps: expected the same weights, got synthetic and others'),
            ('free', ('--same-frame',), 'same-frame: expected two maps in metres, or none'),
            ('nothing', (), 'expected the directory of a saved map')):
        assert run('map', 'merge', tmp_path / 'a', tmp_path / name, '--output', tmp_path / 'c',
                   *words) == 1
        error = capsys.readouterr().err
        assert reason in error and error.count('\n') == 1
    assert run('map', 'merge', tmp_path / 'a', tmp_path / 'free', '--output', tmp_path / 'a') == 1
    assert 'output: expected another folder than that of the first map' in capsys.readouterr().err
    assert not (tmp_path / 'c').exists()
