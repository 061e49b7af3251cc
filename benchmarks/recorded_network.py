# SPDX-License-Identifier: Apache-2.0
"""The mapper node on a network that costs nothing, so that only the node itself is measured.

Its checkpoint is a JSON file: `size` of the pointmaps in pixels, the file its `report` goes to at
a reset, and whether to `profile`.
"""
from __future__ import annotations

import cProfile
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch  # noqa: F401  a real network has loaded it before the first image comes

sys.path.insert(0, str(Path(__file__).parents[1] / 'test'))

from synthetic import SyntheticScene, orbit_trajectory, square_camera

from spann3r_ros.core.network import Compute, MemoryStatus, StepResult
from spann3r_ros.core.transforms import transform_points
from spann3r_ros.core.types import Pointmap
from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.ros.mapper_node import main

POSES = 120


@dataclass(frozen=True)
class Clocks:
    """Processor time in seconds, of the calling thread and of the whole process."""

    worker: float
    process: float

    @classmethod
    def now(cls) -> Clocks:
        """Read the clocks."""
        return cls(time.thread_time(), time.process_time())

    def __sub__(self, earlier: Clocks) -> Clocks:
        """Return what was spent since."""
        return Clocks(self.worker - earlier.worker, self.process - earlier.process)


class RecordedNetwork:
    """Walks round and round a rendered room; clocks what passes between its calls.

    Between the end of a step and the beginning of the next the worker's thread does everything
    the node does for a keyframe: its processor time is the cost, waiting for images is not.
    """

    def __init__(self, size: int, report: Path, profile: bool) -> None:
        scene, camera = SyntheticScene(), square_camera(size)
        poses = orbit_trajectory(POSES)
        first_from_world = np.linalg.inv(poses[0])
        self._size, self._report = size, report
        self._pointmaps = []
        for pose in poses:
            first_from_camera = first_from_world @ pose
            points = transform_points(first_from_camera, scene.render(pose, camera)[1])
            self._pointmaps.append(Pointmap(points.astype(np.float32),
                                            np.full((size, size), 0.9, np.float32)))
        self._profile = cProfile.Profile() if profile else None
        self._steps = 0
        self._ended: Clocks | None = None
        self._costs: list[Clocks] = []

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the images `step` takes."""
        return self._size, self._size

    def step(self, image: np.ndarray, provisional: bool) -> StepResult:
        """Return the next pair of pointmaps."""
        if self._ended is not None:
            self._costs.append(Clocks.now() - self._ended)
        elif self._profile is not None:
            self._profile.enable()
        index = self._steps
        self._steps += 1
        refined = self._pointmaps[(index - 1) % POSES] if index else None
        newest = self._pointmaps[index % POSES] if index and provisional else None
        self._ended = Clocks.now()
        return StepResult(refined, newest)

    def provisional(self) -> Pointmap | None:
        """Return the newest pointmap again."""
        return self._pointmaps[(self._steps - 1) % POSES] if self._steps > 1 else None

    def flush(self) -> Pointmap | None:
        """Return nothing: the walk has no end."""
        return None

    def reset(self) -> None:
        """Report, and begin anew."""
        if self._profile is not None:
            self._profile.disable()
        if self._costs:
            if self._profile is not None:
                self._profile.dump_stats(self._report.with_suffix('.prof'))
            # Whoever waits for the report must not find half of it.
            unfinished = self._report.with_suffix('.tmp')
            unfinished.write_text(json.dumps([asdict(cost) for cost in self._costs]))
            unfinished.replace(self._report)
        self._steps, self._ended, self._costs = 0, None, []

    def status(self) -> MemoryStatus:
        """Return an empty memory's counters."""
        return MemoryStatus()


def create_reconstructor(checkpoint: str, memory: MemoryConfig, compute: Compute
                         ) -> RecordedNetwork:
    """Read the options."""
    options = json.loads(Path(checkpoint).read_text())
    return RecordedNetwork(options['size'], Path(options['report']), options['profile'])


if __name__ == '__main__':
    sys.exit(main(create_reconstructor=create_reconstructor))
