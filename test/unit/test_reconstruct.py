# SPDX-License-Identifier: Apache-2.0
"""`spann3r reconstruct`: photographs in any order give one map, and each of them is accounted."""
from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn_index import encode_index
from photo_rooms import EXACT, RoomPhotos, room_photos, write_photo

from spann3r_ros.cli.main import main
from spann3r_ros.core.network import Compute
from spann3r_ros.evaluation.measures.trajectories import fit_similarity
from spann3r_ros.evaluation.pictures import cloud_picture
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.storage.map_directory import read_map
from spann3r_ros.networks import registry
from spann3r_ros.networks.arrangement import PairArrangement
from spann3r_ros.tools.simulated_network import SimulatedNetwork, write_entry_point

TOY_PACKAGE = Path(__file__).parents[1] / 'toy_package'
FOX = Path(os.environ.get('SPANN3R_FOX', 'missing'))
Reconstruct = Callable[..., 'Result']


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Install the simulated and the toy network by their entry points."""
    monkeypatch.syspath_prepend(str(write_entry_point(tmp_path / 'entry')))
    monkeypatch.syspath_prepend(str(TOY_PACKAGE))
    registry.network_kinds.cache_clear()
    yield
    registry.network_kinds.cache_clear()
    sys.modules.pop('toy_network', None)


@dataclass(frozen=True)
class Result:
    """What a run has written."""

    folder: Path
    status: int
    summary: dict[str, Any]
    text: str

    @property
    def reasons(self) -> dict[str, str]:
        return {one['image']: one['reason'] for one in self.summary['not_registered']}

    def poses(self) -> dict[str, np.ndarray]:
        """Return the poses of the registered images, by their names."""
        found = {pose.stamp_ns: pose.world_from_camera
                 for pose in read_tum(self.folder / 'map/trajectory.tum')}
        return {one['image']: found[one['stamp_ns']] for one in self.summary['registered']}


@pytest.fixture
def reconstruct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reconstruct:
    """Return a function that runs the command."""
    def run(*arguments: str | Path, output: str = 'out') -> Result:
        folder = tmp_path / output
        capsys.readouterr()
        status = main(['reconstruct', *map(str, arguments), '--output', str(folder), '--set',
                       'threads=1'])
        written = capsys.readouterr()
        summary = folder / 'summary.json'
        return Result(folder, status, json.loads(summary.read_text()) if summary.exists() else {},
                      written.out + written.err)
    return run


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no picture, which takes two seconds, unless a test is marked by its name."""
    if 'picture' not in request.node.name:
        monkeypatch.setattr(cloud_picture, 'draw_cloud', lambda *_, **__: None)


@pytest.fixture(scope='module')
def rooms() -> RoomPhotos:
    return room_photos(10, 2)


@pytest.fixture
def oracle(rooms: RoomPhotos, tmp_path: Path) -> tuple[str, ...]:
    """Return the arguments of a network that knows the rooms."""
    rooms.views().save(tmp_path / 'rooms.views')
    return '--checkpoint', str(tmp_path / 'rooms.views'), *EXACT


def names_of(count: int, seed: int) -> list[str]:
    """Return names that have nothing to do with the order of the photographs."""
    return [f'{number:06d}' for number in random.Random(seed).sample(range(10**6), count)]


def position_error(result: Result, truth: dict[str, np.ndarray]) -> float:
    """Return the largest error of a position after one similarity, as a share of the extent."""
    poses = result.poses()
    found = np.array([pose[:3, 3] for pose in poses.values()])
    true = np.array([truth[name][:3, 3] for name in poses])
    errors = np.linalg.norm(fit_similarity(found, true).apply(found) - true, axis=1)
    return float(errors.max() / np.ptp(true, axis=0).max())


def test_shuffled_photographs_of_a_room_give_one_map(
        rooms: RoomPhotos, oracle: tuple[str, ...], reconstruct: Reconstruct,
        tmp_path: Path) -> None:
    hashes, registered = set(), set()
    for seed in range(5):
        names = names_of(12, seed)
        rooms.write(tmp_path / f'photos{seed}', names)
        result = reconstruct(tmp_path / f'photos{seed}', *oracle, output=f'out{seed}')
        assert result.status == 0, result.text
        truth = {f'{name}.jpg': pose for name, pose in zip(names, rooms.poses, strict=True)}
        assert position_error(result, truth) < 0.001
        registered.add(tuple(names.index(Path(one).stem) for one in result.poses()))
        hashes.add(tuple(result.summary['sha256'].values()))
        foreign = [f'{name}.jpg' for name in names[10:]]
        assert result.reasons.keys() == set(foreign)
        assert all('shows another place' in reason for reason in result.reasons.values())
    # The same photographs in the same order, bit by bit the same map.
    assert len(hashes) == len(registered) == 1
    assert sorted(registered.pop()) == list(range(10))
    assert result.summary['corner_error'] < 0.005
    assert result.summary['pairs']['compared'] == result.summary['pairs']['possible'] == 12 * 11
    assert result.summary['order'] == 'unordered' and 'in no order' in result.text
    html = (result.folder / 'report.html').read_text()
    assert {f'{name}.jpg' for name in names[:10]} == set(
        re.findall(r'<span>(.*?[.]jpg)</span></button>', html))
    assert 'a path of' not in html and 'images</text>' in html and 'seconds</text>' not in html
    assert f'weights</th><td>{oracle[1]}</td>' in html
    assert re.search(r'device</th><td>(cpu|cuda)</td>', html)
    # The folder is one of a replay.
    assert len(read_ply(result.folder / 'map/map.ply').points) == result.summary['voxels']
    network = registry.open_network(Path(oracle[1]), {}, Compute())
    mapper = Mapper(network)
    mapper.load(read_map(result.folder))
    assert len(mapper.trajectory) == 10


def test_all_kinds_of_files_are_accounted(rooms: RoomPhotos, oracle: tuple[str, ...],
                                          reconstruct: Reconstruct, tmp_path: Path) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for index in (0, 2, 4, 6, 8):
        write_photo(folder / f'photo{index * index}.png', rooms.images[index], 24)
    # One is stored lying on its side, one is of another size and in the gray of 16 bits.
    lying = np.ascontiguousarray(np.rot90(rooms.images[3]))
    write_photo(folder / 'turned.jpg', lying, 24, 6)
    large = cv2.resize(rooms.images[5], (640, 480), interpolation=cv2.INTER_CUBIC)
    write_photo(folder / 'large.jpg', large, 24)
    write_photo(folder / 'foreign.jpg', rooms.images[10], 24)
    write_photo(folder / 'copy.png', rooms.images[8], 24)
    write_photo(folder / 'shaken.jpg', cv2.blur(rooms.images[9], (25, 3)), 24)
    (folder / 'empty.jpg').touch()
    (folder / 'text.jpg').write_text('no image')
    (folder / 'cut.png').write_bytes((folder / 'photo4.png').read_bytes()[:5000])
    (folder / 'phone.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(64))
    (folder / 'notes.txt').write_text('no photograph')
    result = reconstruct(folder, *oracle)
    assert result.status == 0, result.text
    reasons = result.reasons
    assert reasons.keys() == {'foreign.jpg', 'photo64.png' if 'photo64.png' in reasons else
                              'copy.png', 'shaken.jpg', 'empty.jpg', 'text.jpg', 'cut.png',
                              'phone.heic'}
    for name, reason in (('foreign.jpg', 'shares nothing'), ('empty.jpg', 'empty'),
                         ('shaken.jpg', 'blurred'), ('cut.png', 'complete PNG'),
                         ('phone.heic', 'HEIF is not read; convert')):
        assert reason in reasons[name]
        assert f'not registered: {name}: ' in result.text
    assert {'turned.jpg', 'large.jpg'} <= result.poses().keys()
    assert result.summary['other_files'] == 1 and result.summary['fitted'] == 1
    truth = {f'photo{index * index}.png': rooms.poses[index] for index in (0, 2, 4, 6, 8)}
    truth |= {'turned.jpg': rooms.poses[3], 'large.jpg': rooms.poses[5],
              'copy.png': rooms.poses[8]}
    assert position_error(result, truth) < 0.01


def test_turned_photograph_is_upright(rooms: RoomPhotos, tmp_path: Path) -> None:
    from spann3r_ros.datasets.photos.photo_files import read_photo
    write_photo(tmp_path / 'turned.png', np.ascontiguousarray(np.rot90(rooms.images[3])), 24, 6)
    np.testing.assert_array_equal(read_photo(tmp_path / 'turned.png').rgb, rooms.images[3])


def test_many_photographs_are_compared_with_few(rooms: RoomPhotos, oracle: tuple[str, ...],
                                                reconstruct: Reconstruct, tmp_path: Path) -> None:
    names = names_of(12, 7)
    rooms.write(tmp_path / 'photos', names)
    result = reconstruct(tmp_path / 'photos', *oracle, '--neighbours', '2')
    assert result.status == 0, result.text
    assert len(result.poses()) == 10
    assert result.summary['pairs']['compared'] <= 2 * (12 * 2 + 12)
    assert result.summary['pairs']['weighed'] <= 10 * 3


def test_bundled_weights_leave_out_the_other_room(rooms: RoomPhotos, reconstruct: Reconstruct,
                                                  tmp_path: Path) -> None:
    names = names_of(8, 1)
    chosen = [0, 1, 2, 3, 4, 5, 10, 11]
    for index, name in zip(chosen, names, strict=True):
        write_photo(tmp_path / f'photos/{name}.jpg', rooms.images[index], 24)
    result = reconstruct(tmp_path / 'photos')
    assert result.status == 0, result.text
    foreign = {f'{name}.jpg' for name in names[6:]}
    assert foreign <= result.reasons.keys() and not foreign & result.poses().keys()
    assert len(result.poses()) >= 2
    # They do not know this room well, and the result says so.
    doubtful = result.summary['corner_error'] > 0.03
    assert doubtful == ('not to be trusted' in result.text)
    assert doubtful == any('do not agree with the corners' in one
                           for one in result.summary['warnings'])


def test_one_photograph_gives_cloud_picture_and_report(rooms: RoomPhotos, oracle: tuple[str, ...],
                                                       reconstruct: Reconstruct,
                                                       tmp_path: Path) -> None:
    write_photo(tmp_path / 'one.jpg', rooms.images[0], 24)
    for arguments, output in ((oracle, 'oracle'), ((), 'bundled')):
        result = reconstruct(tmp_path / 'one.jpg', *arguments, output=output)
        assert result.status == 0, result.text
        assert [*result.poses()] == ['one.jpg'] and result.summary['files'] == 1
        assert len(read_ply(result.folder / 'map/map.ply').points) > 100
    assert cv2.imread(str(result.folder / 'map.png')).std() > 5.0
    assert 'Reconstruction of one.jpg' in (result.folder / 'report.html').read_text()


@pytest.mark.parametrize(('content', 'message'), [
    ({}, 'expected photographs in'), ({'a.jpg': b'', 'b.jpg': b'x'}, 'none that can be used'),
    ({'notes.txt': b'x'}, 'found none among 1 files')])
def test_no_photograph_is_one_line(content: dict[str, bytes], message: str,
                                   reconstruct: Reconstruct, tmp_path: Path) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    result = reconstruct(folder)
    assert result.status == 2 and message in result.text
    assert 'Traceback' not in result.text
    (error,) = [line for line in result.text.splitlines() if line.startswith('spann3r')]
    assert error.startswith('spann3r reconstruct: input: ')


@pytest.mark.parametrize(('arguments', 'message'), [
    (('--neighbours', '-1'), 'neighbours: expected 0'), (('--set', 'stride=x'), 'set: '),
    (('--checkpoint', 'missing.safetensors'), 'missing.safetensors')])
def test_bad_options_are_one_line(arguments: tuple[str, ...], message: str,
                                  rooms: RoomPhotos, reconstruct: Reconstruct,
                                  tmp_path: Path) -> None:
    write_photo(tmp_path / 'one.jpg', rooms.images[0])
    result = reconstruct(tmp_path / 'one.jpg', *arguments)
    assert result.status == 2 and message in result.text and 'Traceback' not in result.text


def write_video(rooms: RoomPhotos, path: Path, frames: int, each: int) -> None:
    """Write a video of a room at 20 frames a second; each view lasts some frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20.0, (320, 240))
    for index in range(frames):
        for _ in range(each):
            writer.write(rooms.images[index][..., ::-1])
    writer.release()


def test_video_and_numbered_files_are_mapped_in_their_order(
        rooms: RoomPhotos, oracle: tuple[str, ...], reconstruct: Reconstruct,
        tmp_path: Path) -> None:
    write_video(rooms, tmp_path / 'walk.avi', 8, 4)
    result = reconstruct(tmp_path / 'walk.avi', *oracle, '--fps', '5')
    assert result.status == 0, result.text
    assert result.summary['order'] == 'ordered' and result.summary['files'] == 8
    assert len(result.poses()) >= 6
    report = (result.folder / 'report.html').read_text()
    assert 'a path of' in report and 'seconds</text>' in report
    for index in range(8):
        write_photo(tmp_path / f'frames/f{index + 8}.jpg', rooms.images[index], 24)
    (tmp_path / 'frames/f16.jpg').write_bytes(b'')
    result = reconstruct(tmp_path / 'frames', *oracle, output='frames')
    assert result.status == 0, result.text
    assert 'in the order of their names, which are numbered' in result.text
    assert result.reasons == {'f16.jpg': 'the file is empty'}
    skipped = 8 - len(result.poses())
    assert (f'{len(result.poses())} of 9 images are keyframes, {skipped} show nothing new, '
            '1 have no pose, ') in result.text
    report = (result.folder / 'report.html').read_text()
    assert 'f8.jpg</span></button>' in report and 'images</text>' in report
    # Images that show nothing new are no keyframes.
    expected = [f'f{number}.jpg' for number in range(8, 16)]
    assert [name for name in expected if name in result.poses()] == [*result.poses()]
    assert len(result.poses()) + result.summary['frames']['skipped'] == 8
    truth = {f'f{index + 8}.jpg': rooms.poses[index] for index in range(8)}
    assert position_error(result, truth) < 0.05
    result = reconstruct(tmp_path / 'walk.avi', '--order', 'unordered')
    assert result.status == 2 and 'order: expected ordered or auto for a video' in result.text


def test_network_of_another_package_works_by_pairs(reconstruct: Reconstruct, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    from synthetic import SyntheticScene, orbit_trajectory, square_camera
    (tmp_path / 'orbit.toy').write_text('{}')
    scene, camera, poses = SyntheticScene(), square_camera(96), orbit_trajectory(60)
    names = names_of(6, 3)
    for index, name in enumerate(names):
        image = encode_index(scene.render(poses[3 * index], camera)[0], 3 * index)
        write_photo(tmp_path / f'photos/{name}.png', image)
    used, begin = [], PairArrangement.begin
    monkeypatch.setattr(PairArrangement, 'begin',
                        lambda self, *pair: used.append(pair) or begin(self, *pair))
    result = reconstruct(tmp_path / 'photos', '--checkpoint', tmp_path / 'orbit.toy')
    assert result.status == 0, result.text
    assert used and len(result.poses()) == 6
    truth = {f'{name}.png': poses[3 * index] for index, name in enumerate(names)}
    assert position_error(result, truth) < 0.01


@pytest.mark.parametrize(('part', 'call', 'is_mapped'), [('step', 4, True), ('pair', 4, False)])
def test_what_is_mapped_is_kept_after_an_interrupt(
        part: str, call: int, is_mapped: bool, rooms: RoomPhotos, oracle: tuple[str, ...],
        reconstruct: Reconstruct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(7):
        write_photo(tmp_path / f'photos/{index * index}.jpg', rooms.images[index], 24)
    called, work = [], getattr(SimulatedNetwork, part)

    def interrupted(self: SimulatedNetwork, *arguments: object) -> object:
        called.append(arguments)
        if len(called) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return work(self, *arguments)

    monkeypatch.setattr(SimulatedNetwork, part, interrupted)
    # A shell lets programs in the background ignore the signal.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = reconstruct(tmp_path / 'photos', *oracle)
    finally:
        signal.signal(signal.SIGINT, former)
    assert result.status == 130
    assert (result.folder / 'map/manifest.json').exists() == is_mapped
    if is_mapped:
        assert result.summary['interrupted'] and 3 <= len(result.poses()) < 7
    else:
        assert 'interrupted before an image was mapped' in result.text


@pytest.mark.skipif(not (FOX / 'images').is_dir(),
                    reason='SPANN3R_FOX does not name real photographs of one place')
def test_real_photographs_of_one_place_belong_together(reconstruct: Reconstruct,
                                                       rooms: RoomPhotos, tmp_path: Path) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for path in sorted((FOX / 'images').iterdir())[:16:2]:
        shutil.copy(path, folder)
    for index in (0, 1):
        write_photo(folder / f'room{index}.jpg', rooms.images[index])
    result = reconstruct(folder)
    assert result.status == 0, result.text
    foreign = {name for name, reason in result.reasons.items() if 'another place' in reason}
    assert foreign == {'room0.jpg', 'room1.jpg'}
