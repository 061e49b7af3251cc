# SPDX-License-Identifier: Apache-2.0
"""Bags of the synthetic orbit with all that a replay reads; needs no ROS."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from drawn_index import encode_index
from scipy.spatial.transform import Rotation
from synthetic import SyntheticScene, orbit_trajectory, square_camera

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert
from spann3r_ros.datasets.bag_writer import BagWriter

FRAMES = 60
CAMERA = square_camera(96)
START_NS = 1_700_000_000_123_456_789
PERIOD_NS = 100_000_000
IMAGE_TOPIC, INFO_TOPIC, MASK_TOPIC = ('/camera/image_raw', '/camera/camera_info', '/camera/mask')
# The camera hangs on the robot, 1.2 m up, and looks down by ten degrees.
BASE_FROM_OPTICAL = MAP_FROM_OPTICAL.copy()
BASE_FROM_OPTICAL[:3, :3] = BASE_FROM_OPTICAL[:3, :3] @ Rotation.from_euler(
    'x', -10, degrees=True).as_matrix()
BASE_FROM_OPTICAL[:3, 3] = 0.1, 0.05, 1.2
OPTICAL_FRAME = 'camera_optical'


def stamp_of(index: int) -> int:
    return START_NS + index * PERIOD_NS


class OrbitBag(BagWriter):
    """A bag under construction; `index` is that of a pose of the orbit."""

    def __init__(self, path: Path, storage: str = 'mcap') -> None:
        super().__init__(path, storage, optical_frame=OPTICAL_FRAME)
        self.poses = orbit_trajectory(FRAMES)
        self._scene = SyntheticScene()
        self.recorded_later_ns = 0

    def picture(self, index: int) -> np.ndarray:
        return encode_index(self._scene.render(self.poses[index], CAMERA)[0], index)

    def raw(self, index: int, stamp_ns: int | None = None, topic: str = IMAGE_TOPIC) -> None:
        rgb = self.picture(index)
        stamp_ns = stamp_of(index) if stamp_ns is None else stamp_ns
        self.write_raw_image(topic, stamp_ns, rgb)

    def jpeg(self, index: int, topic: str = f'{IMAGE_TOPIC}/compressed') -> None:
        data = cv2.imencode('.jpg', self.picture(index)[..., ::-1])[1].tobytes()
        self.write_image(topic, stamp_of(index), data)

    def info(self, index: int, stamp_ns: int | None = None) -> None:
        self.write_camera_info(INFO_TOPIC, stamp_of(index) if stamp_ns is None else stamp_ns,
                               CAMERA)

    def mask(self, index: int, value: int = 255, columns: int = CAMERA.width // 2) -> None:
        """Write a mask that keeps the left columns of an image."""
        mask = np.full((CAMERA.height, CAMERA.width), value, np.uint8)
        mask[:, columns:] = 0
        self.write_mask(stamp_of(index), mask)

    def write_mask(self, stamp_ns: int, mask: np.ndarray) -> None:
        """Write a mask uint8 [height, width]."""
        self._image(MASK_TOPIC, stamp_ns, 'mono8', mask)

    def mount(self) -> None:
        """Say once and for all where the camera is on the robot."""
        self.write_transform(stamp_of(0), 'base_link', OPTICAL_FRAME, BASE_FROM_OPTICAL,
                             static=True)

    def tilt(self, index: int, angle_deg: float) -> None:
        """Write where the camera is on the robot at the time of an image, on a moving mount."""
        mount = BASE_FROM_OPTICAL.copy()
        mount[:3, :3] = mount[:3, :3] @ Rotation.from_euler(
            'x', angle_deg, degrees=True).as_matrix()
        self.write_transform(stamp_of(index), 'base_link', OPTICAL_FRAME, mount)

    def drive(self, index: int, parent: str = 'odom') -> None:
        """Say where the robot is."""
        self.write_transform(stamp_of(index), parent, 'base_link',
                             self.poses[index] @ invert(BASE_FROM_OPTICAL))

    def odometry(self, index: int, topic: str = '/odom', variance: float = 0.0) -> None:
        """Say by an Odometry message where the robot is."""
        covariance = variance * np.eye(6).reshape(-1)
        t, q = self._parts(self.poses[index] @ invert(BASE_FROM_OPTICAL))
        pose = self._new('geometry_msgs/msg/Pose', position=self._new(
            'geometry_msgs/msg/Point', **t), orientation=self._new(
            'geometry_msgs/msg/Quaternion', **q))
        zero = self._new('geometry_msgs/msg/Vector3', x=0.0, y=0.0, z=0.0)
        twist = self._new('geometry_msgs/msg/Twist', linear=zero, angular=zero)
        header = self._header(stamp_of(index), 'odom')
        self._write(topic, stamp_of(index), 'nav_msgs/msg/Odometry', header=header,
                    child_frame_id='base_link', pose=self._new(
                        'geometry_msgs/msg/PoseWithCovariance', pose=pose,
                        covariance=covariance), twist=self._new(
                        'geometry_msgs/msg/TwistWithCovariance', twist=twist,
                        covariance=covariance))

    def write_raw_image(self, topic: str, stamp_ns: int, rgb: np.ndarray) -> None:
        """Write an RGB image uint8 [height, width, 3] without compression."""
        self._image(topic, stamp_ns, 'rgb8', rgb)

    def _image(self, topic: str, stamp_ns: int, encoding: str, pixels: np.ndarray) -> None:
        height, width = pixels.shape[:2]
        self._write(topic, stamp_ns, 'sensor_msgs/msg/Image',
                    header=self._header(stamp_ns, OPTICAL_FRAME), height=height, width=width,
                    encoding=encoding, is_bigendian=0, step=pixels.nbytes // height,
                    data=pixels.reshape(-1).view(np.uint8))

    def _write(self, topic: str, stamp_ns: int, *arguments: object, **values: object) -> None:
        super()._write(topic, stamp_ns + self.recorded_later_ns, *arguments, **values)


def robot_bag(path: Path, count: int = 12, storage: str = 'mcap') -> Path:
    """Write raw images, calibration, masks and the TF of a robot.

    The order is that of an unlucky recorder: the mount comes after the first image, each
    calibration and mask after its image.
    """
    with OrbitBag(path, storage) as bag:
        for index in range(count):
            bag.raw(index)
            if index == 1:
                bag.mount()
            bag.drive(index)
            bag.info(index)
            bag.mask(index)
    return path
