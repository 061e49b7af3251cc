# SPDX-License-Identifier: Apache-2.0
"""Every transition, allowed or forbidden, and every way to stop the node."""
from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from harness import DEADLINE_SEC, Camera, Mapper, Orbit, Peer, stamp_of, to_ns
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import PointCloud2
from tf2_msgs.msg import TFMessage

from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.ros import mapper_node
from spann3r_ros.ros.stopping import REPEAT_SEC

Start = Callable[..., Mapper]
MEBIBYTE = 2**20


NOT_CONFIGURED = {service: (False, f'nothing to {verb}: the node is not configured')
                  for service, verb in (('save_map', 'save'), ('load_map', 'load'),
                                        ('new_fragment', 'divide'), ('reset', 'reset'),
                                        ('disable', 'disable'), ('enable', 'enable'))}
EMPTY = {
    'save_map': (False, 'save failed: the map is empty'),
    'load_map': (False, 'load failed: maps: expected the directory of a saved map, with '
                        "manifest.json, or a folder with such a directory 'map'"),
    'new_fragment': (True, 'the next frame begins fragment 1'),
    'reset': (True, 'a new map begins'), 'disable': (True, 'images are skipped'),
    'enable': (True, 'images are taken')}
MAPPED = {
    **EMPTY, 'save_map': (True, 'wrote map with manifest.json, map.ply, state.json, '
                                'state.safetensors, trajectory.tum'),
    'load_map': (True, 'n voxels, 2 keyframes: the sequence of the network goes on; start the '
                       'camera at its last pose in this map, with the same view')}


def answers(peer: Peer, mapper: Mapper) -> dict[str, tuple[bool, str]]:
    """Return the responses of all services, without folders and counts of voxels."""
    responses = {service: peer.trigger(f'/mapper/{service}')
                 for service in ('save_map', 'load_map', 'new_fragment', 'reset')}
    responses |= {'disable': peer.set_enabled(False), 'enable': peer.set_enabled(True)}
    return {service: (answer.success, re.sub(
        r'\d+ voxels', 'n voxels', answer.message
            .replace(f'{mapper.map_directory}/', '').replace(f'{mapper.map_directory}', 'maps')))
        for service, answer in responses.items()}


def topics_of(peer: Peer) -> set[str]:
    return set(peer.endpoints('get_publisher_names_and_types_by_node', 'mapper'))


def test_three_rounds_leak_no_thread_publisher_or_memory(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start(autostart=False, mode='replay')
    # Discovered one by one: what is seen later would be taken for a leftover.
    peer.until(lambda: {'/mapper/transition_event', '/parameter_events', '/rosout'}
               <= topics_of(peer), 'the node')
    threads, resident = [], []
    bare = topics_of(peer)
    for _ in range(3):
        peer.statuses().clear()
        assert peer.change_state('configure')
        peer.until(lambda: {'/mapper/points', '/mapper/map_points', '/tf'} <= topics_of(peer),
                   'the publishers')
        assert peer.change_state('activate')
        camera.send(*(orbit.image(index) for index in range(5)))
        assert peer.until_settled(5).frames_processed == 5
        assert peer.change_state('deactivate')
        assert peer.change_state('activate')
        camera.send(orbit.image(5))
        status = peer.until_settled(6)
        assert (status.frames_processed, status.fragment_id) == (6, 0)
        assert peer.change_state('deactivate')
        assert peer.change_state('cleanup')
        peer.until(lambda: topics_of(peer) == bare, 'the publishers to go')
        threads.append(mapper.threads)
        resident.append(mapper.resident_bytes)
    assert threads[1] == threads[2]
    assert resident[2] - resident[1] < 8 * MEBIBYTE


def test_deactivate_keeps_the_map_and_publishes_nothing(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    transforms = peer.listen(TFMessage, '/tf')
    mapper = start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(5)))
    voxels = peer.until_settled(5).voxels
    peer.until(lambda: len(clouds) == 4 and len(transforms) == 5, 'the outputs')
    assert peer.change_state('deactivate')

    answer = peer.trigger('/mapper/save_map')
    assert answer.success, answer.message
    # The saved cloud has the last image too.
    assert len(read_ply(mapper.map_directory / 'map' / 'map.ply')) > voxels
    peer.until(lambda: peer.statuses()[-1].state == 'inactive', 'the status')
    assert peer.statuses()[-1].voxels == voxels
    assert (len(clouds), len(transforms)) == (4, 5)
    latched = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    assert peer.until(lambda: latched, 'the map')[0].width == voxels


def test_forbidden_transition_is_refused(peer: Peer, start: Start) -> None:
    mapper = start()
    peer.until(lambda: peer.state() == 'active', 'the node to be active')
    for transition in ('configure', 'activate', 'cleanup'):
        assert not peer.change_state(transition)
        assert peer.state() == 'active'
    assert mapper.alive()
    assert peer.change_state('deactivate')


def test_missing_checkpoint_fails_with_its_reason_and_can_be_retried(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    missing = tmp_path / 'missing.json'
    mapper = start(checkpoint=str(missing), mode='replay')
    peer.until(lambda: f"on_configure failed: [Errno 2] No such file or directory: '{missing}'"
               in mapper.log, 'the reason')
    assert peer.state() == 'unconfigured'
    assert not peer.change_state('configure')

    wrong = tmp_path / 'wrong.json'
    wrong.write_text('{"noise": ')
    assert peer.set_text('checkpoint', str(wrong)).successful
    assert not peer.change_state('configure')

    missing.write_text(json.dumps({'noise': 0.001}))
    assert peer.set_text('checkpoint', str(missing)).successful
    assert peer.change_state('configure')
    assert peer.change_state('activate')
    camera.send(*(orbit.image(index) for index in range(3)))
    assert peer.until_settled(3).frames_processed == 3


def test_an_unexpected_error_in_configure_is_logged_and_can_be_retried(
        peer: Peer, start: Start) -> None:
    mapper = start({'no_such_option': 1})
    peer.until(lambda: 'no_such_option' in mapper.log, 'the traceback')
    assert 'TypeError' in mapper.log
    assert peer.set_text('checkpoint', '').successful
    assert peer.change_state('configure')


@pytest.mark.parametrize(('before', 'number'), [
    ((), Transition.TRANSITION_UNCONFIGURED_SHUTDOWN),
    (('configure',), Transition.TRANSITION_INACTIVE_SHUTDOWN),
    (('configure', 'activate'), Transition.TRANSITION_ACTIVE_SHUTDOWN)])
def test_shutdown_from_any_state_frees_everything_and_services_still_answer(
        before: tuple[str, ...], number: int, peer: Peer, camera: Camera, orbit: Orbit,
        start: Start) -> None:
    mapper = start(autostart=False, mode='replay')
    bare = peer.until(lambda: peer.state() and topics_of(peer), 'the node')
    for transition in before:
        assert peer.change_state(transition)
    if 'activate' in before:
        camera.send(*(orbit.image(index) for index in range(3)))
        peer.until_settled(3)
    peer.call('/mapper/change_state', ChangeState.Request(transition=Transition(id=number)))
    assert peer.state() == 'finalized'
    peer.until(lambda: topics_of(peer) == bare, 'the publishers to go')
    assert answers(peer, mapper) == NOT_CONFIGURED
    assert not peer.change_state('configure')
    assert mapper.stop() == 0
    assert 'Traceback' not in mapper.log


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_under_load_ends_the_process_cleanly(
        number: int, peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start({'delay_sec': 0.2}, mode='replay')
    camera.send(*(orbit.image(index) for index in range(30)))
    peer.until(lambda: peer.statuses() and peer.statuses()[-1].frames_processed >= 2, 'frames')
    assert mapper.stop(number) == 0
    assert 'Traceback' not in mapper.log


def test_a_second_signal_within_a_second_does_not_spoil_the_stop(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    # Launch forwards the signal that the terminal has sent to the whole group.
    mapper = start({'delay_sec': 0.2}, mode='replay')
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until(lambda: peer.statuses() and peer.statuses()[-1].frames_processed >= 1, 'frames')
    begin = time.monotonic()
    while mapper.alive() and time.monotonic() - begin < 0.9 * REPEAT_SEC:
        os.kill(mapper.process.pid, signal.SIGINT)
        time.sleep(0.001)
    assert mapper.process.wait(DEADLINE_SEC) == 0
    assert 'Traceback' not in mapper.log


def test_a_later_signal_ends_a_stop_that_hangs(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start({'delay_sec': DEADLINE_SEC}, mode='replay')
    camera.send(orbit.image(0))
    peer.until(lambda: peer.statuses() and peer.statuses()[-1].frames_waiting, 'a frame')
    os.kill(mapper.process.pid, signal.SIGINT)

    def is_dead() -> bool:
        os.kill(mapper.process.pid, signal.SIGINT)
        return not mapper.alive()

    peer.until(is_dead, 'the end')
    assert mapper.process.returncode == -signal.SIGINT


@pytest.mark.parametrize(('words', 'reason'), [
    (('--log-level', 'loud'), "Couldn't parse log level: '--log-level loud'"),
    (('--params-file', '/no/file'), 'Error opening YAML file'), (('--nonsense',), 'nonsense')])
def test_wrong_ros_arguments_are_one_line(
        words: tuple[str, ...], reason: str, capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapper_node, 'stop_on_signals', Event)
    assert mapper_node.main(['--ros-args', *words]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith('mapper_node: ') and reason in line


def test_a_signal_at_start_ends_the_process(start: Start) -> None:
    mapper = start()
    # The interpreter is up and has its handlers once it has opened shared libraries of rclpy.
    maps = Path(f'/proc/{mapper.process.pid}/maps')
    while 'rclpy' not in maps.read_text():
        assert mapper.alive()
    os.kill(mapper.process.pid, signal.SIGTERM)
    assert mapper.process.wait(DEADLINE_SEC) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(('transitions', 'expected'), [
    ((), NOT_CONFIGURED),
    (('configure',), EMPTY), (('configure', 'activate'), MAPPED)])
def test_services_answer_with_a_reason_in_every_state(
        transitions: tuple[str, ...], expected: dict[str, tuple[bool, str]], peer: Peer,
        camera: Camera, orbit: Orbit, start: Start) -> None:
    mapper = start(autostart=False, mode='replay')
    for transition in transitions:
        assert peer.change_state(transition)
    if 'activate' in transitions:
        camera.send(*(orbit.image(index) for index in range(3)))
        peer.until_settled(3)
    assert answers(peer, mapper) == expected


def test_unwritable_map_directory_is_reported(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    mapper = start(mode='replay', map_directory=str(tmp_path / 'file' / 'maps'))
    camera.send(*(orbit.image(index) for index in range(3)))
    peer.until_settled(3)
    answer = peer.trigger('/mapper/save_map')
    assert not answer.success and 'Not a directory' in answer.message
    assert mapper.alive()


def test_reset_begins_a_new_map_and_keeps_the_accounts(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(mode='replay')
    camera.send(*(orbit.image(index) for index in range(4)))
    before = peer.until_settled(4)
    assert peer.trigger('/mapper/save_map').success
    camera.send(orbit.image(4))
    # Saving has not ended the map.
    status = peer.until_settled(5)
    assert (status.frames_processed, status.fragment_id) == (5, before.fragment_id)

    clouds = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    assert peer.trigger('/mapper/reset').success
    peer.until(lambda: clouds and clouds[-1].width == 0, 'the empty map')
    camera.send(*(orbit.image(index) for index in range(5, 8)))
    after = peer.until_settled(8)
    assert after.frames_processed == 8
    assert after.fragment_id == before.fragment_id + 1
    assert after.resets == before.resets + 1
    peer.until(lambda: to_ns(clouds[-1].header.stamp) == stamp_of(6), 'the new map')


def test_live_save_does_not_end_the_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(**{'qos_overrides./camera/image_raw.subscription.reliability': 'reliable'})
    for index in range(3):
        camera.send(orbit.image(index))
        peer.until_settled(index + 1)
    assert peer.trigger('/mapper/save_map').success
    camera.send(orbit.image(3))
    assert peer.until_settled(4).frames_processed == 4


def test_parameters_are_refused_while_configured(peer: Peer, start: Start) -> None:
    start(autostart=False)
    result = peer.set_text('mode', 'sideways')
    assert not result.successful and "('live', 'replay')" in result.reason
    assert peer.set_text('mode', 'replay').successful
    assert peer.change_state('configure')
    result = peer.set_text('mode', 'live')
    assert not result.successful and 'clean up' in result.reason


@pytest.mark.parametrize(('name', 'value', 'reason'), [
    ('voxel_sise', 0.1, 'unknown parameters: voxel_sise'),
    ('mode', 'sideways', 'mode'),
    ('voxel_map.max_voxels', 1, 'voxel_map.max_voxels'),
])
def test_a_wrong_parameter_ends_the_start_with_its_name(
        name: str, value: object, reason: str, start: Start) -> None:
    mapper = start(**{name: value})
    assert mapper.process.wait(DEADLINE_SEC) == 1
    assert reason in mapper.log
    assert 'Traceback' not in mapper.log
