# SPDX-License-Identifier: Apache-2.0
"""Size of `report.html` and the time to write it, by the points of the map: `make bench-report`.

The points are those of a room of 30 m. Times are of one thread, the shortest of several rounds.
"""
from __future__ import annotations

import platform
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / 'test'))
from report_values import room_cloud, room_record, room_report

from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.viewer.point_buffer import buffer_points
from spann3r_ros.viewer.report_page import write_report

POINTS = 50_000, 200_000, 1_000_000
ROUNDS = 3


def main() -> None:
    """Print the table."""
    rows = []
    report = replace(room_report(), record=room_record(5000))
    for count in POINTS:
        cloud = room_cloud(count, (30.0, 30.0, 30.0))
        one, seconds = replace(report, scene=replace(report.scene, cloud=cloud)), []
        with TemporaryDirectory() as folder:
            for _ in range(ROUNDS):
                began_sec = time.perf_counter()
                path = write_report(Path(folder), one)
                seconds.append(time.perf_counter() - began_sec)
            size = path.stat().st_size
        rows.append((f'{count:,}', f'{size / 1e6:.2f}', f'{min(seconds):.2f}',
                     f'{1e3 * buffer_points(cloud, count).rounding:.2f}'))
    print(f'{platform.processor() or platform.machine()}, {date.today()}')
    print(format_table(('points', 'MB', 'seconds', 'rounding, mm'), rows))


if __name__ == '__main__':
    main()
