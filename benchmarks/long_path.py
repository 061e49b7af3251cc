# SPDX-License-Identifier: Apache-2.0
"""10,000 frames over 2 km through the mapper: `make bench-long`.

A robot drives through a generated building of hundreds of rooms. The simulated network answers
with the true depth and small errors, so that little but the mapper takes time. Fragments begin on
a schedule. Voxels, cells of evidence, bytes of keyframes and poses have bounds that the first
tenth exceeds. After each tenth the cost of a correction is measured: to solve the pose graph with
a loop for every `LOOP_EVERY` fragments, of which one is new, to move all fragments, and to make
cloud and path anew. The report has a line for each tenth, the plot goes into docs/; the exit
status is 1 unless map and memory stayed within their bounds and time did not grow.
"""
from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.files import write_json
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.similarity import SIZE, carry_covariance, similarities_of
from spann3r_ros.core.transforms import invert_similarity, to_rigid
from spann3r_ros.core.types import Frame
from spann3r_ros.evaluation.measures.trajectories import path_errors
from spann3r_ros.evaluation.pictures.map_picture import write_figure
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.loops.atlas_graph import graph_of
from spann3r_ros.mapping.loops.loop_selection import LOOP, solve
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    KeyframeConfig,
    LoopConfig,
    MapperConfig,
    VoxelMapConfig,
)
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.occupancy.occupancy_store import CELLS
from spann3r_ros.rooms.buildings.building import Building, draw_building
from spann3r_ros.rooms.buildings.building_views import BuildingViews, camera_poses
from spann3r_ros.rooms.buildings.floor_plan import BuildingConfig
from spann3r_ros.rooms.buildings.robot_walk import BLOCK, drive
from spann3r_ros.tools.recorded_views import TrueViews
from spann3r_ros.tools.simulated_network import SimulatedNetwork, SimulatedSettings

CAMERA = Intrinsics(32.0, 32.0, 31.5, 23.5, 64, 48)
STEP_M = 0.2  # that a frame moves, on average
FRAGMENT_FRAMES = 40
MAX_VOXELS, MAX_FULL_BYTES, MAX_BYTES, MAX_POSES = 200_000, 2_000_000, 8_000_000, 3_000
MAX_CELLS = 1_000_000
MOST_GROWTH, MOST_SLOWER, MOST_STEEP = 0.05, 1.1, 1.0
LEAST_FOR_JUDGEMENT = 5000
TENTHS = 10
CORRECTION_REPEATS = 3
# A loop for so many fragments, between fragments that are as far apart by number.
LOOP_EVERY, LOOP_LENGTH = 5, 10
LOOP_DEVIATION = 0.01


class TimedNetwork(SimulatedNetwork):
    """The simulated network with the processor seconds that it has used."""

    seconds = 0.0

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Return the estimate of an image."""
        started = time.thread_time()
        try:
            return super().step(image, image_id)
        finally:
            self.seconds += time.thread_time() - started


@dataclass(frozen=True)
class Correction:
    """What solving the graph and moving all fragments cost: milliseconds of processor time."""

    frame: int
    fragments: int
    voxels: int
    loops: int
    solve_ms: float
    move_ms: float
    cloud_ms: float


@dataclass
class Run:
    """What was measured after each of n frames; times are processor time of the mapper alone."""

    resident_bytes: list[int] = field(default_factory=list)
    own_ms: list[float] = field(default_factory=list)
    voxels: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    keyframe_bytes: list[int] = field(default_factory=list)
    poses: list[int] = field(default_factory=list)
    fragments: list[int] = field(default_factory=list)
    constraints: list[int] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    path_m: float = 0.0
    trajectory_error_m: float = float('nan')


def long_building(metres: float) -> Building:
    """Return a building whose way is about as long as asked for."""
    unit = draw_building(0, BuildingConfig(rooms=10 * BLOCK))
    per_block = way_length(unit.way) / 10
    return draw_building(0, BuildingConfig(rooms=BLOCK * max(1, round(metres / per_block))))


def way_length(way: np.ndarray) -> float:
    """Return the length of corners [k, 2]."""
    return float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())


def render(building: Building, frames: int) -> tuple[TrueViews, np.ndarray]:
    """Return true views and images uint8 [n, h, w, 3] of a drive."""
    poses = camera_poses(drive(building.way, frames, 0.0, np.random.default_rng(0)))
    images = np.empty((frames, CAMERA.height, CAMERA.width, 3), np.uint8)

    def views() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        drawn = BuildingViews(building).render(poses, CAMERA)
        for index, (image, depth) in enumerate(tqdm(drawn, 'render', frames, mininterval=1.0)):
            images[index] = image
            yield image, depth
    return TrueViews.of(views(), poses, CAMERA), images


def measure(views: TrueViews, images: np.ndarray, fragment_frames: int,
            max_voxels: int = MAX_VOXELS, max_cells: int = MAX_CELLS) -> Run:
    """Map all images and return what was measured."""
    network = TimedNetwork(views, SimulatedSettings(
        depth_error=0.01, noise=0.002, unit_spread=0.05, turn_drift=0.0005, scale_drift=0.0005))
    mapper = Mapper(network, MapperConfig(
        voxel_map=VoxelMapConfig(max_voxels=max_voxels), grid=GridConfig(max_cells=max_cells),
        path_max_size=MAX_POSES,
        keyframes=KeyframeConfig(max_full_bytes=MAX_FULL_BYTES, max_bytes=MAX_BYTES)))
    run, every = Run(), max(1, len(images) // TENTHS)
    estimate: dict[int, np.ndarray] = {}
    for index in tqdm(range(len(images)), 'map', mininterval=1.0):
        if index and index % fragment_frames == 0:
            mapper.new_fragment('on schedule')
        before, started = network.seconds, time.thread_time()
        update = mapper.process(Frame(index * 10**8, 'camera', images[index], CAMERA))
        own_sec = time.thread_time() - started - (network.seconds - before)
        run.failures += [str(one.error) for one in update.failed]
        _note(run, mapper, 1e3 * own_sec)
        if (index + 1) % every == 0:
            run.corrections.append(correct(mapper, index))
            estimate |= {pose.stamp_ns: pose.world_from_camera for pose in mapper.trajectory}
            gc.collect()
    stamps = sorted(estimate)
    errors = path_errors(np.stack([estimate[one] for one in stamps]),
                         np.stack([views.poses[one // 10**8] for one in stamps]))
    run.path_m, run.trajectory_error_m = errors.path_length, errors.trajectory_error
    return run


def _note(run: Run, mapper: Mapper, own_ms: float) -> None:
    status, atlas = mapper.status(), mapper._front_end.state.atlas
    run.resident_bytes.append(resident_bytes())
    run.own_ms.append(own_ms)
    run.voxels.append(status.voxels)
    run.cells.append(CELLS * sum(map(len, atlas.stores(mapper.occupancy.name))))
    run.keyframe_bytes.append(status.kept.bytes)
    run.poses.append(sum(len(one.path) for one in atlas.fragments.values()))
    run.fragments.append(len(atlas.fragments))
    run.constraints.append(len(atlas.constraints))


def correct(mapper: Mapper, frame: int) -> Correction:
    """Solve the graph, move all fragments there and back, and return what each part cost."""
    atlas = mapper._front_end.state.atlas
    turn = to_rigid(np.array([0.0, 0.0, 0.01]), np.array([0.1, 0.0, 0.0]))
    loops = assumed_loops(atlas)
    solutions, moves, clouds = [], [], []
    for number in range(2 * CORRECTION_REPEATS):
        started = time.thread_time()
        graph = graph_of(atlas, (), LoopConfig().fragment_drift)
        if loops:
            solve(replace(graph, constraints=[*graph.constraints, *loops]),
                  LoopConfig().gate_probability)
        solutions.append(time.thread_time() - started)
        started = time.thread_time()
        atlas.move_all(turn if number % 2 == 0 else np.linalg.inv(turn))
        moved = time.thread_time()
        mapper.cloud()
        mapper.path()
        moves.append(moved - started)
        clouds.append(time.thread_time() - moved)
    atlas.take_moved()
    return Correction(frame, len(atlas.fragments), mapper.status().voxels, len(loops),
                      *(1e3 * float(np.median(one)) for one in (solutions, moves, clouds)))


def assumed_loops(atlas: Atlas) -> list[Constraint]:
    """Return loops that contradict the map a little; all but the last one are known already."""
    ids, rng = list(atlas.fragments), np.random.default_rng(0)
    pairs = list(zip(ids, ids[LOOP_LENGTH:], strict=False))[::LOOP_EVERY]
    covariance = np.diag(np.full(SIZE, LOOP_DEVIATION**2))
    loops = []
    for number, (first, second) in enumerate(pairs):
        one, other = (atlas.fragments[fragment] for fragment in (first, second))
        camera = other.fragment_from_sequence
        error = similarities_of(LOOP_DEVIATION * rng.standard_normal(SIZE))
        between = invert_similarity(one.map_from_fragment) @ other.map_from_fragment
        loops.append(Constraint(
            LOOP, first, second, between @ camera @ error @ invert_similarity(camera),
            carry_covariance(camera, covariance), number < len(pairs) - 1 or None))
    return loops


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def faults(run: Run, max_voxels: int = MAX_VOXELS, max_cells: int = MAX_CELLS) -> list[str]:
    """Return what went out of bounds."""
    found = [f'{len(run.failures)} frames failed, the first: {text}'
             for text in run.failures[:1]]
    for name, values, bound in (('voxels', run.voxels, max_voxels),
                                ('cells of evidence', run.cells, max_cells),
                                ('bytes of keyframes', run.keyframe_bytes, MAX_BYTES),
                                ('poses in the path', run.poses, MAX_POSES)):
        if max(values) > bound:
            found.append(f'{max(values)} {name}, bound {bound}')
    half, tenth = len(run.own_ms) // 2, max(1, len(run.own_ms) // TENTHS)
    if len(run.own_ms) < LEAST_FOR_JUDGEMENT:
        return found
    growth = (np.median(run.resident_bytes[-tenth:])
              / np.median(run.resident_bytes[half:half + tenth]) - 1.0)
    if growth >= MOST_GROWTH:
        found.append(f'resident memory grew by {growth:.1%} over the last half')
    halves = [float(np.mean(part)) for part in (run.own_ms[:half], run.own_ms[half:])]
    if not 1 / MOST_SLOWER <= halves[1] / halves[0] <= MOST_SLOWER:
        found.append('the time of a frame went from {:.2f} to {:.2f} ms'.format(*halves))
    steepness = growth_exponent(run.corrections)
    if steepness > MOST_STEEP:
        found.append(f'a correction costs fragments to the power of {steepness:.2f}')
    return found


def growth_exponent(corrections: Sequence[Correction]) -> float:
    """Return the power of the number of fragments with which the cost of a correction grows."""
    fragments = np.log([one.fragments for one in corrections])
    costs = [one.solve_ms + one.move_ms + one.cloud_ms for one in corrections]
    return float(np.polyfit(fragments, np.log(costs), 1)[0])


def show(run: Run) -> None:
    """Print a line for each tenth of the run."""
    rows = []
    for part, one in zip(np.array_split(np.arange(len(run.own_ms)), TENTHS), run.corrections,
                         strict=False):
        own = np.array(run.own_ms)[part]
        rows.append([
            f'{part[0]}..{part[-1]}',
            f'{np.median(np.array(run.resident_bytes)[part]) / 2**20:.0f}',
            str(max(run.voxels[index] for index in part)),
            str(max(run.cells[index] for index in part)),
            f'{max(run.keyframe_bytes[index] for index in part) / 1e6:.1f}',
            str(run.fragments[part[-1]]), str(run.constraints[part[-1]]),
            f'{own.mean():.1f}', f'{np.percentile(own, 95):.1f}',
            str(one.loops), f'{one.solve_ms:.0f}', f'{one.move_ms:.2f}', f'{one.cloud_ms:.0f}'])
    print(format_table(['frames', 'resident MiB', 'voxels', 'cells', 'keyframe MB', 'fragments',
                        'constraints', 'ms a frame', 'p95', 'loops', 'solve ms', 'move ms',
                        'views ms'], rows))
    print(f'ATE {run.trajectory_error_m:.2f} m on {run.path_m:.0f} m; a correction costs '
          f'fragments to the power of {growth_exponent(run.corrections):.2f}')


def draw(run: Run, target: Path, title: str) -> None:
    """Draw memory, time, contents and corrections against frames."""
    figure = Figure(figsize=(11, 6.5), dpi=90, layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(2, 2)
    frames = np.arange(len(run.own_ms))
    panels[0, 0].plot(frames, np.array(run.resident_bytes) / 2**20, lw=1)
    panels[0, 0].set(title='resident memory', ylabel='MiB', ylim=(0, None))
    window = max(1, len(frames) // 100)
    means = np.convolve(run.own_ms, np.ones(window) / window, 'valid')
    panels[0, 1].plot(frames[window - 1:], means, lw=1)
    panels[0, 1].set(title=f'processor time of the mapper, mean of {window} frames', ylabel='ms',
                     ylim=(0, None))
    for values, bound, label in ((run.voxels, MAX_VOXELS, 'voxels'),
                                 (run.cells, MAX_CELLS, 'cells of evidence'),
                                 (run.keyframe_bytes, MAX_BYTES, 'bytes of keyframes'),
                                 (run.poses, MAX_POSES, 'poses of the path')):
        panels[1, 0].plot(frames, np.array(values) / bound, lw=1, label=label)
    panels[1, 0].axhline(1.0, color='gray', ls='--', lw=1)
    panels[1, 0].set(title='contents, as shares of their bounds', xlabel='frames', ylim=(0, 1.1))
    panels[1, 0].legend(loc='lower right')
    fragments = [one.fragments for one in run.corrections]
    for name, label in (('solve_ms', 'solving the graph'), ('move_ms', 'moving all fragments'),
                        ('cloud_ms', 'cloud and path anew')):
        panels[1, 1].loglog(fragments, [getattr(one, name) for one in run.corrections], 'o-',
                            label=label)
    panels[1, 1].set(title='cost of a correction', xlabel='fragments', ylabel='ms')
    panels[1, 1].legend(loc='center right')
    write_figure(target, figure)


def main() -> int:
    """Map, print, draw, write the results; return 1 when something went out of bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=10_000)
    parser.add_argument('--fragment-frames', type=int, default=FRAGMENT_FRAMES,
                        help='frames of a fragment (default: %(default)s)')
    parser.add_argument('--output', type=Path, default=Path('output/long_path.json'))
    parser.add_argument('--plot', type=Path, default=Path('output/long_path.png'))
    arguments = parser.parse_args()
    if arguments.frames < 10 * TENTHS:
        parser.error(f'--frames: expected {10 * TENTHS} or more, got {arguments.frames}')
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    building = long_building(STEP_M * arguments.frames)
    run = measure(*render(building, arguments.frames), arguments.fragment_frames)
    show(run)
    for path in (arguments.output, arguments.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    draw(run, arguments.plot, f'{arguments.frames:,} frames over {run.path_m / 1e3:.1f} km, '
                              f'{run.fragments[-1]} fragments')
    write_json(arguments.output, asdict(run))
    found = faults(run)
    print('\n'.join(found) or 'map, memory and time stayed within their bounds')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
