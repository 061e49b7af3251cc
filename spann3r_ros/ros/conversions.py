# SPDX-License-Identifier: Apache-2.0
"""Conversions between ROS messages and the mapper's values: stamps, calibration, clouds, poses."""
from __future__ import annotations

import struct
from array import array

import numpy as np
import tf_transformations
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseWithCovarianceStamped,
    Quaternion,
    Transform,
    TransformStamped,
    Vector3,
)
from nav_msgs.msg import MapMetaData, OccupancyGrid, Odometry
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe, ray_planes
from spann3r_ros.core.messages import SECOND_NS
from spann3r_ros.core.transforms import quaternion_to_matrix, to_rigid
from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.fragments.atlas import PathView
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.mapping_status import MappingStatus
from spann3r_ros.mapping.occupancy.occupancy_grid import Grid
from spann3r_ros.mapping.relocalisation.hint import Hint, HintError
from spann3r_ros.msg import MapperStatus
from spann3r_ros.pipeline.odometer import Motion
from spann3r_ros.pipeline.transform_tree import StampedTransform
from spann3r_ros.pipeline.worker import WorkerReport

from .inputs.images import BRIDGE

POINT = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('rgb', '<f4'),
                  ('confidence', '<f4')])
# `rgb` holds 0x00RRGGBB and is declared a float: the form RViz and PCL read.
FIELDS = [PointField(name=name, offset=offset, datatype=PointField.FLOAT32, count=1)
          for name, (_, offset) in POINT.fields.items()]

# At least what a cloud's message has beside its points and the name of its frame.
ENVELOPE_BYTES = 256
LITTLE_ENDIAN_CDR = bytes([0, 1, 0, 0])
# Deprecated fields of the status, which `network_values` replaces; to be removed in the next
# release.
FORMER_COUNTERS = ('working_frames', 'long_term_tokens', 'prunings')


def to_stamp(stamp_ns: int) -> Time:
    """Return a stamp of integer nanoseconds."""
    sec, nanosec = divmod(stamp_ns, SECOND_NS)
    return Time(sec=sec, nanosec=nanosec)


def to_header(stamp_ns: int, frame_id: str) -> Header:
    """Return a header."""
    return Header(stamp=to_stamp(stamp_ns), frame_id=frame_id)


def to_camera_info(intrinsics: Intrinsics, header: Header) -> CameraInfo:
    """Return the calibration of an undistorted camera."""
    fx, fy, cx, cy = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
    return CameraInfo(
        header=header, width=intrinsics.width, height=intrinsics.height,
        distortion_model='plumb_bob', d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0])


def to_float_image(values: np.ndarray, header: Header) -> Image:
    """Return a 32FC1 image of values [height, width]."""
    return BRIDGE.cv2_to_imgmsg(values.astype(np.float32, copy=False), '32FC1', header)


def keyframe_cloud(keyframe: Keyframe, map_from_fragment: np.ndarray, header: Header,
                   max_bytes: int) -> PointCloud2:
    """Return a keyframe's points in the map, in the order of the image.

    If the message would exceed `max_bytes`, only every n-th row and column is used.
    """
    return _image_cloud(keyframe, keyframe.points_in(map_from_fragment), header, max_bytes)


def camera_cloud(keyframe: Keyframe, scale: float, min_confidence: float, header: Header,
                 max_bytes: int) -> PointCloud2:
    """Return a keyframe's points in the frame of its camera, times `scale`, as `keyframe_cloud`.

    Points below `min_confidence` are NaN. The keyframe needs a pose.
    """
    x, y = ray_planes(keyframe.intrinsics)
    depth = keyframe.depth * np.float32(scale)
    depth[keyframe.confidence < min_confidence] = np.nan
    return _image_cloud(keyframe, np.stack([x * depth, y * depth, depth], axis=-1), header,
                        max_bytes)


def _image_cloud(keyframe: Keyframe, points: np.ndarray, header: Header,
                 max_bytes: int) -> PointCloud2:
    """Return points [h, w, 3] of a keyframe, every n-th row and column if they are too many."""
    height, width = keyframe.confidence.shape
    stride, most = 1, _most_points(header, max_bytes)
    while -(-height // stride) * -(-width // stride) > most:
        stride += 1
    part = np.s_[::stride, ::stride]
    return to_cloud(points[part], keyframe.image[part], keyframe.confidence[part], header)


def map_cloud(cloud: VoxelCloud, header: Header, max_bytes: int) -> PointCloud2:
    """Return the voxel map as an unordered cloud; every n-th voxel if it would be too large."""
    stride = max(1, -(-len(cloud) // _most_points(header, max_bytes)))
    return to_cloud(cloud.points[None, ::stride], cloud.colors[None, ::stride],
                    cloud.confidence[None, ::stride], header)


def _most_points(header: Header, max_bytes: int) -> int:
    """Return how many points a message of `max_bytes` has room for."""
    room = max_bytes - ENVELOPE_BYTES - len(header.frame_id.encode())
    return max(1, room // POINT.itemsize)


def to_cloud(points: np.ndarray, colors: np.ndarray, confidence: np.ndarray,
             header: Header) -> PointCloud2:
    """Return a cloud of points [h, w, 3], RGB colours uint8 [h, w, 3] and confidence [h, w]."""
    height, width = confidence.shape
    cloud = np.empty((height, width), POINT)
    cloud['x'], cloud['y'], cloud['z'] = points[..., 0], points[..., 1], points[..., 2]
    packed = np.zeros((height, width, 4), np.uint8)
    packed[..., :3] = colors[..., ::-1]
    cloud['rgb'] = packed.view('<f4')[..., 0]
    cloud['confidence'] = confidence
    # create_cloud takes the first axis as columns, and it does not accept an empty table [h, w].
    table = cloud.reshape(width, height) if height > 1 else cloud[0]
    message = point_cloud2.create_cloud(header, FIELDS, table)
    message.is_dense = bool(np.isfinite(points).all())
    return message


def from_cloud(message: PointCloud2) -> VoxelCloud:
    """Return the finite points of a cloud as `to_cloud` makes it."""
    points = point_cloud2.read_points(message, skip_nans=True)
    packed = np.ascontiguousarray(points['rgb']).view(np.uint8).reshape(-1, 4)
    return VoxelCloud(np.stack([points[name] for name in 'xyz'], axis=1), packed[:, 2::-1],
                      np.array(points['confidence']))


def to_pose(transform: np.ndarray) -> Pose:
    """Return a rigid transform [4, 4] as a pose."""
    x, y, z = (float(value) for value in transform[:3, 3])
    return Pose(position=Point(x=x, y=y, z=z), orientation=_quaternion(transform))


def serialized_path(path: PathView, header: Header) -> bytes:
    """Return a serialized nav_msgs/Path; all poses are in the header's frame.

    rclpy takes 0.2 s for 10,000 poses, during which no other Python code runs.
    """
    name = header.frame_id.encode() + b'\0'
    head = struct.pack('<iII', header.stamp.sec, header.stamp.nanosec, len(name)) + name
    head += bytes(-len(head) % 4) + struct.pack('<I', len(path.stamps_ns))
    first = _pose_records(path, slice(0, 1), name, padding=-(len(head) + 12 + len(name)) % 8)
    # A pose ends at a multiple of eight, so all others have the same padding.
    others = _pose_records(path, slice(1, None), name, padding=-(12 + len(name)) % 8)
    return LITTLE_ENDIAN_CDR + head + first.tobytes() + others.tobytes()


def _pose_records(path: PathView, part: slice, name: bytes, padding: int) -> np.ndarray:
    """Return serialized geometry_msgs/PoseStamped, one in each element."""
    stamps, transforms = path.stamps_ns[part], path.map_from_camera[part]
    records = np.zeros(len(stamps), [
        ('sec', '<i4'), ('nanosec', '<u4'), ('length', '<u4'), ('name', f'V{len(name)}'),
        ('padding', f'V{padding}'), ('position', '<f8', 3), ('orientation', '<f8', 4)])
    records['sec'], records['nanosec'] = np.divmod(stamps, SECOND_NS)
    records['length'], records['name'] = len(name), np.void(name)
    records['position'] = transforms[:, :3, 3]
    if len(stamps):
        records['orientation'] = Rotation.from_matrix(transforms[:, :3, :3]).as_quat()
    return records


def to_pose_with_covariance(pose: StampedPose, map_frame: str) -> PoseWithCovarianceStamped:
    """Return a camera pose in the map, with its covariance if known, else zeros."""
    message = PoseWithCovarianceStamped(header=to_header(pose.stamp_ns, map_frame))
    message.pose.pose = to_pose(pose.world_from_camera)
    if pose.covariance is not None:
        message.pose.covariance = pose.covariance.reshape(-1)
    return message


def to_transform(parent_from_child: np.ndarray, stamp_ns: int, parent: str,
                 child: str) -> TransformStamped:
    """Return a rigid transform [4, 4] between two frames."""
    x, y, z = (float(value) for value in parent_from_child[:3, 3])
    transform = Transform(translation=Vector3(x=x, y=y, z=z),
                          rotation=_quaternion(parent_from_child))
    return TransformStamped(header=to_header(stamp_ns, parent), child_frame_id=child,
                            transform=transform)


def to_stamped_transform(message: TransformStamped) -> StampedTransform:
    """Return a transform for the transform tree, which validates it."""
    t, q, stamp = message.transform.translation, message.transform.rotation, message.header.stamp
    return StampedTransform(message.header.frame_id, message.child_frame_id,
                            stamp.sec * SECOND_NS + stamp.nanosec, (t.x, t.y, t.z),
                            (q.x, q.y, q.z, q.w))


def from_stamped_transform(transform: StampedTransform) -> TransformStamped:
    """Return the message of a transform of the transform tree."""
    x, y, z = transform.translation
    qx, qy, qz, qw = transform.quaternion
    return TransformStamped(
        header=to_header(transform.stamp_ns, transform.parent), child_frame_id=transform.child,
        transform=Transform(translation=Vector3(x=x, y=y, z=z),
                            rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)))


def to_odometry(motion: Motion, odom_frame: str) -> Odometry:
    """Return an odometry message: the pose in `odom_frame`, the twist in the child's own axes."""
    message = Odometry(header=to_header(motion.stamp_ns, odom_frame),
                       child_frame_id=motion.child_frame)
    message.pose.pose = to_pose(motion.odom_from_child)
    message.pose.covariance = motion.covariance.reshape(-1)
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, motion.twist)
    message.twist.covariance = motion.twist_covariance.reshape(-1)
    return message


def to_hint(message: PoseWithCovarianceStamped,
            base_from_camera: np.ndarray) -> Hint:
    """Return the hint of a pose of the robot's base; raise HintError for numbers that are none.

    `base_from_camera` [4, 4] is the camera's mount.
    """
    position, turn = message.pose.pose.position, message.pose.pose.orientation
    numbers = [position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w]
    quaternion = np.array(numbers[3:])
    if not np.isfinite(numbers).all() or abs(np.linalg.norm(quaternion) - 1.0) > 0.1:
        raise HintError('initialpose: expected a position and a quaternion of length one, got '
                        f'{numbers}')
    map_from_base = to_rigid(quaternion_to_matrix(quaternion), np.array(numbers[:3]))
    return Hint(map_from_base @ base_from_camera,
                np.reshape(np.array(message.pose.covariance), (6, 6)))


def to_occupancy_grid(grid: Grid, header: Header) -> OccupancyGrid:
    """Return the message of a grid that is not empty."""
    height, width = grid.values.shape
    x, y, z = grid.origin
    origin = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(w=1.0))
    return OccupancyGrid(
        header=header, data=array('b', grid.values.tobytes()),
        info=MapMetaData(map_load_time=header.stamp, resolution=grid.resolution, width=width,
                         height=height, origin=origin))


def to_status(report: WorkerReport, mapping: MappingStatus, state: str, images_waiting: int,
              last_error: str, map_frame: str) -> MapperStatus:
    """Return the status message."""
    accounts, latency, inference = report.accounts, report.latency, report.inference
    memory, scale = mapping.memory.status, mapping.scale
    return MapperStatus(
        header=to_header(report.stamp_ns, map_frame), state=state, last_error=last_error,
        frames_received=accounts.received, frames_processed=accounts.processed,
        frames_skipped=accounts.skipped, frames_dropped=accounts.dropped,
        frames_failed=accounts.failed, frames_waiting=accounts.waiting,
        images_waiting=images_waiting,
        frames_blind=accounts.blind, blind_reason=mapping.blind_reason,
        latency_last_sec=latency.last_sec, latency_mean_sec=latency.mean_sec,
        latency_p95_sec=latency.p95_sec, latency_max_sec=latency.max_sec,
        inference_last_sec=inference.last_sec,
        network=mapping.memory.network,
        network_values=[KeyValue(key=name, value=f'{value:.9g}') for name, value in memory.values],
        memory_tokens=memory.tokens, memory_capacity_tokens=memory.capacity_tokens,
        memory_rejected_frames=memory.rejected_frames,
        **{name: int(value) for name, value in memory.values if name in FORMER_COUNTERS},
        resets=mapping.memory.resets, recoveries=mapping.memory.recoveries,
        device_bytes=memory.device_bytes,
        image_coverage=mapping.coverage, voxels=mapping.voxels,
        phase=mapping.phase, fragments=mapping.fragments, revision=mapping.revision,
        keyframes_kept=mapping.kept.keyframes, keyframe_bytes=mapping.kept.bytes,
        keyframes_compacted=mapping.kept.compacted, keyframes_evicted=mapping.kept.evicted,
        voxels_evicted=mapping.voxels_evicted,
        fragment_id=mapping.fragment_id, metric=scale.metric, scale=scale.value,
        scale_variance=scale.variance, scale_source=scale.source,
        keyframes=mapping.keyframes, poses_failed=mapping.poses_failed,
        poses_gated=mapping.poses_gated, pose_resets=mapping.pose_resets,
        keyframes_left_out=mapping.keyframes_left_out,
        fragments_unconnected=mapping.fragments_unconnected,
        loops_accepted=mapping.loops_accepted, loops_rejected=mapping.loops_rejected,
        voxels_carved=mapping.voxels_carved,
        grid_reason=mapping.grid_reason, confidence=mapping.confidence,
        localisation=mapping.localisation, localisation_reason=mapping.localisation_reason,
        loops_refused=mapping.loops_refused, loop_refusal=mapping.loop_refusal,
        back_end_failures=mapping.back_end_failures, back_end_reason=mapping.back_end_reason)


def _quaternion(transform: np.ndarray) -> Quaternion:
    x, y, z, w = map(float, tf_transformations.quaternion_from_matrix(transform))
    return Quaternion(x=x, y=y, z=z, w=w)
