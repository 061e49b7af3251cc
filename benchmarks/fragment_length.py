# SPDX-License-Identifier: Apache-2.0
"""What short fragments cost: the path's error and the time of joins, by keyframes a fragment.

The network maps long walks through rooms that it was not trained on, once with one fragment and
once with each of `--lengths`. Without loops a path can only lose by a join.
"""
from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence as Many
from dataclasses import asdict, astuple, dataclass

import cv2
import numpy as np

from spann3r_ros.core.network import Compute, Network
from spann3r_ros.evaluation.held_out.held_out_rooms import (
    ASPECT,
    HeldOutConfig,
    Sequence,
    Turn,
    draw_sequences,
    unseen_rooms,
)
from spann3r_ros.evaluation.measures import trajectories
from spann3r_ros.evaluation.recorded_runs import (
    EVERY_FRAME,
    in_first_camera,
    poses_of,
    to_frames,
)
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.fragments import overlap
from spann3r_ros.mapping.fragments.sequence_alignment import Alignment
from spann3r_ros.mapping.fragments.shared_views import SharedView
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import FragmentConfig, MapperConfig, SightConfig
from spann3r_ros.networks.registry import open_network, resolve_checkpoint
from spann3r_ros.pipeline.runner import run_frames

HEADER = ('max_keyframes', 'overlap', 'error % of path', 'of side', 'posed',
          'fragments', 'not connected', 'ms a frame')
WALKS = Turn(200, motion=0.45), Turn(200, 1.8)


class TimedJoins:
    """Counts the joins and their time, in place of `overlap.align`."""

    def __init__(self) -> None:
        self._align = overlap.align
        self.seconds: list[float] = []
        overlap.align = self

    def __call__(self, views: Many[SharedView]) -> Alignment:
        """Align as before."""
        started = time.process_time()
        try:
            return self._align(views)
        finally:
            self.seconds.append(time.process_time() - started)


@dataclass(frozen=True)
class Choice:
    """Settings of the fragments, as their parameters have them."""

    max_keyframes: int
    overlap_keyframes: int


def measure(network: Network, sequence: Sequence, choice: Choice) -> list[float]:
    """Return the numbers of a row for one walk."""
    config = MapperConfig(keyframes=EVERY_FRAME, sight=SightConfig(check=False), live_pose=False,
                          fragments=FragmentConfig(**asdict(choice)))
    mapper, started = Mapper(network, config), time.perf_counter()
    result = run_frames(mapper, to_frames(sequence.images, sequence.intrinsics))
    seconds = time.perf_counter() - started
    poses, stamps = poses_of(in_first_camera(result.updates))
    true, status = sequence.poses[stamps][:, :3, 3], mapper.status()
    aligned = trajectories.fit_similarity(poses[:, :3, 3], true)
    error = trajectories.root_mean_square(aligned.apply(poses[:, :3, 3]) - true)
    length = np.linalg.norm(np.diff(sequence.poses[:, :3, 3], axis=0), axis=1).sum()
    frames = len(sequence.images)
    return [100 * error / length, 100 * error / sequence.mean_side, len(poses) / frames,
            status.fragments, status.fragments_unconnected, 1e3 * seconds / frames]


def main() -> None:
    """Print a table for each kind of walk."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--rooms', type=int, default=4)
    parser.add_argument('--lengths', type=int, nargs='+', default=[0, 80, 40, 20])
    parser.add_argument('--overlaps', type=int, nargs='+', default=[3])
    values = parser.parse_args()
    cv2.setNumThreads(1)
    logging.disable(logging.WARNING)
    network = open_network(resolve_checkpoint(values.checkpoint),
                           compute=Compute('cpu', threads=1))
    rooms = unseen_rooms(HeldOutConfig(), network.input_size(ASPECT))
    joins = TimedJoins()
    choices = [Choice(length, shared) for length in values.lengths
               for shared in (values.overlaps if length else values.overlaps[:1])]
    for walk in WALKS:
        rows: dict[Choice, list[list[float]]] = {choice: [] for choice in choices}
        for sequence in draw_sequences(rooms, values.rooms, walk):
            for choice in choices:
                rows[choice].append(measure(network, sequence, choice))
                print('.', end='', file=sys.stderr, flush=True)
        print(f'\n{walk.name}, {values.rooms} rooms')
        print(format_table(HEADER, [
            [*map(str, astuple(choice)), *(f'{one:.2f}' for one in np.mean(found, axis=0))]
            for choice, found in rows.items()]), flush=True)
    if joins.seconds:
        print(f'a join takes {1e3 * np.median(joins.seconds):.1f} ms beside the steps and poses '
              'of its images')


if __name__ == '__main__':
    main()
