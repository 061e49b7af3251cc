# SPDX-License-Identifier: Apache-2.0
"""The launch file in the genuine launch system, where that is installed."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from harness import DEADLINE_SEC, Orbit, Peer

from bags import compressed_bag

pytest.importorskip('launch_ros', reason='the packages launch and launch_ros are not installed')

END_SEC = 20.0
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService(argv=sys.argv[2:])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[one.split(':=') for one in sys.argv[2:]])]))
sys.exit(service.run())
"""
FILE = Path(__file__).parents[2] / 'launch' / 'mapper.launch.py'


class Launched:
    """A launch of the mapper; `log` has what it writes."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._path = folder / 'launch.log'
        with self._path.open('w') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-c', RUN, str(FILE), *arguments], stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'ROS_LOG_DIR': str(folder)})

    @property
    def log(self) -> str:
        return self._path.read_text()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[list[Launched]]:
    made: list[Launched] = []
    yield made
    for one in made:
        one.end()


def test_a_bag_is_mapped_whole_and_the_map_stays(
        peer: Peer, orbit: Orbit, launched: list[Launched], tmp_path: Path) -> None:
    bag = compressed_bag(tmp_path / 'bag', orbit, 6)
    launch = Launched(tmp_path, f'bag:={bag}', 'mode:=replay', 'log_level:=debug',
                      'namespace:=robot')
    launched.append(launch)
    peer.until(lambda: '[bag_player-2]: process has finished cleanly' in launch.log
               or launch.process.poll(), 'the end of the bag')
    assert '6 images sent, 6 used' in launch.log
    assert ('/robot/mapper loads its weights, then waits for images on /camera/image_raw'
            in launch.log)
    assert launch.process.poll() is None
    # Debug lines of the node alone.
    assert launch.log.count('[robot.mapper]: keyframe') == 5
    assert '[rcl]' not in launch.log
    # As a terminal does: the whole group gets the signal, and launch forwards it.
    os.killpg(launch.process.pid, signal.SIGINT)
    assert launch.process.wait(END_SEC) == 0
    assert 'Traceback' not in launch.log
    assert launch.log.count('process has finished cleanly') == 2


def test_a_missing_bag_ends_the_launch_with_one_line(
        launched: list[Launched], tmp_path: Path) -> None:
    launch = Launched(tmp_path, 'bag:=/no/bag')
    launched.append(launch)
    assert launch.process.wait(DEADLINE_SEC) == 1
    assert 'bag: expected a bag, there is no /no/bag' in launch.log
    assert 'process started' not in launch.log
