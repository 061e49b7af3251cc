# SPDX-License-Identifier: Apache-2.0
"""A node that publishes the images of a bag and their other messages over DDS."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import monotonic

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter_client import AsyncParameterClient
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from spann3r_ros.core.messages import LEAD_NS
from spann3r_ros.datasets.bags import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    TF_MESSAGE,
    BagError,
    CameraBag,
)
from spann3r_ros.datasets.rosbag2.bag_storage import BagTopic
from spann3r_ros.msg import MapperStatus

from .played_time import PlayedTime

KINDS = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage, CAMERA_INFO: CameraInfo,
         TF_MESSAGE: TFMessage}
SPIN_SEC = 0.05
# The last images wait for data that may be on their way for this long, without a change.
LAST_WAIT_SEC = 1.0
DEPTH = 10
# The answer to a client that the mapper has not discovered yet is lost: it is asked again.
ASK_SEC = 2.0
# Many transforms are published in a short time.
SIDE_DEPTH = 1000


class SilenceError(RuntimeError):
    """There is no subscriber, or the mapper processes no images."""


@dataclass(frozen=True)
class PlayOptions:
    """The rate of playing a bag, and its timeout.

    `rate` is a multiple of the recorded rate; with 0 the mapper determines the rate. `window` is
    the largest number of published images that the mapper, by its status, has not finished yet;
    with 0 nothing bounds it. With a window, and with `follow`, playing begins when the mapper is
    active and ends when it has finished the images; otherwise its status is not used, and a
    subscriber that has not discovered the player yet misses the first images. With `clock` the
    recorded time is published on /clock. When the images have a subscriber, the other topics get
    `others_sec` to find theirs. Playing fails after `patience_sec` without progress.
    """

    rate: float = 1.0
    window: int = 0
    follow: bool = False
    clock: bool = False
    status_topic: str = 'mapper/status'
    patience_sec: float = 120.0
    others_sec: float = 5.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1000.0:
            raise ValueError(f'rate: expected 0 to 1000, got {self.rate}')
        if self.window < 0:
            raise ValueError(f'window: expected 0 or more images, got {self.window}')
        if not self.rate and not self.window:
            # Without its status nothing shows that the mapper has used an image: an
            # acknowledgement only means that the image arrived, and it comes seconds later.
            raise ValueError('window: expected 1 or more images with rate 0, got 0')

    @property
    def uses_status(self) -> bool:
        """Return whether the status of the mapper is read."""
        return self.follow or self.window > 0


class Player(Node):
    """Publishes the serialised messages of a bag unchanged, with reliable QoS."""

    def __init__(self, bag: CameraBag, options: PlayOptions) -> None:
        super().__init__('bag_player')
        self._bag = bag
        self._options = options
        self._status: MapperStatus | None = None
        self._before = MapperStatus()
        self._clock: PlayedTime | None = None
        depth = max(DEPTH, options.window)
        self._by_topic: dict[str, Publisher] = {}
        for connection in bag.connections:
            role = bag.role(connection)
            qos = QoSProfile(depth=depth if role == 'image' else SIDE_DEPTH)
            if role == 'tf_static':
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            if connection.topic not in self._by_topic:
                self._by_topic[connection.topic] = self.create_publisher(
                    KINDS[connection.msgtype], connection.topic, qos)
        self._images = self._by_topic[bag.image.topic]
        # A static transform is kept for late listeners, the other messages are lost without one.
        self._other_publishers = [self._by_topic[topic] for topic in {
            one.topic: None for one in bag.connections if bag.role(one) != 'tf_static'}]
        self._infos = [self._by_topic[one.topic] for one in bag.connections
                       if bag.role(one) == 'camera_info']
        if options.uses_status:
            self.create_subscription(MapperStatus, options.status_topic, self._take_status, DEPTH)

    def play(self, progress: Callable[[], object] = lambda: None) -> int:
        """Wait for a subscriber, publish everything and return the number of images sent.

        `progress` is called after each image. Raises SilenceError if there is no subscriber, or if
        the mapper finishes no image, for `patience_sec`; BagError if no message can be read.
        """
        if self._options.follow:
            self._follow()
        # At the recorded rate every message is published at its recorded time.
        messages = self._bag.leading(0 if self._options.rate else LEAD_NS)
        first = next(messages, None)
        if first is None:
            raise BagError(f'bag: cannot read a message of {self._bag.path}')
        if self._options.clock:
            # Before its clock starts, the mapper publishes no status.
            self._clock = PlayedTime(self, first[1])
        self._wait(self._has_subscribers, self._why_no_subscribers)
        self._wait_others()
        if self._options.uses_status:
            self._before = self._status
        sent = self._send(itertools.chain([first], messages), progress)
        if self._options.uses_status:
            self._wait_finished(sent)
        self._wait_received()
        return sent

    def account(self, sent: int) -> tuple[str, bool]:
        """Return what the mapper has done with the images, and whether that is as it should be.

        It skips images that are no keyframes. In live mode images may be dropped.
        """
        now, before = self._status, self._before
        counts = {name: getattr(now, f'frames_{name}') - getattr(before, f'frames_{name}')
                  for name in ('processed', 'skipped', 'dropped', 'failed')}
        waiting = now.images_waiting + now.frames_waiting
        missing = {**counts, 'still waiting': waiting,
                   'not received': sent - sum(counts.values()) - waiting}
        used = missing.pop('processed')
        text = ', '.join([f'{sent} images sent, {used} used', *(
            f'{count} {name}' for name, count in missing.items() if count > 0)])
        if self._options.rate and (missing['dropped'] or missing['not received'] > 0):
            text += ' (in live mode a newer image replaces one that waits; mode replay uses all)'
        if missing['failed']:
            text += f'; last error: {now.last_error}'
        blind = now.frames_blind - before.frames_blind
        lacks = [count for name, count in missing.items() if name != 'skipped' and count > 0]
        is_whole = used > 0 and not lacks and not blind
        return text, is_whole or (self._options.rate > 0.0 and not missing['failed'])

    def _send(self, messages: Iterable[tuple[BagTopic, int, bytes]],
              progress: Callable[[], object]) -> int:
        """Publish all messages; return the number of images."""
        sent, started_sec, first_ns, last_ns = 0, monotonic(), None, 0
        for count, (connection, time_ns, data) in enumerate(messages):
            if not self._options.window and count and count % DEPTH == 0:
                # Beyond its depth the middleware forgets what a slow subscriber has not taken.
                self._wait_received()
            if self._bag.role(connection) != 'image':
                self._by_topic[connection.topic].publish(data)
                continue
            first_ns = time_ns if first_ns is None else first_ns
            self._pace(started_sec, (time_ns - first_ns) * 1e-9, time_ns)
            if self._options.window:
                self._wait_window(sent, (time_ns - last_ns) * 1e-9)
            if self._clock is not None:
                self._clock.reach(time_ns)
            self._images.publish(data)
            sent, last_ns = sent + 1, time_ns
            progress()
        return sent

    def _take_status(self, status: MapperStatus) -> None:
        self._status = status

    def _follow(self) -> None:
        """Ask the mapper for its mode, and whether it listens to masks, until it answers."""
        name = self.resolve_topic_name(self._options.status_topic).rpartition('/')[0]
        client = AsyncParameterClient(self, name)
        asked: list[Future] = []
        asked_sec = float('-inf')

        def is_answered() -> bool:
            nonlocal asked_sec
            if client.services_are_ready() and monotonic() > asked_sec + ASK_SEC:
                asked_sec = monotonic()
                asked.append(client.get_parameters(['mode', 'mask']))
            return any(one.done() for one in asked)

        self._wait(is_answered, lambda: f'no node {name}')
        answer = next(one for one in asked if one.done()).result()
        mode, mask = (value.string_value for value in answer.values)
        if mode == 'replay':
            self._options = replace(self._options, rate=0.0, window=self._options.window or 1)
        if mask == 'none':
            silent = {one.topic for one in self._bag.connections if self._bag.role(one) == 'mask'}
            self._other_publishers = [one for one in self._other_publishers
                                      if one.topic_name not in silent]

    def _has_subscribers(self) -> bool:
        infos = not self._options.uses_status or all(
            one.get_subscription_count() for one in self._infos)
        active = not self._options.uses_status or (
            self._status is not None and self._status.state == 'active')
        return active and infos and self._images.get_subscription_count() > 0

    def _why_no_subscribers(self) -> str:
        if self._options.uses_status and self._status is None:
            return (f'no status on {self.resolve_topic_name(self._options.status_topic)} (the '
                    'mapper has to be configured)')
        if self._options.uses_status and self._status.state != 'active':
            return f'the mapper is {self._status.state}'
        return f'no subscriber of {self._images.topic_name}'

    def _wait_others(self) -> None:
        """Wait until every topic has a subscriber, for at most `others_sec`."""
        deadline_sec = monotonic() + self._options.others_sec
        while silent := [one.topic_name for one in self._other_publishers
                         if not one.get_subscription_count()]:
            if monotonic() > deadline_sec:
                self.get_logger().info(f'no subscriber of {", ".join(silent)}')
                return
            rclpy.spin_once(self, timeout_sec=SPIN_SEC)

    def _pace(self, started_sec: float, recorded_sec: float, time_ns: int) -> None:
        """Wait until the image is due."""
        if not self._options.rate:
            return
        if self._clock is not None:
            self._clock.go_on(time_ns, self._options.rate)
        due_sec = started_sec + recorded_sec / self._options.rate
        while (left_sec := due_sec - monotonic()) > 0.0:
            rclpy.spin_once(self, timeout_sec=min(left_sec, SPIN_SEC))

    def _wait_window(self, sent: int, period_sec: float) -> None:
        """Wait until the mapper has few enough of the images that were sent.

        Images that wait for other data do not count, because their data may be recorded later. For
        these, one more image is published each period, the time between the recorded images: so
        messages that have been published arrive before the mapper stops to wait for them.
        """
        started_sec = monotonic()

        def has_room() -> bool:
            open_images = sent - self._finished()
            if monotonic() - started_sec >= period_sec:
                open_images -= self._status.images_waiting
            return open_images < self._options.window

        self._wait(has_room, lambda: 'the mapper has not finished an image')

    def _wait_finished(self, sent: int) -> None:
        """Wait until the mapper has finished all images, except those that are lost.

        These are images whose data do not come, and those of live mode that did not arrive.
        """
        changed_sec, last = monotonic(), None

        def is_finished() -> bool:
            nonlocal changed_sec, last
            now = self._finished(), self._status.images_waiting
            if now != last:
                changed_sec, last = monotonic(), now
            arrived = sum(now) >= sent or (self._options.rate and not self._status.frames_waiting)
            return now[0] >= sent or (arrived and monotonic() - changed_sec > LAST_WAIT_SEC)

        self._wait(is_finished, lambda: 'the mapper has not finished an image')

    def _finished(self) -> int:
        return settled(self._status) - settled(self._before)

    def _wait_received(self) -> None:
        """Wait until every reliable subscriber has received what was published."""
        patience = Duration(seconds=self._options.patience_sec)
        for publisher in self._by_topic.values():
            if not publisher.wait_for_all_acked(patience):
                raise SilenceError(f'a subscriber did not acknowledge its messages on '
                                   f'{publisher.topic_name} for {self._options.patience_sec:g} s')

    def _wait(self, condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
        deadline_sec = monotonic() + self._options.patience_sec
        while not condition():
            if monotonic() > deadline_sec:
                raise SilenceError(f'{complaint()} for {self._options.patience_sec:g} s')
            rclpy.spin_once(self, timeout_sec=SPIN_SEC)


def settled(status: MapperStatus) -> int:
    """Return the number of images that the mapper has finished, with any result."""
    return (status.frames_processed + status.frames_skipped + status.frames_dropped
            + status.frames_failed)
