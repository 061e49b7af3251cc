# SPDX-License-Identifier: Apache-2.0
"""Reports to look at: a room of coloured walls, and one whose texts try to run a program."""
from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.pipeline.node_settings import from_values
from spann3r_ros.viewer.map_scene import MapScene, Thumbnail
from spann3r_ros.viewer.report_page import Report
from spann3r_ros.viewer.run_record import RunRecord, Sample

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked=1">&amp;'
CAMERA = Intrinsics(200.0, 200.0, 112.0, 112.0, 224, 224)


def room_cloud(count: int, size: tuple[float, float, float] = (6.0, 4.0, 2.5)) -> VoxelCloud:
    """Return points on a white floor, a red wall at x = 0 and a green one at the largest y."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0.0, size, (count, 3))
    kind = np.arange(count) % 3
    points[kind == 0, 2], points[kind == 1, 0], points[kind == 2, 1] = 0.0, 0.0, size[1]
    colors = np.array([[230, 230, 230], [210, 40, 30], [20, 150, 60]], np.uint8)[kind]
    return VoxelCloud(points.astype(np.float32), colors, rng.random(count, np.float32))


def room_scene(count: int = 60_000, keyframes: int = 8) -> MapScene:
    """Return the room with a quarter of a circle as path."""
    angles = np.linspace(0.0, np.pi / 2, 40)
    positions = np.stack([3 + 2 * np.cos(angles), 1 + 2 * np.sin(angles), np.full(40, 1.2)], 1)
    thumbnails = []
    for number in range(keyframes):
        pose = MAP_FROM_OPTICAL.copy()
        pose[:3, 3] = positions[number * 5]
        image = np.full((112, 112, 3), (40, 25 * number, 200), np.uint8)
        thumbnails.append(Thumbnail(9 * 10**9 + number * 10**9, CAMERA, pose,
                                    cv2.imencode('.jpg', image)[1].tobytes()))
    return MapScene(room_cloud(count), positions, np.repeat([0, 1], 20),
                    np.array([[positions[0], positions[30]]]), thumbnails, 1.0)


def sample(number: int, **changes: float) -> Sample:
    """Return the sample of a frame; the scale is known from the eleventh on."""
    one = Sample(number * 10**8, 0.1 + 0.01 * (number % 7), 0.05, 0.6, 10 * number, 1000, 10**7,
                 10**5 * number, 100 * number, 1 + number // 40, number // 50, 0, math.nan,
                 math.nan)
    if number > 10:
        one = replace(one, scale=1.5, scale_deviation=0.2)
    return replace(one, **changes)


def room_record(count: int = 100) -> RunRecord:
    """Return the record of `count` frames."""
    record = RunRecord()
    for number in range(count):
        record.add(sample(number))
    return record


def room_report(count: int = 60_000) -> Report:
    """Return a report of the room."""
    return Report('A room', [('images', '100')], ['a warning'], [('network', 'toy')],
                  room_scene(count), room_record(), from_values({'mode': 'replay'}))


def hostile_report() -> Report:
    """Return a report whose texts would run a program if they were not escaped."""
    report = room_report(300)
    thumbnails = [replace(one, label=HOSTILE) for one in report.scene.thumbnails]
    return replace(
        report, title=HOSTILE, counts=[(HOSTILE, HOSTILE)], warnings=[HOSTILE],
        network=[('weights', HOSTILE)], scene=replace(report.scene, thumbnails=thumbnails),
        settings=from_values({'map_frame': 'map<script>window.hacked=1</script>'}))
