# SPDX-License-Identifier: Apache-2.0
"""Thousands of frames through the live node: `make soak`.

The bundled bag goes forth and back, with stamps that go on, into a mapper whose map is so small
that it evicts. Every image is sent when the one before is settled. The report shows a line per
tenth of the run; the exit status is 1 unless memory, map and accounts stayed within their bounds.
"""
from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bench_node import BenchNode, talking
from builtin_interfaces.msg import Time
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2
from spann3r_ros.msg import MapperStatus
from tqdm import tqdm

from spann3r_ros import share_directory
from spann3r_ros.core.files import write_json
from spann3r_ros.datasets.bags import CameraBag
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.tools.player import KINDS
from spann3r_ros.tools.processes import Child

MEBIBYTE = 2**20
PERIOD_NS = 10**9 // 30
MAX_VOXELS = 60_000
MAX_FULL_BYTES, MAX_BYTES = 2_000_000, 4_000_000  # of keyframes
MAX_POSES = 500
MAX_GROWTH = 0.05
# The node's own time beside the network's, which tells how fast the machine is at the moment.
MAX_SLOWER = 1.25
LEAST_FOR_TIMES = 2000
TENTHS = 10


@dataclass(frozen=True)
class Sample:
    """The mapper after one frame; `own_sec` is latency less inference."""

    resident_bytes: int
    voxels: int
    keyframe_bytes: int
    poses: int
    latency_sec: float
    own_sec: float


class Camera(BenchNode):
    """Sends a bag's images forth and back, each when the one before is settled."""

    def __init__(self, bag: Path) -> None:
        super().__init__('soak')
        self.balanced = True
        with CameraBag(bag) as opened:
            kind = KINDS[opened.image.msgtype]
            images = [deserialize_message(data, kind) for connection, _, data in opened.raw()
                      if opened.role(connection) == 'image']
        self._images = [*images, *images[-2:0:-1]]
        topic = 'image/compressed' if 'Compressed' in kind.__name__ else 'image'
        self.transport = 'compressed' if 'Compressed' in kind.__name__ else 'raw'
        self._publisher = self.create_publisher(kind, topic, QoSProfile(depth=1))
        self.poses = 0
        self.hear({'points': PointCloud2, 'map_points': PointCloud2})
        self._path = self.create_subscription(
            PathMessage, '/mapper/path', self._take_path, QoSProfile(depth=1))

    def connect(self, child: Child) -> None:
        """Wait for the mapper."""
        self.wait(lambda: self.status and self._publisher.get_subscription_count(), child)

    def publish(self, index: int) -> None:
        """Send an image."""
        image = self._images[index % len(self._images)]
        stamp_ns = 10**9 + index * PERIOD_NS
        image.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        self._publisher.publish(image)

    def send(self, index: int, child: Child) -> MapperStatus:
        """Send an image and return the status in which it is settled."""
        self.publish(index)
        self.wait(lambda: self.status.frames_received > index
                  and not self.status.frames_waiting, child)
        return self.status

    def _take_path(self, path: PathMessage) -> None:
        self.poses = len(path.poses)

    def take_status(self, status: MapperStatus) -> None:
        """Keep a status, and whether all so far balanced."""
        super().take_status(status)
        self.balanced &= status.frames_received == (
            status.frames_processed + status.frames_skipped + status.frames_dropped
            + status.frames_failed + status.frames_waiting)


def run(frames: int, folder: Path) -> tuple[list[Sample], Camera]:
    """Return what was seen after each frame, and the camera with the last status."""
    with ExitStack() as stack:
        camera = Camera(share_directory() / 'bags' / 'demo_room')
        stack.callback(camera.destroy_node)
        child = stack.enter_context(Child(
            ['-m', 'spann3r_ros.ros.mapper_node', '--ros-args',
             '-p', f'image_transport:={camera.transport}',
             '-p', 'keyframes.selection:=stride',
             '-p', f'voxel_map.max_voxels:={MAX_VOXELS}',
             '-p', f'keyframes.max_full_bytes:={MAX_FULL_BYTES}',
             '-p', f'keyframes.max_bytes:={MAX_BYTES}',
             '-p', f'path_max_size:={MAX_POSES}',
             '-p', 'qos_overrides./image.subscription.reliability:=reliable',
             '-p', 'qos_overrides./image/compressed.subscription.reliability:=reliable'],
            folder / 'mapper.log'))
        camera.connect(child)
        samples = []
        for index in tqdm(range(frames), 'soak', unit='frame', mininterval=1.0):
            status = camera.send(index, child)
            samples.append(Sample(
                child.resident_bytes, status.voxels, status.keyframe_bytes, camera.poses,
                status.latency_last_sec,
                status.latency_last_sec - status.inference_last_sec))
        return samples, camera


def faults(samples: Sequence[Sample], camera: Camera) -> list[str]:
    """Return what went out of bounds."""
    found = []
    resident = np.array([sample.resident_bytes for sample in samples])
    half, tenth = len(samples) // 2, max(1, len(samples) // TENTHS)
    growth = np.median(resident[-tenth:]) / np.median(resident[half:half + tenth]) - 1.0
    if growth >= MAX_GROWTH:
        found.append(f'resident memory grew by {growth:.1%} over the last half')
    shares = [np.mean([sample.own_sec for sample in part])
              / np.mean([sample.latency_sec - sample.own_sec for sample in part])
              for part in (samples[half:half + tenth], samples[-tenth:])]
    if len(samples) >= LEAST_FOR_TIMES and shares[1] > MAX_SLOWER * shares[0]:
        found.append("the node's own time rose from {:.2f} to {:.2f} of the network's".format(
            *shares))
    if (most := max(sample.voxels for sample in samples)) > MAX_VOXELS:
        found.append(f'{most} voxels, bound {MAX_VOXELS}')
    if (most := max(sample.keyframe_bytes for sample in samples)) > MAX_BYTES:
        found.append(f'{most} bytes of keyframes, bound {MAX_BYTES}')
    if (most := max(sample.poses for sample in samples)) > MAX_POSES:
        found.append(f'{most} poses in the path, bound {MAX_POSES}')
    last = camera.status
    if last.keyframes_kept + last.keyframes_evicted != last.frames_processed - 1:
        found.append(f'{last.keyframes_kept} keyframes kept, {last.keyframes_evicted} evicted, of '
                     f'{last.frames_processed} frames, the last of which waits')
    if not camera.balanced:
        found.append('a status did not balance')
    status = camera.status
    if (status.frames_received, status.frames_processed) != (len(samples), len(samples)):
        found.append(f'sent {len(samples)}, received {status.frames_received}, '
                     f'processed {status.frames_processed}: {status.last_error}')
    return found


def show(samples: Sequence[Sample]) -> None:
    """Print a line per tenth of the run."""
    rows = []
    for part in np.array_split(np.arange(len(samples)), TENTHS):
        chosen = [samples[index] for index in part]
        latency = [sample.latency_sec for sample in chosen]
        rows.append([
            f'{part[0]}..{part[-1]}',
            f'{np.median([sample.resident_bytes for sample in chosen]) / MEBIBYTE:.0f}',
            str(max(sample.voxels for sample in chosen)),
            *(f'{1e3 * np.percentile(latency, q):.0f}' for q in (50, 95)),
            *(f'{1e3 * np.percentile([sample.own_sec for sample in chosen], q):.0f}'
              for q in (50, 95))])
    print(format_table(['frames', 'resident MiB', 'voxels', 'latency ms p50', 'p95',
                        'less inference p50', 'p95'], rows))


def main() -> int:
    """Run, print, write the samples; return 1 when something went out of bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=10_000)
    parser.add_argument('--output', type=Path, default=Path('output/soak.json'))
    arguments = parser.parse_args()
    if arguments.frames < 2 * TENTHS:
        parser.error(f'--frames: expected {2 * TENTHS} or more, got {arguments.frames}')
    with talking(), tempfile.TemporaryDirectory() as name:
        samples, camera = run(arguments.frames, Path(name))
    show(samples)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, [asdict(sample) for sample in samples])
    found = faults(samples, camera)
    print('\n'.join(found) or 'memory, map and accounts stayed within their bounds')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
