# SPDX-License-Identifier: Apache-2.0
"""What the occupancy grid costs a keyframe, and how long it takes to make one: `make bench-grid`.

A camera turns at 25 places of a hall of 20 x 20 m, and sees each part of it several times. Times
are those of the processor, on one thread.
"""
from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / 'test'))
from grid_rooms import PILLAR, Rig, keyframe, room, walk_around
from synthetic import square_camera

from spann3r_ros.core.files import write_json
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.occupancy.occupancy_grid import GridView
from spann3r_ros.mapping.occupancy.occupancy_store import CELLS

HALL_M = 20.0
PLACES = [(x, y) for x in (-8, -4, 0, 4, 8) for y in (-8, -4, 0.5, 4, 8)]
PILLARS = [PILLAR + [shift, shift] for shift in ((-5, -5, 0), (0, 0, 0), (4, 5, 0))]
NOISE = 0.002  # standard deviation of the depth, in depth^2 per metre
ROUNDS = 5
TURN = np.eye(4)
TURN[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]


def measure(size: int, turns: int, resolution: float) -> dict[str, float]:
    """Return milliseconds for keyframes of a size in pixels, and for the grid of them all."""
    scene, camera = room(*PILLARS, width=HALL_M, depth=HALL_M), square_camera(size)
    rig, costs = Rig(GridConfig(resolution=resolution)), []
    for n, pose in enumerate(tqdm(walk_around(turns, PLACES, 0.8), f'{size} pixels')):
        one = keyframe(scene, pose, camera, noise=NOISE, seed=n)
        one.points  # noqa: B018, the mapper computes them anyway
        started = time.thread_time()
        rig.add([one])
        costs.append(1e3 * (time.thread_time() - started))
    found = {'pixels': size, 'keyframes': len(costs), 'p50_ms': float(np.percentile(costs, 50)),
             'p95_ms': float(np.percentile(costs, 95)), 'max_ms': max(costs),
             'megabytes': CELLS * len(rig.stores[0]) / 1e6}
    view = GridView()
    found['snapshot_ms'] = _milliseconds(lambda: rig.layer.snapshot(rig.located()))
    snapshot = rig.layer.snapshot(rig.located())
    found['grid_ms'] = _milliseconds(lambda: view(snapshot))
    rig.places[0] = TURN
    moved = rig.layer.snapshot(rig.located())
    found['moved_grid_ms'] = _milliseconds(lambda: GridView()(moved))
    return found


def _milliseconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        call()
        times.append(1e3 * (time.thread_time() - started))
    return float(np.median(times))


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sizes', type=int, nargs='+', default=[96, 224, 512])
    parser.add_argument('--turns', type=int, default=8)
    parser.add_argument('--resolution', type=float, default=0.05)
    parser.add_argument('--output', type=Path, default=Path('output/grid_cost.json'))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = [measure(size, arguments.turns, arguments.resolution) for size in arguments.sizes]
    print(format_table(tuple(rows[0]), [tuple(f'{value:.4g}' for value in row.values())
                                        for row in rows]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {'date': date.today().isoformat(),
                                  'machine': platform.processor() or platform.machine(),
                                  'rows': rows})


if __name__ == '__main__':
    main()
