# SPDX-License-Identifier: Apache-2.0
"""What the node costs apart from the network: `make bench`.

A camera of 640x480 at 30 Hz plays into the mapper over DDS, each in its own process, with every
output listened to. The network answers at once with prepared pointmaps of the images, with errors
as a network has: 96x96 as the bundled one's or 224x224 as the full-size one's. Costs are processor
time, so that other work on the machine does not count as the node's.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import pstats
import sys
import tempfile
import time
from array import array
from contextlib import ExitStack
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import rclpy
from bench_node import BenchNode, talking
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import QoSProfile
from recorded_walk import POSES, render, wide_camera
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from spann3r_ros.msg import MapperStatus
from std_srvs.srv import Trigger
from tqdm import tqdm

from spann3r_ros.core.files import write_json
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.tools.processes import Child

RATE_HZ = 30
WIDTH, HEIGHT = 640, 480
SIZES = {'bundled, 96x96': 96, 'full size, 224x224': 224}
OUTPUTS = {'points': PointCloud2, 'map_points': PointCloud2, 'confidence': Image,
           'depth/image_rect': Image, 'depth/camera_info': CameraInfo,
           'pose': PoseWithCovarianceStamped, 'odometry': Odometry, 'path': PathMessage}


class Driver(BenchNode):
    """Plays the camera and listens to everything."""

    def __init__(self) -> None:
        self.latencies_sec: list[float] = []
        super().__init__('bench')
        self._images = self.create_publisher(Image, '/image', QoSProfile(depth=1))
        self.hear(OUTPUTS)
        self._reset = self.create_client(Trigger, '/mapper/reset')

    def play(self, frames: int, child: Child, label: str) -> None:
        """Publish frames at the camera's rate and wait for their accounts."""
        self.wait(lambda: self.status and self._images.get_subscription_count(), child)
        image = Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=3 * WIDTH)
        image.header.frame_id = 'camera'
        pixels = walk()
        begin = time.monotonic()
        for index in tqdm(range(frames), label, unit='frame', mininterval=1.0):
            while (left := begin + index / RATE_HZ - time.monotonic()) > 0:
                rclpy.spin_once(self, timeout_sec=left)
            image.data = pixels[index % len(pixels)]
            stamp_ns = 10**9 + index * 10**9 // RATE_HZ
            image.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            self._images.publish(image)
        self.wait(lambda: self.status.frames_received and not self.status.frames_waiting, child)

    def reset(self, report: Path, child: Child) -> None:
        """Let the network write its report."""
        self._reset.call_async(Trigger.Request())
        self.wait(report.exists, child)

    def take_status(self, status: MapperStatus) -> None:
        """Keep a status, and the latency of each processed frame."""
        if self.status is None or status.frames_processed > self.status.frames_processed:
            self.latencies_sec.append(status.latency_last_sec)
        super().take_status(status)


@cache
def walk() -> list[array]:
    """Return the data of the images of a walk."""
    camera = wide_camera(WIDTH, HEIGHT)
    return [array('B', render(index, camera)[0].tobytes()) for index in range(len(POSES))]


def run(size: int, frames: int, folder: Path, label: str, profile: bool) -> tuple[list, Driver]:
    """Return each keyframe's costs, and the driver with the last status; the profile is a file."""
    report, options = folder / f'{size}.json', folder / f'options_{size}.json'
    report.unlink(missing_ok=True)
    options.write_text(json.dumps({'size': size, 'report': str(report), 'profile': profile}))
    network = Path(__file__).with_name('recorded_network.py')
    command = [str(network), '--ros-args', '-p', f'checkpoint:={options}',
               '-p', 'keyframes.selection:=stride']
    with ExitStack() as stack:
        child = stack.enter_context(Child(command, folder / f'mapper_{size}.log'))
        driver = Driver()
        stack.callback(driver.destroy_node)
        driver.play(frames, child, label)
        driver.reset(report, child)
        return json.loads(report.read_text()), driver


def measure(size: int, frames: int, folder: Path, label: str) -> dict:
    """Return what one size costs."""
    costs, driver = run(size, frames, folder, label, profile=False)
    worker = np.array([cost['worker'] for cost in costs])
    process = np.array([cost['process'] for cost in costs])
    status = driver.status
    return {
        'pointmaps': label, 'keyframes': len(costs), 'received': status.frames_received,
        'dropped': status.frames_dropped, 'failed': status.frames_failed,
        'voxels': status.voxels,
        'worker_ms': percentiles(worker), 'process_ms': percentiles(process),
        'latency_ms': percentiles(np.array(driver.latencies_sec)),
    }


def percentiles(seconds: np.ndarray) -> dict[str, float]:
    """Return median and 95th percentile in milliseconds."""
    return {f'p{q}': round(1e3 * float(np.nanpercentile(seconds, q)), 2) for q in (50, 95)}


def show(results: list[dict]) -> None:
    """Print the table."""
    header = ['pointmaps', 'keyframes', 'dropped', 'worker p50', 'p95', 'process p50', 'p95',
              'latency p50', 'p95']
    rows = [[item['pointmaps'], str(item['keyframes']), str(item['dropped']),
             *(f'{item[kind][q]:.1f}' for kind in ('worker_ms', 'process_ms', 'latency_ms')
               for q in ('p50', 'p95'))] for item in results]
    print('processor milliseconds per keyframe (latency: wall)\n' + format_table(header, rows))


def main() -> int:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=300)
    parser.add_argument('--profile', action='store_true', help='also where the time goes')
    parser.add_argument('--sort', default='tottime', help='order of the profile')
    parser.add_argument('--top', type=int, default=20, help='lines of the profile')
    parser.add_argument('--output', type=Path, default=Path('output/node_cost.json'))
    arguments = parser.parse_args()
    with talking(), tempfile.TemporaryDirectory() as name:
        results = [measure(size, arguments.frames, Path(name), label)
                   for label, size in SIZES.items()]
        show(results)
        for label, size in SIZES.items() if arguments.profile else ():
            run(size, arguments.frames, Path(name), f'{label}, profiled', profile=True)
            print(f"\n{label}: where the worker's time goes")
            profile = pstats.Stats(str(Path(name) / f'{size}.prof'))
            profile.sort_stats(arguments.sort).print_stats(arguments.top)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {
        'date': date.today().isoformat(), 'machine': platform.processor() or platform.machine(),
        'cores': os.cpu_count(), 'results': results})
    print(f'wrote {arguments.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
