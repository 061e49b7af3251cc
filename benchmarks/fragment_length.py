# SPDX-License-Identifier: Apache-2.0
"""What short fragments cost: the path's error and the time of joins, by keyframes a fragment.

The network maps long walks through rooms that it was not trained on, once with one fragment and
once with each of `--lengths`. Without loops a path can only lose by a join.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from spann3r_ros.core.network import Compute
from spann3r_ros.core.types import Frame
from spann3r_ros.evaluation.bag_comparison import compare
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    ASPECT,
    HeldOutConfig,
    Turn,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.evaluation.measures import trajectories
from spann3r_ros.evaluation.recorded_runs import poses_of, in_first_camera, to_frames
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.fragments import overlap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import FragmentConfig, MapperConfig, SightConfig
from spann3r_ros.networks.registry import open_network, resolve_checkpoint
from spann3r_ros.pipeline.runner import run_frames

del compare, Iterator, Frame
WALKS = Turn(200, motion=0.45), Turn(200, 1.8)


class TimedJoins:
    """Counts the joins and their time, in place of `overlap.align`."""

    def __init__(self) -> None:
        self._align, self.seconds = overlap.align, []
        overlap.align = self

    def __call__(self, views: list) -> object:
        """Align as before."""
        started = time.perf_counter()
        try:
            return self._align(views)
        finally:
            self.seconds.append(time.perf_counter() - started)


def main() -> None:
    """Print a table for each kind of walk."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--rooms', type=int, default=4)
    parser.add_argument('--lengths', type=int, nargs='+', default=[0, 80, 40, 20])
    parser.add_argument('--overlaps', type=int, nargs='+', default=[3])
    values = parser.parse_args()
    cv2.setNumThreads(1)
    network = open_network(resolve_checkpoint(values.checkpoint), compute=Compute('cpu', threads=1))
    rooms = unseen_rooms(HeldOutConfig(), network.input_size(ASPECT))
    joins = TimedJoins()
    choices = [(length, one) for length in values.lengths
               for one in (values.overlaps if length else values.overlaps[:1])]
    for walk in WALKS:
        rows: dict[tuple[int, int], list[list[float]]] = {choice: [] for choice in choices}
        for number, sequence in enumerate(draw_sequences(rooms, values.rooms, walk)):
            frames = to_frames(sequence.images, sequence.intrinsics)
            length = np.linalg.norm(np.diff(sequence.poses[:, :3, 3], axis=0), axis=1).sum()
            for choice in choices:
                config = MapperConfig(sight=SightConfig(check=False), live_pose=False,
                                      fragments=FragmentConfig(*choice))
                mapper = Mapper(network, config)
                started = time.perf_counter()
                result = run_frames(mapper, frames)
                seconds = time.perf_counter() - started
                poses, stamps = poses_of(in_first_camera(result.updates))
                true = sequence.poses[stamps][:, :3, 3]
                aligned = trajectories.fit_similarity(poses[:, :3, 3], true)
                error = trajectories.root_mean_square(aligned.apply(poses[:, :3, 3]) - true)
                status = mapper.status()
                rows[choice].append([error / length, error / sequence.mean_side, len(poses) / len(frames),
                                     status.fragments, status.fragments_unconnected, seconds / len(frames)])
                print(walk.name, number, choice, ['%.4f' % one for one in rows[choice][-1]], flush=True)
        print(format_table(
            ['keyframes', 'overlap', 'error / path', 'error / side', 'posed', 'fragments', 'not connected', 's/frame'],
            [[str(length), str(shared), *(f'{one:.4f}' for one in np.mean(found, axis=0))]
             for (length, shared), found in rows.items()]))
    if joins.seconds:
        print(f'a join takes {1e3 * np.median(joins.seconds):.1f} ms without the poses of its images')


if __name__ == '__main__':
    main()
