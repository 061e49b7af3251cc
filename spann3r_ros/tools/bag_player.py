# SPDX-License-Identifier: Apache-2.0
"""Plays a recorded camera, and what belongs to it, over DDS from a process of its own."""
from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
DEPTH = 10
# What belongs to an image may be stamped later: it goes ahead of the images by so much.
LEAD_NS = 1_000_000_000
# Transforms come many at once.
SIDE_DEPTH = 1000


class SilenceError(RuntimeError):
    """Nobody takes the images."""


@dataclass(frozen=True)
class PlayOptions:
    """How a bag is played: pace, and how long to bear with a silent consumer.

    `rate` is a multiple of the recorded pace; 0 plays as fast as the mapper takes. `window` is
    the most images the mapper may have open, by its status; 0 does without its status, and then a
    listener that has not found the player yet, though the player has found it, misses the first
    images. When the images have a listener, the other topics get `others_sec` to find theirs.
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
            # An acknowledgement says that an image arrived, seconds late, not that it was used.
            raise ValueError('window: expected 1 or more images with rate 0, got 0')


def leading(bag: CameraBag, lead_ns: int = LEAD_NS) -> Iterator[tuple[bool, str, int, bytes]]:
    """Yield (is an image, topic, time, serialised message); other messages lead the images.

    An image comes once all others that were recorded up to `lead_ns` after it have come.
    """
    images: deque[tuple[bool, str, int, bytes]] = deque()
    for connection, time_ns, data in bag.raw():
        while images and images[0][2] + lead_ns < time_ns:
            yield images.popleft()
        if bag.role(connection) == 'image':
            images.append((True, connection.topic, time_ns, bytes(data)))
        else:
            yield False, connection.topic, time_ns, bytes(data)
    yield from images


class Player(Node):
    """Publishes a bag's serialised messages as they are, reliably."""

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
        self._needing_listeners = [self._by_topic[topic] for topic in {
            one.topic: None for one in bag.connections if bag.role(one) != 'tf_static'}]
        self._infos = [self._by_topic[one.topic] for one in bag.connections
                       if bag.role(one) == 'camera_info']
        if options.window:
            self.create_subscription(MapperStatus, options.status_topic, self._take_status, DEPTH)

    def play(self, progress: Callable[[], object] = lambda: None) -> int:
        """Wait for a listener, publish everything and return the number of images sent.

        `progress` is called after each image. SilenceError when nobody listens, or the mapper
        settles no image, for the patience of the options.
        """
        self._wait(self._is_heard, f'no listener on {self._images.topic_name}')
        self._wait_others()
        if self._options.window:
            self._settled_before = settled(self._status)
        sent, started_sec, first_ns = 0, monotonic(), None
        # At the recorded pace everything goes out when it was recorded.
        for count, (is_image, topic, time_ns, data) in enumerate(leading(
                self._bag, 0 if self._options.rate else LEAD_NS)):
            if not self._options.window and count and count % DEPTH == 0:
                # Beyond its depth the middleware forgets what a slow listener has not taken.
                self._wait_received()
            if not is_image:
                self._by_topic[topic].publish(data)
                continue
            first_ns = time_ns if first_ns is None else first_ns
            self._pace(started_sec, (time_ns - first_ns) * 1e-9)
            if self._options.window:
                self._wait_settled(sent + 1 - self._options.window)
            self._images.publish(data)
            sent += 1
            progress()
        if self._options.window:
            self._wait_settled(sent)
        self._wait_received()
        return sent

    def _take_status(self, status: MapperStatus) -> None:
        self._status = status

    def _is_heard(self) -> bool:
        infos = not self._options.window or all(
            one.get_subscription_count() for one in self._infos)
        active = not self._options.window or (
            self._status is not None and self._status.state == 'active')
        return active and infos and self._images.get_subscription_count() > 0

    def _wait_others(self) -> None:
        """Wait until every topic has a listener, but not for ever: some are of no interest."""
        deadline_sec = monotonic() + self._options.others_sec
        while silent := [one.topic_name for one in self._needing_listeners
                         if not one.get_subscription_count()]:
            if monotonic() > deadline_sec:
                self.get_logger().info(f'nobody listens to {", ".join(silent)}')
                return
            rclpy.spin_once(self, timeout_sec=SPIN_SEC)

    def _pace(self, started_sec: float, recorded_sec: float) -> None:
        """Wait until the image is due."""
        if not self._options.rate:
            return
        due_sec = started_sec + recorded_sec / self._options.rate
        while (left_sec := due_sec - monotonic()) > 0.0:
            rclpy.spin_once(self, timeout_sec=min(left_sec, SPIN_SEC))

    def _wait_settled(self, count: int) -> None:
        """Wait until the mapper has settled so many images of this playing."""
        self._wait(lambda: settled(self._status) - self._settled_before >= count,
                   'the mapper has not settled an image')

    def _wait_received(self) -> None:
        """Wait until every reliable listener has what was published."""
        patience = Duration(seconds=self._options.patience_sec)
        for publisher in self._by_topic.values():
            if not publisher.wait_for_all_acked(patience):
                raise SilenceError(f'a listener did not take its messages on '
                                   f'{publisher.topic_name} for {self._options.patience_sec:g} s')

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline_sec = monotonic() + self._options.patience_sec
        while not condition():
            if monotonic() > deadline_sec:
                raise SilenceError(f'{complaint} for {self._options.patience_sec:g} s')
            rclpy.spin_once(self, timeout_sec=SPIN_SEC)


def settled(status: MapperStatus) -> int:
    """Return how many images have met their end."""
    return (status.frames_processed + status.frames_skipped + status.frames_dropped
            + status.frames_failed)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the command line's values."""
    parser = argparse.ArgumentParser(prog='bag_player', description=__doc__)
    parser.add_argument('--bag', type=Path, required=True, help='rosbag2 folder or file')
    parser.add_argument('--topic', default='', help='image topic; default: the only one')
    parser.add_argument('--camera-info-topic', default='',
                        help='default: camera_info beside the image topic')
    parser.add_argument('--mask-topic', default='', help='masks to play; default: none')
    parser.add_argument('--rate', type=float, default=PlayOptions.rate, help=(
        'multiple of the recorded pace; 0: as fast as the mapper takes (default: %(default)s)'))
    parser.add_argument('--window', type=int, default=PlayOptions.window, help=(
        'most images the mapper may have open; 0: do without its status (default: %(default)s)'))
    parser.add_argument('--status', default=PlayOptions.status_topic,
                        help="the mapper's status topic (default: %(default)s)")
    parser.add_argument('--patience-sec', type=float, default=PlayOptions.patience_sec,
                        help='give up on a silent consumer after this (default: %(default)s)')
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
