# SPDX-License-Identifier: Apache-2.0
"""Publishes the images of a bag and their other messages over DDS, in a separate process."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage
from tqdm import tqdm

from spann3r_ros.core.messages import LEAD_NS
from spann3r_ros.datasets.bags import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    TF_MESSAGE,
    CameraBag,
    TopicNames,
)
from spann3r_ros.msg import MapperStatus

KINDS = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage, CAMERA_INFO: CameraInfo,
         TF_MESSAGE: TFMessage}
SPIN_SEC = 0.05
# The last images wait for data that may be on their way for this long, without a change.
LAST_WAIT_SEC = 1.0
DEPTH = 10
# Many transforms are published in a short time.
SIDE_DEPTH = 1000


class SilenceError(RuntimeError):
    """There is no subscriber, or the mapper processes no images."""


@dataclass(frozen=True)
class PlayOptions:
    """The rate of playing a bag, and its timeout.

    `rate` is a multiple of the recorded rate; with 0 the mapper determines the rate. `window` is
    the largest number of published images that the mapper, by its status, has not finished yet;
    with 0 its status is not used, and a subscriber that has not discovered the player yet misses
    the first images. When the images have a subscriber, the other topics get `others_sec` to find
    theirs. Playing fails after `patience_sec` without progress.
    """

    rate: float = 1.0
    window: int = 0
    status_topic: str = '/mapper/status'
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


class Player(Node):
    """Publishes the serialised messages of a bag unchanged, with reliable QoS."""

    def __init__(self, bag: CameraBag, options: PlayOptions) -> None:
        super().__init__('bag_player')
        self._bag = bag
        self._options = options
        self._status: MapperStatus | None = None
        self._settled_before = 0
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
        if options.window:
            self.create_subscription(MapperStatus, options.status_topic, self._take_status, DEPTH)

    def play(self, progress: Callable[[], object] = lambda: None) -> int:
        """Wait for a subscriber, publish everything and return the number of images sent.

        `progress` is called after each image. Raises SilenceError if there is no subscriber, or if
        the mapper finishes no image, for `patience_sec`.
        """
        self._wait(self._has_subscribers, f'no subscriber of {self._images.topic_name}')
        self._wait_others()
        if self._options.window:
            self._settled_before = settled(self._status)
        sent, started_sec, first_ns, last_ns = 0, monotonic(), None, 0
        # At the recorded rate every message is published at its recorded time.
        for count, (connection, time_ns, data) in enumerate(self._bag.leading(
                0 if self._options.rate else LEAD_NS)):
            if not self._options.window and count and count % DEPTH == 0:
                # Beyond its depth the middleware forgets what a slow subscriber has not taken.
                self._wait_received()
            if self._bag.role(connection) != 'image':
                self._by_topic[connection.topic].publish(data)
                continue
            first_ns = time_ns if first_ns is None else first_ns
            self._pace(started_sec, (time_ns - first_ns) * 1e-9)
            if self._options.window:
                self._wait_window(sent, (time_ns - last_ns) * 1e-9)
            self._images.publish(data)
            sent, last_ns = sent + 1, time_ns
            progress()
        if self._options.window:
            self._wait_finished(sent)
        self._wait_received()
        return sent

    def _take_status(self, status: MapperStatus) -> None:
        self._status = status

    def _has_subscribers(self) -> bool:
        infos = not self._options.window or all(
            one.get_subscription_count() for one in self._infos)
        active = not self._options.window or (
            self._status is not None and self._status.state == 'active')
        return active and infos and self._images.get_subscription_count() > 0

    def _wait_others(self) -> None:
        """Wait until every topic has a subscriber, for at most `others_sec`."""
        deadline_sec = monotonic() + self._options.others_sec
        while silent := [one.topic_name for one in self._other_publishers
                         if not one.get_subscription_count()]:
            if monotonic() > deadline_sec:
                self.get_logger().info(f'no subscriber of {", ".join(silent)}')
                return
            rclpy.spin_once(self, timeout_sec=SPIN_SEC)

    def _pace(self, started_sec: float, recorded_sec: float) -> None:
        """Wait until the image is due."""
        if not self._options.rate:
            return
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

        self._wait(has_room, 'the mapper has not finished an image')

    def _wait_finished(self, sent: int) -> None:
        """Wait until the mapper has finished all images, except those whose data do not come."""
        changed_sec, last = monotonic(), None

        def is_finished() -> bool:
            nonlocal changed_sec, last
            now = self._finished(), self._status.images_waiting
            if now != last:
                changed_sec, last = monotonic(), now
            return now[0] >= sent or (sum(now) >= sent
                                      and monotonic() - changed_sec > LAST_WAIT_SEC)

        self._wait(is_finished, 'the mapper has not finished an image')

    def _finished(self) -> int:
        return settled(self._status) - self._settled_before

    def _wait_received(self) -> None:
        """Wait until every reliable subscriber has received what was published."""
        patience = Duration(seconds=self._options.patience_sec)
        for publisher in self._by_topic.values():
            if not publisher.wait_for_all_acked(patience):
                raise SilenceError(f'a subscriber did not acknowledge its messages on '
                                   f'{publisher.topic_name} for {self._options.patience_sec:g} s')

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline_sec = monotonic() + self._options.patience_sec
        while not condition():
            if monotonic() > deadline_sec:
                raise SilenceError(f'{complaint} for {self._options.patience_sec:g} s')
            rclpy.spin_once(self, timeout_sec=SPIN_SEC)


def settled(status: MapperStatus) -> int:
    """Return the number of images that the mapper has finished, with any result."""
    return (status.frames_processed + status.frames_skipped + status.frames_dropped
            + status.frames_failed)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the values of the command line."""
    parser = argparse.ArgumentParser(prog='bag_player', description=__doc__)
    parser.add_argument('--bag', type=Path, required=True, help='rosbag2 folder or file')
    parser.add_argument('--topic', default='',
                        help='image topic; default: that of the only camera')
    parser.add_argument('--camera-info-topic', default='',
                        help='default: camera_info beside the image topic')
    parser.add_argument('--mask-topic', default='', help='masks to play; default: none')
    parser.add_argument('--rate', type=float, default=PlayOptions.rate, help=(
        'multiple of the recorded rate; 0: as fast as the mapper (default: %(default)s)'))
    parser.add_argument('--window', type=int, default=PlayOptions.window, help=(
        'most published images that the mapper has not finished; 0: do not use its status '
        '(default: %(default)s)'))
    parser.add_argument('--status', default=PlayOptions.status_topic,
                        help="the mapper's status topic (default: %(default)s)")
    parser.add_argument('--patience-sec', type=float, default=PlayOptions.patience_sec,
                        help='fail after so many seconds without progress (default: %(default)s)')
    parser.add_argument('--quiet', action='store_true', help='show no progress')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play a bag; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    values = parse(remove_ros_args(['bag_player', *arguments])[1:])
    rclpy.init(args=arguments)
    try:
        options = PlayOptions(values.rate, values.window, values.status, values.patience_sec)
        with (CameraBag(values.bag, TopicNames(values.topic, values.camera_info_topic,
                                               values.mask_topic, masks=bool(
                                                   values.mask_topic))) as bag,
              tqdm(total=bag.count, unit='image', disable=values.quiet) as bar):
            Player(bag, options).play(bar.update)
            sys.stderr.writelines(f'bag_player: {text}\n' for text in bag.warnings)
    except (ValueError, SilenceError) as error:
        sys.stderr.write(f'bag_player: {error}\n')
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
