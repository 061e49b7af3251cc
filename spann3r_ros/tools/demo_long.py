# SPDX-License-Identifier: Apache-2.0
"""Maps a generated building through the live node, and compares the map with the truth.

A robot drives through several rooms and a corridor, and ends where it began. The mapper receives
images and TF with the odometry of its wheels over DDS, once with and once without the correction
by loops. The report has path, scale, walls, loops and grid against the truth; the exit status is 1
unless a true loop was found, the scale is right and the grid agrees with the plan.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import rclpy
import yaml
from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger

from spann3r_ros.core.files import write_json
from spann3r_ros.core.transforms import quaternion_to_matrix, to_rigid
from spann3r_ros.datasets.bag_truth import Truth, read_truth
from spann3r_ros.evaluation.building_scores import score_building
from spann3r_ros.evaluation.measures.grids import PlacedGrid
from spann3r_ros.evaluation.measures.trajectories import Similarity
from spann3r_ros.evaluation.pictures.building_picture import draw_building_map
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.pipeline.node_settings import all_settings
from spann3r_ros.rooms.buildings.floor_plan import FloorPlan

from .building_bag import BuildingRecording, write_building_bag
from .building_report import (
    CELL_M,
    GRID_HEIGHTS_M,
    GRID_REACH_M,
    MappedBuilding,
    find_faults,
    judge_grid,
    report_rows,
)
from .demo import MAPPER, SPIN_SEC, DemoOptions, Watcher, play_through, signals_noted
from .processes import ProcessError
from .recorded_views import SUFFIX
from .simulated_network import SimulatedSettings, write_entry_point

SIMULATED, BUNDLED = 'simulated', 'bundled'
LOOPS = 'loops.enabled'
# What the demo needs; a parameter that the node does not have is reported as missing.
PARAMETERS: Mapping[str, Any] = {
    'fragments.max_keyframes': 40, LOOPS: True, 'scale.source': 'odometry',
    'grid.max_range': GRID_REACH_M, 'grid.min_height': GRID_HEIGHTS_M[0],
    'grid.max_height': GRID_HEIGHTS_M[1], 'voxel_map.max_voxels': 4_000_000,
}
# The grid is published some time after the map was saved.
LAST_GRID_SEC = 5.0


@dataclass(frozen=True)
class LongDemo:
    """What the demo maps, with which network, and the folder of its results."""

    network: str = SIMULATED
    device: str = 'auto'
    output: Path = Path('output/building')
    recording: BuildingRecording = field(default_factory=BuildingRecording)
    patience_sec: float = 120.0
    mapper: tuple[str, ...] = MAPPER

    @property
    def bag(self) -> Path:
        """Return the recording's bag."""
        return self.output / 'bag'

    @property
    def views(self) -> Path:
        """Return the checkpoint of the simulated network."""
        return self.output / f'building{SUFFIX}'


class BuildingWatcher(Watcher):
    """Also receives the occupancy grid."""

    def __init__(self) -> None:
        super().__init__()
        self.grid: OccupancyGrid | None = None
        self.create_subscription(
            OccupancyGrid, '/mapper/map', self._take_grid,
            QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))

    def _take_grid(self, grid: OccupancyGrid) -> None:
        self.grid = grid

    def save(self, check: Callable[[], None], patience_sec: float) -> Trigger.Response:
        """Request ~/save_map and wait for the last grid; return the response."""
        answer = super().save(check, patience_sec)
        deadline_sec = monotonic() + LAST_GRID_SEC
        while self.grid is not None and monotonic() < deadline_sec:
            check()
            rclpy.spin_once(self, timeout_sec=SPIN_SEC)
        return answer


def prepare(demo: LongDemo) -> None:
    """Render the recording, unless the output folder has the same one."""
    note = demo.output / 'recording.json'
    wanted = asdict(demo.recording)
    if note.exists() and demo.views.exists() and json.loads(note.read_text()) == wanted:
        return
    demo.output.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    shutil.rmtree(demo.bag, ignore_errors=True)
    write_building_bag(demo.bag, demo.recording).save(demo.views)
    write_json(note, wanted)


def declared(wanted: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters that the node has, and the names of those that it lacks."""
    known = {one.name for one in all_settings()}
    return ({name: value for name, value in wanted.items() if name in known},
            [name for name in wanted if name not in known])


def map_building(demo: LongDemo, name: str, changes: Mapping[str, Any], truth: Truth,
                 plan: FloorPlan) -> MappedBuilding:
    """Play the recording into the mapper and return the run; its files are in a folder `name`.

    Raises as `play_through`, and ValueError for a map that cannot be scored.
    """
    folder = demo.output / name
    folder.mkdir(parents=True, exist_ok=True)
    parameters = folder / 'parameters.yaml'
    parameters.write_text(yaml.safe_dump({'/**': {'ros__parameters': {
        **declared(PARAMETERS)[0], **changes}}}))
    checkpoint = {SIMULATED: str(demo.views.resolve()), BUNDLED: ''}.get(demo.network)
    if checkpoint is None:
        checkpoint = str(Path(demo.network).resolve())
    options = DemoOptions(demo.bag, '', checkpoint, demo.device, folder, parameters,
                          demo.patience_sec, demo.mapper)
    watchers: list[BuildingWatcher] = []

    def watch() -> BuildingWatcher:
        watchers.append(BuildingWatcher())
        return watchers[-1]
    with signals_noted() as stop:
        run = play_through(options, stop, watch)
    write_json(folder / 'run.json', asdict(run))
    if not run.saved:
        raise ValueError(f'no map: {run.message}')
    status = {one: getattr(watchers[0].last, one)
              for one in watchers[0].last.get_fields_and_field_types()}
    scores = score_building(folder, truth.poses, plan)
    grid = watchers[0].grid
    placed = None if grid is None else place_grid(grid, scores.alignment)
    return MappedBuilding(run, status, placed, scores)


def place_grid(message: OccupancyGrid, alignment: Similarity) -> PlacedGrid:
    """Return a grid in the world; `alignment` takes the map there."""
    info, origin = message.info, message.info.origin
    turn = origin.orientation
    map_from_grid = to_rigid(quaternion_to_matrix([turn.x, turn.y, turn.z, turn.w]),
                             np.array([origin.position.x, origin.position.y, 0.0]))
    world_from_map = to_rigid(alignment.rotation, alignment.translation)
    world_from_map[:3, :3] *= alignment.scale
    return PlacedGrid(np.array(message.data, np.int8).reshape(info.height, info.width),
                      info.resolution, world_from_map @ map_from_grid)


def describe_network(demo: LongDemo) -> str:
    """Return what the map's depth comes from."""
    if demo.network != SIMULATED:
        return f'{demo.network} weights'
    errors = SimulatedSettings()
    return (f'simulated: true depth with errors of {errors.depth_error:.0%} (smooth) and '
            f'{errors.noise:.1%} (noise)')


def draw(demo: LongDemo, plan: FloorPlan, truth: Truth, after: MappedBuilding,
         before: MappedBuilding | None) -> Path:
    """Draw both maps and the grid on the plan; return the picture."""
    target = demo.output / 'building.png'
    shape = plan.grid(CELL_M).shape
    cells = None if after.grid is None else after.grid.sample(shape, CELL_M)
    true_path = np.array([pose.world_from_camera[:3, 3] for pose in truth.poses])
    draw_building_map(target, plan, true_path,
                      [('without loops', before and before.scores),
                       ('with loops', after.scores)], cells, CELL_M)
    return target


def run_demo(demo: LongDemo) -> int:
    """Map, print, draw; return 1 unless the map is as it should be."""
    prepare(demo)
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [
        str(write_entry_point(demo.output.resolve() / 'network')),
        os.environ.get('PYTHONPATH', '')]))
    truth, plan = read_truth(demo.bag), demo.recording.building().plan
    lacking = declared(PARAMETERS)[1]
    before = None
    if LOOPS not in lacking:
        before = map_building(demo, 'without_loops', {LOOPS: False}, truth, plan)
    after = map_building(demo, 'with_loops', {}, truth, plan)
    grid = judge_grid(after.grid, demo.recording)
    rows = report_rows(describe_network(demo), after, before, grid)
    found = find_faults(after, grid)
    lines = [format_table(('building', ''), rows)]
    write_json(demo.output / 'report.json', {'rows': dict(rows), 'faults': found,
                                             'missing_parameters': lacking})
    lines.append(f'wrote {draw(demo, plan, truth, after, before)}, {demo.output / "report.json"}')
    if lacking:
        lines.append(f'MISSING: the node has no parameters {", ".join(lacking)}')
    lines += [f'FAILED: {fault}' for fault in found]
    sys.stdout.write('\n'.join(lines) + '\n')
    return 1 if found else 0


def parse(arguments: Sequence[str] | None) -> LongDemo:
    """Return what the command line asks for."""
    default = LongDemo()
    parser = argparse.ArgumentParser(prog='demo_long', description=__doc__.splitlines()[0])
    parser.add_argument('--network', default=SIMULATED, help=(
        f'{SIMULATED}: true depth with errors; {BUNDLED}: the bundled model; or a checkpoint '
        '(default: %(default)s)'))
    parser.add_argument('--frames', type=int, default=default.recording.frames,
                        help='images of the drive (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=default.recording.seed,
                        help='that of the building (default: %(default)s)')
    parser.add_argument('--device', default=default.device, help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--output', type=Path, default=default.output,
                        help='folder of the results (default: %(default)s)')
    parser.add_argument('--patience-sec', type=float, default=default.patience_sec, help=(
        'fail after so many seconds without progress (default: %(default)s)'))
    args = parser.parse_args(arguments)
    if args.frames < 10:
        parser.error(f'--frames: expected 10 or more, got {args.frames}')
    if args.network not in (SIMULATED, BUNDLED) and not Path(args.network).is_file():
        parser.error(f'--network: expected {SIMULATED}, {BUNDLED} or a file, got {args.network}')
    return LongDemo(args.network, args.device, args.output,
                    replace(default.recording, frames=args.frames, seed=args.seed),
                    args.patience_sec)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    demo = parse(arguments)
    try:
        return run_demo(demo)
    except (ValueError, OSError, ProcessError) as error:
        sys.stderr.write(f'demo_long: {error}\n')
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
