# SPDX-License-Identifier: Apache-2.0
"""What needs no reload is applied while images stream; the rest is refused with the reason."""
from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import Camera, Mapper, Orbit, Peer
from rcl_interfaces.msg import ParameterEvent
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

Start = Callable[..., Mapper]
OUTPUTS = '/mapper/points', '/mapper/path', '/mapper/map_points'


def test_changes_are_applied_while_images_stream(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, OUTPUTS[-1], latched=True)
    reports = peer.listen(DiagnosticArray, '/diagnostics')
    mapper = start(mode='replay', map_publish_period_sec=3600,  # no float, as a user writes it

                   **{'diagnostics.stale_after_sec': 3600.0})
    images = count()

    def send(number: int) -> None:
        camera.send(*(orbit.image(next(images)) for _ in range(number)))

    send(6)
    first = peer.until_settled(6)
    assert (first.frames_processed, first.frames_skipped) == (6, 0) and first.voxels > 0
    peer.until(lambda: clouds, 'a first cloud')
    assert peer.set_parameters({'map_publish_period_sec': 0.0, 'max_rate': 10,
                                'voxel_map.min_confidence': 1.0}).successful
    send(6)  # in 0.2 s
    second = peer.until_settled(12)
    assert (second.frames_processed, second.frames_skipped) == (8, 4)
    # The first of them completes the keyframe before it: nothing enters the map any more.
    assert (second.voxels, second.keyframes) == (first.voxels, first.keyframes + 2)
    peer.until(lambda: clouds[-1].width == first.voxels, 'a cloud without delay')
    assert peer.set_parameters({'max_rate': 0.0, 'voxel_map.min_confidence': 0.1,
                                'voxel_map.min_observations': 1000}).successful
    send(3)
    third = peer.until_settled(15)
    assert third.frames_processed == 11 and third.voxels > first.voxels
    peer.until(lambda: clouds[-1].width == 0, 'a cloud of what was seen a thousand times')
    assert peer.set_parameters({'diagnostics.stale_after_sec': 0.1}).successful
    peer.until(lambda: any(one.level == DiagnosticStatus.WARN and 'no image for' in one.message
                           for report in reports for one in report.status), 'a warning')
    assert 'parameters applied: diagnostics.stale_after_sec = 0.1' in mapper.log


REFUSED = (
    ({'checkpoint': 'other'}, 'checkpoint: read at configure; clean up the node first'),
    ({'max_rate': 5.0, 'threads': 2}, 'threads: read at configure; clean up the node first'),
    ({'max_rate': 5.0, 'camera_info_timeout_sec': -1.0}, 'Min: 0.0, Max: 3600.0, value: -1.0'),
    ({'max_rate': 5.0, 'time_jump': 'sideways'}, 'expected one of ('),
    ({'max_rate': 5.0, 'autostart': False}, 'read-only'),
    ({'max_rate': 'fast'}, 'Wrong parameter type'))


def test_refusals_change_nothing_and_outputs_have_the_qos_of_the_user(
        peer: Peer, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('OMP_DISPLAY_ENV', 'true')
    events = peer.listen(ParameterEvent, '/parameter_events')
    peer.statuses()
    mapper = start(resampling='fast', **{
        'qos_overrides./mapper/points.publisher.reliability': 'best_effort',
        'qos_overrides./mapper/path.publisher.durability': 'volatile'})
    peer.until(lambda: any(one.state == 'active' for one in peer.statuses()), 'an active node')
    # The fast way needs torch, which has read how its threads wait.
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in mapper.log
    peer.until(lambda: all(map(peer.node.get_publishers_info_by_topic, OUTPUTS)), 'the outputs')
    points, path, cloud = (peer.node.get_publishers_info_by_topic(topic)[0].qos_profile
                           for topic in OUTPUTS)
    assert points.reliability == ReliabilityPolicy.BEST_EFFORT
    assert path.durability == DurabilityPolicy.VOLATILE
    assert (cloud.reliability, cloud.durability) == (
        ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    for changes, reason in REFUSED:
        result = peer.set_parameters(changes)
        assert not result.successful and reason in result.reason, (changes, result)
    # As in a whole file that is loaded again: a fixed parameter with its own value is no change.
    assert peer.set_parameters({'max_rate': 7.5, 'checkpoint': ''}).successful
    changed = [[(one.name, one.value.double_value) for one in event.changed_parameters]
               for event in peer.until(
                   lambda: [one for one in events if one.changed_parameters], 'a change')]
    assert changed == [[('max_rate', 7.5), ('checkpoint', 0.0)]]
