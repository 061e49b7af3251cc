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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401  a real network has loaded it before the first image comes
from recorded_walk import POSES, render, sketch, square_camera, with_errors

from spann3r_ros.core.network import Compute, Estimate, NetworkStatus
from spann3r_ros.core.transforms import transform_points
from spann3r_ros.core.types import Pointmap
from spann3r_ros.ros.mapper_node import main


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
    """Knows each image of a walk and its pointmap; clocks what passes between its calls.

    Between the end of a step and the beginning of the next the worker's thread does everything
    the node does for a keyframe: its processor time is the cost, waiting for images is not.
    """

    name = 'recorded'
    identity = 'recorded'
    measures_pose = False

    def __init__(self, size: int, report: Path, profile: bool) -> None:
        camera, first_from_world = square_camera(size), np.linalg.inv(POSES[0])
        self._size, self._report = size, report
        self._pointmaps, self._sketches = [], []
        for index, pose in enumerate(POSES):
            rgb, points = render(index, camera)
            points = transform_points(first_from_world @ pose, with_errors(points, index))
            self._pointmaps.append(Pointmap(points.astype(np.float32),
                                            np.full((size, size), 0.9, np.float32)))
            self._sketches.append(sketch(rgb))
        self._profile = cProfile.Profile() if profile else None
        self._steps = self._first_id = self._newest_id = self._pose = 0
        self._ended: Clocks | None = None
        self._costs: list[Clocks] = []

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return (height, width) of the images `step` takes."""
        return self._size, self._size

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Return the pointmap of the image before."""
        if self._ended is not None:
            self._costs.append(Clocks.now() - self._ended)
        elif self._profile is not None:
            self._profile.enable()
        found = []
        if self._steps:
            found = [Estimate(self._newest_id, self._first_id, self._pointmaps[self._pose])]
        else:
            self._first_id = image_id
        self._steps, self._newest_id = self._steps + 1, image_id
        difference = np.abs(np.array(self._sketches) - sketch(image)).sum(axis=1)
        self._pose = int(difference.argmin())
        self._ended = Clocks.now()
        return found

    def provisional(self) -> Estimate | None:
        """Return the newest pointmap."""
        if self._steps < 2:
            return None
        return Estimate(self._newest_id, self._first_id, self._pointmaps[self._pose], final=False)

    def pair(self, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, Estimate]:
        """Nothing here asks for pairs."""
        raise NotImplementedError

    def flush(self) -> list[Estimate]:
        """Return nothing: the walk has no end."""
        return []

    def state(self) -> dict[str, np.ndarray]:
        """Nothing here asks for the state."""
        raise NotImplementedError

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Nothing here restores."""
        raise NotImplementedError

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

    def status(self) -> NetworkStatus:
        """Return an empty memory's counters."""
        return NetworkStatus()


def create_network(checkpoint: str, settings: Mapping[str, Any], compute: Compute
                         ) -> RecordedNetwork:
    """Read the options."""
    options = json.loads(Path(checkpoint).read_text())
    return RecordedNetwork(options['size'], Path(options['report']), options['profile'])


if __name__ == '__main__':
    sys.exit(main(create_network=create_network))
