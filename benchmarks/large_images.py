# SPDX-License-Identifier: Apache-2.0
"""How many large raw images the live node uses, and what they cost: `make bench-large-images`.

A camera publishes reliably from its own process; the node reads as to sensor data. Each case runs
with the Fast DDS profile of this package and without one. The network is one that answers at
once, so that it limits nothing.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import cv2
import rclpy
from bench_node import BenchNode, talking
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from recorded_walk import POSES, render, wide_camera
from sensor_msgs.msg import Image

from spann3r_ros import share_directory
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.tools.processes import Child

PROFILE = 'FASTRTPS_DEFAULT_PROFILES_FILE'
CASES = {'1080p at 30 Hz': (1920, 1080, 30), '4K at 10 Hz': (3840, 2160, 10)}
# Different images: the pictures are large.
IMAGES = 12
STAMP_AT = 4  # of a serialised message


class Camera(Node):
    """Publishes raw images of a walk as fast as a rate, and prints how many."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__('camera')
        self._publisher = self.create_publisher(Image, '/image', QoSProfile(depth=2))
        self._messages = [bytearray(serialize_message(_image(index, width, height)))
                          for index in range(IMAGES)]

    def run(self, rate_hz: int, seconds: float) -> int:
        """Publish for a time, after the mapper has subscribed; return the number of images."""
        while not self._publisher.get_subscription_count():
            rclpy.spin_once(self, timeout_sec=0.05)
        time.sleep(1.0)  # the other side has to find this one too
        begin, sent = time.monotonic(), 0
        while (now := time.monotonic() - begin) < seconds:
            if now < sent / rate_hz:
                time.sleep(sent / rate_hz - now)
            message = self._messages[sent % IMAGES]
            # To and fro, as neighbouring images are alike.
            stamp = Time(sec=1 + sent // rate_hz, nanosec=sent % rate_hz * 10**9 // rate_hz)
            message[STAMP_AT:STAMP_AT + 8] = (stamp.sec.to_bytes(4, 'little')
                                              + stamp.nanosec.to_bytes(4, 'little'))
            self._publisher.publish(bytes(message))
            sent += 1
        return sent


def _image(index: int, width: int, height: int) -> Image:
    small = render(index % len(POSES), wide_camera(640, 360))[0]
    rgb = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width,
                    data=rgb.tobytes())
    message.header.frame_id = 'camera'
    return message


def measure(case: str, profile: str, seconds: float, folder: Path) -> list[str]:
    """Return a row of the table."""
    width, height, rate_hz = CASES[case]
    options = folder / 'options.json'
    options.write_text(json.dumps({'size': 96, 'report': str(folder / 'report.json'),
                                   'profile': False}))
    network = Path(__file__).with_name('recorded_network.py')
    with ExitStack() as stack:
        driver = BenchNode('bench')
        stack.callback(driver.destroy_node)
        mapper = stack.enter_context(Child(
            [str(network), '--ros-args', '-p', f'checkpoint:={options}',
             '-p', 'keyframes.selection:=stride'],
            folder / 'mapper.log'))
        driver.wait(lambda: driver.status, mapper)
        camera = stack.enter_context(Child(
            [__file__, '--camera', str(width), str(height), str(rate_hz), str(seconds)],
            folder / 'camera.log'))
        # Without the profile it may be that none arrives.
        driver.wait(lambda: driver.status.frames_received or camera.status is not None, mapper)
        began_sec, before_sec = time.monotonic(), mapper.processor_sec
        driver.wait(lambda: camera.status is not None, mapper)
        took_sec = time.monotonic() - began_sec
        spent = (mapper.processor_sec - before_sec) / took_sec
        camera.check()
        driver.wait(lambda: not driver.status.frames_waiting, mapper)
        status, sent = driver.status, int((folder / 'camera.log').read_text().split()[-1])
    return [case, 'ours' if profile else 'none', f'{sent / seconds:.0f}',
            f'{status.frames_received / sent:.0%}', f'{status.frames_processed / sent:.0%}',
            f'{spent:.0%}' if status.frames_received else '-']


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=15.0)
    parser.add_argument('--quick', action='store_true',
                        help='the first size of images, with the profile')
    parser.add_argument('--camera', nargs=4, type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.camera:
        width, height, rate_hz, seconds = arguments.camera
        rclpy.init()
        print(Camera(int(width), int(height)).run(int(rate_hz), seconds))
        rclpy.shutdown()
        return 0
    rows = []
    profiles = (str(share_directory() / 'config' / 'fastdds.xml'), '')
    for profile in profiles[:1] if arguments.quick else profiles:
        # The profile is read when this process joins the domain, too.
        os.environ.pop(PROFILE, None)
        if profile:
            os.environ[PROFILE] = profile
        with talking(), tempfile.TemporaryDirectory() as name:
            rows += [measure(case, profile, arguments.seconds, Path(name))
                     for case in (list(CASES)[:1] if arguments.quick else CASES)]
    print(format_table(['images', 'profile', 'sent a second', 'received', 'used',
                        'processor, of a core'], rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
