# SPDX-License-Identifier: Apache-2.0
"""/diagnostics reports missing images, overload and errors, and when they end."""
from __future__ import annotations

from collections.abc import Callable
from itertools import count, pairwise

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import Camera, Mapper, Orbit, Peer

Start = Callable[..., Mapper]
REFUSAL = 'encoding: expected one of '
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Monitor:
    """The statuses of one name, in order."""

    def __init__(self, peer: Peer, name: str) -> None:
        self._arrays = peer.listen(DiagnosticArray, '/diagnostics')
        self._name = f'/mapper: {name}'
        self._peer = peer

    def statuses(self) -> list[DiagnosticStatus]:
        return [status for array in self._arrays for status in array.status
                if status.name == self._name]

    def levels(self) -> list[bytes]:
        """Return the levels without repetitions."""
        levels = [status.level for status in self.statuses()]
        return [level for index, level in enumerate(levels)
                if index == 0 or level != levels[index - 1]]

    def until(self, *levels: bytes) -> DiagnosticStatus:
        """Wait until these are the latest levels and return the newest status."""
        count = len(levels)
        self._peer.until(lambda: self.levels()[-count:] == list(levels), f'levels {levels}')
        return self.statuses()[-1]


def test_missing_images_are_a_warning_until_one_comes(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    monitor = Monitor(peer, 'input')
    start(mode='replay', **{'diagnostics.stale_after_sec': 1.5})
    assert 'no image for' in monitor.until(WARN).message
    images = count()

    def have_come() -> bool:
        index = next(images)
        camera.send(orbit.image(index))
        peer.until_settled(index + 1)
        return (WARN, OK) in pairwise(monitor.levels())

    # A busy machine may be silent for so long again before it says that an image came.
    peer.until(have_come, 'levels WARN, OK')


def test_an_inactive_node_reports_its_state_and_does_not_warn(peer: Peer, start: Start) -> None:
    monitor = Monitor(peer, 'input')
    start(autostart=False, **{'diagnostics.stale_after_sec': 0.1})
    assert peer.change_state('configure')
    peer.until(lambda: len(monitor.statuses()) >= 3, 'statuses')
    assert {(status.level, status.message) for status in monitor.statuses()} == {
        (OK, 'inactive')}
    assert all(status.message for array in peer.received['/diagnostics']
               for status in array.status)


def test_out_of_memory_is_reported_and_fails_one_frame(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    monitor = Monitor(peer, 'map')
    mapper = start({'fault_at': 30, 'fault': 'out_of_memory', 'stretch': 0.6}, mode='replay')
    peer.statuses()
    monitor.until(OK)
    camera.send(*(orbit.image(index) for index in range(31)))
    assert 'no memory left for frame 30' in monitor.until(OK, ERROR).message
    failed = peer.until_settled(31)
    assert (failed.frames_processed, failed.frames_failed, failed.fragment_id) == (30, 1, 0)
    assert 'DeviceMemoryError' in failed.last_error
    camera.send(*(orbit.image(index) for index in range(31, 40)))
    status = peer.until_settled(40)
    values = {pair.key: pair.value for pair in monitor.until(OK, ERROR, OK).values}
    assert (values['fragment'], values['metric']) == ('1', 'False')
    assert (status.frames_processed, status.frames_failed) == (39, 1)
    assert (status.fragment_id, status.resets) == (1, failed.resets + 1)
    assert status.voxels > failed.voxels
    assert mapper.alive()


def test_many_dropped_images_are_a_warning(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    monitor = Monitor(peer, 'load')
    start({'delay_sec': 0.5}, **{
        'qos_overrides./camera/image_raw.subscription.reliability': 'reliable',
        'qos_overrides./camera/image_raw.subscription.depth': 100,
        'diagnostics.max_dropped_share': 0.5})
    monitor.until(OK)
    camera.send(*(orbit.image(index) for index in range(30)))
    assert 'of the images are dropped' in monitor.until(OK, WARN).message
    status = monitor.until(OK, WARN, OK)
    values = {pair.key: pair.value for pair in status.values}
    assert int(values['dropped']) > 15


def test_images_that_show_nothing_are_a_warning_until_one_shows_something(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    monitor = Monitor(peer, 'map')
    poses = peer.listen(PoseWithCovarianceStamped, '/mapper/pose')
    start(mode='replay')
    peer.statuses()
    camera.send(*(orbit.image(index) for index in range(4)))
    monitor.until(OK)
    black = []
    for index in range(4, 8):
        image = orbit.image(index)
        black.append(image.header.stamp)
        image.data = bytes(len(image.data))
        camera.send(image)
    assert 'the image is black' in monitor.until(OK, WARN).message
    status = peer.until_settled(8)
    assert (status.frames_processed, status.frames_skipped, status.frames_blind) == (4, 4, 4)
    assert status.blind_reason == 'the image is black'
    camera.send(*(orbit.image(index) for index in range(8, 12)))
    values = {pair.key: pair.value for pair in monitor.until(OK, WARN, OK).values}
    status = peer.until_settled(12)
    assert (values['blind'], status.blind_reason, status.frames_blind) == ('4', '', 4)
    assert (status.fragments, status.keyframes, status.phase) == (1, 7, 'tracking')
    peer.until(lambda: len(poses) == 8, 'the poses of all images but the black ones')
    assert not [pose for pose in poses if pose.header.stamp in black]


def test_a_refusal_is_in_diagnostics_status_and_once_in_the_log(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    monitor = Monitor(peer, 'map')
    mapper = start(mode='replay')
    peer.statuses()
    monitor.until(OK)
    wrong = [orbit.image(index) for index in range(2, 12)]
    for image in wrong:
        image.encoding = 'rgb7'
    # Good images follow at once, before the diagnostics are due.
    camera.send(*(orbit.image(index) for index in range(2)), *wrong,
                *(orbit.image(index) for index in range(12, 15)))
    status = peer.until_settled(15)
    assert (status.frames_processed, status.frames_failed) == (5, 10)
    assert status.last_error.startswith(REFUSAL)
    assert monitor.until(OK, WARN).message.startswith(REFUSAL)
    assert mapper.log.count(f'frame refused: {REFUSAL}') == 1
    camera.send(orbit.image(15))
    monitor.until(OK, WARN, OK)
