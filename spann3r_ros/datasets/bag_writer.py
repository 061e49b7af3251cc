# SPDX-License-Identifier: Apache-2.0
"""Writing rosbag2 bags of compressed images, with or without ground truth; needs no ROS."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from spann3r_ros.core.camera import Intrinsics

Message = Any  # rosbags builds its message classes at run time
STORAGES = ('mcap', 'sqlite3')
METADATA_VERSION = 9  # that of ROS 2 Jazzy
NEVER = QosTime(sec=2147483647, nsec=4294967295)
LATCHED = Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
              NEVER, NEVER, QosLiveliness.AUTOMATIC, NEVER, False)


@dataclass(frozen=True)
class TruthTopics:
    """Topics of the ground truth in a bag; poses and points are in one z-up world frame."""

    poses: str = '/ground_truth/pose'
    points: str = '/ground_truth/points'
    outline: str = '/ground_truth/outline'


class BagWriter:
    """A context manager that writes a bag; the bag is complete on exit.

    ValueError for an unknown storage; FileExistsError if `path` exists.
    """

    def __init__(self, path: Path, storage: str = 'mcap', world_frame: str = 'world',
                 optical_frame: str = 'camera_optical_frame') -> None:
        if storage not in STORAGES:
            raise ValueError(f'storage: expected one of {STORAGES}, got {storage!r}')
        if path.exists():
            raise FileExistsError(f'bag: {path} exists; name another or remove it')
        self._writer = Writer(path, version=METADATA_VERSION,
                              storage_plugin=StoragePlugin[storage.upper()])
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Any] = {}
        self._world_frame = world_frame
        self._optical_frame = optical_frame

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.close()

    def write_image(self, topic: str, stamp_ns: int, jpeg: bytes) -> None:
        """Add a CompressedImage holding one JPEG file."""
        self._write(topic, stamp_ns, 'sensor_msgs/msg/CompressedImage',
                    header=self._header(stamp_ns, self._optical_frame), format='jpeg',
                    data=np.frombuffer(jpeg, np.uint8))

    def write_camera_info(self, topic: str, stamp_ns: int, intrinsics: Intrinsics) -> None:
        """Add a CameraInfo of an undistorted pinhole."""
        projection = np.hstack([intrinsics.matrix, np.zeros((3, 1))])
        region = self._new('sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0, height=0,
                           width=0, do_rectify=False)
        self._write(topic, stamp_ns, 'sensor_msgs/msg/CameraInfo',
                    header=self._header(stamp_ns, self._optical_frame),
                    height=intrinsics.height, width=intrinsics.width,
                    distortion_model='plumb_bob', d=np.zeros(5),
                    k=intrinsics.matrix.reshape(9), r=np.eye(3).reshape(9),
                    p=projection.reshape(12), binning_x=0, binning_y=0, roi=region)

    def write_pose(self, topic: str, stamp_ns: int, world_from_camera: np.ndarray) -> None:
        """Add a PoseStamped: the optical frame [4, 4] in the world."""
        place, turn = self._parts(world_from_camera)
        pose = self._new('geometry_msgs/msg/Pose',
                         position=self._new('geometry_msgs/msg/Point', **place),
                         orientation=self._new('geometry_msgs/msg/Quaternion', **turn))
        self._write(topic, stamp_ns, 'geometry_msgs/msg/PoseStamped',
                    header=self._header(stamp_ns, self._world_frame), pose=pose)

    def write_transform(self, stamp_ns: int, parent: str, child: str,
                        parent_from_child: np.ndarray, static: bool = False) -> None:
        """Add a transform [4, 4] to /tf, or to /tf_static."""
        place, turn = self._parts(parent_from_child)
        transform = self._new('geometry_msgs/msg/Transform',
                              translation=self._new('geometry_msgs/msg/Vector3', **place),
                              rotation=self._new('geometry_msgs/msg/Quaternion', **turn))
        stamped = self._new('geometry_msgs/msg/TransformStamped',
                            header=self._header(stamp_ns, parent), child_frame_id=child,
                            transform=transform)
        self._write('/tf_static' if static else '/tf', stamp_ns, 'tf2_msgs/msg/TFMessage',
                    latched=static, transforms=[stamped])

    def write_points(self, topic: str, stamp_ns: int, points: np.ndarray) -> None:
        """Add a latched PointCloud2 of world points [n, 3], stored as float32 x y z."""
        data = np.ascontiguousarray(points, dtype='<f4')
        fields = [self._new('sensor_msgs/msg/PointField', name=name, offset=4 * i, datatype=7,
                            count=1) for i, name in enumerate('xyz')]
        self._write(topic, stamp_ns, 'sensor_msgs/msg/PointCloud2', latched=True,
                    header=self._header(stamp_ns, self._world_frame), height=1, width=len(data),
                    fields=fields, is_bigendian=False, point_step=12, row_step=12 * len(data),
                    data=data.reshape(-1).view(np.uint8), is_dense=True)

    def write_outline(self, topic: str, stamp_ns: int, corners: np.ndarray) -> None:
        """Add a latched PolygonStamped: the floor's corners [n, 3] in the world."""
        points = [self._new('geometry_msgs/msg/Point32', x=x, y=y, z=z)
                  for x, y, z in np.asarray(corners, np.float64).tolist()]
        self._write(topic, stamp_ns, 'geometry_msgs/msg/PolygonStamped', latched=True,
                    header=self._header(stamp_ns, self._world_frame),
                    polygon=self._new('geometry_msgs/msg/Polygon', points=points))

    @staticmethod
    def _parts(transform: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
        """Return place and quaternion of a transform [4, 4] by their axes."""
        quaternion = Rotation.from_matrix(transform[:3, :3]).as_quat().tolist()
        return (dict(zip('xyz', transform[:3, 3].tolist(), strict=True)),
                dict(zip('xyzw', quaternion, strict=True)))

    def _new(self, type_name: str, **values: object) -> Message:
        return self._types.types[type_name](**values)

    def _header(self, stamp_ns: int, frame_id: str) -> Message:
        stamp = self._new('builtin_interfaces/msg/Time', sec=stamp_ns // 10**9,
                          nanosec=stamp_ns % 10**9)
        return self._new('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)

    def _write(self, topic: str, stamp_ns: int, type_name: str, latched: bool = False,
               **values: object) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, type_name, typestore=self._types,
                offered_qos_profiles=[LATCHED] if latched else [])
        data = self._types.serialize_cdr(self._new(type_name, **values), type_name)
        self._writer.write(self._connections[topic], stamp_ns, data)
