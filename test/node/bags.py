# SPDX-License-Identifier: Apache-2.0
"""Bags of the synthetic orbit, as a recorder would have written them."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from harness import Orbit, stamp_of
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from synthetic import SyntheticScene
from synthetic_mapper import CAMERA

from spann3r_ros.datasets.bag_writer import BagWriter, TruthTopics


def raw_bag(path: Path, orbit: Orbit, count: int, topic: str = '/camera/image_raw') -> Path:
    """Write raw images into a sqlite3 bag."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(topic, 'sensor_msgs/msg/Image',
                                           typestore=get_typestore(Stores.ROS2_JAZZY))
        for index in range(count):
            writer.write(connection, stamp_of(index), serialize_message(orbit.image(index)))
    return path


def compressed_bag(path: Path, orbit: Orbit, count: int,
                   topic: str = '/camera/image_raw/compressed') -> Path:
    """Write JPEG images, calibration and ground truth into an mcap bag."""
    topics = TruthTopics()
    with BagWriter(path, 'mcap') as bag:
        bag.write_points(topics.points, stamp_of(0), true_points(orbit, count))
        for index in range(count):
            jpeg = cv2.imencode('.jpg', orbit.rgb[index][..., ::-1])[1].tobytes()
            bag.write_camera_info('/camera/camera_info', stamp_of(index), CAMERA)
            bag.write_image(topic, stamp_of(index), jpeg)
            bag.write_pose(topics.poses, stamp_of(index), orbit.poses[index])
    return path


def true_points(orbit: Orbit, count: int) -> np.ndarray:
    """Return every fourth pixel's point of all frames [n, 3] in the world."""
    clouds = []
    for pose in orbit.poses[:count]:
        points = SyntheticScene().render(pose, CAMERA)[1][::4, ::4].reshape(-1, 3)
        clouds.append(points @ pose[:3, :3].T + pose[:3, 3])
    return np.concatenate(clouds)
