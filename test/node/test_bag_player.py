# SPDX-License-Identifier: Apache-2.0
"""The bag player in its own process: no image is lost, and its window is never exceeded."""
from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rclpy
from broken_bags import cut, damage, plain_bag, rewrite, storage_file
from harness import DEADLINE_SEC, Mapper, Message, Orbit, Peer, stamp_of, to_ns
from rclpy.duration import Duration
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from recorded_bags import IMAGE_TOPIC
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from spann3r_ros.msg import MapperStatus

from bags import compressed_bag, raw_bag
from spann3r_ros.datasets.bag_writer import BagWriter
from spann3r_ros.datasets.bags import BagError, CameraBag, TopicNames
from spann3r_ros.tools.player import DEPTH, Player, PlayOptions, SilenceError

Start = Callable[..., Mapper]


def play(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'spann3r_ros.tools.bag_player', '--quiet', *map(str, arguments)],
        capture_output=True, text=True, timeout=DEADLINE_SEC)


def publish_status(peer: Peer, images: list[Message], *topics: str) -> None:
    """Count the images as a mapper does, from when these topics have their writers."""
    publisher = peer.publisher(MapperStatus, '/peer/status')

    def publish() -> None:
        if all(peer.writers[topic] for topic in topics):
            publisher.publish(MapperStatus(state='active', frames_processed=len(images)))
    peer.node.create_timer(0.05, publish)


def recorded_images(bag: Path, kind: type) -> list[Message]:
    with CameraBag(bag) as recording:
        return [deserialize_message(bytes(data), kind)
                for one, _, data in recording.raw() if one.topic == recording.image.topic]


@pytest.mark.parametrize(('write', 'kind', 'topic', 'infos_topics'), [
    (raw_bag, Image, '/camera/image_raw', ()),
    (compressed_bag, CompressedImage, '/camera/image_raw/compressed', ('/camera/camera_info',)),
])
def test_every_image_arrives_as_recorded(
        write: Callable[..., Path], kind: type, topic: str, infos_topics: tuple[str, ...],
        peer: Peer, orbit: Orbit, tmp_path: Path) -> None:
    bag = write(tmp_path / 'bag', orbit, 20)
    images = peer.listen(kind, topic)
    infos = [peer.listen(CameraInfo, name) for name in infos_topics]
    publish_status(peer, images, topic, *infos_topics)
    done = play('--bag', bag, '--rate', '10', '--window', '20', '--status', '/peer/status')
    assert done.returncode == 0, done.stderr
    assert [to_ns(image.header.stamp) for image in images] == [stamp_of(i) for i in range(20)]
    assert images == recorded_images(bag, kind)
    for one in infos:
        peer.until(lambda one=one: len(one) == 20, 'all calibrations')


class Line:
    """A publisher whose listener takes a message only when it is waited for."""

    def __init__(self, topic: str) -> None:
        self.topic_name = topic
        self.open = self.most_open = self.sent = 0
        # How often it is asked for listeners before it has one; None: it never has.
        self.asked_before: int | None = 0

    def get_subscription_count(self) -> int:
        if self.asked_before is None:
            return 0
        self.asked_before -= 1
        return int(self.asked_before < 0)

    def publish(self, data: bytes) -> None:
        self.sent += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    def wait_for_all_acked(self, patience: Duration) -> bool:
        self.open = 0
        return True


@pytest.fixture
def lines(domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Line]]:
    """Return the publishers of the players that a test makes."""
    made: list[Line] = []

    create = Player.create_publisher

    def make(self: Player, kind: type, topic: str, qos: QoSProfile,
             **options: object) -> Line | Publisher:
        if not topic.startswith('/camera'):  # what every node has
            return create(self, kind, topic, qos, **options)
        assert qos.reliability == ReliabilityPolicy.RELIABLE and qos.depth >= DEPTH
        made.append(Line(topic))
        return made[-1]

    rclpy.init()
    monkeypatch.setattr(Player, 'create_publisher', make)
    yield made
    rclpy.shutdown()


def test_no_more_is_open_than_the_middleware_keeps(
        lines: list[Line], orbit: Orbit, tmp_path: Path) -> None:
    with CameraBag(compressed_bag(tmp_path / 'bag', orbit, 3 * DEPTH + 2)) as bag:
        assert Player(bag, PlayOptions(rate=1000.0)).play() == 3 * DEPTH + 2
    assert [line.sent for line in lines] == [3 * DEPTH + 2] * 2
    assert [line.open for line in lines] == [0, 0]
    assert max(line.most_open for line in lines) <= DEPTH


def test_nothing_is_sent_before_every_topic_has_its_listener(
        lines: list[Line], orbit: Orbit, tmp_path: Path) -> None:
    with CameraBag(compressed_bag(tmp_path / 'bag', orbit, 2)) as bag:
        player = Player(bag, PlayOptions(rate=1000.0, others_sec=DEADLINE_SEC))
        info = next(line for line in lines if line.topic_name.endswith('camera_info'))
        info.asked_before = 3
        info.publish = lambda data, publish=info.publish: (
            publish(data) if info.asked_before < 0 else pytest.fail('sent to nobody'))
        assert player.play() == 2
    assert info.sent == 2


def test_topic_without_a_listener_does_not_stop_the_images(
        lines: list[Line], orbit: Orbit, tmp_path: Path) -> None:
    with CameraBag(compressed_bag(tmp_path / 'bag', orbit, 2)) as bag:
        player = Player(bag, PlayOptions(rate=1000.0, others_sec=0.2))
        info = next(line for line in lines if line.topic_name.endswith('camera_info'))
        info.asked_before = None
        assert player.play() == 2


def test_listener_that_takes_nothing_is_an_error(
        lines: list[Line], orbit: Orbit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Line, 'wait_for_all_acked', lambda self, patience: False)
    with CameraBag(raw_bag(tmp_path / 'bag', orbit, 2)) as bag, \
            pytest.raises(SilenceError, match='/camera/image_raw for 7 s'):
        Player(bag, PlayOptions(rate=1000.0, patience_sec=7.0)).play()


def test_window_bounds_the_open_images(
        peer: Peer, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 12)
    statuses = peer.statuses()
    start({'delay_sec': 0.02}, mode='replay')
    peer.until(lambda: statuses, 'a first status')
    done = play('--bag', bag, '--rate', '0', '--window', '2')
    assert done.returncode == 0, done.stderr
    last = peer.until_settled(12)
    assert last.frames_processed == 12
    waiting = [status.frames_waiting for status in statuses]
    assert 0 < max(waiting) <= 2


def test_a_second_bag_continues_the_count(
        peer: Peer, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 4)
    start(mode='replay')
    for total in (4, 8):
        done = play('--bag', bag, '--rate', '0', '--window', '1')
        assert done.returncode == 0, done.stderr
        peer.until_settled(total)


@pytest.mark.parametrize('mode', ['live', 'replay'])
def test_a_player_that_follows_begins_when_the_mapper_is_active(
        mode: str, peer: Peer, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 12)
    player = subprocess.Popen(
        [sys.executable, '-m', 'spann3r_ros.tools.bag_player', '--quiet', '--bag', str(bag),
         '--follow', '--clock'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    clocks = peer.listen(Clock, '/clock')
    start(mode=mode, use_sim_time=True, autostart=False)
    # While it waits, it sends the time at which the bag begins.
    peer.until(lambda: clocks, 'the clock')
    assert peer.change_state('configure') and peer.change_state('activate')
    output, _ = player.communicate(timeout=DEADLINE_SEC)
    assert player.returncode == 0, output
    line = output.splitlines()[-1]
    if mode == 'replay':
        assert line.endswith('the bag has ended: 12 images sent, 12 used')
        assert peer.until_settled(12).frames_processed == 12
    else:
        assert 'the bag has ended: 12 images sent, ' in line
    times = [to_ns(clock.clock) for clock in clocks]
    assert times == sorted(times)
    assert times[0] == stamp_of(0) < times[-1] <= stamp_of(11)


def test_masks_are_played_to_a_mapper_that_wants_them(
        peer: Peer, orbit: Orbit, start: Start, tmp_path: Path) -> None:
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        images, masks = (writer.add_connection(topic, 'sensor_msgs/msg/Image',
                                               typestore=get_typestore(Stores.ROS2_JAZZY))
                         for topic in ('/camera/image_raw', '/camera/mask'))
        for index in range(4):
            image = orbit.image(index)
            mask = Image(header=image.header, height=96, width=96, encoding='mono8', step=96,
                         data=bytes([255]) * 96 * 96)
            writer.write(images, stamp_of(index), serialize_message(image))
            writer.write(masks, stamp_of(index), serialize_message(mask))
    start(mode='replay', mask='exact', use_sim_time=True)
    done = play('--bag', tmp_path / 'bag', '--topic', '/camera/image_raw', '--follow', '--clock',
                '--ros-args', '-r', '/camera/mask:=/mask')
    assert done.returncode == 0, done.stderr
    assert 'the bag has ended: 4 images sent, 4 used' in done.stdout + done.stderr


def test_what_is_missing_at_the_end_is_reported(lines: list[Line], orbit: Orbit,
                                                tmp_path: Path) -> None:
    with CameraBag(raw_bag(tmp_path / 'bag', orbit, 2)) as bag:
        player = Player(bag, PlayOptions(window=1))
        player._before = MapperStatus(frames_processed=5, frames_failed=1)
        player._status = MapperStatus(frames_processed=8, frames_failed=2, frames_dropped=1,
                                      images_waiting=1, last_error='image: expected 8 bits')
        assert player.account(9) == (
            '9 images sent, 3 used, 1 dropped, 1 failed, 1 still waiting, 3 not received '
            '(in live mode a newer image replaces one that waits; mode replay uses all); last '
            'error: image: expected 8 bits', False)
        player._status = MapperStatus(frames_processed=8, frames_failed=1, frames_dropped=1)
        assert player.account(4)[1]
        player._before = MapperStatus(frames_processed=4, frames_failed=1, frames_dropped=1)
        assert player.account(4) == ('4 images sent, 4 used', True)
        player._options = PlayOptions(rate=0.0, window=1)
        player._status = MapperStatus(frames_processed=5, frames_skipped=3, frames_failed=1,
                                      frames_dropped=1)
        assert player.account(4) == ('4 images sent, 1 used, 3 skipped', True)
        player._status.frames_blind = 1
        assert not player.account(4)[1]
        player._status.frames_blind, player._before.frames_processed = 0, 5
        assert not player.account(3)[1]


def test_recorded_clock_and_qos_are_not_played(
        lines: list[Line], orbit: Orbit, tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    best_effort = Qos(
        QosHistory.KEEP_LAST, 5, QosReliability.BEST_EFFORT, QosDurability.VOLATILE,
        QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False)
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        images = writer.add_connection('/camera/image_raw', 'sensor_msgs/msg/Image',
                                       typestore=store, offered_qos_profiles=[best_effort])
        clock = writer.add_connection('/clock', 'rosgraph_msgs/msg/Clock', typestore=store)
        for index in range(3):
            writer.write(images, stamp_of(index), serialize_message(orbit.image(index)))
            writer.write(clock, stamp_of(index), serialize_message(Clock()))
    with CameraBag(tmp_path / 'bag') as bag:
        assert Player(bag, PlayOptions(rate=1000.0)).play() == 3
    # `Line` has checked that the images are offered reliably.
    assert [(line.topic_name, line.sent) for line in lines] == [('/camera/image_raw', 3)]


@pytest.mark.parametrize(('state', 'reason'), [
    (None, 'no status on /mapper/status (the mapper has to be configured) for'),
    ('inactive', 'the mapper is inactive for'), ('active', 'no subscriber of /camera/image_raw')])
def test_the_reason_of_waiting_in_vain_is_told(
        state: str | None, reason: str, lines: list[Line], orbit: Orbit, tmp_path: Path) -> None:
    with CameraBag(raw_bag(tmp_path / 'bag', orbit, 2)) as bag:
        player = Player(bag, PlayOptions(window=1, patience_sec=0.1))
        lines[0].asked_before = None
        player._status = state and MapperStatus(state=state)
        with pytest.raises(SilenceError, match=re.escape(reason)):
            player.play()


@pytest.mark.usefixtures('domain')
def test_no_subscriber_is_an_error(orbit: Orbit, tmp_path: Path) -> None:
    done = play('--bag', raw_bag(tmp_path / 'bag', orbit, 2), '--patience-sec', '0.3')
    assert done.returncode == 1
    assert 'no subscriber of /camera/image_raw for 0.3 s' in done.stderr


def test_several_image_topics_are_listed(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as writer:
        for topic in ('/left', '/right'):
            writer.write_image(topic, 1, b'')
    with pytest.raises(BagError, match=r'/left \(CompressedImage, 1\), /right \(Compr'):
        CameraBag(tmp_path / 'bag')
    with pytest.raises(BagError, match=r'images on /top; .*: /left'):
        CameraBag(tmp_path / 'bag', TopicNames('/top'))
    with CameraBag(tmp_path / 'bag', TopicNames('/right')) as bag:
        assert (bag.image.topic, bag.count) == ('/right', 1)


def test_a_folder_that_is_no_bag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='cannot read'):
        CameraBag(tmp_path)


def test_an_image_topic_without_images_is_refused(orbit: Orbit, tmp_path: Path) -> None:
    with pytest.raises(BagError, match='expected images, the bag has none'):
        CameraBag(raw_bag(tmp_path / 'bag', orbit, 0))


@pytest.mark.parametrize('values', [{'rate': -1.0}, {'rate': float('nan')}, {'window': -1},
                                    {'window': 0, 'rate': 0.0}])
def test_bad_options_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f'{next(iter(values))}: expected'):
        PlayOptions(**values)


def test_bag_of_which_nothing_can_be_read_is_one_line(tmp_path: Path, domain: int) -> None:
    bag = plain_bag(tmp_path / 'bag', 3)
    rewrite(storage_file(bag), chunk_size=10**9)
    damage(storage_file(bag), 0.3)
    done = play('--bag', bag, '--topic', IMAGE_TOPIC)
    assert (done.returncode, done.stderr) == (
        1, f'bag_player: bag: cannot read a message of {bag}\n')


def test_bag_that_was_cut_off_is_played_as_far_as_it_goes(
        peer: Peer, orbit: Orbit, tmp_path: Path) -> None:
    file = storage_file(compressed_bag(tmp_path / 'bag', orbit, 20))
    rewrite(file, chunk_size=20_000)
    cut(file, 0.7)
    with CameraBag(file) as bag:
        count = bag.count
    assert 3 < count < 18
    images = peer.listen(CompressedImage, '/camera/image_raw/compressed')
    peer.listen(CameraInfo, '/camera/camera_info')
    publish_status(peer, images, '/camera/image_raw/compressed', '/camera/camera_info')
    done = play('--bag', file, '--rate', '0', '--window', '20', '--status', '/peer/status')
    assert done.returncode == 0, done.stderr
    assert f'the bag has ended: {count} images sent, {count} used' in done.stderr
    assert done.stderr.endswith(f'\nbag_player: bag.mcap: recovered {count} images, the recording '
                                'ends without an index\n')
    peer.until(lambda: len(images) == count, 'all images')


def test_bag_without_images_is_one_line_of_reason(orbit: Orbit, tmp_path: Path) -> None:
    done = play('--bag', raw_bag(tmp_path / 'bag', orbit, 0))
    assert done.returncode == 1
    assert done.stderr.startswith('bag_player: topic: expected images, the bag has none')
    assert len(done.stderr.splitlines()) == 1
