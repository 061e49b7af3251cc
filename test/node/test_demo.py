# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end on the synthetic mapper: products, accounts, exit status."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from broken_bags import damage, storage_file
from harness import DEADLINE_SEC, Orbit

from bags import compressed_bag, raw_bag
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.tools.demo import DemoOptions, mapper_command, player_command

SCRIPT = Path(__file__).with_name('synthetic_demo.py')


def start_demo(directory: Path, bag: Path, options: dict[str, Any] | None = None,
               *arguments: str) -> subprocess.Popen[str]:
    if options:
        (directory / 'options.json').write_text(json.dumps(options))
        arguments = (*arguments, '--checkpoint', str(directory / 'options.json'))
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), '--bag', str(bag), '--output', str(directory / 'output'),
         '--patience-sec', str(DEADLINE_SEC), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_demo(directory: Path, bag: Path, options: dict[str, Any] | None = None,
             *arguments: str) -> tuple[int, str, str]:
    demo = start_demo(directory, bag, options, *arguments)
    out, err = demo.communicate(timeout=2 * DEADLINE_SEC)
    return demo.returncode, out, err


def processes_about(text: str) -> list[int]:
    """Return the processes whose command line names `text`."""
    found = []
    for entry in Path('/proc').iterdir():
        try:
            if entry.name.isdigit() and text in (entry / 'cmdline').read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_demo_with_truth_makes_map_path_and_picture(orbit: Orbit, tmp_path: Path) -> None:
    bag = compressed_bag(tmp_path / 'bag', orbit, 24)
    status, out, err = run_demo(tmp_path, bag)
    assert status == 0, err
    output = tmp_path / 'output'
    run = json.loads((output / 'run.json').read_text())
    assert (run['images'], run['received'], run['processed']) == (24, 24, 24)
    assert len(run['latencies_sec']) == 24
    assert len(read_ply(output / 'map' / 'map.ply')) == run['voxels'] > 1000
    # The last frame is flushed into the map before it is saved.
    assert len(read_tum(output / 'map' / 'trajectory.tum')) == 24
    assert (output / 'map.png').stat().st_size > 10_000
    report = (output / 'report.html').read_text()
    # The newest keyframe is in cloud and path, but not in the saved state yet.
    assert report.count('data-keyframe=') == 23
    assert '24' in report[report.index('frames processed'):][:40]
    assert len(run['samples']['confidence']) == 24
    rows = {line[:25].strip(): line[25:].split() for line in out.splitlines()}
    assert float(rows['ATE (RMS of positions)'][0]) < 0.02
    assert float(rows['accuracy mean / median'][0]) < 0.05
    assert float(rows['completion mean / median'][0]) < 0.1


def test_demo_of_a_plain_bag_needs_no_truth(orbit: Orbit, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 6, '/robot/front')
    status, out, err = run_demo(tmp_path, bag, {'fault_at': 3, 'fault': 'frame_error'},
                                '--topic', '/robot/front', '--view', '--view-port', '0')
    assert status == 0, err
    assert 'live view: http://127.0.0.1:' in (tmp_path / 'output/live_view.log').read_text()
    run = json.loads((tmp_path / 'output/run.json').read_text())
    # A failed frame is counted.
    assert (run['received'], run['processed'], run['failed']) == (6, 5, 1)
    assert 'none in the bag' in out


def test_demo_of_a_damaged_bag_ends_with_the_images_that_it_has(
        orbit: Orbit, tmp_path: Path) -> None:
    file = storage_file(raw_bag(tmp_path / 'bag', orbit, 12))
    damage(file, 0.7, 4096)
    status, _, err = run_demo(tmp_path, file)
    assert status == 0, err
    run = json.loads((tmp_path / 'output' / 'run.json').read_text())
    assert 4 < run['images'] == run['received'] == run['processed'] < 12
    assert f'demo: bag.db3: recovered {run["images"]} images, the database is malformed' in err


def test_compressed_topic_of_any_name_is_remapped_to_the_subscribed_one() -> None:
    options = DemoOptions(Path('bag'))
    assert '/camera/jpeg:=/camera/jpeg/compressed' in player_command(
        options, '/camera/jpeg', compressed=True)
    assert 'image:=/camera/jpeg' in mapper_command(options, '/camera/jpeg', compressed=True)
    assert '-r' not in player_command(options, '/camera/jpeg/compressed', compressed=True)


def test_empty_map_fails(orbit: Orbit, tmp_path: Path) -> None:
    # One image has no pointmap: nothing can be mapped.
    status, out, err = run_demo(tmp_path, raw_bag(tmp_path / 'bag', orbit, 1))
    assert status == 1
    assert 'FAILED: no map: save failed: the map is empty' in out
    assert 'frames received' in out
    assert not (tmp_path / 'output/map.png').exists(), err


def test_mapper_that_cannot_start_fails_with_its_reason(orbit: Orbit, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 2)
    status, _, err = run_demo(tmp_path, bag, None, '--checkpoint', '/none.json')
    assert status == 1
    assert 'mapper is unconfigured' in err and '/none.json' in err


def test_missing_bag_fails_at_once(tmp_path: Path) -> None:
    status, _, err = run_demo(tmp_path, tmp_path / 'nowhere')
    assert status == 1
    assert f'cannot read {tmp_path}/nowhere' in err


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_no_process(
        number: signal.Signals, orbit: Orbit, tmp_path: Path) -> None:
    bag = raw_bag(tmp_path / 'bag', orbit, 40)
    demo = start_demo(tmp_path, bag, {'delay_sec': 0.5})
    end = time.monotonic() + DEADLINE_SEC
    while not len(processes_about(str(tmp_path))) == 3:
        assert demo.poll() is None and time.monotonic() < end, 'the processes did not start'
        time.sleep(0.02)
    os.kill(demo.pid, number)
    demo.communicate(timeout=DEADLINE_SEC)
    assert demo.returncode == 130
    assert processes_about(str(tmp_path)) == []
