# SPDX-License-Identifier: Apache-2.0
"""Faults outside of the node: full disks, killed processes, files that change."""
from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from harness import Camera, Mapper, Orbit, Peer, stamp_of, to_ns
from sensor_msgs.msg import PointCloud2

from spann3r_ros.mapping.exports.ply_files import read_ply

Start = Callable[..., Mapper]
Trouble = Callable[[Mapper], AbstractContextManager[None]]
MEBIBYTE = 2**20
TOO_SMALL_BYTES = 50_000

PUBLISHER = """
import sys, time
sys.path += sys.argv[2:]
import rclpy
from harness import Orbit
from lifecycle_msgs.srv import GetState
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
rclpy.init()
orbit, first = Orbit(), int(sys.argv[1])
node = rclpy.create_node('camera')
publisher = node.create_publisher(Image, '/camera/image_raw', QoSProfile(depth=100))
while not publisher.get_subscription_count():
    time.sleep(0.01)
# An answer comes once the mapper has discovered what was made here.
client, answers = node.create_client(GetState, '/mapper/get_state'), []
while not any(answer.done() for answer in answers):
    answers.append(client.call_async(GetState.Request()))
    rclpy.spin_until_future_complete(node, answers[-1], timeout_sec=2.0)
for index in range(first, first + 4):
    publisher.publish(orbit.image(index))
time.sleep(600)
"""


@contextmanager
def full_disk(mapper: Mapper) -> Iterator[None]:
    """Let no file grow: writing then fails in the middle, as on a full disk."""
    limit = resource.prlimit(mapper.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(mapper.process.pid, resource.RLIMIT_FSIZE, (TOO_SMALL_BYTES, limit[1]))
    yield
    resource.prlimit(mapper.process.pid, resource.RLIMIT_FSIZE, limit)


@contextmanager
def closed_folder(mapper: Mapper) -> Iterator[None]:
    """Let no file be made in the map's folder, or taken from it."""
    mapper.map_directory.chmod(0o555)
    yield
    mapper.map_directory.chmod(0o755)


def files_of(mapper: Mapper) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (mapper.map_directory / 'map').iterdir()}


@pytest.mark.parametrize(('trouble', 'reason'), [
    (full_disk, 'File too large'), (closed_folder, 'Permission denied')])
def test_a_map_that_cannot_be_written_leaves_the_old_one_and_is_reported(
        trouble: Trouble, reason: str, peer: Peer, camera: Camera, orbit: Orbit,
        start: Start) -> None:
    mapper = start(**{'qos_overrides./camera/image_raw.subscription.reliability': 'reliable'})
    for index in range(4):
        camera.send(orbit.image(index))
        peer.until_settled(index + 1)
    assert peer.trigger('/mapper/save_map').success
    saved = files_of(mapper)
    assert saved.keys() == {'manifest.json', 'map.ply', 'trajectory.tum', 'state.json',
                            'state.safetensors'}
    assert len(saved['state.safetensors']) > TOO_SMALL_BYTES
    camera.send(orbit.image(4))
    peer.until_settled(5)

    with trouble(mapper):
        answer = peer.trigger('/mapper/save_map')
        assert not answer.success and reason in answer.message
        assert files_of(mapper) == saved

    camera.send(orbit.image(5))
    assert peer.until_settled(6).frames_processed == 6
    assert peer.trigger('/mapper/save_map').success
    after = files_of(mapper)
    assert all(after[name] != saved[name] for name in saved)
    assert len(read_ply(mapper.map_directory / 'map' / 'map.ply')) > 0


def test_saving_replaces_a_link_and_not_what_it_points_at(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    outside = tmp_path / 'precious'
    outside.mkdir()
    (outside / 'map.ply').write_text('untouched')
    other = 'beside the map'
    mapper = start(mode='replay')
    mapper.map_directory.mkdir()
    (mapper.map_directory / 'map').symlink_to(outside)
    (mapper.map_directory / 'notes.txt').write_text(other)
    camera.send(*(orbit.image(index) for index in range(3)))
    peer.until_settled(3)
    assert peer.trigger('/mapper/save_map').success
    assert [one.name for one in outside.iterdir()] == ['map.ply']
    assert (outside / 'map.ply').read_text() == 'untouched'
    assert (mapper.map_directory / 'notes.txt').read_text() == other
    assert len(read_ply(mapper.map_directory / 'map' / 'map.ply')) > 0


def test_a_killed_mapper_can_be_started_again(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(3)))
    peer.until_settled(3)
    mapper.kill()
    # The middleware takes its time to find out; images sent before would be lost.
    peer.until(lambda: not camera.readers, 'the mapper to be missed')
    peer.statuses().clear()
    start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(3)))
    assert peer.until_settled(3).frames_processed == 3


def test_a_killed_camera_can_be_replaced(peer: Peer, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    start(mode='replay')
    # A camera in another process may find the mapper before the mapper has found this one.
    peer.until(peer.statuses, 'a first status')
    for first in (0, 4):
        camera = subprocess.Popen([sys.executable, '-c', PUBLISHER, str(first), *sys.path])
        try:
            status = peer.until_settled(first + 4)
        finally:
            camera.kill()
            camera.wait()
        assert status.frames_processed == first + 4
    peer.until(lambda: len(clouds) == 7, 'the keyframes')
    assert [to_ns(cloud.header.stamp) for cloud in clouds] == [stamp_of(i) for i in range(7)]


def test_a_checkpoint_replaced_on_disk_is_read_at_the_next_configure(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    checkpoint = tmp_path / 'weights.json'
    checkpoint.write_text(json.dumps({'noise': 0.0}))
    start(mode='replay', checkpoint=str(checkpoint))
    camera.send(orbit.image(0), orbit.image(1))
    peer.until_settled(2)
    checkpoint.write_text('{')
    camera.send(orbit.image(2))
    assert peer.until_settled(3).frames_processed == 3
    assert peer.change_state('deactivate') and peer.change_state('cleanup')
    assert not peer.change_state('configure')
    assert peer.state() == 'unconfigured'
    checkpoint.write_text('{}')
    assert peer.change_state('configure')


def test_a_hundred_configurations_leave_nothing_behind(peer: Peer, start: Start) -> None:
    mapper = start(autostart=False)
    held, resident = [], []
    for index in range(100):
        assert peer.change_state('configure')
        if index % 10 == 9:
            assert peer.change_state('activate')
            assert peer.change_state('deactivate')
        assert peer.change_state('cleanup')
        descriptors = os.listdir(f'/proc/{mapper.process.pid}/fd')
        held.append((mapper.threads, len(descriptors)))
        resident.append(mapper.resident_bytes)
    assert held[-1] == held[19]
    # The first rounds load libraries and fill caches.
    assert resident[-1] - resident[19] < 4 * MEBIBYTE
