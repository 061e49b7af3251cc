# SPDX-License-Identifier: Apache-2.0
"""How long it takes to export a map of a million voxels: `make bench-exports`."""
from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
from recorded_walk import POSES, render, square_camera

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import transform_points
from spann3r_ros.core.types import FragmentPose, StampedPose
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.exports.export_map import export
from spann3r_ros.mapping.exports.map_content import MapContent, SavedView
from spann3r_ros.mapping.fragments.keyframe_store import compacted
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.scale.map_scale import Scale

SIDE = 224
FORMATS = 'ply', 'pcd', 'glb', 'tum', 'nerfstudio', 'colmap', 'colmap-text'
JITTER = 0.002  # metres, the errors of points within their voxels


def room_content(points: int, keyframes: int) -> MapContent:
    """Return a map of the synthetic room with so many points, seen by so many keyframes."""
    camera, rng = square_camera(SIDE), np.random.default_rng(0)
    views, places, colors = [], [], []
    indices = np.linspace(0, len(POSES) - 1, keyframes).astype(int)
    for number, index in enumerate(indices.tolist()):
        rgb, seen = render(index, camera)
        pose = FragmentPose(index * 10**8, 'camera', 0, POSES[index])
        depth = seen[..., 2].astype(np.float32)
        kept = compacted(Keyframe(pose.stamp_ns, 'camera', 0, rgb, camera, depth,
                                  np.ones_like(depth), pose), 0.0)
        views.append(SavedView(number, kept, POSES[index], camera, 1.0, f'{number}.png'))
        places.append(transform_points(POSES[index], seen.reshape(-1, 3)))
        colors.append(rgb.reshape(-1, 3))
    chosen = rng.integers(0, keyframes * SIDE**2, points)
    cloud = np.concatenate(places)[chosen] + rng.normal(0.0, JITTER, (points, 3))
    return MapContent(
        VoxelCloud(cloud.astype(np.float32), np.concatenate(colors)[chosen],
                   np.full(points, 0.9, np.float32)),
        [StampedPose(view.stamp_ns, 'camera', view.map_from_camera) for view in views], views,
        0.005, Scale(1.0, True, 0.0, 'poses'), (SIDE, SIDE), camera, letterbox=False)


def main() -> None:
    """Print how long each format takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--points', type=int, default=1_000_000, help='default: %(default)s')
    parser.add_argument('--keyframes', type=int, default=200, help='default: %(default)s')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    content = room_content(args.points, args.keyframes)
    rows = []
    for name in FORMATS:
        wall, processor = time.perf_counter(), time.process_time()
        files = export(content, [name])
        rows.append([name, f'{time.perf_counter() - wall:.1f}',
                     f'{time.process_time() - processor:.1f}',
                     f'{sum(map(len, files.values())) / 1e6:.1f}'])
    print(f'{args.points:,} points, {args.keyframes} keyframes')
    print(format_table(['format', 'seconds', 'of the processor', 'MB'], rows))


if __name__ == '__main__':
    main()
