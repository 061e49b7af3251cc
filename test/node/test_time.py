# SPDX-License-Identifier: Apache-2.0
"""Stamps of bags: played again, out of order, and before the clock starts."""
from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import Camera, Mapper, Orbit, Peer, raw_image, stamp_of, to_ns
from nav_msgs.msg import Odometry, Path
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage

from spann3r_ros.ros.conversions import to_stamp

Start = Callable[..., Mapper]
SECOND_NS = 10**9
# Topics published for a keyframe, and topics published for a pose.
KEYFRAME_TOPICS = {'/mapper/points': PointCloud2, '/mapper/confidence': Image,
                   '/mapper/depth': Image, '/mapper/depth/camera_info': CameraInfo}
POSE_TOPICS = {'/mapper/pose': PoseWithCovarianceStamped, '/mapper/odometry': Odometry,
               '/tf': TFMessage}
LATCHED_TOPICS = {'/mapper/map_points': PointCloud2, '/mapper/path': Path}


class Outputs:
    """Every stamp that the peer receives, by topic."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        for topic, kind in (KEYFRAME_TOPICS | POSE_TOPICS | LATCHED_TOPICS).items():
            peer.listen(kind, topic, latched=topic in LATCHED_TOPICS)
        peer.statuses()

    def stamps(self, topic: str) -> list[int]:
        """Return the stamps of a topic's messages, and of what they hold, in order."""
        return [to_ns(one.header.stamp) for message in list(self._peer.received[topic])
                for one in (*getattr(message, 'transforms', ()), *getattr(message, 'poses', ()),
                            message) if hasattr(one, 'header')]

    def until(self, topic: str, stamps: list[int]) -> None:
        if topic == '/tf':
            stamps = [stamp for stamp in stamps for _ in ('map -> odom', 'odom -> camera')]
        self._peer.until(lambda: len(self.stamps(topic)) >= len(stamps), f'all of {topic}')
        assert self.stamps(topic) == stamps, topic

    def all_but(self, expected: list[int]) -> dict[str, set[int]]:
        """Return other stamps than these by topic; every topic must have been received."""
        assert all(self._peer.received.values())
        return {topic: found for topic in self._peer.received
                if (found := set(self.stamps(topic)) - set(expected))}


class Player:
    """Plays images a second apart, and the time of each before it, as a bag with /clock does."""

    def __init__(self, peer: Peer, camera: Camera, orbit: Orbit) -> None:
        self._peer = peer
        self._camera = camera
        self._orbit = orbit
        self._clock = peer.publisher(Clock, '/clock')
        self.diagnostics = peer.listen(DiagnosticArray, '/diagnostics')

    @staticmethod
    def stamp_of(index: int) -> int:
        return stamp_of(0) + index * SECOND_NS

    def play(self, *indices: int) -> None:
        self._camera.connect()
        for index in indices:
            self._tell(self.stamp_of(index))
            self._camera.send(raw_image(self._orbit.rgb[index], self.stamp_of(index)))

    def pause(self, index: int) -> None:
        """Tell the time of an image until the mapper's diagnostics bear it, then no more."""
        stamp_ns = self.stamp_of(index)
        # The mapper subscribes to /clock by best effort: a message may be lost.
        self._peer.until(lambda: self._tell(stamp_ns) or (
            self.diagnostics and to_ns(self.diagnostics[-1].header.stamp) == stamp_ns),
            'a diagnostic of the paused time')

    def _tell(self, stamp_ns: int) -> None:
        self._clock.publish(Clock(clock=to_stamp(stamp_ns)))


@pytest.fixture
def player(peer: Peer, camera: Camera, orbit: Orbit) -> Player:
    return Player(peer, camera, orbit)


@pytest.mark.parametrize(('choice', 'maps', 'poses'), [('fragment', 1, 11), ('reset', 2, 5)])
def test_a_bag_played_again_begins_a_fragment_or_a_new_map(
        choice: str, maps: int, poses: int, peer: Peer, camera: Camera, orbit: Orbit,
        start: Start) -> None:
    paths = peer.listen(Path, '/mapper/path', latched=True)
    mapper = start(mode='replay', map_publish_period_sec=0.0, time_jump=choice)
    # Stamps a second apart, so that six images back is a jump.
    images = [raw_image(orbit.rgb[index], stamp_of(0) + index * SECOND_NS) for index in range(6)]
    camera.send(*images, *images)
    status = peer.until_settled(12)
    assert (status.frames_processed, status.frames_failed) == (12, 0)
    assert (status.fragment_id, status.resets) == (1, 1)
    assert 'jumped back' in mapper.log
    peer.until(lambda: len(paths) > 8 and len(paths[-1].poses) == poses, 'the second path')
    stamps = [to_ns(item.header.stamp) for item in paths[-1].poses]
    played = [stamp_of(0) + index * SECOND_NS for index in range(6)]
    # In the order of mapping. The last image of the old time is not lost.
    assert stamps == (played + played[:5] if maps == 1 else played[:5])


def test_a_bag_played_again_is_refused_if_configured(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    start(mode='replay', time_jump='refuse')
    images = [raw_image(orbit.rgb[index], stamp_of(0) + index * SECOND_NS) for index in range(7)]
    camera.send(*images[:6], *images)
    status = peer.until_settled(13)
    assert (status.frames_processed, status.frames_failed) == (7, 6)
    assert (status.fragment_id, status.resets) == (0, 0)
    assert 'stamp: expected one after' in status.last_error


def test_one_wild_stamp_costs_one_image(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    poses = peer.listen(PoseWithCovarianceStamped, '/mapper/pose')
    mapper = start(mode='replay')
    images = [orbit.image(index) for index in range(14)]
    for index, offset in ((4, 3600), (9, -2)):
        images[index].header.stamp.sec += offset
    camera.send(*images)
    status = peer.until_settled(14)
    assert (status.frames_processed, status.frames_failed, status.resets) == (12, 2, 0)
    peer.until(lambda: len(poses) == 12, 'a pose of each image')
    assert [to_ns(one.header.stamp) for one in poses] == [
        stamp_of(index) for index in range(14) if index not in (4, 9)]
    assert mapper.log.count('left out, because the next image has the former time') >= 1


def test_images_without_stamps_are_mapped_at_the_time_of_receipt(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    start(mode='replay', stamp_source='receipt')
    began_ns = time.time_ns()
    camera.send(*(raw_image(rgb, 0) for rgb in orbit.rgb[:6]))
    status = peer.until_settled(6)
    assert (status.frames_processed, status.frames_failed) == (6, 0)
    peer.until(lambda: len(clouds) == 5, 'clouds')
    stamps = [to_ns(cloud.header.stamp) for cloud in clouds]
    assert stamps == sorted(set(stamps))
    assert began_ns < stamps[0] and stamps[-1] < time.time_ns()


def test_the_time_of_receipt_needs_a_clock_that_has_begun(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, player: Player) -> None:
    mapper = start(mode='replay', stamp_source='receipt', use_sim_time=True)
    camera.send(raw_image(orbit.rgb[0], 0))
    # Without a time there is no status yet.
    peer.until(lambda: 'the time on /clock has not begun' in mapper.log, 'the reason')
    player.pause(1)
    status = peer.until_settled(1)
    assert (status.frames_processed, status.frames_failed) == (0, 1)
    assert 'the time on /clock has not begun' in status.last_error
    camera.send(raw_image(orbit.rgb[1], 0))
    assert peer.until_settled(2).frames_processed == 1


def test_two_publishers_of_the_clock_are_reported_and_do_no_harm(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    """As a recording that holds /clock, played with --clock."""
    clocks = [peer.publisher(Clock, '/clock') for _ in range(2)]
    mapper = start(mode='replay', use_sim_time=True, tf_publish_period_sec=0.01)
    camera.connect()
    for index in range(6):
        for clock, offset in zip(clocks, (0, -10**9), strict=True):
            clock.publish(Clock(clock=to_stamp(stamp_of(index) + offset * SECOND_NS)))
        camera.send(orbit.image(index))
    assert peer.until_settled(6).frames_processed == 6
    peer.until(lambda: '/clock has 2 publishers' in mapper.log, 'the warning')
    statuses = len(peer.statuses())
    peer.until(lambda: len(peer.statuses()) > statuses + 1, 'the next seconds')
    assert mapper.log.count('/clock has 2 publishers') == 1
    assert 'Traceback' not in mapper.log and mapper.alive()


def test_images_are_mapped_before_the_clock_starts(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    start(mode='replay', use_sim_time=True)
    camera.send(*(orbit.image(index) for index in range(4)))
    assert peer.until_settled(4).frames_processed == 4
    peer.until(lambda: len(clouds) == 3, 'clouds')
    assert [to_ns(cloud.header.stamp) for cloud in clouds] == [stamp_of(i) for i in range(3)]


def test_a_clock_that_starts_late_and_pauses_stamps_nothing_with_zero(
        peer: Peer, camera: Camera, orbit: Orbit, start: Start, player: Player) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    start(mode='replay', use_sim_time=True, map_publish_period_sec=0.0)
    peer.statuses()
    camera.connect()
    assert peer.trigger('/mapper/reset').success  # before any image and any clock
    camera.send(*(orbit.image(index) for index in range(4)))
    peer.until_settled(4)
    assert not player.diagnostics

    player.pause(1)
    # The clock stands still now; the node still publishes its status.
    peer.until(lambda: len(player.diagnostics) >= 3, 'diagnostics')
    assert {to_ns(one.header.stamp) for one in player.diagnostics} == {player.stamp_of(1)}
    camera.send(*(orbit.image(index) for index in range(4, 7)))
    assert peer.until_settled(7).frames_processed == 7
    peer.until(lambda: to_ns(clouds[-1].header.stamp) == stamp_of(5), 'the map')
    assert all(to_ns(one.header.stamp) for one in (*peer.statuses(), *clouds))


@pytest.mark.parametrize(('choice', 'finished'), [('fragment', 6), ('reset', 5)])
def test_a_clock_that_loops_with_the_images_goes_on_with_all_outputs(
        choice: str, finished: int, peer: Peer, player: Player, start: Start) -> None:
    outputs = Outputs(peer)
    mapper = start(mode='replay', use_sim_time=True, map_publish_period_sec=0.0, time_jump=choice)
    player.play(*range(6))
    first = peer.until_settled(6)
    player.pause(5)
    player.play(*range(4))
    status = peer.until_settled(10)
    player.pause(3)  # the mapper's own time has gone back, too
    assert (status.frames_processed, status.frames_failed) == (10, 0)
    assert (first.fragment_id, status.fragment_id, status.resets) == (0, 1, 1)
    assert status.voxels > 1000

    images = [player.stamp_of(index) for index in range(6)]
    for topic in KEYFRAME_TOPICS:
        outputs.until(topic, images[:finished] + images[:3])
    for topic in POSE_TOPICS:
        outputs.until(topic, images + images[:4])
    assert outputs.all_but(images) == {}
    assert 'Traceback' not in mapper.log


def test_while_the_clock_pauses_images_are_mapped_at_their_stamps(
        peer: Peer, player: Player, start: Start) -> None:
    outputs = Outputs(peer)
    mapper = start(mode='replay', use_sim_time=True, map_publish_period_sec=0.0)
    player.play(*range(4))
    peer.until_settled(4)
    player.pause(3)
    statuses, diagnostics = len(peer.statuses()), len(player.diagnostics)
    peer.until(lambda: len(peer.statuses()) > statuses and len(player.diagnostics) > diagnostics,
               'the mapper to go on telling')
    player.play(*range(4, 8))
    assert peer.until_settled(8).frames_processed == 8

    images = [player.stamp_of(index) for index in range(8)]
    for topic in KEYFRAME_TOPICS:
        outputs.until(topic, images[:7])
    for topic in POSE_TOPICS:
        outputs.until(topic, images)
    assert outputs.all_but(images) == {}
    assert 'Traceback' not in mapper.log
