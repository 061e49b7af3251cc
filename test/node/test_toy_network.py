# SPDX-License-Identifier: Apache-2.0
"""A network of another package, by its entry point: node and replay give the same true map."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import Mapper, Peer, running, to_ns
from nav_msgs.msg import Path as PathMessage
from recorded_bags import IMAGE_TOPIC, OrbitBag, robot_bag, stamp_of
from synthetic import SyntheticScene

from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum

ROOT = Path(__file__).parents[2]
TOY_PACKAGE = ROOT / 'test' / 'toy_package'
COUNT = 12
SPOILT = {'toy.noise': 0.01, 'mode': 'replay', 'mask': 'exact'}
LONG = 30


class ToyMapper(Mapper):
    """The installed executable, with the toy network on its Python path."""

    program = ROOT / 'scripts' / 'mapper_node'
    remaps = (*Mapper.remaps, 'mask:=/camera/mask')


@pytest.fixture(autouse=True)
def toy_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ.get('PYTHONPATH', '')
    monkeypatch.setenv('PYTHONPATH', f'{TOY_PACKAGE}{os.pathsep}{ROOT}{os.pathsep}{before}')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / 'orbit.toy'
    path.write_text('{}')
    return path


@pytest.fixture
def mapper(peer: Peer, tmp_path: Path, weights: Path) -> Iterator[Mapper]:
    with running(ToyMapper(tmp_path, checkpoint=str(weights), **SPOILT)) as mapper:
        peer.statuses()
        peer.until(lambda: peer.statuses(), 'a first status')
        yield mapper


def run(*command: object) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True,
                          timeout=180, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done


def replayed(bag: Path, weights: Path, output: Path, *changes: str) -> dict:
    run('-m', 'spann3r_ros.cli', 'replay', bag, '--topic', IMAGE_TOPIC, '--checkpoint', weights,
        '--output', output, '--quiet', '--set', 'resampling=exact',
        '--set', 'keyframes.selection=stride',
        *(word for change in changes for word in ('--set', change)))
    return json.loads((output / 'summary.json').read_text())


@pytest.mark.parametrize(('selection', 'count'), [('stride', COUNT), ('parallax', 2 * COUNT)])
def test_node_in_replay_mode_gives_the_same_map_as_replay(
        selection: str, count: int, peer: Peer, weights: Path, tmp_path: Path) -> None:
    """Calibration, mask and mount come after their image, and over DDS in any order."""
    bag = robot_bag(tmp_path / 'bag', count)
    paths = peer.listen(PathMessage, '/mapper/path', latched=True)
    parameters = {**SPOILT, 'keyframes.selection': selection}
    with running(ToyMapper(tmp_path, checkpoint=str(weights), **parameters)) as mapper:
        peer.statuses()
        peer.until(lambda: peer.statuses(), 'a first status')
        run('-m', 'spann3r_ros.tools.bag_player', '--bag', bag, '--topic', IMAGE_TOPIC,
            '--mask-topic', '/camera/mask', '--rate', 0, '--window', 1, '--quiet')
        status = peer.until_settled(count)
        assert (status.network, status.last_error) == ('toy', '')
        assert peer.trigger('/mapper/save_map').success
        peer.until(lambda: paths and len(paths[-1].poses) == status.frames_processed, 'the path')

    summary = replayed(bag, weights, tmp_path / 'out', 'toy.noise=0.01', 'mask=exact',
                       f'keyframes.selection={selection}')
    assert (summary['poses'], summary['warnings']) == (status.frames_processed, [])
    assert {one.key: one.value for one in status.network_values}['images'] == str(
        status.frames_processed)
    if selection == 'stride':
        assert status.frames_processed == count
        assert to_ns(paths[-1].poses[-1].header.stamp) == stamp_of(count - 1)
    else:
        assert status.frames_processed < count == (
            status.frames_processed + status.frames_skipped)
    for name in ('map/map.ply', 'map/trajectory.tum'):
        assert (mapper.map_directory / name).read_bytes() == (
            tmp_path / 'out' / name).read_bytes(), name

    poses = read_tum(tmp_path / 'out' / 'map' / 'trajectory.tum')
    with OrbitBag(tmp_path / 'unused') as unused:
        world_from_map = unused.poses[0] @ invert(poses[0].world_from_camera)
    points = read_ply(tmp_path / 'out' / 'map' / 'map.ply').points
    errors = SyntheticScene().distances(transform_points(world_from_map, points))
    assert np.quantile(errors, 0.95) < 0.04


def one_calibration(bag: OrbitBag, index: int) -> None:
    if not index:
        bag.info(index)
    bag.raw(index)


def masks_with_a_gap(bag: OrbitBag, index: int) -> None:
    bag.raw(index)
    if index not in (3, 4, 5, 6, 7, 8, LONG - 1):
        bag.mask(index)


def changing_masks(bag: OrbitBag, index: int) -> None:
    bag.raw(index)
    if index % 3 == 1:
        bag.mask(index, columns=30 + index)


def poses_with_a_gap(bag: OrbitBag, index: int) -> None:
    bag.raw(index)
    if index > 2 and index not in (8, 9):
        bag.drive(index)
    if index == LONG - 2:
        bag.mount()


@pytest.mark.parametrize(('write', 'parameters', 'mapped'), [
    (one_calibration, {'camera_info_timeout_sec': 2.0}, LONG),
    (masks_with_a_gap, {'mask': 'exact'}, LONG - 7),
    (changing_masks, {'mask': 'latest'}, LONG - 1),
    (poses_with_a_gap, {'pose_source': 'tf', 'map_frame': 'odom', 'pose_timeout_sec': 3.0},
     LONG - 3)])
def test_player_serves_a_node_that_waits_for_data_that_do_not_come(
        write: Callable[[OrbitBag, int], None], parameters: dict, mapped: int,
        peer: Peer, weights: Path, tmp_path: Path) -> None:
    """The bag is played to its end, and the node gives the map that replay gives."""
    with OrbitBag(tmp_path / 'bag') as bag:
        for index in range(LONG):
            write(bag, index)
    parameters = {'mode': 'replay', **parameters}
    with running(ToyMapper(tmp_path, checkpoint=str(weights), **parameters)) as node:
        peer.statuses()
        peer.until(lambda: peer.statuses(), 'a first status')
        masks = ('--mask-topic', '/camera/mask') if 'mask' in parameters else ()
        run('-m', 'spann3r_ros.tools.bag_player', '--bag', tmp_path / 'bag', '--topic',
            IMAGE_TOPIC, *masks, '--rate', 0, '--window', 4, '--patience-sec', 30, '--quiet')
        assert peer.trigger('/mapper/save_map').success
        status = peer.until_settled(LONG)
        assert (status.frames_processed, status.frames_dropped) == (mapped, LONG - mapped)
        assert status.images_waiting == 0
    summary = replayed(tmp_path / 'bag', weights, tmp_path / 'out',
                       *(f'{name}={value}' for name, value in parameters.items()))
    assert summary['frames']['processed'] == mapped
    for name in ('map/map.ply', 'map/trajectory.tum'):
        assert (node.map_directory / name).read_bytes() == (
            tmp_path / 'out' / name).read_bytes(), name


def test_poses_that_a_network_measures_are_weighed_by_their_residuals(
        weights: Path, tmp_path: Path) -> None:
    """Pose and points disagree by some centimetres: the path follows the tracked corners."""
    bag = robot_bag(tmp_path / 'bag', COUNT)
    replayed(bag, weights, tmp_path / 'out', 'toy.pose_noise=0.03')
    poses = read_tum(tmp_path / 'out' / 'map' / 'trajectory.tum')
    assert len(poses) == COUNT
    with OrbitBag(tmp_path / 'unused') as unused:
        truth = np.stack([invert(unused.poses[0]) @ pose for pose in unused.poses[:COUNT]])
    found = np.stack([invert(poses[0].world_from_camera) @ one.world_from_camera
                      for one in poses])
    errors = np.linalg.norm(np.diff(found[:, :3, 3] - truth[:, :3, 3], axis=0), axis=1)
    assert 0.0 < np.sqrt((errors**2).mean()) < 0.03 * np.sqrt(6)


def test_settings_of_every_network_are_declared_under_its_name(
        peer: Peer, mapper: Mapper) -> None:
    names = set(peer.call('/mapper/list_parameters').result.names)
    assert {'toy.noise', 'toy.pose_noise', 'spann3r.working_frames',
            'spann3r.long_term_tokens'} <= names
    assert not any(name.startswith('memory.') for name in names)
    assert mapper.alive()


def test_checkpoint_that_no_network_recognises_is_refused_by_name(
        peer: Peer, tmp_path: Path) -> None:
    unknown = tmp_path / 'weights.bin'
    unknown.write_bytes(b'?')
    with running(ToyMapper(tmp_path, checkpoint=str(unknown))) as mapper:
        peer.until(lambda: 'fits 0 of them' in mapper.log, 'the reason')
        assert "one of the networks ['spann3r', 'toy']" in mapper.log
        assert peer.state() == 'unconfigured'
