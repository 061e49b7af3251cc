# SPDX-License-Identifier: Apache-2.0
"""A recording of a robot's way through a generated building: images, TF with odometry, truth."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import ray_planes
from spann3r_ros.core.transforms import transform_points
from spann3r_ros.datasets.bag_writer import BagWriter, TruthTopics
from spann3r_ros.evaluation.measures.metrics import subsample
from spann3r_ros.rooms.buildings.building import Building, draw_building
from spann3r_ros.rooms.buildings.building_views import (
    BuildingViews,
    base_from_camera,
    camera_poses,
    on_floor,
)
from spann3r_ros.rooms.buildings.floor_plan import BuildingConfig
from spann3r_ros.rooms.buildings.robot_walk import RobotWalk, drive

from .recorded_views import TrueViews

START_NS = 1_700_000_000_000_000_000
IMAGE_TOPIC, INFO_TOPIC = '/camera/image_raw/compressed', '/camera/camera_info'
OPTICAL_FRAME = 'camera_optical_frame'
# The wheels are read at so many times the rate of the images.
ODOMETRY_RATE = 5
JPEG_QUALITY = 90
TRUTH_POINTS, POINTS_EVERY = 60_000, 5


@dataclass(frozen=True)
class BuildingRecording:
    """The recording that `make demo-long` plays; equal values give equal recordings.

    The images are `width` x `height` pixels wide and high with a field of view of 90 degrees; the
    simulated network sees them at `network_width` x `network_height`.
    """

    seed: int = 5
    frames: int = 600
    rooms: int = 3
    rate: float = 10.0
    width: int = 320
    height: int = 240
    network_width: int = 128
    network_height: int = 96

    @property
    def camera(self) -> Intrinsics:
        """Return the intrinsics of the images."""
        return wide_camera(self.width, self.height)

    @property
    def network_camera(self) -> Intrinsics:
        """Return the intrinsics of the network's images."""
        return wide_camera(self.network_width, self.network_height)

    def building(self) -> Building:
        """Return the building."""
        return draw_building(self.seed, BuildingConfig(rooms=self.rooms))

    def walk(self, building: Building) -> RobotWalk:
        """Return the robot's way, with its odometry, at the rate of the odometry."""
        times = ODOMETRY_RATE * (self.frames - 1) + 1
        return drive(building.way, times, 0.0, np.random.default_rng(self.seed))


def wide_camera(width: int, height: int) -> Intrinsics:
    """Return the intrinsics of a pinhole with a horizontal field of view of 90 degrees."""
    return Intrinsics(width / 2, width / 2, (width - 1) / 2, (height - 1) / 2, width, height)


def write_building_bag(path: Path, recording: BuildingRecording) -> TrueViews:
    """Render and write a bag; return what the simulated network knows of it."""
    building = recording.building()
    walk = recording.walk(building)
    seen = RobotWalk(walk.poses[::ODOMETRY_RATE], walk.odometry[::ODOMETRY_RATE])
    poses, views = camera_poses(seen), BuildingViews(building)
    stamps = START_NS + np.round(np.arange(len(poses)) * 1e9 / recording.rate).astype(np.int64)
    topics, corners = TruthTopics(), np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    with BagWriter(path, optical_frame=OPTICAL_FRAME) as bag:
        bag.write_transform(START_NS, 'base_link', OPTICAL_FRAME, base_from_camera(), static=True)
        outline = np.column_stack([corners * building.plan.size[:2], np.zeros(4)])
        bag.write_outline(topics.outline, START_NS, outline)
        _write_odometry(bag, walk, recording)
        rendered = tqdm(views.render(poses, recording.camera), 'render', len(poses), unit='image')
        for stamp_ns, pose, (image, _) in zip(stamps.tolist(), poses, rendered, strict=True):
            _, jpeg = cv2.imencode('.jpg', image[..., ::-1],
                                   [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            bag.write_camera_info(INFO_TOPIC, stamp_ns, recording.camera)
            bag.write_image(IMAGE_TOPIC, stamp_ns, jpeg.tobytes())
            bag.write_pose(topics.poses, stamp_ns, pose)
        known = TrueViews.of(views.render(poses, recording.network_camera), poses,
                             recording.network_camera)
        bag.write_points(topics.points, START_NS, true_points(known))
    return known


def true_points(views: TrueViews) -> np.ndarray:
    """Return points [n, 3] on what the cameras see, in the world."""
    x, y = ray_planes(views.camera)
    clouds = []
    for depth, pose in zip(views.depths[::POINTS_EVERY], views.poses[::POINTS_EVERY],
                           strict=True):
        points = np.stack([x * depth, y * depth, depth.astype(np.float32)], axis=-1)
        clouds.append(transform_points(pose, points).reshape(-1, 3)[::7])
    return subsample(np.concatenate(clouds), TRUTH_POINTS)


def _write_odometry(bag: BagWriter, walk: RobotWalk, recording: BuildingRecording) -> None:
    for stamp_ns, pose in zip(_odometry_stamps(len(walk.odometry), recording.rate),
                              on_floor(walk.odometry), strict=True):
        bag.write_transform(stamp_ns, 'odom', 'base_link', pose)


def _odometry_stamps(count: int, rate: float) -> Iterator[int]:
    for index in range(count):
        yield START_NS + round(index * 1e9 / (rate * ODOMETRY_RATE))
