# SPDX-License-Identifier: Apache-2.0
"""The transitions that nav2_lifecycle_manager requests from its nodes, without a bond."""
from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import Camera, Mapper, Orbit, Peer
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image, PointCloud2
from spann3r_ros.msg import MapperStatus

Start = Callable[..., Mapper]
CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
SHUTDOWN = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN
# After each transition the manager asks for the state and gives up on any other than this.
EXPECTED = {CONFIGURE: 'inactive', ACTIVATE: 'active', DEACTIVATE: 'inactive',
            CLEANUP: 'unconfigured', SHUTDOWN: 'finalized'}


class Manager:
    """The commands of nav2_lifecycle_manager's service `manage_nodes`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def startup(self) -> None:
        self._drive(CONFIGURE, ACTIVATE)

    def pause(self) -> None:
        self._drive(DEACTIVATE)

    def resume(self) -> None:
        self._drive(ACTIVATE)

    def reset(self) -> None:
        self._drive(DEACTIVATE, CLEANUP)

    def shut_down(self) -> None:
        self._drive(DEACTIVATE, CLEANUP, SHUTDOWN)

    def request(self, transition: int) -> bool:
        """Ask for one transition, allowed or not."""
        return self._peer.call('/mapper/change_state', ChangeState.Request(
            transition=Transition(id=transition))).success

    def _drive(self, *transitions: int) -> None:
        for transition in transitions:
            assert self.request(transition), f'transition {transition} failed'
            assert self._peer.state() == EXPECTED[transition]


@pytest.fixture
def manager(peer: Peer) -> Manager:
    return Manager(peer)


def map_images(peer: Peer, camera: Camera, orbit: Orbit, indices: range,
               before: int = 0) -> MapperStatus:
    """Send images and return the status in which they, and `before` earlier ones, are mapped."""
    camera.send(*(orbit.image(index) for index in indices))
    status = peer.until_settled(before + len(indices))
    assert status.state == 'active'
    assert status.frames_processed == before + len(indices)
    return status


def test_a_paused_node_maps_nothing_and_keeps_the_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, manager: Manager) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    # It publishes on, whatever becomes of its readers.
    driver = peer.publisher(Image, '/camera/image_raw')
    mapper = start(autostart=False, mode='replay')
    manager.startup()
    before = map_images(peer, camera, orbit, range(3))
    for first in (3, 6):
        peer.until_read(driver)
        manager.pause()
        for index in range(20, 25):
            driver.publish(orbit.image(index))
        peer.until(lambda voxels=before.voxels: clouds and clouds[-1].width == voxels, 'the map')
        paused = peer.until(lambda: next(
            (one for one in peer.statuses()[-1:] if one.state == 'inactive'), None), 'the pause')
        assert (paused.frames_received, paused.voxels) == (first, before.voxels)
        manager.resume()
        # The counts show that no image of the pause was received later.
        after = map_images(peer, camera, orbit, range(first, first + 3), first)
        assert (after.fragment_id, after.resets) == (before.fragment_id, before.resets)
        assert after.voxels > before.voxels
        before = after
    assert 'Traceback' not in mapper.log


def test_a_reset_begins_a_new_map_and_a_shutdown_ends_the_node(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, manager: Manager) -> None:
    mapper = start(autostart=False, mode='replay')
    for end in (manager.reset, manager.shut_down):
        manager.startup()
        fresh = peer.until(lambda: next(
            (one for one in peer.statuses() if one.state == 'active'), None), 'a status')
        assert (fresh.frames_received, fresh.voxels, fresh.fragment_id) == (0, 0, 0)
        # Stamps as in the round before: a node that remembered them would refuse these.
        assert map_images(peer, camera, orbit, range(4)).voxels > 1000
        end()
        peer.until(lambda: not camera.readers, 'the subscription to go')
        assert 'not configured' in peer.trigger('/mapper/save_map').message
        peer.statuses().clear()
    for transition in (CONFIGURE, ACTIVATE, SHUTDOWN):
        assert not manager.request(transition)
        assert peer.state() == 'finalized'
    assert mapper.stop() == 0
    assert 'Traceback' not in mapper.log


def test_a_refused_transition_does_not_spoil_the_shutdown_of_a_paused_node(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, manager: Manager) -> None:
    mapper = start(autostart=False, mode='replay')
    manager.startup()
    map_images(peer, camera, orbit, range(3))
    manager.pause()
    # To shut down, the manager takes every step, whether or not the one before was made.
    made = [manager.request(transition) for transition in (DEACTIVATE, CLEANUP, SHUTDOWN)]
    assert made == [False, True, True]
    assert peer.state() == 'finalized'
    assert mapper.stop() == 0
    assert 'Traceback' not in mapper.log
