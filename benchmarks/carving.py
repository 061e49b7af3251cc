# SPDX-License-Identifier: Apache-2.0
"""What filters and carving do to maps of unseen rooms, and what they cost: `make bench-carving`.

The bundled network maps each room once. Its keyframes then enter voxel maps of different settings.
"""
from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree
from tqdm import tqdm

from spann3r_ros.core.files import write_json
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.evaluation.held_out import held_out_rooms
from spann3r_ros.evaluation.held_out.held_out_rooms import HeldOutConfig, Turn
from spann3r_ros.evaluation.measures.trajectories import Similarity, fit_similarity
from spann3r_ros.evaluation.recorded_runs import EVERY_FRAME, to_frames
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import CarvingConfig, MapperConfig, VoxelMapConfig
from spann3r_ros.networks.registry import open_network, resolve_checkpoint
from spann3r_ros.pipeline.runner import run_frames

PERIOD_NS = 200_000_000
KEPT, ALIGNED_POINTS, TRUE_POINTS, QUERY_POINTS = 0.7, 500, 200_000, 20_000
NEAR_M = (0.05, 0.1, 0.2)
PLAIN = MapperConfig(voxel_map=VoxelMapConfig(edge_jump=0.0), carving=CarvingConfig(enabled=False))
SETTINGS = {
    'neither': PLAIN,
    'two observations': replace(PLAIN, voxel_map=replace(PLAIN.voxel_map, min_observations=2)),
    'edges': replace(PLAIN, voxel_map=VoxelMapConfig()),
    'carving': replace(PLAIN, carving=CarvingConfig()),
    'both': MapperConfig(),
    'both, margin 0.05': MapperConfig(carving=CarvingConfig(margin=0.05)),
    'both, 2 votes': MapperConfig(carving=CarvingConfig(min_votes=2)),
}


def fit(keyframes: Sequence[Keyframe], truth: np.ndarray) -> Similarity:
    """Return the similarity from the map to the true points [frames, pixels, 3].

    It is fitted to corresponding points, of which the worst are left out three times.
    """
    rng, points, true = np.random.default_rng(0), [], []
    for keyframe in keyframes:
        sure = np.flatnonzero((keyframe.confidence >= VoxelMapConfig().min_confidence)
                              & np.isfinite(keyframe.depth))
        chosen = rng.choice(sure, min(ALIGNED_POINTS, len(sure)), replace=False)
        points.append(keyframe.points.reshape(-1, 3)[chosen].astype(float))
        true.append(truth[keyframe.stamp_ns // PERIOD_NS - 1][chosen].astype(float))
    points, true = np.concatenate(points), np.concatenate(true)
    for _ in range(3):
        found = fit_similarity(points, true)
        errors = np.linalg.norm(found.apply(points) - true, axis=1)
        good = errors <= np.quantile(errors, KEPT)
        points, true = points[good], true[good]
    return found


def score(keyframes: Sequence[Keyframe], config: MapperConfig, alignment: Similarity,
          true: np.ndarray) -> dict[str, float]:
    """Return the scores of the voxel map of keyframes, in metres, and the time of the layer."""
    layer = VoxelMap(config.voxel_map, config.carving)
    atlas, spent = Atlas(config, (layer,)), 0.0
    for keyframe in keyframes:
        if keyframe.fragment_id not in atlas.fragments:
            atlas.begin()
        points = keyframe.points
        started = time.thread_time()
        atlas.add(keyframe, points)
        spent += time.thread_time() - started
    cloud = layer.snapshot(atlas.located_stores(layer.name)).cloud()
    found = alignment.apply(cloud.points.astype(float))
    some = np.random.default_rng(1).permutation(len(found))[:QUERY_POINTS]
    accuracy = cKDTree(true).query(found[some])[0]
    completion = cKDTree(found).query(true[:QUERY_POINTS])[0]
    rows = {'voxels': len(cloud), 'carved': layer.carved, 'accuracy m': accuracy.mean(),
            'completion m': completion.mean(), '> 0.3 m off': (accuracy > 0.3).mean()}
    for near in NEAR_M:
        precision, recall = (accuracy < near).mean(), (completion < near).mean()
        rows[f'F {near:g} m'] = 2.0 * precision * recall / max(precision + recall, 1e-9)
    return {**rows, 'ms/keyframe': 1e3 * spent / len(keyframes)}


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rooms', type=int, default=6)
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--step-deg', type=float, default=9.0)
    parser.add_argument('--output', type=Path, default=Path('output/carving.json'))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    network, config = open_network(resolve_checkpoint('')), HeldOutConfig()
    rooms = held_out_rooms.unseen_rooms(config, network.input_size(held_out_rooms.ASPECT))
    turn = Turn(arguments.frames, arguments.step_deg)
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for room in tqdm(held_out_rooms.draw_sequences(rooms, arguments.rooms, turn), 'rooms',
                     arguments.rooms):
        network.reset()
        frames = [replace(frame, stamp_ns=PERIOD_NS * (1 + index))
                  for index, frame in enumerate(to_frames(room.images, room.intrinsics))]
        every = replace(PLAIN, keyframes=EVERY_FRAME)
        updates = run_frames(Mapper(network, every), frames).updates
        keyframes = [one for update in updates for one in update.keyframes if one.pose]
        truth = room.points.reshape(len(frames), -1, 3)
        alignment = fit(keyframes, truth)
        true = truth.reshape(-1, 3)
        true = true[np.random.default_rng(0).permutation(len(true))[:TRUE_POINTS]]
        for name, setting in SETTINGS.items():
            scores[name].append(score(keyframes, setting, alignment, true))
    means = {name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
             for name, rows in scores.items()}
    print(format_table(('setting', *next(iter(means.values()))), [
        (name, *(f'{value:.0f}' if value >= 100.0 else f'{value:.3f}' for value in row.values()))
        for name, row in means.items()]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {'date': date.today().isoformat(),
                                  'machine': platform.processor() or platform.machine(),
                                  'rooms': arguments.rooms, 'frames': arguments.frames,
                                  'step_deg': arguments.step_deg, 'means': means})


if __name__ == '__main__':
    main()
