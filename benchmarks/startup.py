# SPDX-License-Identifier: Apache-2.0
"""How long a start takes, how much memory it needs, and what an image costs: `make bench-startup`.

The mapper runs in its own process without autostart: each transition, and the way of two images,
after which a trained network yields the first cloud, is timed by whoever waits for it. Further
images follow one by one, each when the one before is settled: the mapper tells its latency, from
the image's arrival to the cloud sent, and what of that the network took. The network of the
official size has random weights, stored in half precision: no points to map come out.
"""
from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from bench_node import BenchNode, talking
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from spann3r_ros.msg import MapperStatus

from spann3r_ros.core.files import write_json
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    HeldOutConfig,
    Turn,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.tools.processes import Child

MEBIBYTE = 2**20
SIZE = 480
FURTHER_IMAGES = 8


@dataclass(frozen=True)
class Start:
    """Seconds of each part of a start, of an image and of the stop, and bytes before the stop."""

    answers_sec: float
    configure_sec: float
    activate_sec: float
    two_images_sec: float
    latency_sec: float | None  # medians of the further images, which only a trained network maps
    inference_sec: float | None
    stop_sec: float
    resident_bytes: int
    device_bytes: int


class Operator(BenchNode):
    """Leads a mapper through its lifecycle and shows it images."""

    def __init__(self) -> None:
        super().__init__('startup')
        self._images = self.create_publisher(Image, '/image', QoSProfile(depth=5))
        self._clouds = 0
        self._sent = 0
        self.create_subscription(PointCloud2, '/mapper/points', self._count, QoSProfile(depth=5))

    def _count(self, _: PointCloud2) -> None:
        self._clouds += 1

    def show(self, image: np.ndarray, child: Child) -> MapperStatus:
        """Send an image [SIZE, SIZE, 3], wait until it is settled, return the status then."""
        self.wait(lambda: self.status and self._images.get_subscription_count(), child)
        self._sent += 1
        message = Image(height=SIZE, width=SIZE, encoding='rgb8', step=3 * SIZE,
                        data=image.tobytes())
        message.header.stamp = Time(sec=self._sent)
        message.header.frame_id = 'camera'
        self._images.publish(message)
        self.wait(lambda: self.status.frames_received == self._sent
                  and not self.status.frames_waiting, child)
        return self.status

    def show_two(self, images: Iterator[np.ndarray], trained: bool, child: Child) -> None:
        """Send two images, and wait for the first cloud if there is to be one."""
        for image in itertools.islice(images, 2):
            self.show(image, child)
        self.wait(lambda: self._clouds or not trained, child)


def start(parameters: dict[str, str], folder: Path) -> Start:
    """Start a mapper with parameters and end it."""
    images = walk()
    with ExitStack() as stack:
        operator = Operator()
        stack.callback(operator.destroy_node)
        command = ['-m', 'spann3r_ros.ros.mapper_node', '--ros-args', '-p', 'autostart:=false',
                   '-p', 'keyframes.selection:=stride']
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        began = time.perf_counter()
        child = stack.enter_context(Child(command, folder / 'mapper.log'))
        operator.until_it_answers(child)
        answers = time.perf_counter() - began
        configure = _timed(lambda: operator.transit(Transition.TRANSITION_CONFIGURE, child))
        activate = _timed(lambda: operator.transit(Transition.TRANSITION_ACTIVATE, child))
        trained = not parameters
        two_images = _timed(lambda: operator.show_two(images, trained, child))
        latency = inference = None
        if trained:
            seen = [operator.show(image, child) for image in images]
            latency, inference = (float(np.median([getattr(status, name) for status in seen]))
                                  for name in ('latency_last_sec', 'inference_last_sec'))
        resident = child.resident_bytes
        return Start(answers, configure, activate, two_images, latency, inference,
                     _timed(child.stop), resident, operator.status.device_bytes)


def walk() -> Iterator[np.ndarray]:
    """Return the images of a walk through an unseen room."""
    rooms = unseen_rooms(HeldOutConfig(), (SIZE, SIZE))
    return iter(next(iter(draw_sequences(rooms, 1, Turn(2 + FURTHER_IMAGES)))).images)


def _timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def help_sec() -> float:
    """Return the seconds that `spann3r --help` takes."""
    command = [sys.executable, str(Path(__file__).parents[1] / 'scripts/spann3r'), '--help']
    return _timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def save_full_size(path: Path) -> None:
    """Write a network of the official size with random weights."""
    torch.manual_seed(0)
    save_model(path, Spann3R(Spann3RConfig()))


def main() -> int:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--bundled-only', action='store_true')
    parser.add_argument('--output', type=Path, default=Path('output/startup.json'))
    arguments = parser.parse_args()
    with talking(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = {'bundled': {}}
        if not arguments.bundled_only:
            save_full_size(folder / 'full.safetensors')
            cases |= {f'full size, {precision}': {
                'checkpoint': str(folder / 'full.safetensors'), 'precision': precision}
                for precision in ('fp32', 'bf16', 'int8')}
        starts = {case: start(parameters, folder) for case, parameters in cases.items()}
    took = help_sec()
    header = ['network', 'answers s', 'configure s', 'activate s', 'two images s',
              'image to cloud ms', 'of it network', 'stop s', 'resident MiB',
              'weights and memory MiB']
    rows = [[case, f'{one.answers_sec:.1f}', f'{one.configure_sec:.1f}',
             f'{one.activate_sec:.2f}', f'{one.two_images_sec:.1f}',
             *(('-', '-') if one.latency_sec is None else (
                 f'{1e3 * one.latency_sec:.0f}',
                 f'{100 * one.inference_sec / one.latency_sec:.0f} %')),
             f'{one.stop_sec:.1f}', f'{one.resident_bytes / MEBIBYTE:.0f}',
             f'{one.device_bytes / MEBIBYTE:.0f}']
            for case, one in starts.items()]
    print(format_table(header, rows) + f'\nspann3r --help: {took:.2f} s')
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {
        'date': date.today().isoformat(), 'machine': platform.processor() or platform.machine(),
        'cores': os.cpu_count(), 'help_sec': took,
        'starts': {case: asdict(one) for case, one in starts.items()}})
    print(f'wrote {arguments.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
