# SPDX-License-Identifier: Apache-2.0
"""What keyframes by parallax, fragments, loops, scale, carving and grid cost together.

`make bench-sum`: a robot drives twice along the same way through a generated building. The mapper
maps it with all of these, then the images that were keyframes without any of these. A simulated
network answers with 224x224 pixels of images of 640x480, which are drawn smaller and enlarged.
Times are processor time without that of the network, and of all threads: the pose graph has one of
its own.
"""
from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from tqdm import tqdm

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.files import write_json
from spann3r_ros.core.types import Frame
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.front_end import FrontEnd
from spann3r_ros.mapping.layers.carving import Carver
from spann3r_ros.mapping.loops.correction import Correction
from spann3r_ros.mapping.loops.loop_closer import LoopCloser
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import (
    CarvingConfig,
    FragmentConfig,
    KeyframeConfig,
    LoopConfig,
    MapperConfig,
)
from spann3r_ros.mapping.occupancy.evidence_layer import Occupancy
from spann3r_ros.mapping.occupancy.grid_config import GridConfig
from spann3r_ros.mapping.scale.scale_config import ScaleConfig
from spann3r_ros.mapping.scale.scale_tracker import ScaleTracker
from spann3r_ros.mapping.selection.keyframe_gate import KeyframeGate
from spann3r_ros.rooms.buildings.building import draw_building
from spann3r_ros.rooms.buildings.building_views import (
    BuildingViews,
    base_from_camera,
    camera_poses,
    on_floor,
)
from spann3r_ros.rooms.buildings.floor_plan import BuildingConfig
from spann3r_ros.rooms.buildings.robot_walk import drive
from spann3r_ros.tools.recorded_views import TrueViews
from spann3r_ros.tools.simulated_network import SimulatedNetwork, SimulatedSettings

CAMERA = Intrinsics(320.0, 320.0, 319.5, 239.5, 640, 480)
DRAWN = Intrinsics(80.0, 80.0, 79.5, 59.5, 160, 120)
SIZE = 224
# The middle of the image, 480 pixels wide and high.
NETWORK_CAMERA = Intrinsics(*2 * [320.0 * SIZE / 480], *2 * [0.5 * (SIZE - 1)], SIZE, SIZE)
ROOMS, SEED = 3, 5
FRAGMENT_KEYFRAMES = 25
LEAST_FRAGMENTS, LEAST_KEYFRAMES = 20, 500
GOAL_MS = 40.0
GATE, POSES, NETWORK = 'selection', 'poses of other frames', 'network'
PARTS = {
    GATE: ((KeyframeGate, 'judge'), (KeyframeGate, 'admit')),
    POSES: ((FrontEnd, '_passing_pose'),),
    'fragments': ((FrontEnd, '_begin_fragment'),),
    'loops': ((LoopCloser, 'observe'), (Correction, 'add'), (Correction, 'observe')),
    'scale': ((ScaleTracker, 'observe'), (ScaleTracker, 'pass_by')),
    'carving': ((Carver, 'observe'),),
    'grid': ((Occupancy, 'integrate'),),
    NETWORK: ((SimulatedNetwork, 'step'), (SimulatedNetwork, 'pair')),
}
WITHOUT = MapperConfig(
    keyframes=KeyframeConfig(selection='stride'), fragments=FragmentConfig(max_keyframes=0),
    carving=CarvingConfig(enabled=False), grid=GridConfig(enabled=False))
WITH = MapperConfig(
    fragments=FragmentConfig(max_keyframes=FRAGMENT_KEYFRAMES), loops=LoopConfig(enabled=True),
    scale=ScaleConfig('odometry'), grid=GridConfig(enabled=True))


@dataclass
class Clock:
    """Processor seconds of this thread by parts; a part inside another one counts for itself."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _running: list[str] = field(default_factory=list)
    _since: float = 0.0

    def timed(self, name: str, method: Callable) -> Callable:
        """Return a method that counts for a part."""
        @wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            self._switch()
            self._running.append(name)
            try:
                return method(*arguments, **named)
            finally:
                self._switch()
                self._running.pop()
        return call

    def _switch(self) -> None:
        now = time.thread_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@dataclass(frozen=True)
class Recording:
    """Images as JPEG, what the network knows of them, and the odometry of the camera."""

    images: list[np.ndarray]
    views: TrueViews
    odometry: np.ndarray
    first_pose: np.ndarray

    def frame(self, index: int) -> Frame:
        """Return a frame."""
        rgb = cv2.cvtColor(cv2.imdecode(self.images[index], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return Frame(10**9 + index * 10**8, 'camera', rgb, CAMERA, first_pose=self.first_pose,
                     odometry=self.odometry[index])


@dataclass(frozen=True)
class Cost:
    """What mapping cost: processor seconds in all and by parts, keyframes and contents."""

    seconds: float
    parts: dict[str, float]
    keyframes: list[int]
    fragments: int
    loops: int

    def ms(self, seconds: float) -> float:
        """Return milliseconds a keyframe."""
        return 1e3 * seconds / len(self.keyframes)


@contextmanager
def timed_parts() -> Iterator[Clock]:
    """Let the parts of the mapper be timed within a `with` statement."""
    clock, patches = Clock(), []
    for part, methods in PARTS.items():
        for owner, name in methods:
            patches.append(patch.object(owner, name, clock.timed(part, getattr(owner, name))))
    for one in patches:
        one.start()
    try:
        yield clock
    finally:
        for one in patches:
            one.stop()


def record(frames: int) -> Recording:
    """Render a drive of so many images, twice along the same way."""
    building = draw_building(SEED, BuildingConfig(rooms=ROOMS))
    way = np.concatenate([building.way, building.way[1:]])
    walk = drive(way, frames, 0.0, np.random.default_rng(SEED))
    poses, views = camera_poses(walk), BuildingViews(building)
    images, side = [], slice((DRAWN.width - DRAWN.height) // 2, (DRAWN.width + DRAWN.height) // 2)

    def seen() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        drawn = views.render(poses, DRAWN)
        for image, depth in tqdm(drawn, 'render', frames, mininterval=5):
            large = cv2.resize(image, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_CUBIC)
            images.append(cv2.imencode('.jpg', large[..., ::-1])[1])
            yield (cv2.resize(image[:, side], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC),
                   cv2.resize(depth[:, side], (SIZE, SIZE), interpolation=cv2.INTER_NEAREST))
    known = TrueViews.of(seen(), poses, NETWORK_CAMERA)
    return Recording(images, known, on_floor(walk.odometry) @ base_from_camera(),
                     base_from_camera())


def measure(recording: Recording, config: MapperConfig, chosen: Sequence[int]) -> Cost:
    """Map the chosen images and return what it cost."""
    mapper = Mapper(SimulatedNetwork(recording.views, SimulatedSettings()), config)
    seconds, keyframes = 0.0, []
    with timed_parts() as clock:
        for index in tqdm(chosen, 'map', mininterval=5):
            frame = recording.frame(index)
            started = time.process_time()
            update = mapper.process(frame)
            seconds += time.process_time() - started
            keyframes += [index] if not (update.skipped or update.failed) else []
        started = time.process_time()
        mapper.flush()
        seconds += time.process_time() - started
    status = mapper.status()
    return Cost(seconds - clock.seconds[NETWORK], dict(clock.seconds), keyframes,
                status.fragments, status.loops_accepted)


def show(both: Cost, plain: Cost) -> list[tuple[str, float, float, float]]:
    """Print what a keyframe costs with and without all of it, in ms; return the rows."""
    rest = {id(one): one.seconds - sum(value for name, value in one.parts.items()
                                       if name != NETWORK) for one in (both, plain)}
    rows = [(name, both.parts.get(name, 0.0), plain.parts.get(name, 0.0)) for name in PARTS
            if name != NETWORK]
    rows += [('everything else', rest[id(both)], rest[id(plain)]),
             ('in all', both.seconds, plain.seconds)]
    rows = [(name, both.ms(one), plain.ms(other), both.ms(one) - plain.ms(other))
            for name, one, other in rows]
    print(f'{len(both.keyframes)} keyframes in {both.fragments} fragments with '
          f'{both.loops} loops; without: {len(plain.keyframes)} in {plain.fragments}')
    print('processor milliseconds a keyframe, without the network\n' + format_table(
        ['part', 'with', 'without', 'difference'],
        [[name, *(f'{value:.2f}' for value in values)] for name, *values in rows]))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return 1 if the map is too small or costs more than the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=1000, help='images of the drive')
    parser.add_argument('--output', type=Path, default=Path('output/mapping_sum.json'))
    args = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    recording = record(args.frames)
    both = measure(recording, WITH, range(args.frames))
    plain = measure(recording, replace(WITHOUT), both.keyframes)
    rows = show(both, plain)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, {'rows': {name: values for name, *values in rows},
                             'keyframes': len(both.keyframes), 'fragments': both.fragments,
                             'loops': both.loops})
    found = []
    if both.fragments < LEAST_FRAGMENTS or len(both.keyframes) < LEAST_KEYFRAMES:
        found.append(f'expected {LEAST_FRAGMENTS} fragments and {LEAST_KEYFRAMES} keyframes')
    if rows[-1][-1] > GOAL_MS:
        found.append(f'expected at most {GOAL_MS:.0f} ms a keyframe, got {rows[-1][-1]:.1f}')
    print('\n'.join(['', *(f'FAILED: {one}' for one in found)]))
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
