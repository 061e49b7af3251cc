# SPDX-License-Identifier: Apache-2.0
"""`spann3r report`: prints the table of a finished run, draws its map and writes its report."""
from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spann3r_ros.evaluation.bag_comparison import Comparison

SUMMARY = ('print the table of a finished demo run, draw its map and write report.html; fails if '
           'frames are missing')
FILES = ('map/map.ply', 'map/trajectory.tum', 'map.png', 'report.html')
# A line of the mapper's log, as rclpy writes it.
LOGGED = re.compile(r'\[(?:WARN|ERROR|FATAL)\] \[[\d.]+\] \[[^\]]*\]: (.*)')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('output', type=Path, help="the demo's output folder")


def run(args: argparse.Namespace) -> int:
    """Print and draw; return 0 only if every image was counted and the map is not empty."""
    from spann3r_ros.evaluation.tables import format_table
    run = json.loads((args.output / 'run.json').read_text())
    rows, voxels = run_rows(run), 0
    if run['saved']:
        more, voxels = map_rows(args.output, Path(run['bag']))
        rows += more
        write_demo_report(args.output, run, rows)
    print(format_table((Path(run['bag']).name, ''), rows))
    if run['saved']:
        print('wrote ' + ', '.join(str(args.output / name) for name in FILES))
    faults = find_faults(run, voxels)
    for fault in faults:
        print(f'FAILED: {fault}')
    return 1 if faults else 0


def write_demo_report(output: Path, run: dict[str, Any], rows: list[tuple[str, str]]) -> None:
    """Write the report of a run whose map was saved."""
    from spann3r_ros.networks.registry import resolve_checkpoint
    from spann3r_ros.pipeline.node_settings import from_values
    from spann3r_ros.viewer.map_scene import saved_scene
    from spann3r_ros.viewer.report_page import Report, write_report
    from spann3r_ros.viewer.run_record import RunRecord
    settings = from_values(run['settings'])
    write_report(output, Report(
        f'Demo with {Path(run["bag"]).name}', rows, logged_warnings(output / 'mapper.log'),
        [('network', run['network']), ('weights', str(resolve_checkpoint(
            settings.node.checkpoint))), ('device', settings.node.device)],
        saved_scene(output, math.nan if run['metres'] is None else run['metres']),
        RunRecord.of(run['samples']), settings))


def logged_warnings(log: Path) -> list[str]:
    """Return each warning and error in the mapper's log once, with its number of occurrences."""
    counts = Counter(LOGGED.findall(log.read_text(errors='replace')) if log.exists() else [])
    return [text if count == 1 else f'{text} ({count} times)' for text, count in counts.items()]


def map_rows(output: Path, bag: Path) -> tuple[list[tuple[str, str]], int]:
    """Draw the map; return the rows about map and truth, and the number of voxels."""
    from spann3r_ros.datasets.bag_truth import read_truth
    from spann3r_ros.evaluation.bag_comparison import AlignmentError, compare
    from spann3r_ros.evaluation.pictures.map_picture import draw_map
    from spann3r_ros.mapping.exports.ply_files import read_ply
    from spann3r_ros.mapping.exports.trajectory_files import read_tum
    cloud = read_ply(output / 'map' / 'map.ply')
    trajectory = read_tum(output / 'map' / 'trajectory.tum')
    truth = read_truth(bag)
    comparison, reason = None, 'none in the bag'
    if truth is not None:
        try:
            comparison = compare(cloud, trajectory, truth)
        except AlignmentError as error:
            reason = f'not comparable: {error}'
    rows = [('map', f'{len(cloud)} voxels, {len(trajectory)} poses')]
    rows += truth_rows(comparison) if comparison else [('ground truth', reason)]
    draw_map(output / 'map.png', cloud, trajectory, truth, comparison)
    return rows, len(cloud)


def run_rows(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows about frames and time."""
    import numpy as np
    rows = [('images in the bag', str(run['images']))]
    rows += [(f'frames {name}', str(run[name]))
             for name in ('received', 'processed', 'skipped', 'dropped', 'failed')]
    used = run['processed'] + run['skipped']
    rate = used / run['wall_sec'] if run['wall_sec'] > 0.0 else float('nan')
    rows.append(('frames per second', f'{rate:.1f}'))
    for label, name in (('latency', 'latencies_sec'), ('of it inference', 'inference_sec')):
        if run[name]:
            half, most = (1e3 * np.quantile(run[name], share) for share in (0.5, 0.95))
            rows.append((f'{label} p50 / p95', f'{half:.0f} / {most:.0f} ms'))
    return rows


def truth_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the rows about ground truth."""
    rows = [('ATE (RMS of positions)', f'{comparison.trajectory_error:.3f} m '
                                       f'on {comparison.path_length:.1f} m'),
            ('rotation error, median', f'{comparison.rotation_deg:.1f} deg'),
            ('map aligned to truth', f'one similarity, scale {comparison.alignment.scale:.2f}')]
    for name in ('accuracy', 'completion'):
        distances = getattr(comparison, name)
        if distances is not None:
            rows.append((f'{name} mean / median',
                         f'{distances.mean:.3f} / {distances.median:.3f} m'))
    return rows


def find_faults(run: dict[str, Any], voxels: int) -> list[str]:
    """Return the reasons why the run is not complete."""
    ended = sum(run[name] for name in ('processed', 'skipped', 'dropped', 'failed'))
    faults = []
    if run['received'] != run['images']:
        faults.append(f'{run["images"]} images in the bag, {run["received"]} received')
    if ended != run['received']:
        faults.append(f'{run["received"]} frames received, {ended} finished')
    if not run['saved']:
        faults.append(f'no map: {run["message"]}')
    elif not voxels:
        faults.append('the map is empty')
    return faults
