# SPDX-License-Identifier: Apache-2.0
"""Reading the ground truth in a bag; needs no ROS."""
from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from spann3r_ros.core.types import StampedPose

from .bag_writer import TruthTopics
from .rosbag2.bag_storage import Recording

Message = Any  # rosbags builds its message classes at run time


@dataclass(frozen=True)
class Truth:
    """Ground truth of one recording, all in one z-up world frame.

    `poses` are those of the optical frame at the images' stamps, `points` [n, 3] are on the
    visible surfaces, `outline` [k, 3] are the corners of the floor (none recorded: k = 0).
    """

    poses: list[StampedPose]
    points: np.ndarray
    outline: np.ndarray


def read_truth(path: Path, topics: TruthTopics | None = None) -> Truth | None:
    """Return a bag's ground truth; None without true poses."""
    topics = topics or TruthTopics()
    poses: list[StampedPose] = []
    clouds: list[np.ndarray] = [np.zeros((0, 3))]
    outline = np.zeros((0, 3))
    types = get_typestore(Stores.ROS2_JAZZY)
    with closing(Recording(path)) as recording:
        wanted = [one for one in recording.topics
                  if one.topic in (topics.poses, topics.points, topics.outline)]
        for topic, _, data in recording.messages(wanted):
            message = types.deserialize_cdr(data, topic.msgtype)
            if topic.topic == topics.poses:
                poses.append(to_pose(message))
            elif topic.topic == topics.points:
                clouds.append(to_points(message))
            else:
                outline = np.array([[p.x, p.y, p.z] for p in message.polygon.points])
    return Truth(poses, np.concatenate(clouds), outline) if poses else None


def to_pose(message: Message) -> StampedPose:
    """Return a PoseStamped as a stamped matrix."""
    position, rotation = message.pose.position, message.pose.orientation
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(
        [rotation.x, rotation.y, rotation.z, rotation.w]).as_matrix()
    matrix[:3, 3] = [position.x, position.y, position.z]
    stamp = message.header.stamp
    return StampedPose(stamp.sec * 10**9 + stamp.nanosec, message.header.frame_id, matrix)


def to_points(message: Message) -> np.ndarray:
    """Return the x, y, z of a PointCloud2 of little-endian float32 fields as float64 [n, 3]."""
    offsets = {field.name: field.offset for field in message.fields if field.datatype == 7}
    missing = [name for name in 'xyz' if name not in offsets]
    if missing or message.is_bigendian:
        raise ValueError(f'true points: expected little-endian float32 x, y, z, '
                         f'got fields {sorted(offsets)}, big-endian {message.is_bigendian}')
    layout = np.dtype({'names': list('xyz'), 'formats': ['<f4'] * 3,
                       'offsets': [offsets[name] for name in 'xyz'],
                       'itemsize': message.point_step})
    cloud = np.frombuffer(message.data.tobytes(), layout)
    return np.stack([cloud[name] for name in 'xyz'], axis=1).astype(np.float64)
