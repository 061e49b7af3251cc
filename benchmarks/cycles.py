# SPDX-License-Identifier: Apache-2.0
"""Whether a node that is configured again and again leaves something behind: `make cycles`.

While images come at 30 Hz, the node is configured, activated, deactivated and cleaned up many
times; then it loads a map many times; then SIGINT ends it. Threads, nodes, topics and resident
memory must not grow, nor files in /dev/shm stay, and the exit status has to be 0.
"""
from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from bench_node import talking
from lifecycle_msgs.msg import Transition
from soak import Camera
from std_srvs.srv import Trigger
from tqdm import tqdm

from spann3r_ros import share_directory
from spann3r_ros.tools.processes import Child

MEBIBYTE = 2**20
RATE_HZ = 30
IMAGES_A_CYCLE = 3
# Of the middleware's participants; its files named by ports are shared by all processes.
SEGMENT = re.compile(r'/dev/shm/fastrtps_[0-9a-f]{16}')
# A shorter run does not show whether memory grows.
LEAST_FOR_MEMORY = 40
MAX_GROWTH = 0.05
ROUND = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
BACK = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)


class Driver(Camera):
    """A camera that does not wait for the mapper, which it leads through its lifecycle."""

    def __init__(self, bag: Path) -> None:
        super().__init__(bag)
        self._sent = 0
        self._save = self.create_client(Trigger, '/mapper/save_map')
        self._load = self.create_client(Trigger, '/mapper/load_map')
        self.create_timer(1.0 / RATE_HZ, self._send_next)

    def cycle(self, child: Child) -> None:
        """Configure, map a few images, and clean up."""
        self.begin(child)
        for transition in BACK:
            self.transit(transition, child)

    def begin(self, child: Child) -> None:
        """Configure and activate; wait until images are mapped."""
        self.status = None
        for transition in ROUND:
            self.transit(transition, child)
        # Statuses of the cycle before may still come.
        self.wait(lambda: self.status and self.status.state == 'active', child)
        enough = self.status.frames_processed + IMAGES_A_CYCLE
        self.wait(lambda: self.status.frames_processed >= enough, child)

    def save(self, child: Child) -> None:
        """Save the map."""
        self._call(self._save, child)

    def load(self, child: Child) -> None:
        """Load the map, and wait until a further image is mapped."""
        self._call(self._load, child)
        enough = self.status.frames_processed + 1
        self.wait(lambda: self.status.frames_processed >= enough, child)

    def endpoints(self) -> tuple[list[str], list[str]]:
        """Return the nodes, and the topics and services of the mapper."""
        topics = [name for ask in (self.get_publisher_names_and_types_by_node,
                                   self.get_subscriber_names_and_types_by_node,
                                   self.get_service_names_and_types_by_node)
                  for name, _ in ask('mapper', '/')]
        return sorted(self.get_node_names()), sorted(topics)

    def _call(self, client: object, child: Child) -> None:
        answer = self.ask(client, Trigger.Request(), child)
        if not answer.success:
            raise child.failure(answer.message)

    def _send_next(self) -> None:
        self.publish(self._sent)
        self._sent += 1


def shared_files(pid: int) -> set[str]:
    """Return the segments of shared memory that a process has mapped."""
    return set(SEGMENT.findall(Path(f'/proc/{pid}/maps').read_text()))


def growth(resident: Sequence[int]) -> float:
    """Return by which share the memory grew over the last half."""
    half, tenth = len(resident) // 2, max(1, len(resident) // 10)
    return float(np.median(resident[-tenth:]) / np.median(resident[half:half + tenth]) - 1.0)


def run(cycles: int, loads: int, folder: Path) -> tuple[list[str], set[str]]:
    """Return what was left behind, and the shared files that the mapper had."""
    found: list[str] = []
    with ExitStack() as stack:
        driver = Driver(share_directory() / 'bags' / 'demo_room')
        stack.callback(driver.destroy_node)
        child = stack.enter_context(Child(
            ['-m', 'spann3r_ros.ros.mapper_node', '--ros-args', '-p', 'autostart:=false',
             '-p', f'image_transport:={driver.transport}', '-p', f'map_directory:={folder}',
             '-p', 'keyframes.selection:=stride'],
            folder / 'mapper.log'))
        driver.until_it_answers(child)
        driver.cycle(child)  # what is loaded once stays
        threads, bare = child.threads, driver.endpoints()
        resident = []
        for _ in tqdm(range(cycles), 'cycles', mininterval=1.0):
            driver.cycle(child)
            resident.append(child.resident_bytes)
            if child.threads != threads:
                found.append(f'{child.threads} threads, {threads} before')
        driver.wait(lambda: driver.endpoints() == bare, child)
        found += _growing('cycles', resident)
        driver.begin(child)
        driver.save(child)
        resident = []
        for _ in tqdm(range(loads), 'loads', mininterval=1.0):
            driver.load(child)
            resident.append(child.resident_bytes)
        found += _growing('loads', resident)
        files = shared_files(child.pid)
        child.stop()
        if child.status != 0:
            found.append(f'exit status {child.status}')
        if 'Traceback' in (folder / 'mapper.log').read_text():
            found.append(f'a traceback: {(folder / "mapper.log").read_text()}')
    return found, files


def _growing(name: str, resident: Sequence[int]) -> list[str]:
    print(f'{name}: resident MiB {resident[0] / MEBIBYTE:.0f} first, '
          f'{np.median(resident) / MEBIBYTE:.0f} median, {resident[-1] / MEBIBYTE:.0f} last')
    if len(resident) < LEAST_FOR_MEMORY or growth(resident) < MAX_GROWTH:
        return []
    return [f'{name}: memory grew by {growth(resident):.1%} over the last half']


def main() -> int:
    """Run and print; return 1 if something was left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cycles', type=int, default=200)
    parser.add_argument('--loads', type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        with talking():
            found, files = run(arguments.cycles, arguments.loads, Path(name))
        # This process has ended its own part by now.
        found += [f'left in shared memory: {file}' for file in sorted(files)
                  if Path(file).exists()]
    print('\n'.join(found) or 'nothing is left behind')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
