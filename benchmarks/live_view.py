# SPDX-License-Identifier: Apache-2.0
"""What the live view costs: `make bench-view`.

First the map of a room, by its points: bytes of an answer, time to prepare it, and, if there is a
Chromium, the time until a page that draws on the CPU shows it. Then replays of the bundled bag
with every image as a keyframe, in turn: without the view, with it, and with a page that asks. The
processor time of a replay includes its start.
"""
from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).parents[1] / 'test'))
sys.path.insert(0, str(Path(__file__).parents[1] / 'test' / 'browser'))
from chromium import Chromium, find_chromium
from report_values import room_scene

from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.viewer.live_server import LiveServer

ROOT = Path(__file__).parents[1]
POINTS = 50_000, 200_000, 500_000
ROUNDS = 3
STATE = "document.getElementById('state').textContent"
REPLAY = ('-m', 'spann3r_ros.cli', 'replay', str(ROOT / 'bags' / 'demo_room'), '--quiet', '--set',
          'keyframes.selection=stride')


def measure_points(page: Chromium | None) -> list[tuple[str, ...]]:
    """Return the rows of the first table."""
    server, rows = LiveServer(0), []
    if page is not None:
        page.open(server.url)
    for count in POINTS:
        scene = room_scene(count)
        began_sec = time.perf_counter()
        server.show_map(scene)
        ready_sec = time.perf_counter()
        with urllib.request.urlopen(f'{server.url}map') as answer:
            size = len(answer.read())
        shown = 'not measured'
        if page is not None:
            page.wait_for(f"{STATE}.endsWith('shown {count:,}')")
            page.picture()
            shown = f'{time.perf_counter() - ready_sec:.1f}'
        rows.append((f'{count:,}', f'{size / 1e6:.1f}', f'{ready_sec - began_sec:.2f}', shown))
    server.close()
    return rows


def replay(*arguments: str, watched: bool = False) -> tuple[float, float]:
    """Return the seconds of a replay, and the processor seconds of its process."""
    with TemporaryDirectory() as folder:
        run = subprocess.Popen([sys.executable, *REPLAY, '--output', folder, *arguments], cwd=ROOT,
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stop = Event()
        if watched:
            url = run.stderr.readline().removeprefix('live view: ').strip()
            watcher = Thread(target=watch, args=(url, stop))
            watcher.start()
        out = run.stdout.read()
        _, _, used = os.wait4(run.pid, 0)
        stop.set()
        if watched:
            watcher.join()
    return (float(re.search(r'in ([\d.]+) s', out).group(1)),
            used.ru_utime + used.ru_stime)


def watch(url: str, stop: Event) -> None:
    """Ask as a page does."""
    version = 0
    while not stop.wait(0.5):
        try:
            with urllib.request.urlopen(f'{url}state?have={version}', timeout=20) as answer:
                found = int(re.search(rb'"version": (\d+)', answer.read()).group(1))
            if found != version:
                urllib.request.urlopen(f'{url}map', timeout=20).read()
                version = found
        except OSError:
            continue


def main() -> None:
    """Print both tables."""
    with TemporaryDirectory() as profile:
        program = find_chromium()
        page = None if program is None else Chromium(program, Path(profile))
        rows = measure_points(page)
        if page is not None:
            page.close()
    print(date.today())
    print(format_table(('points', 'MB', 'prepared in s', 'shown after s'), rows))
    ways = {'no view': lambda: replay(),
            'view, no page': lambda: replay('--view', '--view-port', '0'),
            'view, a page': lambda: replay('--view', '--view-port', '0', watched=True)}
    found = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            found[name].append(run())
    print(format_table(('replay', 'median s', 'from', 'to', 'processor s', 'from', 'to'), [
        (name, *(f'{number:.1f}' for column in zip(*values, strict=True)
                 for number in (statistics.median(column), min(column), max(column))))
        for name, values in found.items()]))


if __name__ == '__main__':
    main()
