# SPDX-License-Identifier: Apache-2.0
"""A session in the process of the test: what it builds, and what a failure leaves unchanged."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import Peer, to_ns
from nav_msgs.msg import Path as PathMessage
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import PointCloud2
from spann3r_ros.msg import MapperStatus
from synthetic import (
    SyntheticNetwork,
    SyntheticScene,
    every_frame,
    orbit_trajectory,
    render_frames,
    square_camera,
)

from spann3r_ros.core.types import FrameError
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.storage.map_directory import encode_map
from spann3r_ros.pipeline.frame_roles import Edge
from spann3r_ros.pipeline.image_clock import Jump
from spann3r_ros.pipeline.node_settings import NodeConfig, Settings
from spann3r_ros.pipeline.slot import Timing
from spann3r_ros.pipeline.sync.camera_sync import Expected
from spann3r_ros.ros import session as session_module
from spann3r_ros.ros.outputs.diagnostics import OK, WARN, Health
from spann3r_ros.ros.session import Session
from spann3r_ros.ros.tf.listener import ListeningThread

CAMERA = square_camera(96)
POSES = orbit_trajectory(12)
SCENE = SyntheticScene()
START_NS, PERIOD_NS = 100 * 10**9, 10**8


@pytest.fixture
def session(node: LifecycleNode, tmp_path: Path) -> Iterator[Session]:
    settings = Settings(NodeConfig(mode='replay', map_directory=str(tmp_path),
                                   time_jump='reset'),
                        every_frame(MapperConfig(resampling='exact')))
    network = SyntheticNetwork(SCENE, POSES, intrinsics=CAMERA)
    listening = ListeningThread(node)
    node.trigger_configure()
    session = Session(node, settings, Mapper(network, settings.mapper), listening)
    node.trigger_activate()
    session.activate()
    yield session
    session.close()
    listening.stop()


def feed(session: Session, *indices: int) -> None:
    """Pass images to the session and wait until the worker has settled them."""
    for index in indices:
        rgb = SCENE.render(POSES[index], CAMERA)[0]
        session._intake.take_image(START_NS + index * PERIOD_NS, 'camera', lambda rgb=rgb: rgb)
    session._runner.call(lambda: None)


def test_without_a_subscriber_no_status_is_built(
        session: Session, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    summarise, convert = Timing.of, session_module.to_status
    monkeypatch.setattr(Timing, 'of', lambda values: built.append('of') or summarise(values))
    monkeypatch.setattr(session_module, 'to_status',
                        lambda *parts: built.append('to_status') or convert(*parts))
    feed(session, 0, 1)
    session.publish_status()
    session.publish_diagnostics()
    assert built == []
    statuses = peer.listen(MapperStatus, '/mapper/status')
    peer.until(lambda: session.publish_status() or statuses, 'a status')
    assert (statuses[-1].frames_processed, 'to_status' in built) == (2, True)
    built.clear()
    arrays = peer.listen(DiagnosticArray, '/diagnostics')
    peer.until(lambda: session.publish_diagnostics() or arrays, 'diagnostics')
    assert 'of' in built
    # The rate is measured also while nobody listens.
    values = {pair.key: pair.value for pair in arrays[0].status[0].values}
    assert values['received'] == '2'


@pytest.mark.parametrize('reset', [False, True])
def test_the_empty_map_after_a_jump_back_has_the_new_time(
        reset: bool, session: Session, peer: Peer) -> None:
    maps = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    paths = peer.listen(PathMessage, '/mapper/path', latched=True)
    feed(session, 0, 1, 2)
    peer.until(lambda: session._tick() or (maps and paths and maps[-1].width), 'the first map')
    if reset:
        session.reset()
        rgb = SCENE.render(POSES[3], CAMERA)[0]
        session._intake.take_image(START_NS - 50 * 10**9, 'camera', lambda: rgb)
    else:
        session.time_jumped(START_NS - 50 * 10**9, Jump.RESET)
    for heard in (maps, paths):
        peer.until(lambda heard=heard: session._tick() or to_ns(
            heard[-1].header.stamp) == START_NS - 50 * 10**9, 'the new stamp')
    assert (maps[-1].width, len(paths[-1].poses)) == (0, 0)


def test_the_last_pose_is_held_anew_when_the_node_is_activated_again(
        session: Session, node: LifecycleNode) -> None:
    roles = session._tf.roles
    roles._held = Edge('odom', 'base_link', np.eye(4)), START_NS
    session.deactivate()
    before_ns = node.get_clock().now().nanoseconds
    session.activate()
    assert roles._held[1] >= before_ns


def test_a_refusal_is_not_lost_while_a_good_image_is_delivered(
        session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = Thread(target=lambda: session.image_failed(FrameError('an odd image')))

    def health(*values: object) -> Health:
        if not values:  # the worker is about to show that all is well
            refusing.start()
            refusing.join(0.2)
        return Health(*values)
    monkeypatch.setattr(session_module, 'Health', health)
    session.deliver(MapUpdate())
    refusing.join()
    assert session._health == Health(WARN, 'an odd image')


def test_what_other_nodes_do_not_send_is_shown_in_diagnostics_once(
        session: Session, peer: Peer) -> None:
    arrays = peer.listen(DiagnosticArray, '/diagnostics')
    peer.until(lambda: session.publish_diagnostics() or arrays, 'diagnostics')
    session.input_fault('TF does not connect the camera')
    feed(session, 0, 1)

    def shown() -> list[DiagnosticStatus]:
        return [one for array in arrays for one in array.status if one.name.endswith(': map')]
    warning = peer.until(lambda: session.publish_diagnostics() or [
        one for one in shown() if one.level == WARN], 'the warning')[0]
    assert warning.message == 'TF does not connect the camera'
    feed(session, 2)
    peer.until(lambda: session.publish_diagnostics() or shown()[-1].level == OK, 'the end')


def feed_at(session: Session, *stamps_sec: float, size: int = 96) -> None:
    """Pass images of stamps in seconds and of a height and width; wait until they are settled."""
    for index, sec in enumerate(stamps_sec, 5):
        rgb = SCENE.render(POSES[index], square_camera(size))[0]
        session._intake.take_image(round(sec * 1e9), 'camera', lambda rgb=rgb: rgb)
    session._runner.call(lambda: None)


def make_loadable(session: Session, tmp_path: Path, fits: bool) -> None:
    """Write a map that can be read; if not `fits`, it is of a network of another image size."""
    mapper = session._runner.mapper
    if not fits:
        small = square_camera(64)
        mapper = Mapper(SyntheticNetwork(SCENE, POSES, intrinsics=small), every_frame())
        for frame in render_frames(SCENE, POSES[:3], small):
            mapper.process(frame)
    session._runner.call(lambda: encode_map(mapper)).write(tmp_path)


def test_a_map_that_does_not_fit_changes_nothing(session: Session, tmp_path: Path) -> None:
    feed(session, 0, 1, 2)
    make_loadable(session, tmp_path, fits=False)
    before, errors = session._runner.map_status, session._last_error
    # The next image waits for a calibration.
    session._intake._cameras._expected = Expected(lambda: True, lambda: False, may_stop=True)
    feed(session, 3)
    assert session._intake.waiting == 1
    with pytest.raises(ValueError, match='expected keyframes of height and width'):
        session.load()
    assert session._runner.map_status == before and session._last_error == errors
    assert session._intake.waiting == 1
    # The clock of the images goes on: one out of order is refused as before.
    rgb = SCENE.render(POSES[4], CAMERA)[0]
    session._intake.take_image(START_NS + PERIOD_NS // 2, 'camera', lambda: rgb)
    assert 'stamp: expected one after' in session._last_error
    session._intake.drain()
    session._runner.call(lambda: None)
    accounts = session._runner.slot.accounts()
    assert (accounts.processed, accounts.failed, accounts.dropped) == (4, 1, 0)


def test_blind_images_stay_counted_when_a_map_is_loaded(
        session: Session, tmp_path: Path) -> None:
    feed(session, 0, 1, 2)
    make_loadable(session, tmp_path, fits=True)
    session._intake.take_image(START_NS + 3 * PERIOD_NS, 'camera',
                               lambda: np.zeros((96, 96, 3), np.uint8))
    session.load()
    status = session._status()
    assert (status.frames_skipped, status.frames_blind) == (1, 1)


def test_a_loaded_map_drops_what_waits_and_takes_any_stamp(
        session: Session, tmp_path: Path) -> None:
    feed(session, 0, 1, 2)
    make_loadable(session, tmp_path, fits=True)
    session._intake._cameras._expected = Expected(lambda: True, lambda: False, may_stop=True)
    feed(session, 3)
    assert '2 keyframes' in session.load()  # and one image that waits for its estimate
    assert session._intake.waiting == 0
    session._intake._cameras._expected = Expected(lambda: False, lambda: False, may_stop=True)
    session._intake._cameras._expects_calibration = False
    rgb = SCENE.render(POSES[4], CAMERA)[0]
    session._intake.take_image(START_NS - 50 * 10**9, 'camera', lambda: rgb)
    session._runner.call(lambda: None)
    accounts = session._runner.slot.accounts()
    assert (accounts.processed, accounts.failed, accounts.dropped) == (4, 0, 1)
    assert session._runner.map_status.keyframes == 3


def test_a_loaded_map_outlives_older_stamps_and_another_size(
        session: Session, tmp_path: Path) -> None:
    feed(session, 0, 1, 2, 3, 4)
    make_loadable(session, tmp_path, fits=True)
    session.load()
    resets = session._runner.map_status.memory.resets
    feed_at(session, 5.0, size=48)
    feed_at(session, 5.1, 5.2, 5.3)
    status, accounts = session._runner.map_status, session._runner.slot.accounts()
    assert (accounts.processed, accounts.failed) == (8, 1)
    assert status.memory.resets == resets and status.keyframes >= 6


def test_a_loaded_calibrated_map_goes_on_after_its_driver_ends(
        session: Session, tmp_path: Path) -> None:
    session._intake.take_calibration(START_NS, lambda: CAMERA)
    feed(session, 0, 1, 2, 3, 4)
    make_loadable(session, tmp_path, fits=True)
    session.load()
    session._intake.drop_waiting()
    feed_at(session, 5.0, 5.1, 5.2)
    accounts = session._runner.slot.accounts()
    assert (accounts.processed, accounts.failed) == (8, 0), session._last_error


def test_a_wild_stamp_after_a_load_begins_a_fragment_of_the_loaded_map(
        session: Session, tmp_path: Path) -> None:
    feed(session, 0, 1, 2, 3, 4)
    make_loadable(session, tmp_path, fits=True)
    session.load()
    resets, keyframes = (session._runner.map_status.memory.resets,
                         session._runner.map_status.keyframes)
    feed_at(session, 1e6, 15.0, 15.1, 15.2, 15.3)
    status = session._runner.map_status
    assert session._runner.is_loaded and session._runner.slot.accounts().balanced
    assert status.keyframes >= keyframes and status.memory.resets == resets + 1
    assert status.memory.last_reset_reason == 'the stamps jumped back'


def test_a_first_image_that_is_odd_is_the_reason_of_the_reset(session: Session) -> None:
    feed_at(session, 5.0, size=48)
    feed_at(session, 5.1, 5.2)
    status, accounts = session._runner.map_status, session._runner.slot.accounts()
    assert (accounts.processed, accounts.failed) == (2, 1)
    assert status.memory.last_reset_reason == 'the first image was an odd one'
