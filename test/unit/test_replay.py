# SPDX-License-Identifier: Apache-2.0
"""`spann3r replay`: each image of a bag is counted, and every run gives the same map."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_bags import cut, damage, rewrite, storage_file
from recorded_bags import (
    BASE_FROM_OPTICAL,
    IMAGE_TOPIC,
    INFO_TOPIC,
    MASK_TOPIC,
    OrbitBag,
    robot_bag,
    stamp_of,
)
from rosbags.rosbag2 import Reader
from synthetic import SyntheticScene

from spann3r_ros.cli.main import main
from spann3r_ros.core.transforms import invert, transform_points
from spann3r_ros.datasets.bag_writer import LATCHED
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.networks.registry import network_kinds

ROOT = Path(__file__).parents[2]
TOY_PACKAGE = Path(__file__).parents[1] / 'toy_package'
Replay = Callable[..., dict[str, Any]]
# Runs the command and prints the thread that imports torch.
WATCHED_RUN = """
import sys, threading

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == 'torch':
            print('torch on', threading.current_thread().name)

sys.meta_path.insert(0, Watch())
from spann3r_ros.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the toy network by its entry point."""
    monkeypatch.syspath_prepend(str(TOY_PACKAGE))
    network_kinds.cache_clear()
    yield
    network_kinds.cache_clear()
    sys.modules.pop('toy_network', None)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / 'orbit.toy'
    path.write_text('{}')
    return path


@pytest.fixture
def replay(tmp_path: Path, weights: Path) -> Replay:
    """Return a function that replays a bag with the toy network and returns the summary.

    Every image becomes a keyframe.
    """
    def run(bag: Path, *arguments: str, output: str = 'out',
            topic: str = IMAGE_TOPIC) -> dict[str, Any]:
        target = tmp_path / output
        status = main(['replay', str(bag), '--topic', topic, '--checkpoint', str(weights),
                       '--output', str(target), '--quiet', '--set', 'keyframes.selection=stride',
                       *arguments])
        assert status == 0
        return json.loads((target / 'summary.json').read_text())
    return run


def test_every_image_is_mapped_and_the_map_is_true(
        tmp_path: Path, replay: Replay, capsys: pytest.CaptureFixture[str]) -> None:
    summary = replay(robot_bag(tmp_path / 'bag', 12))
    assert list(summary) == ['images', 'frames', 'recovered', 'blind', 'poses', 'voxels',
                             'fragments', 'loops', 'scale', 'threads', 'seconds', 'sha256',
                             'warnings']
    assert summary['images'] == 12
    assert summary['frames'] == {'received': 12, 'processed': 12, 'skipped': 0, 'dropped': 0,
                                 'failed': 0}
    assert (summary['recovered'], summary['poses'], summary['fragments'], summary['loops']) == (
        0, 12, 1, 0)
    assert summary['warnings'] == [] and summary['threads'] == 1
    cloud = read_ply(tmp_path / 'out' / 'map' / 'map.ply')
    assert len(cloud) == summary['voxels']
    poses = read_tum(tmp_path / 'out' / 'map' / 'trajectory.tum')
    assert [pose.stamp_ns for pose in poses] == [stamp_of(index) for index in range(12)]
    with OrbitBag(tmp_path / 'unused') as bag:
        truth = bag.poses
    # Levelled by the robot: the map stands upright although the camera looks down.
    up = truth[0][:3, :3].T @ [0.0, 0.0, 1.0]
    up_in_camera = BASE_FROM_OPTICAL[:3, :3].T @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(poses[0].world_from_camera[:3, :3] @ up_in_camera, [0, 0, 1],
                               atol=0.01)
    assert not np.allclose(up, up_in_camera, atol=0.1)
    world_from_map = truth[0] @ invert(poses[0].world_from_camera)
    errors = SyntheticScene().distances(transform_points(world_from_map, cloud.points))
    assert np.quantile(errors, 0.95) < 0.02
    for pose, expected in zip(poses, truth, strict=False):
        np.testing.assert_allclose(world_from_map @ pose.world_from_camera, expected, atol=0.01)
    assert '12 of 12 images mapped' in capsys.readouterr().out


def test_same_bag_gives_the_same_hashes_and_another_map_others(
        tmp_path: Path, replay: Replay) -> None:
    bag = robot_bag(tmp_path / 'bag', 8)
    first, second = (replay(bag, '--set', 'toy.noise=0.01', output=name) for name in 'ab')
    assert first['sha256'] == second['sha256'] and set(first['sha256']) == {'map', 'trajectory'}
    for name in ('map/map.ply', 'map/trajectory.tum'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()
    other = replay(bag, '--set', 'toy.noise=0.011', output='c')
    assert other['sha256']['map'] != first['sha256']['map']


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_order_of_the_messages_does_not_matter(
        storage: str, tmp_path: Path, replay: Replay) -> None:
    """Calibration, mask and mount may come before their image or up to a second after it."""
    with OrbitBag(tmp_path / 'early', storage) as bag:
        bag.mount()
        for index in range(8):
            bag.drive(index)
            bag.info(index)
            bag.mask(index)
            bag.raw(index)
    late = robot_bag(tmp_path / 'late', 8, storage)
    hashes = [replay(bag, '--set', 'mask=exact', output=name)['sha256']
              for bag, name in ((tmp_path / 'early', 'a'), (late, 'b'))]
    assert hashes[0] == hashes[1]
    assert replay(late, output='c')['sha256'] != hashes[0]  # without masks


def test_masks_that_do_not_fit_cost_their_images_only(tmp_path: Path, replay: Replay) -> None:
    """One covers everything, one has another size, one another stamp."""
    with OrbitBag(tmp_path / 'bag') as bag:
        for index in range(12):
            bag.raw(index)
            bag.info(index)
            if index == 6:
                bag.write_mask(stamp_of(index), np.full((48, 48), 255, np.uint8))
            else:
                bag.mask(index + 100 * (index == 8), columns=0 if index == 4 else 96)
    summary = replay(tmp_path / 'bag', '--set', 'mask=exact')
    assert summary['frames'] == {'received': 12, 'processed': 9, 'skipped': 1, 'dropped': 1,
                                 'failed': 1}
    assert (summary['blind'], summary['poses'], summary['fragments']) == (1, 9, 1)
    assert any('the mask leaves nothing of the image' in text for text in summary['warnings'])
    assert any('mask: expected bool (96, 96), got bool (48, 48)' in text
               for text in summary['warnings'])


def test_masked_pixels_stay_out_of_the_map(tmp_path: Path, replay: Replay) -> None:
    bag = robot_bag(tmp_path / 'bag', 6)
    whole, masked = replay(bag, output='a'), replay(bag, '--set', 'mask=exact', output='b')
    assert 0.4 * whole['voxels'] < masked['voxels'] < 0.8 * whole['voxels']


def test_compressed_images_and_raw_ones_are_read(tmp_path: Path, replay: Replay) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        for index in range(6):
            bag.jpeg(index)
    assert replay(tmp_path / 'bag', topic='')['poses'] == 6


@pytest.mark.parametrize('source', ['tf', 'odometry'])
def test_poses_of_a_localisation_come_from_tf_or_odometry(
        source: str, tmp_path: Path, replay: Replay) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        bag.mount()
        for index in range(20):
            bag.raw(index)
            (bag.drive if source == 'tf' else bag.odometry)(index)
    arguments = ['--set', 'pose_source=tf', '--set', 'map_frame=odom']
    if source == 'odometry':
        arguments += ['--odometry-topic', '/odom']
    summary = replay(tmp_path / 'bag', *arguments)
    assert (summary['frames']['processed'], summary['poses']) == (20, 20)
    for pose, expected in zip(read_tum(tmp_path / 'out' / 'map' / 'trajectory.tum'), bag.poses,
                              strict=False):
        np.testing.assert_allclose(pose.world_from_camera, expected, atol=1e-6)


@pytest.mark.parametrize('resampling', ['fast', 'exact'])
def test_torch_is_imported_before_the_worker_starts(
        resampling: str, tmp_path: Path, weights: Path) -> None:
    """A network without torch leaves its import to the resize, which runs on the worker."""
    arguments = ['replay', robot_bag(tmp_path / 'bag', 8), '--topic', IMAGE_TOPIC, '--checkpoint',
                 weights, '--output', tmp_path / 'out', '--quiet', '--set', 'pose_source=tf',
                 '--set', 'map_frame=odom', '--set', f'resampling={resampling}',
                 '--set', 'keyframes.selection=stride']
    done = subprocess.run(
        [sys.executable, '-c', WATCHED_RUN, *map(str, arguments)], capture_output=True, text=True,
        timeout=300, env={**os.environ, 'PYTHONPATH': f'{ROOT}:{TOY_PACKAGE}',
                          'OMP_DISPLAY_ENV': 'true'})
    assert done.returncode == 0, done.stderr
    threads = re.findall('torch on (.*)', done.stdout)
    assert threads == (['MainThread'] if resampling == 'fast' else [])
    # Set before the import, or OpenMP would not have read it.
    assert ("OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr) == (resampling == 'fast')


def test_images_without_their_pose_are_dropped_with_the_reason(
        tmp_path: Path, replay: Replay) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        bag.mount()
        for index in range(20):
            bag.raw(index)
            if index not in (0, 19):
                bag.drive(index)
    summary = replay(tmp_path / 'bag', '--set', 'pose_source=tf', '--set', 'map_frame=odom')
    assert summary['frames'] == {'received': 20, 'processed': 18, 'skipped': 0, 'dropped': 2,
                                 'failed': 0}
    assert any('a later image has one already' in text for text in summary['warnings'])


@pytest.mark.parametrize('timeout_sec', [0.5, 10.0])
def test_images_before_the_first_pose_are_dropped_whatever_the_timeout(
        timeout_sec: float, tmp_path: Path, replay: Replay) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        bag.mount()
        for index in range(20):
            bag.raw(index)
            if index >= 3:
                bag.drive(index)
    summary = replay(tmp_path / 'bag', '--set', 'pose_source=tf', '--set', 'map_frame=odom',
                     '--set', f'pose_timeout_sec={timeout_sec}')
    assert (summary['frames']['processed'], summary['frames']['dropped']) == (17, 3)
    assert summary['warnings'] and 'TF has no pose' in summary['warnings'][0]


def test_speed_of_the_network_does_not_change_which_images_get_no_pose(
        tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall time, here increased by an hour at each call, has no effect on a replay."""
    with OrbitBag(tmp_path / 'bag') as bag:
        bag.mount()
        for index in range(30):
            bag.raw(index)
            if index < 5 or index >= 22:
                bag.drive(index)
    poses = '--set', 'pose_source=tf', '--set', 'map_frame=odom'
    usual = replay(tmp_path / 'bag', *poses, output='a')
    hours = iter(range(10**9))
    monkeypatch.setattr('spann3r_ros.pipeline.sync.wait_clock.monotonic',
                        lambda: next(hours) * 3600.0)
    slow = replay(tmp_path / 'bag', *poses, output='b')
    assert usual['frames'] == slow['frames'] and usual['sha256'] == slow['sha256']
    assert usual['frames']['dropped'] > 0


def test_the_covariance_of_odometry_does_not_matter(tmp_path: Path, replay: Replay) -> None:
    """Many drivers send zeros, or -1 for unknown."""
    hashes = []
    for number, variance in enumerate((0.0, 0.01, -1.0, np.nan)):
        with OrbitBag(tmp_path / f'{number}') as bag:
            bag.mount()
            for index in range(8):
                bag.raw(index)
                bag.odometry(index, variance=variance)
        summary = replay(tmp_path / f'{number}', '--odometry-topic', '/odom', '--set',
                         'pose_source=tf', '--set', 'map_frame=odom', output=f'{number}_out')
        assert summary['frames']['processed'] == 8
        hashes.append(summary['sha256'])
    assert all(one == hashes[0] for one in hashes)


@pytest.mark.parametrize('late', [False, True])
def test_latest_mask_is_the_newest_that_is_not_after_the_image(
        late: bool, tmp_path: Path, replay: Replay) -> None:
    """The mask may be recorded before its image or after it, even long after it."""
    with OrbitBag(tmp_path / 'bag') as bag:
        for index in range(8):
            bag.raw(index)
        bag.recorded_later_ns = 3 * 10**9 if late else 0
        for index, columns in ((1, 30), (4, 60)):
            bag.mask(index, columns=columns)
    summary = replay(tmp_path / 'bag', '--set', 'mask=latest')
    assert (summary['frames']['processed'], summary['frames']['dropped']) == (7, 1)
    assert any('no mask for the image' in text for text in summary['warnings'])
    with OrbitBag(tmp_path / 'exact') as bag:
        for index in range(1, 8):
            bag.raw(index)
            bag.mask(index, columns=30 if index < 4 else 60)
    exact = replay(tmp_path / 'exact', '--set', 'mask=exact', output='b')
    assert exact['sha256'] == summary['sha256']


def test_image_before_the_first_mount_is_levelled_by_the_nearest(
        tmp_path: Path, replay: Replay) -> None:
    """Not by the newest, which depends on the order of the messages: the mount is moving."""
    hashes = []
    for name, count in (('short', 12), ('long', 20)):
        with OrbitBag(tmp_path / name) as bag:
            for index in range(12):
                bag.raw(index)
            for index in range(5, count):
                bag.tilt(index, 3.0 * index)
        hashes.append(replay(tmp_path / name, output=f'{name}_out')['sha256'])
    assert hashes[0] == hashes[1]


def test_every_result_of_an_image_is_counted(tmp_path: Path, replay: Replay) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        for index in range(12):
            bag.raw(index)
            if index in (3, 7):  # an image that comes too late
                bag.recorded_later_ns = 2000
                bag.raw(index, stamp_of(index) - 1000)
                bag.recorded_later_ns = 0
    summary = replay(tmp_path / 'bag', '--set', 'keyframes.stride=2')
    assert summary['frames'] == {'received': 14, 'processed': 6, 'skipped': 6, 'dropped': 0,
                                 'failed': 2}
    assert summary['frames']['received'] == sum(
        count for name, count in summary['frames'].items() if name != 'received')
    assert [text for text in summary['warnings'] if 'stamp: expected one after' in text]


def test_calibrations_that_never_come_are_not_waited_for(tmp_path: Path, replay: Replay) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        bag.info(0, stamp_of(0) - 10**11)  # of another day
        for index in range(8):
            bag.raw(index)
    assert replay(tmp_path / 'bag')['frames']['processed'] == 8


def test_one_calibration_at_the_start_serves_the_images_of_its_timeout(
        tmp_path: Path, replay: Replay) -> None:
    def bag(name: str, calibrated: range) -> Path:
        with OrbitBag(tmp_path / name) as bag:
            for index in range(20):
                if index in calibrated:
                    bag.info(index)
                bag.raw(index)
        return tmp_path / name
    limit = '--set', 'camera_info_timeout_sec=100'
    once, always = (replay(bag(name, calibrated), *limit, output=f'{name}_out')
                    for name, calibrated in (('once', range(1)), ('always', range(20))))
    assert once['frames']['processed'] == 20
    assert once['sha256'] == always['sha256']


class BinnedBag(OrbitBag):
    """Its calibrations are those of a sensor with twice as many rows and columns, and a border."""

    def _write(self, topic: str, stamp_ns: int, kind: str, **values: Any) -> None:  # noqa: ANN401
        if kind == 'sensor_msgs/msg/CameraInfo':
            (fx, cx), (fy, cy) = ((values['k'][at], values['k'][at + shift])
                                  for at, shift in ((0, 2), (4, 1)))
            width, height = 2 * values['width'], 2 * values['height']
            values |= {
                'k': np.array([2 * fx, 0, 2 * cx + 0.5 + 10, 0, 2 * fy, 2 * cy + 0.5 + 20, 0, 0,
                               1.0]),
                'width': width + 10, 'height': height + 20, 'binning_x': 2, 'binning_y': 2,
                'roi': self._new('sensor_msgs/msg/RegionOfInterest', x_offset=10, y_offset=20,
                                 height=height, width=width, do_rectify=False)}
        super()._write(topic, stamp_ns, kind, **values)


def test_a_binned_region_of_a_sensor_gives_the_map_of_its_image(
        tmp_path: Path, replay: Replay) -> None:
    for name, kind in (('plain', OrbitBag), ('binned', BinnedBag)):
        with kind(tmp_path / name) as bag:
            for index in range(6):
                bag.info(index)
                bag.raw(index)
    plain, binned = (replay(tmp_path / name, output=f'{name}_out') for name in ('plain', 'binned'))
    assert plain['frames'] == binned['frames'] and plain['frames']['processed'] == 6
    assert plain['sha256'] == binned['sha256']
    assert not binned['warnings']


def test_parameters_come_from_the_nodes_own_file(tmp_path: Path, replay: Replay) -> None:
    file = tmp_path / 'node.yaml'
    file.write_text('/**:\n  ros__parameters:\n    keyframes: {stride: 3}\n    autostart: false\n'
                    '    toy: {noise: 0.02}\n')
    bag = robot_bag(tmp_path / 'bag', 9)
    assert replay(bag, '--params-file', str(file))['frames']['skipped'] == 6
    assert replay(bag, '--params-file', str(file), '--set', 'keyframes.stride=1',
                  output='b')['frames']['skipped'] == 0


def test_parameters_of_a_node_in_a_namespace_are_read_with_its_name(
        tmp_path: Path, replay: Replay) -> None:
    file = tmp_path / 'node.yaml'
    file.write_text('robot:\n  mapper:\n    ros__parameters:\n      use_sim_time: true\n'
                    '      keyframes: {stride: 3}\n')
    summary = replay(robot_bag(tmp_path / 'bag', 9), '--params-file', str(file), '--node-name',
                     'robot/mapper')
    assert summary['frames']['skipped'] == 6


def test_parameters_of_another_node_are_bad_input(
        tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / 'node.yaml'
    file.write_text('/robot/mapper: {ros__parameters: {mode: live}}\n'
                    'mapper_node: {ros__parameters: {mode: live}}\n')
    assert main(['replay', str(robot_bag(tmp_path / 'bag', 2)), '--topic', IMAGE_TOPIC,
                 '--checkpoint', str(weights), '--params-file', str(file)]) == 2
    assert 'a section for the node /mapper, got /robot/mapper, /mapper_node' in (
        capsys.readouterr().err)


def test_bag_that_breaks_off_is_read_on_without_its_index(
        tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = robot_bag(tmp_path / 'bag', 12)
    whole = replay(bag, output='whole')
    read = Reader.messages

    def broken(self: Reader, *arguments: object) -> Iterator:
        yield from islice(read(self, *arguments), 20)
        raise OSError('Input/output error')
    monkeypatch.setattr(Reader, 'messages', broken)
    summary = replay(bag)
    assert summary['images'] == 12 and summary['sha256'] == whole['sha256']
    assert summary['warnings'] == ['bag.mcap: recovered 12 images, Input/output error']


def encoded_bag(path: Path, encoding: str, count: int = 5) -> Path:
    """Write a bag whose images are in blue, green, red; return its path."""
    with OrbitBag(path) as bag:
        for index in range(count):
            bag.info(index)
            bag._image(IMAGE_TOPIC, stamp_of(index), encoding, bag.picture(index)[..., ::-1])
    return path


def test_generic_encoding_gives_the_same_map_and_one_warning(
        tmp_path: Path, replay: Replay) -> None:
    named = replay(encoded_bag(tmp_path / 'named', 'bgr8'), output='named_out')
    generic = replay(encoded_bag(tmp_path / 'generic', '8UC3'))
    assert named['sha256'] == generic['sha256'] and named['frames']['processed'] == 5
    assert named['warnings'] == []
    assert [text.partition('. ')[0] for text in generic['warnings']] == [
        'encoding: 8UC3 names no colours; the images are read as bgr8']


def test_unknown_encoding_is_the_reason_of_an_empty_map(
        tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, output = encoded_bag(tmp_path / 'bag', 'purple8'), tmp_path / 'out'
    assert main(['replay', str(bag), '--checkpoint', str(weights), '--output', str(output),
                 '--quiet']) == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('spann3r replay: the map is empty; image refused: encoding: expected ')
    assert line.endswith(f"got 'purple8' (5 times); see {output / 'replay.log'}")
    summary = json.loads((output / 'summary.json').read_text())
    assert summary['frames']['failed'] == 5
    text, = summary['warnings']
    assert text in line


def test_bag_that_was_cut_off_gives_the_map_of_the_images_before(
        tmp_path: Path, replay: Replay) -> None:
    def file(name: str, count: int) -> Path:
        with OrbitBag(tmp_path / name) as bag:
            for index in range(count):
                bag.raw(index)
        rewrite(storage_file(tmp_path / name))
        return storage_file(tmp_path / name)
    cut_off = file('cut', 12)
    cut(cut_off, 0.8)
    summary = replay(cut_off)
    count = summary['images']
    assert 8 <= count < 12 and summary['frames']['processed'] == count
    assert summary['warnings'] == [
        f'cut.mcap: recovered {count} images, the recording ends without an index']
    short = replay(file('short', count), output='short_out')
    assert summary['sha256'] == short['sha256'] and not short['warnings']


def test_damage_in_the_middle_is_found_while_the_map_is_made(
        tmp_path: Path, replay: Replay) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        for index in range(12):
            bag.raw(index)
    rewrite(storage_file(tmp_path / 'bag'))
    damage(storage_file(tmp_path / 'bag'), 0.6)
    summary = replay(tmp_path / 'bag')
    assert summary['images'] == summary['frames']['processed'] == 8
    assert summary['warnings'] == ['bag.mcap: recovered 8 images, 1 damaged chunk left out']


@pytest.mark.parametrize(('topic', 'failed'), [
    (IMAGE_TOPIC, 1), (INFO_TOPIC, 0), (MASK_TOPIC, 0), ('/tf', 0)])
def test_malformed_message_costs_only_itself(
        topic: str, failed: int, tmp_path: Path, replay: Replay,
        monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = Reader.messages, []

    def halved(self: Reader, *arguments: object) -> Iterator:
        for connection, time_ns, data in read(self, *arguments):
            seen.append(connection.topic)
            cut = connection.topic == topic and seen.count(topic) == 3
            yield connection, time_ns, data[:len(data) // 2] if cut else data
    monkeypatch.setattr(Reader, 'messages', halved)
    summary = replay(robot_bag(tmp_path / 'bag', 8), '--set', 'mask=latest')
    assert summary['frames'] == {'received': 8, 'processed': 8 - failed, 'skipped': 0,
                                 'dropped': 0, 'failed': failed}
    assert len(summary['warnings']) == 1
    assert f'{topic}: expected a ' in summary['warnings'][0]


@pytest.mark.parametrize(('arguments', 'reason'), [
    (['--topic', '/top'], r'topic: expected images on /top; image topics: /camera/image_raw '
                          r'\(Image, 3\), /left \(Image, 1\); bag: .*/bag$'),
    ([], r'topic: expected one image topic, or the name of one \(--topic\); image t'),
    (['--topic', '/left', '--camera-info-topic', '/info'], 'has none'),
    (['--topic', '/left', '--set', 'mode=sideways'], 'mode: expected one of'),
    (['--topic', '/left', '--mask-topic', '/mask'], 'mask-topic: expected a value of the param'),
    (['--topic', '/left', '--set', 'colour=red'], 'expected NAME=VALUE with the name'),
    (['--topic', '/left', '--set', 'max_rate=fast'], 'max_rate: expected a value of type float'),
    (['--topic', '/left', '--params-file', 'missing.yaml'], 'missing.yaml'),
    (['--topic', '/left', '--checkpoint', 'missing.toy'], 'no such file: missing.toy')])
def test_bad_input_is_one_line_and_status_two(
        arguments: list[str], reason: str, tmp_path: Path, weights: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        for index in range(3):
            bag.raw(index)
        bag.raw(0, topic='/left')
    status = main(['replay', str(tmp_path / 'bag'), '--checkpoint', str(weights), '--output',
                   str(tmp_path / 'out'), '--quiet', *arguments])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith('spann3r replay: ')
    assert re.search(reason, lines[0])


@pytest.mark.parametrize('topic', [IMAGE_TOPIC, ''])
def test_images_of_two_connections_of_one_topic_are_all_read(
        topic: str, tmp_path: Path, replay: Replay) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        bag.raw(0)
        bag._connections['second'] = bag._writer.add_connection(
            IMAGE_TOPIC, 'sensor_msgs/msg/Image', typestore=bag._types,
            offered_qos_profiles=[LATCHED])
        for index in range(1, 8):
            bag.raw(index, topic='second' if index % 2 else IMAGE_TOPIC)
    summary = replay(tmp_path / 'bag', topic=topic)
    assert summary['images'] == summary['frames']['processed'] == 8


def test_bag_without_messages_is_bad_input(tmp_path: Path, weights: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    with OrbitBag(tmp_path / 'bag'):
        pass
    assert main(['replay', str(tmp_path / 'bag'), '--checkpoint', str(weights)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and 'the bag has none: it has no messages' in lines[0]


def test_missing_bag_is_bad_input(tmp_path: Path, weights: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['replay', str(tmp_path / 'none'), '--checkpoint', str(weights)]) == 2
    assert 'cannot read' in capsys.readouterr().err


def test_fault_of_the_network_is_status_one_and_leaves_the_rest(
        tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    kind = network_kinds()['toy']
    network = sys.modules['toy_network'].ToyNetwork
    step = network.step

    def faulty(self: object, image: np.ndarray, image_id: int) -> list:
        if image_id == 4:
            raise RuntimeError('a defect')
        return step(self, image, image_id)
    monkeypatch.setattr(network, 'step', faulty)
    assert kind.name == 'toy'
    status = main(['replay', str(robot_bag(tmp_path / 'bag', 8)), '--topic', IMAGE_TOPIC,
                   '--checkpoint', str(weights), '--output', str(tmp_path / 'out'), '--quiet',
                   '--set', 'keyframes.selection=stride'])
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert status == 1
    assert summary['frames']['failed'] == 1 and summary['poses'] == 7
    assert 'RuntimeError: a defect' in (tmp_path / 'out' / 'replay.log').read_text()
    assert '1 frames failed by a defect' in capsys.readouterr().err


def test_recording_without_a_map_is_status_one(
        tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with OrbitBag(tmp_path / 'bag') as bag:
        bag.write_raw_image(IMAGE_TOPIC, stamp_of(0), np.zeros((96, 96, 3), np.uint8))
        noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
        bag.write_raw_image(IMAGE_TOPIC, stamp_of(1), noise)
    status = main(['replay', str(tmp_path / 'bag'), '--checkpoint', str(weights), '--output',
                   str(tmp_path / 'out'), '--quiet'])
    assert status == 1 and 'the map is empty' in capsys.readouterr().err
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert (summary['frames']['failed'], summary['blind']) == (1, 1)


def test_default_topics_are_beside_the_image_topic(tmp_path: Path) -> None:
    from spann3r_ros.datasets.bags import CameraBag, TopicNames
    with CameraBag(robot_bag(tmp_path / 'bag', 2), TopicNames(IMAGE_TOPIC, masks=True)) as bag:
        assert {(one.topic, bag.role(one)) for one in bag.connections} == {
            ('/camera/image_raw', 'image'), (INFO_TOPIC, 'camera_info'), ('/tf', 'tf'),
            ('/tf_static', 'tf_static'), ('/camera/mask', 'mask')}
        roles = [role for role, _, _ in bag.messages()]
        # An image comes after all that was recorded up to a second after it.
        assert roles == ['tf', 'camera_info', 'mask', 'tf_static', 'tf', 'camera_info', 'mask',
                         'image', 'image']
