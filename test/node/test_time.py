# SPDX-License-Identifier: Apache-2.0
"""Time of bags: played again, out of order, before the clock."""
from __future__ import annotations

from collections.abc import Callable

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from harness import Camera, Mapper, Orbit, Peer, raw_image, stamp_of, to_ns
from nav_msgs.msg import Path
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from spann3r_ros.mapping.types import FrameError
from spann3r_ros.nodes.conversions import to_stamp
from spann3r_ros.nodes.image_clock import ImageClock

Start = Callable[..., Mapper]
SECOND_NS = 10**9


def test_clock_tells_late_images_from_a_new_beginning() -> None:
    clock = ImageClock()
    assert not clock.follow(10 * SECOND_NS, may_jump=True)
    assert not clock.follow(10 * SECOND_NS + 1, may_jump=True)
    for late_ns in (10 * SECOND_NS + 1, 9 * SECOND_NS + 2):
        with pytest.raises(FrameError, match='expected one after 10000000001 ns'):
            clock.follow(late_ns, may_jump=True)
    with pytest.raises(FrameError):
        clock.follow(SECOND_NS, may_jump=False)
    assert clock.follow(9 * SECOND_NS, may_jump=True)
    assert not clock.follow(9 * SECOND_NS + 1, may_jump=True)


def test_clock_that_begins_again_follows_any_step_back() -> None:
    clock = ImageClock()
    clock.follow(10 * SECOND_NS, may_jump=False)
    clock.begin_again()
    assert clock.follow(10 * SECOND_NS - 5, may_jump=False)
    with pytest.raises(FrameError):
        clock.follow(10 * SECOND_NS - 6, may_jump=False)
    clock.begin_again()
    assert not clock.follow(11 * SECOND_NS, may_jump=False)


def test_a_bag_played_again_begins_a_new_map(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    paths = peer.listen(Path, '/mapper/path', latched=True)
    mapper = start(mode='replay', map_publish_period_sec=0.0)
    # Stamps a second apart, so that six images back is a jump.
    images = [raw_image(orbit.rgb[index], stamp_of(0) + index * SECOND_NS) for index in range(6)]
    camera.send(*images, *images)
    status = peer.until_settled(12)
    assert (status.frames_processed, status.frames_failed) == (12, 0)
    assert (status.fragment_id, status.resets) == (1, 1)
    assert 'jumped back' in mapper.log
    peer.until(lambda: len(paths) > 8 and len(paths[-1].poses) == 5, 'the second path')
    assert [to_ns(item.header.stamp) for item in paths[-1].poses] == [
        stamp_of(0) + index * SECOND_NS for index in range(5)]


def test_a_bag_played_again_is_refused_when_asked(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(mode='replay', time_jump='refuse')
    images = [raw_image(orbit.rgb[index], stamp_of(0) + index * SECOND_NS) for index in range(7)]
    camera.send(*images[:6], *images)
    status = peer.until_settled(13)
    assert (status.frames_processed, status.frames_failed) == (7, 6)
    assert (status.fragment_id, status.resets) == (0, 0)
    assert 'stamp: expected one after' in status.last_error


def test_images_are_mapped_before_the_clock_starts(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    start(mode='replay', use_sim_time=True)
    camera.send(*(orbit.image(index) for index in range(4)))
    assert peer.until_settled(4).frames_processed == 4
    peer.until(lambda: len(clouds) == 3, 'clouds')
    assert [to_ns(cloud.header.stamp) for cloud in clouds] == [stamp_of(i) for i in range(3)]


def test_a_clock_that_starts_late_and_pauses_stamps_nothing_with_zero(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    diagnostics = peer.listen(DiagnosticArray, '/diagnostics')
    clouds = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    clock = peer.publisher(Clock, '/clock')
    start(mode='replay', use_sim_time=True, map_publish_period_sec=0.0)
    peer.statuses()
    camera.connect()
    assert peer.trigger('/mapper/reset').success  # before any image and any clock
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    assert not diagnostics

    paused_ns = stamp_of(4)
    peer.until(clock.get_subscription_count, 'the mapper to read the clock')
    clock.publish(Clock(clock=to_stamp(paused_ns)))
    # The clock stands still now; the node goes on telling how it fares.
    peer.until(lambda: len(diagnostics) >= 3, 'diagnostics')
    assert {to_ns(one.header.stamp) for one in diagnostics} == {paused_ns}
    camera.send(*(orbit.image(index) for index in range(4, 7)))
    assert peer.until_settled(7).frames_processed == 7
    peer.until(lambda: to_ns(clouds[-1].header.stamp) == stamp_of(5), 'the map')
    assert all(to_ns(one.header.stamp) for one in (*peer.statuses(), *clouds))
