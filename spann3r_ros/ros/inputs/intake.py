# SPDX-License-Identifier: Apache-2.0
"""Images and calibration on their way into the slot."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.encodings import to_mask, to_rgb
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.pipeline.image_clock import ImageClock
from spann3r_ros.pipeline.mask_sync import MaskMatcher
from spann3r_ros.pipeline.pose_sync import PoseMatcher
from spann3r_ros.pipeline.rate_limiter import RateLimiter
from spann3r_ros.pipeline.slot import FrameSlot, Outcome
from spann3r_ros.ros import conversions
from spann3r_ros.ros.parameters import NodeConfig

COMPRESSED = '/compressed'
# So many live images may wait for their masks, and as many for their poses.
LIVE_CAPACITY = 30
# In replay the slot holds the callback back; meanwhile the middleware keeps this many images.
REPLAY_DEPTH = 1000


class IntakeListener(Protocol):
    """What an intake asks and tells its owner, on the executor's thread."""

    def up_in(self, optical_frame: str) -> np.ndarray | None:
        """Return the direction against gravity [3] in a camera's frame, if it is known."""

    def camera_at(self, optical_frame: str, stamp_ns: int) -> np.ndarray | None:
        """Return a camera's pose in the map [4, 4] at a stamp, if others know it."""

    def look_again(self) -> None:
        """Call `match` soon, after what else waits for the executor."""

    def image_failed(self, error: Exception) -> None:
        """Report an image or a mask that could not be used, or an image that got no pose."""

    def time_jumped(self, stamp_ns: int, is_new: bool) -> None:
        """Begin a new map, unless the map `is_new`: the next image is older than those before."""


class Intake:
    """The subscriptions of an active node; every image ends in the slot or in an account.

    While `enabled` is false every image is skipped.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig, slot: FrameSlot,
                 clock: ImageClock, listener: IntakeListener) -> None:
        self._node = node
        self._config = config
        self._slot = slot
        self._clock = clock
        self._listener = listener
        self.enabled = True
        self._limiter = RateLimiter(config.max_rate)
        self._intrinsics: Intrinsics | None = None
        self._info_stamp_ns = 0
        capacity = REPLAY_DEPTH if config.mode == 'replay' else LIVE_CAPACITY
        self._poses = PoseMatcher(self._pose_of, capacity, config.pose_timeout_sec, slot.put,
                                  self._drop, listener.image_failed, listener.look_again)
        self._posed = config.pose_source == 'tf'
        self._masks = MaskMatcher(config.mask, capacity,
                                  self._poses.take_frame if self._posed else slot.put, self._drop)
        self._subscriptions: list[Subscription] = []
        try:
            self._subscribe(CameraInfo, 'camera_info', self._take_info)
            self._subscribe(*self._image_topic(), self._take_image)
            if config.mask != 'none':
                self._subscribe(Image, 'mask', self._take_mask)
        except Exception:
            self.destroy()  # a QoS override may be wrong: the others would stay for good
            raise

    def destroy(self) -> None:
        """Take the subscriptions away from the node and drop what waits for a mask or a pose."""
        self.drop_waiting()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def drop_waiting(self) -> None:
        """Drop what waits for a mask or a pose."""
        self._masks.drop_waiting()
        self._poses.drop_waiting()

    def match(self) -> None:
        """Look again for poses: TF has told something, or time has passed."""
        self._poses.match()

    def _image_topic(self) -> tuple[type, str]:
        topic = self._node.resolve_topic_name('image')
        if self._config.image_transport == 'raw':
            return Image, topic
        return CompressedImage, topic if topic.endswith(COMPRESSED) else topic + COMPRESSED

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None]) -> None:
        # rclpy writes overrides into the profile: each subscription needs one of its own.
        if self._config.mode == 'replay':
            qos = QoSProfile(depth=REPLAY_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        else:
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscriptions.append(self._node.create_subscription(
            kind, topic, callback, qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies()))

    def _take_info(self, info: CameraInfo) -> None:
        self._intrinsics = conversions.to_intrinsics(info, self._config.image_rectified)
        stamp = info.header.stamp
        self._info_stamp_ns = stamp.sec * conversions.SECOND_NS + stamp.nanosec

    def _take_mask(self, message: Image) -> None:
        try:
            self._masks.take_mask(conversions.to_nanoseconds(message.header.stamp),
                                  to_mask(message))
        # A mask is not in the accounts; the images that wait for it are.
        except Exception as error:
            self._listener.image_failed(error)

    def _take_image(self, message: Image | CompressedImage) -> None:
        if not self.enabled:
            self._slot.refuse(Outcome.SKIPPED)
            return
        try:
            stamp_ns = conversions.to_nanoseconds(message.header.stamp)
            if not self._limiter.admits(stamp_ns):
                self._slot.refuse(Outcome.SKIPPED)
                return
            rgb = to_rgb(message)
            is_new = self._clock.is_new
            if self._clock.follow(stamp_ns, self._config.time_jump == 'reset'):
                self.drop_waiting()
                self._listener.time_jumped(stamp_ns, is_new)
            frame_id = self._config.optical_frame or message.header.frame_id
            if self._posed and frame_id in ('', self._config.map_frame):
                raise FrameError(f'image: expected its frame, not {frame_id!r}, for a pose from '
                                 'TF; set the parameter optical_frame')
            frame = Frame(stamp_ns, frame_id, rgb, self._calibration(stamp_ns, rgb.shape),
                          up=self._listener.up_in(frame_id))
        # Whatever a message does to its conversion costs this message only; it is reported.
        except Exception as error:
            self._slot.refuse(Outcome.FAILED)
            self._listener.image_failed(error)
        else:
            self._masks.take_frame(frame)

    def _drop(self) -> None:
        self._slot.refuse(Outcome.DROPPED)

    def _pose_of(self, frame: Frame) -> np.ndarray | None:
        return self._listener.camera_at(frame.frame_id, frame.stamp_ns)

    def _calibration(self, stamp_ns: int, shape: tuple[int, ...]) -> Intrinsics | None:
        """Return the camera's intrinsics when they are of this image: by size and by stamp."""
        intrinsics = self._intrinsics
        if intrinsics is None or (intrinsics.height, intrinsics.width) != shape[:2]:
            return None
        timeout_ns = self._config.camera_info_timeout_sec * conversions.SECOND_NS
        if timeout_ns and abs(stamp_ns - self._info_stamp_ns) > timeout_ns:
            return None
        return intrinsics
