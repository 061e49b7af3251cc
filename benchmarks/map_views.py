# SPDX-License-Identifier: Apache-2.0
"""What a large map costs: its pose graph, views, keyframes beyond the bounds, and a save.

The first part solves pose graphs of a walk that goes round and round, with a loop at every fifth
fragment and two false ones, while another thread takes the time every millisecond, as the node's
executor would take images. The second part views a million voxels in 50 fragments that have all
just moved, beside such a thread too. The third part adds 10,000 keyframes to a map whose bounds
are far exceeded. The fourth part saves a million voxels with 10,000 poses: the worker waits for
the snapshot only, and the files are encoded and written beside such a thread. `make bench-map`
runs it.
"""
from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from threading import Event, Thread

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / 'test'))

from pose_graphs import false_loop, walk
from synthetic import (
    SyntheticNetwork,
    SyntheticScene,
    every_frame,
    orbit_trajectory,
    render_frames,
    square_camera,
)

from spann3r_ros.core.camera import centred_intrinsics
from spann3r_ros.core.files import write_json
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import to_rigid
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.loops.loop_selection import solve
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    KeyframeConfig,
    LoopConfig,
    MapperConfig,
    VoxelMapConfig,
)
from spann3r_ros.mapping.storage.map_directory import snapshot_map

FRAGMENTS, VOXELS, POSES = 50, 1_000_000, 10_000
GRAPH_SIZES = 60, 300, 1000
SIZE = 96
STEP_M = 0.02
TICK_SEC = 1e-3


class Ticker:
    """Takes the time every millisecond on a thread of its own; `longest_sec` is the worst wait."""

    def __enter__(self) -> Ticker:
        self.longest_sec = 0.0
        self._stop = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.perf_counter()
        while not self._stop.is_set():
            time.sleep(TICK_SEC)
            now = time.perf_counter()
            self.longest_sec = max(self.longest_sec, now - last - TICK_SEC)
            last = now


def wall_keyframe(index: int, generator: np.random.Generator) -> Keyframe:
    """Return a keyframe of a camera that walks along a wall with a rough surface."""
    depth = 2.0 + 0.3 * generator.random((SIZE, SIZE), np.float32)
    pose = to_rigid(np.zeros(3), np.array([STEP_M * index, 0.0, 0.0]))
    image = np.full((SIZE, SIZE, 3), index % 255, np.uint8)
    return Keyframe(index, 'camera', 0, image, centred_intrinsics(SIZE, SIZE, SIZE), depth,
                    np.full((SIZE, SIZE), 0.9, np.float32),
                    FragmentPose(index, 'camera', 0, pose, 1e-4 * np.eye(6)))


def measure_graph(fragments: int, rounds: int) -> dict[str, float]:
    """Return seconds to solve a pose graph, and the longest that another thread had to wait."""
    walked = walk(fragments, max(10, fragments // 6), 5)
    loops = [false_loop(3, fragments // 2 + 7), false_loop(10, fragments - 3)]
    graph = replace(walked.graph, constraints=[*walked.graph.constraints, *loops])
    probability = LoopConfig().gate_probability
    seconds, own, waits = [], [], []
    for _ in range(rounds):
        with Ticker() as ticker:
            started, own_started = time.perf_counter(), time.thread_time()
            judgement = solve(graph, probability)
            seconds.append(time.perf_counter() - started)
            own.append(time.thread_time() - own_started)
        waits.append(ticker.longest_sec)
    # The last true loop comes when all others are judged.
    last = max(index for index, one in enumerate(walked.graph.constraints) if one.kind == 'loop')
    before = solve(graph.without(np.arange(len(graph.constraints)) == last), probability)
    verdicts = np.insert(before.accepted, last, False)
    grown = replace(graph, places=before.places, constraints=[
        replace(one, accepted=bool(verdicts[index])) if index != last else one
        for index, one in enumerate(graph.constraints)])
    own_started = time.thread_time()
    accepted = solve(grown, probability).accepted
    one_more_sec = time.thread_time() - own_started
    if not (np.array_equal(accepted, judgement.accepted) and accepted[last]):
        raise SystemExit(f'{fragments} fragments: another judgement with one loop more')
    is_loop = np.array([one.kind == 'loop' for one in graph.constraints])
    return {'fragments': fragments, 'loops': int(is_loop.sum()),
            'rejected': int((~judgement.accepted).sum()), 'iterations': judgement.iterations,
            'error_before_m': float(walked.errors(graph.places).max()),
            'error_after_m': float(walked.errors(judgement.places).max()),
            'solve_sec': float(np.median(seconds)), 'solve_max_sec': max(seconds),
            'processor_sec': float(np.median(own)),
            'one_more_loop_processor_sec': one_more_sec,
            'other_thread_waits_ms': 1e3 * float(np.median(waits)),
            'other_thread_waits_max_ms': 1e3 * max(waits)}


def large_map() -> tuple[Atlas, VoxelMap]:
    """Return an atlas with a million voxels in 50 fragments."""
    config = MapperConfig(voxel_map=VoxelMapConfig(voxel_size=0.02, max_voxels=2 * VOXELS))
    layer = VoxelMap(config.voxel_map)
    atlas, generator = Atlas(config, (layer,)), np.random.default_rng(0)
    per_fragment = VOXELS // FRAGMENTS
    for number in tqdm(range(FRAGMENTS), 'fragments', mininterval=1.0):
        if number:
            atlas.begin()
        store = atlas.current.stores[layer.name]
        while len(store) < per_fragment:
            points = generator.uniform(0.0, 4.0, (per_fragment - len(store), 3)).astype(np.float32)
            layer.merge(store, [store], points, np.full((len(points), 3), 90, np.uint8),
                        np.full(len(points), 0.9, np.float32), points[:, 2])
        atlas.current.received = 1
    return atlas, layer


def measure_view(rounds: int) -> dict[str, float]:
    """Return seconds to view a moved map, and the longest that another thread had to wait."""
    atlas, layer = large_map()
    rotations = Rotation.random(FRAGMENTS, random_state=0).as_matrix()
    snapshot_sec, view_sec, waits = [], [], []
    for index in range(rounds):
        for fragment in atlas.fragments:
            place = to_rigid(rotations[fragment], np.full(3, float(index)))
            place[:3, :3] *= 1.0 + 0.1 * index
            atlas.move(fragment, place)
        with Ticker() as ticker:
            started = time.perf_counter()
            snapshot = layer.snapshot(atlas.located_stores(layer.name))
            snapshot_sec.append(time.perf_counter() - started)
            cloud = snapshot.cloud()
            view_sec.append(time.perf_counter() - started)
        waits.append(ticker.longest_sec)
    voxels = sum(map(len, atlas.stores(layer.name)))
    return {'voxels': voxels, 'points': len(cloud), 'fragments': len(atlas.fragments),
            'snapshot_ms': 1e3 * float(np.median(snapshot_sec)),
            'view_sec': float(np.median(view_sec)), 'view_max_sec': max(view_sec),
            'other_thread_waits_ms': 1e3 * float(np.median(waits)),
            'other_thread_waits_max_ms': 1e3 * max(waits)}


def measure_growth(keyframes: int, max_voxels: int, publish_every: int) -> dict[str, float]:
    """Return what keyframes cost the worker in a map whose bounds are exceeded."""
    config = MapperConfig(
        # Random depths are flying pixels.
        voxel_map=VoxelMapConfig(voxel_size=0.02, max_voxels=max_voxels, edge_jump=0.0),
        path_max_size=5000,
        keyframes=KeyframeConfig(max_full_bytes=10**7, max_bytes=5 * 10**7))
    layer = VoxelMap(config.voxel_map)
    atlas, generator = Atlas(config, (layer,)), np.random.default_rng(0)
    costs = np.zeros(keyframes)
    for index in tqdm(range(keyframes), 'keyframes', mininterval=1.0):
        keyframe = wall_keyframe(index, generator)
        points = keyframe.points_in(np.eye(4))
        started = time.perf_counter()
        atlas.add(keyframe, points)
        if index % publish_every == 0:
            layer.snapshot(atlas.located_stores(layer.name))
        costs[index] = time.perf_counter() - started
        voxels = sum(map(len, atlas.stores(layer.name)))
        kept = atlas.kept()
        if (voxels > max_voxels or kept.bytes > config.keyframes.max_bytes
                or len(atlas.path().stamps_ns) > config.path_max_size):
            raise SystemExit(f'out of bounds at keyframe {index}')
    half = 1e3 * costs[keyframes // 2:]  # the bounds are reached
    return {'keyframes': keyframes, 'voxels': voxels, 'voxels_evicted': layer.evicted,
            'keyframes_kept': kept.keyframes, 'keyframes_evicted': kept.evicted,
            'path': len(atlas.path().stamps_ns), 'p50_ms': float(np.percentile(half, 50)),
            'p95_ms': float(np.percentile(half, 95)), 'p99_ms': float(np.percentile(half, 99)),
            'max_ms': float(half.max())}


def large_mapper() -> Mapper:
    """Return a mapper whose map has a million voxels in 50 fragments, and 10,000 poses."""
    scene, poses, camera = SyntheticScene(), orbit_trajectory(60), square_camera(SIZE)
    mapper = Mapper(SyntheticNetwork(scene, poses, intrinsics=camera), every_frame(MapperConfig(
        voxel_map=VoxelMapConfig(voxel_size=0.02, max_voxels=2 * VOXELS))))
    for frame in render_frames(scene, poses[:3], camera):
        mapper.process(frame)
    atlas, layer, generator = mapper._state.atlas, mapper.voxel_map, np.random.default_rng(0)
    for number in tqdm(range(FRAGMENTS), 'fragments', mininterval=1.0):
        if number:
            atlas.begin()
        fragment = atlas.current
        store = fragment.stores[layer.name]
        while len(store) < VOXELS // FRAGMENTS:
            points = generator.uniform(
                0.0, 4.0, (VOXELS // FRAGMENTS - len(store), 3)).astype(np.float32)
            layer.merge(store, [store], points, np.full((len(points), 3), 90, np.uint8),
                        np.full(len(points), 0.9, np.float32), points[:, 2])
        for index in range(POSES // FRAGMENTS):
            stamp_ns = 10**10 + (number * POSES // FRAGMENTS + index) * 10**8
            one = replace(wall_keyframe(index, generator), stamp_ns=stamp_ns,
                          fragment_id=fragment.id)
            one = replace(one, pose=replace(one.pose, stamp_ns=stamp_ns, fragment_id=fragment.id))
            atlas.add(one, None)
    return mapper


def measure_save(rounds: int) -> dict[str, float]:
    """Return seconds of a snapshot and of the files, and how long another thread had to wait."""
    mapper = large_mapper()
    snapshot_sec, encode_sec, write_sec, waits = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            mapper.process(replace(render_frames(
                SyntheticScene(), orbit_trajectory(60)[:1], square_camera(SIZE))[0],
                stamp_ns=mapper.newest_ns + 10**8))
            started = time.perf_counter()
            snapshot = snapshot_map(mapper)
            snapshot_sec.append(time.perf_counter() - started)
            with Ticker() as ticker:
                started = time.perf_counter()
                files = snapshot.encode()
                encode_sec.append(time.perf_counter() - started)
                started = time.perf_counter()
                directory = files.write(Path(folder))
                write_sec.append(time.perf_counter() - started)
            waits.append(ticker.longest_sec)
        size = sum(one.stat().st_size for one in directory.iterdir())
    status = mapper.status()
    return {'voxels': status.voxels, 'poses': len(mapper.path().stamps_ns), 'bytes': size,
            'snapshot_ms': 1e3 * float(np.median(snapshot_sec)),
            'snapshot_max_ms': 1e3 * max(snapshot_sec),
            'encode_sec': float(np.median(encode_sec)), 'write_sec': float(np.median(write_sec)),
            'other_thread_waits_ms': 1e3 * float(np.median(waits)),
            'other_thread_waits_max_ms': 1e3 * max(waits)}


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--keyframes', type=int, default=10_000)
    parser.add_argument('--max-voxels', type=int, default=500_000)
    parser.add_argument('--publish-every', type=int, default=30,
                        help='keyframes between two snapshots for publishing')
    parser.add_argument('--output', type=Path, default=Path('output/map_views.json'))
    parser.add_argument('--parts', nargs='+', default=['graph', 'view', 'growth', 'save'],
                        choices=['graph', 'view', 'growth', 'save'])
    arguments = parser.parse_args()
    measured = {
        'graph': lambda: [measure_graph(count, arguments.rounds) for count in GRAPH_SIZES],
        'view': lambda: [measure_view(arguments.rounds)],
        'growth': lambda: [measure_growth(arguments.keyframes, arguments.max_voxels,
                                          arguments.publish_every)],
        'save': lambda: [measure_save(arguments.rounds)]}
    found = {name: measured[name]() for name in arguments.parts}
    for title, rows in found.items():
        for numbers in rows:
            print(format_table((title, ''), [
                (name, f'{value:.4g}' if isinstance(value, float) else str(value))
                for name, value in numbers.items()]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {'date': date.today().isoformat(),
                                  'machine': platform.processor() or platform.machine(), **found})


if __name__ == '__main__':
    main()
