# SPDX-License-Identifier: Apache-2.0
"""What the transforms of a robot cost an active node: `make bench-tf`.

A robot publishes 190 messages a second on /tf, each with three transforms: its odometry and two
joints. The mapper runs in its own process with a network that costs nothing. The cost is the
processor time of that process as a share of one core, with the transforms and without them.
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rclpy
from bench_node import BenchNode, talking
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage
from tqdm import tqdm

from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.tools.processes import Child

MESSAGES_HZ = 190
EDGES = (('odom', 'base_link'), ('base_link', 'wheel_left'), ('base_link', 'wheel_right'))
IMAGES_HZ = 10
SIZE = 96
# A subscriber of ~/odometry makes the node look up the robot's transforms for each image.
CASES = {'no images': (0, ()), 'images': (IMAGES_HZ, ()),
         'images, publish_tf: none': (IMAGES_HZ, ('-p', 'publish_tf:=none'))}


class Robot(BenchNode):
    """Publishes transforms and images by the wall clock."""

    def __init__(self) -> None:
        super().__init__('bench')
        self._images = self.create_publisher(Image, '/image', QoSProfile(depth=1))
        self._transforms = self.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))
        static = self.create_publisher(TFMessage, '/tf_static', QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        static.publish(TFMessage(transforms=[self._edge('base_link', 'camera')]))
        pixels = np.random.default_rng(0).integers(0, 255, SIZE * SIZE * 3, np.uint8)
        self._image = Image(height=SIZE, width=SIZE, encoding='rgb8', step=3 * SIZE,
                            data=pixels.tobytes())
        self._image.header.frame_id = 'camera'

    def connect(self, child: Child) -> None:
        """Wait until the mapper listens."""
        self.wait(lambda: self.status and self._images.get_subscription_count()
                  and self._transforms.get_subscription_count(), child)

    def run(self, seconds: float, images_hz: float, with_tf: bool, label: str) -> None:
        """Publish for a while."""
        begin = time.monotonic()
        images = 0
        for index in tqdm(range(round(seconds * MESSAGES_HZ)), label, mininterval=1.0):
            while (left := begin + index / MESSAGES_HZ - time.monotonic()) > 0:
                rclpy.spin_once(self, timeout_sec=left)
            if with_tf:
                self._transforms.publish(TFMessage(
                    transforms=[self._edge(*names) for names in EDGES]))
            if images < index / MESSAGES_HZ * images_hz:
                images += 1
                self._image.header.stamp = self._now()
                self._images.publish(self._image)

    def _now(self) -> Time:
        return self.get_clock().now().to_msg()

    def _edge(self, parent: str, child: str) -> TransformStamped:
        edge = TransformStamped(child_frame_id=child)
        edge.header.frame_id, edge.header.stamp = parent, self._now()
        return edge


def measure(name: str, seconds: float, folder: Path) -> list[str]:
    """Return the row of one case: shares of a core in percent."""
    images_hz, arguments = CASES[name]
    options = folder / 'options.json'
    options.write_text(json.dumps({'size': SIZE, 'report': str(folder / 'report.json'),
                                   'profile': False}))
    network = Path(__file__).with_name('recorded_network.py')
    command = [str(network), '--ros-args', '-p', f'checkpoint:={options}',
               '-p', 'keyframes.selection:=stride', *arguments]
    with ExitStack() as stack:
        child = stack.enter_context(Child(command, folder / 'mapper.log'))
        robot = Robot()
        stack.callback(robot.destroy_node)
        if 'none' not in name:
            robot.hear({'odometry': Odometry})
        robot.connect(child)
        shares = []
        for turn in range(4):
            with_tf = turn % 2 == 1
            robot.run(1.0, images_hz, with_tf, 'begins')
            began_sec, begin = child.processor_sec, time.monotonic()
            robot.run(seconds, images_hz, with_tf, f'{name}, {"with" if with_tf else "no"} TF')
            shares.append((child.processor_sec - began_sec) / (time.monotonic() - begin))
    without, with_tf = np.mean(shares[::2]), np.mean(shares[1::2])
    return [name, *(f'{1e2 * share:.1f}' for share in (without, with_tf, with_tf - without))]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=10.0, help='length of each measurement')
    arguments = parser.parse_args()
    with talking(), tempfile.TemporaryDirectory() as name:
        rows = [measure(case, arguments.seconds, Path(name)) for case in CASES]
    print(f'{MESSAGES_HZ * len(EDGES)} transforms a second: percent of a core\n' + format_table(
        ['node', 'without TF', 'with TF', 'difference'], rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
