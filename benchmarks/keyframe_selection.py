# SPDX-License-Identifier: Apache-2.0
"""Keyframes by parallax: what a frame costs, and the map at several thresholds.

`make bench-keyframes`, or with the folders of further bags that have ground truth. The cost is
that of one core for images of 640 x 480 pixels, resized from those of the bundled bag. The path of
all frames has the pose of each keyframe, and the live pose of every other frame.
"""
from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from blind_images import bag_frames

from spann3r_ros import share_directory
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import prepare_resize
from spann3r_ros.datasets.bag_truth import read_truth
from spann3r_ros.evaluation.bag_comparison import AlignmentError, compare
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import KeyframeConfig, MapperConfig
from spann3r_ros.networks.registry import open_network, resolve_checkpoint
from spann3r_ros.pipeline.runner import run_frames

BAG = share_directory() / 'bags' / 'demo_room'
STRIDES = (1, 2, 4)
THRESHOLDS = ((0.01, 0.9), (0.015, 0.9), (0.02, 0.9), (0.02, 0.85), (0.03, 0.8), (0.04, 0.6))
SIZE = (640, 480)
STAGES = ('preprocess', 'is_blind', 'judge', 'passing_pose')


def configs() -> dict[str, KeyframeConfig]:
    """Return the settings that are compared, by a name."""
    found = {f'stride {one}': KeyframeConfig(selection='stride', stride=one) for one in STRIDES}
    return found | {f'parallax {parallax}, overlap {overlap}': KeyframeConfig(
        min_parallax=parallax, min_overlap=overlap) for parallax, overlap in THRESHOLDS}


def map_bag(frames: Sequence[Frame], bag: Path, keyframes: KeyframeConfig) -> list[str]:
    """Return a row about the map of a bag."""
    mapper = Mapper(open_network(resolve_checkpoint('')), MapperConfig(keyframes=keyframes))
    updates = run_frames(mapper, frames).updates
    path = mapper.trajectory
    poses = {one.live_pose.stamp_ns: one.live_pose.in_map(one.places[one.live_pose.fragment_id])
             for one in updates if one.live_pose is not None}
    poses |= {pose.stamp_ns: pose for pose in path}
    try:
        on_path, on_all = (compare(mapper.cloud(), one, read_truth(bag)) for one in (
            path, [poses[stamp_ns] for stamp_ns in sorted(poses)]))
    except AlignmentError as error:
        return [str(len(path)), str(len(poses)), str(error)]
    return [str(len(path)), str(len(poses)), f'{on_path.trajectory_error:.3f}',
            f'{on_all.trajectory_error:.3f}', f'{on_path.accuracy.mean:.3f}',
            f'{on_path.completion.mean:.3f}']


def measure_cost(frames: Sequence[Frame]) -> dict[str, list[float]]:
    """Return the milliseconds of each stage of a frame that is no keyframe."""
    from spann3r_ros.mapping import front_end
    mapper = Mapper(open_network(resolve_checkpoint('')), MapperConfig())
    spent: dict[str, float] = {}
    found: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def timed(owner: object, name: str) -> None:
        function: Callable = getattr(owner, name)

        def run(*arguments: object, **named: object) -> object:
            started = time.thread_time()
            result = function(*arguments, **named)
            spent[name] = 1e3 * (time.thread_time() - started)
            return result
        setattr(owner, name, run)

    timed(front_end, 'preprocess')
    state = mapper._front_end.state
    timed(state.gate, 'judge')
    timed(state.sight, 'is_blind')
    for frame in frames:
        spent.clear()
        skipped = mapper.process(frame).skipped
        if skipped and 'passing_pose' in spent:
            for stage in STAGES:
                found[stage].append(spent[stage])
        if state.poses is not None and 'passing_pose' not in vars(state.poses):
            timed(state.poses, 'passing_pose')
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('bags', type=Path, nargs='*', default=[BAG],
                        help='bags with ground truth; default: the bundled one')
    parser.add_argument('--quick', action='store_true', help='the default thresholds only')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    prepare_resize(exact=False)
    print(f'{platform.processor() or platform.machine()}, {date.today()}')
    resized = [replace(frame, rgb=cv2.resize(frame.rgb, SIZE), intrinsics=None)
               for frame in bag_frames(BAG)]
    # Each image twice: the second one is never a keyframe.
    slow = [replace(frame, rgb=np.roll(frame.rgb, shift, axis=1),
                    stamp_ns=frame.stamp_ns + shift * 10**7)
            for frame in resized for shift in range(3)]
    costs = measure_cost(slow)
    print(format_table(('stage', 'median CPU ms', '95 % CPU ms'), [
        (stage, f'{np.median(values):.1f}', f'{np.quantile(values, 0.95):.1f}')
        for stage, values in costs.items()]))
    chosen = {'default': KeyframeConfig()} if args.quick else configs()
    for bag in args.bags:
        frames = bag_frames(bag)
        rows = [(name, *map_bag(frames, bag, config)) for name, config in chosen.items()]
        print(format_table((bag.name, 'keyframes', f'poses of {len(frames)}', 'ATE m',
                            'ATE of all m', 'accuracy m', 'completion m'), rows))


if __name__ == '__main__':
    main()
