# SPDX-License-Identifier: Apache-2.0
"""A message without subscribers is not built; late subscribers get latched messages."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from inspect import getmembers, isfunction

import numpy as np
import pytest
from harness import Peer
from nav_msgs.msg import Path
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import PointCloud2

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import Pointmap, StampedPose
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.mapper_config import VoxelMapConfig
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.pipeline.node_settings import Settings
from spann3r_ros.ros import conversions
from spann3r_ros.ros.outputs import publishers as publishers_module
from spann3r_ros.ros.outputs.publishers import MapPublishers
from spann3r_ros.ros.tf.listener import ListeningThread
from spann3r_ros.ros.tf.tf_bridge import TfBridge

MESSAGES = ('PointCloud2', 'Image', 'CameraInfo', 'PoseWithCovarianceStamped', 'Odometry')
CONVERTERS = [name for name, function in getmembers(conversions, isfunction)
              if function.__annotations__['return'] in MESSAGES]


@pytest.fixture
def node(peer: Peer) -> Iterator[LifecycleNode]:
    node = LifecycleNode('mapper', context=peer.context)
    yield node
    node.destroy_node()


@pytest.fixture
def publishers(node: LifecycleNode) -> Iterator[MapPublishers]:
    node.trigger_configure()
    settings, listening = Settings(), ListeningThread(node)
    bridge = TfBridge(node, settings.node, listening)
    publishers = MapPublishers(node, settings, bridge.roles)
    yield publishers
    publishers.destroy()
    bridge.destroy()
    listening.stop()


def keyframe() -> Keyframe:
    points = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    pose = StampedPose(1, 'camera', np.eye(4))
    return Keyframe(1, 'camera', pose, np.zeros((8, 8, 3), np.uint8),
                    Intrinsics(8.0, 8.0, 3.5, 3.5, 8, 8),
                    Pointmap(points, np.full((8, 8), 0.5, np.float32)), 0)


def voxel_map(frame: Keyframe) -> VoxelMap:
    voxels = VoxelMap(VoxelMapConfig(voxel_size=0.01))
    voxels.integrate(frame.pointmap.points.reshape(-1, 3), frame.image.reshape(-1, 3),
                     frame.pointmap.confidence.reshape(-1))
    return voxels


@dataclass
class Clock:
    now_sec: float = 100.0


def test_without_subscribers_nothing_is_converted(
        node: LifecycleNode, publishers: MapPublishers,
        monkeypatch: pytest.MonkeyPatch) -> None:
    node.trigger_activate()
    called = []
    for name in CONVERTERS:
        monkeypatch.setattr(conversions, name, lambda *_, name=name: called.append(name))
    for name in ('depth_of', 'Path'):
        monkeypatch.setattr(publishers_module, name,
                            lambda *_, name=name, **__: called.append(name))
    assert {'map_cloud', 'to_odometry', 'to_pose_with_covariance'} <= set(CONVERTERS)
    frame = keyframe()
    live = StampedPose(2, 'camera', np.eye(4))
    publishers.publish(MapUpdate(keyframes=(frame,), live_pose=live), voxel_map(frame))
    assert called == []


def test_a_cloud_that_is_too_far_for_its_numbers_is_reported_once(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer,
        monkeypatch: pytest.MonkeyPatch) -> None:
    warned = []
    monkeypatch.setattr(type(node.get_logger()), 'warning',
                        lambda logger, text, **_: warned.append(text))
    node.trigger_activate()
    heard = peer.listen(PointCloud2, '/mapper/points')
    peer.until(lambda: node.count_subscribers('/mapper/points'), 'the listener')
    near = keyframe()
    far = replace(near, pointmap=replace(near.pointmap, points=near.pointmap.points + 5e6))
    voxels = voxel_map(near)
    for index, frame in enumerate((near, far, far), start=1):
        update = MapUpdate(keyframes=(frame,))
        peer.until(lambda update=update, index=index: publishers.publish(update, voxels)
                   or len(heard) >= index, 'a cloud')
        assert len(warned) == (index > 1)
    assert 'in float32, are 0.5 apart, with voxels of 0.01' in warned[0]
    publishers.begin(voxels)
    publishers.publish(MapUpdate(keyframes=(far,)), voxels)
    assert len(warned) == 2


def test_an_inactive_node_publishes_nothing_to_its_subscribers(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    heard = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    peer.until(lambda: node.count_subscribers('/mapper/points'), 'the listener')
    frame = keyframe()
    voxels = voxel_map(frame)
    publishers.publish(MapUpdate(keyframes=(frame,)), voxels)
    node.trigger_activate()
    publishers.refresh(voxels, force=True)
    peer.until(lambda: heard, 'the map')
    assert heard[0].width == len(voxels)
    assert clouds == []


def test_map_is_throttled_and_published_later(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer) -> None:
    node.trigger_activate()
    heard = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    points = peer.listen(PointCloud2, '/mapper/points')
    peer.until(lambda: node.count_subscribers('/mapper/map_points')
               and node.count_subscribers('/mapper/points'), 'the listeners')
    frame = keyframe()
    voxels = voxel_map(frame)
    for _ in range(5):
        publishers.publish(MapUpdate(keyframes=(frame,)), voxels)
    peer.until(lambda: len(points) == 5, 'every keyframe')
    assert len(heard) == 1
    voxels.clear()
    peer.until(lambda: publishers.refresh(voxels) or len(heard) == 2, 'the later map')
    assert heard[1].width == 0


def test_a_map_that_takes_long_to_publish_is_published_less_often(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer,
        monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(publishers_module, 'monotonic', lambda: clock.now_sec)
    convert = conversions.map_cloud

    def slowly(*arguments: object) -> PointCloud2:
        clock.now_sec += 0.2
        return convert(*arguments)
    monkeypatch.setattr(conversions, 'map_cloud', slowly)
    node.trigger_activate()
    heard = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    peer.until(lambda: node.count_subscribers('/mapper/map_points'), 'the listener')
    frame = keyframe()
    published = []
    for wait_sec in (0.0, 2.0, 2.1):
        clock.now_sec += wait_sec
        before = clock.now_sec
        publishers.publish(MapUpdate(keyframes=(frame,)), voxel_map(frame))
        published.append(clock.now_sec > before)
    assert published == [True, False, True]
    peer.until(lambda: len(heard) == 2, 'two maps')


@pytest.mark.parametrize('failing, topic, kind', [
    ('map_cloud', '/mapper/map_points', PointCloud2), ('to_header', '/mapper/path', Path)])
def test_a_map_that_could_not_be_published_is_published_later(
        failing: str, topic: str, kind: type, node: LifecycleNode, publishers: MapPublishers,
        peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(publishers_module, 'monotonic', lambda: clock.now_sec)
    node.trigger_activate()
    heard = peer.listen(kind, topic, latched=True)
    peer.until(lambda: node.count_subscribers(topic), 'the listener')
    frame = keyframe()
    voxels = voxel_map(frame)
    publishers.publish(MapUpdate(keyframes=(frame,)), voxels)
    peer.until(lambda: publishers.refresh(voxels) or heard, 'the first one')
    clock.now_sec += 60.0
    publishers.publish(MapUpdate(keyframes=(frame,)), voxels)
    peer.until(lambda: len(heard) == 2, 'the second one')

    def fail(*_: object) -> None:
        raise MemoryError('no room for the message')
    clock.now_sec += 60.0
    with monkeypatch.context() as patch:
        patch.setattr(conversions, failing, fail)
        publishers._changed = dict.fromkeys(publishers._changed, True)
        with pytest.raises(MemoryError):
            publishers.refresh(voxels)
    publishers.refresh(voxels)
    assert len(heard) == 2
    clock.now_sec += 60.0
    publishers.refresh(voxels)
    peer.until(lambda: len(heard) == 3, 'the one that failed before')
