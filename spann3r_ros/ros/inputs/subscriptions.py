# SPDX-License-Identifier: Apache-2.0
"""Subscriptions that pass images, calibrations, masks and depth images to an intake."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from spann3r_ros.core.encodings import to_mask
from spann3r_ros.core.image_files.depth_images import to_depth
from spann3r_ros.core.messages import set_stamp, to_intrinsics, to_nanoseconds
from spann3r_ros.core.types import FrameError
from spann3r_ros.pipeline.intake import Intake
from spann3r_ros.pipeline.node_settings import NodeConfig

from .images import CountingDecoder

COMPRESSED = '/compressed'
# In replay the callback blocks while the slot is full. The middleware keeps so many images then.
REPLAY_DEPTH = 1000


def image_topic(node: LifecycleNode, config: NodeConfig) -> tuple[type, str]:
    """Return the type and the name of the topic of the images."""
    topic = node.resolve_topic_name('image')
    if config.image_transport == 'raw':
        return Image, topic
    return CompressedImage, topic if topic.endswith(COMPRESSED) else topic + COMPRESSED


class InputSubscriptions:
    """The subscriptions of an active node; every message is passed to the intake."""

    def __init__(self, node: LifecycleNode, config: NodeConfig, intake: Intake) -> None:
        self._node = node
        self._config = config
        self._intake = intake
        self._decode = CountingDecoder(node.get_logger().warning)
        self._subscriptions: list[Subscription] = []
        try:
            self._subscribe(CameraInfo, 'camera_info', self._take_info)
            self.images = self._subscribe(*image_topic(node, config), self._take_image)
            if config.mask != 'none':
                self._subscribe(Image, 'mask', self._take_mask)
            if intake.takes_depth:
                self._subscribe(Image, 'depth', self._take_depth)
        except Exception:
            self.destroy()  # after a wrong QoS override, those created before would remain
            raise

    def destroy(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None]) -> Subscription:
        # rclpy writes overrides into the profile, so each subscription needs its own profile.
        if self._config.mode == 'replay':
            qos = QoSProfile(depth=REPLAY_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        else:
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        if self._config.stamp_source == 'receipt':
            callback = partial(self._take_as_received, callback)
        self._subscriptions.append(self._node.create_subscription(
            kind, topic, callback, qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies()))
        return self._subscriptions[-1]

    def _take_as_received(self, callback: Callable[[Any], None],
                          message: Any) -> None:  # noqa: ANN401
        """Process a message as if its stamp were the present time of the node."""
        received_ns = self._node.get_clock().now().nanoseconds
        if received_ns:
            set_stamp(message, received_ns)
            callback(message)
        elif callback == self._take_image:
            self._intake.refuse_image(FrameError(
                'stamp: expected the time of receipt, got 0: the time on /clock has not begun; '
                'start the simulator or the player, or set use_sim_time: false'))

    def _take_info(self, info: CameraInfo) -> None:
        stamp = info.header.stamp
        # A calibration with a stamp out of range needs no check: it is near to no image's stamp.
        self._intake.take_calibration(
            stamp.sec * 10**9 + stamp.nanosec,
            partial(to_intrinsics, info, self._config.image_rectified), info.header.frame_id)

    def _take_mask(self, message: Image) -> None:
        try:
            stamp_ns = to_nanoseconds(message.header.stamp)
        except FrameError as error:
            self._intake.refuse_mask(error)
        else:
            self._intake.take_mask(stamp_ns, partial(to_mask, message))

    def _take_depth(self, message: Image) -> None:
        try:
            stamp_ns = to_nanoseconds(message.header.stamp)
        except FrameError as error:
            self._intake.refuse_mask(error)
        else:
            self._intake.take_depth(stamp_ns, partial(to_depth, message))

    def _take_image(self, message: Image | CompressedImage) -> None:
        try:
            stamp_ns = to_nanoseconds(message.header.stamp)
        except FrameError as error:
            self._intake.refuse_image(error)
        else:
            self._intake.take_image(stamp_ns, message.header.frame_id,
                                    partial(self._decode, message))
