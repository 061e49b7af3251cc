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
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas, PathView
from spann3r_ros.mapping.fragments.graph_view import GraphView, view_graph
from spann3r_ros.mapping.layers.voxel_map import VoxelMap, VoxelSnapshot
from spann3r_ros.mapping.mapper_config import MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.pipeline.node_settings import NodeConfig, Settings
from spann3r_ros.ros import conversions
from spann3r_ros.ros.outputs import latched_views
from spann3r_ros.ros.outputs.latched_views import LatchedViews
from spann3r_ros.ros.outputs.publishers import MapPublishers
from spann3r_ros.ros.tf.listener import ListeningThread
from spann3r_ros.ros.tf.tf_bridge import TfBridge

MESSAGES = ('bytes', 'PointCloud2', 'Image', 'CameraInfo', 'PoseWithCovarianceStamped', 'Odometry',
            'OccupancyGrid')
CONVERTERS = [name for name, function in getmembers(conversions, isfunction)
              if function.__annotations__['return'] in MESSAGES]


@pytest.fixture
def publishers(node: LifecycleNode) -> Iterator[MapPublishers]:
    node.trigger_configure()
    settings, listening = Settings(), ListeningThread(node)
    bridge = TfBridge(node, settings.node, listening, node.get_logger().warning)
    failed = []
    publishers = MapPublishers(node, settings, bridge.roles, failed.append)
    yield publishers
    publishers.destroy()
    assert failed == []
    bridge.destroy()
    listening.stop()


class OneMap:
    """A mapper with one keyframe, or none."""

    grid_reason = 'the map has no grid'
    is_located = True

    def __init__(self) -> None:
        self.voxel_map = self._layer = VoxelMap(VoxelMapConfig(voxel_size=0.01, edge_jump=0.0))
        self.voxel_size = 0.01
        self._atlas = Atlas(MapperConfig(), (self._layer,))

    def add(self, frame: Keyframe) -> MapUpdate:
        self._atlas.add(frame, frame.points_in(np.eye(4)))
        return MapUpdate(keyframes=(frame,), places={0: np.eye(4)})

    def snapshot(self) -> VoxelSnapshot:
        return self._layer.snapshot(self._atlas.located_stores(self._layer.name))

    def path(self) -> PathView:
        return self._atlas.path()

    def graph(self) -> GraphView:
        return view_graph(self._atlas)


def keyframe() -> Keyframe:
    rng = np.random.default_rng(0)
    return Keyframe(1, 'camera', 0, np.zeros((8, 8, 3), np.uint8),
                    Intrinsics(8.0, 8.0, 3.5, 3.5, 8, 8),
                    rng.uniform(1.0, 2.0, (8, 8)).astype(np.float32),
                    np.full((8, 8), 0.5, np.float32), FragmentPose(1, 'camera', 0, np.eye(4)))


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
    assert {'map_cloud', 'to_odometry', 'to_pose_with_covariance',
            'serialized_path'} <= set(CONVERTERS)
    mapper = OneMap()
    for name in ('snapshot', 'path', 'graph'):
        monkeypatch.setattr(mapper, name, lambda *_, name=name: called.append(name))
    live = FragmentPose(2, 'camera', 0, np.eye(4))
    publishers.publish(replace(mapper.add(keyframe()), live_pose=live), mapper)
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
    mapper, far = OneMap(), np.eye(4)
    far[:3, 3] = 5e6
    near = mapper.add(keyframe())
    for index, update in enumerate((near, *[replace(near, places={0: far})] * 2), start=1):
        peer.until(lambda update=update, index=index: publishers.publish(update, mapper)
                   or len(heard) >= index, 'a cloud')
        assert len(warned) == (index > 1)
    assert 'in float32, are 0.5 apart, with voxels of 0.01' in warned[0]
    publishers.begin(mapper)
    publishers.publish(replace(near, places={0: far}), mapper)
    assert len(warned) == 2


def test_an_inactive_node_publishes_nothing_to_its_subscribers(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer) -> None:
    clouds = peer.listen(PointCloud2, '/mapper/points')
    heard = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    peer.until(lambda: node.count_subscribers('/mapper/points'), 'the listener')
    mapper = OneMap()
    publishers.publish(mapper.add(keyframe()), mapper)
    node.trigger_activate()
    publishers.refresh(mapper, force=True)
    peer.until(lambda: heard, 'the map')
    assert heard[0].width == 64
    assert clouds == []


def test_late_listeners_get_map_and_path_once(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer) -> None:
    node.trigger_activate()
    mapper = OneMap()
    publishers.publish(mapper.add(keyframe()), mapper)
    maps = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    paths = peer.listen(Path, '/mapper/path', latched=True)
    peer.until(lambda: publishers.refresh(mapper) or (maps and paths), 'map and path')
    # The first listeners hear nothing of the later ones: `peer` collects both by topic.
    peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    peer.listen(Path, '/mapper/path', latched=True)
    peer.until(lambda: publishers.refresh(mapper) or (len(maps) == len(paths) == 2), 'again')
    publishers.publish(mapper.add(replace(keyframe(), stamp_ns=2)), mapper)
    peer.until(lambda: publishers.refresh(mapper) or (len(maps) >= 4 and len(paths) >= 4),
               'the map with two keyframes')
    assert [len(path.poses) for path in paths] == [1, 1, 2, 2]
    assert len(maps) == 4


def test_map_is_throttled_and_published_later(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer) -> None:
    node.trigger_activate()
    heard = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    points = peer.listen(PointCloud2, '/mapper/points')
    peer.until(lambda: node.count_subscribers('/mapper/map_points')
               and node.count_subscribers('/mapper/points'), 'the listeners')
    mapper = OneMap()
    for _ in range(5):
        publishers.publish(mapper.add(keyframe()), mapper)
    peer.until(lambda: len(points) == 5, 'every keyframe')
    peer.until(lambda: len(heard) == 1, 'the first map')
    empty = OneMap()
    peer.until(lambda: publishers.refresh(empty) or len(heard) == 2, 'the later map')
    assert heard[1].width == 0


def test_other_settings_publish_the_map_once_more_without_an_image(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer) -> None:
    node.trigger_activate()
    heard = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    mapper = OneMap()
    publishers.publish(mapper.add(keyframe()), mapper)
    peer.until(lambda: publishers.refresh(mapper) or heard, 'the map')
    assert heard[0].width == 64
    publishers.configure(Settings(NodeConfig(map_publish_period_sec=0.0, max_cloud_bytes=1000)))
    peer.until(lambda: publishers.refresh(mapper) or len(heard) == 2, 'a smaller map')
    assert 0 < heard[1].width < 64


def test_a_map_that_takes_long_to_publish_is_published_less_often(
        node: LifecycleNode, publishers: MapPublishers, peer: Peer,
        monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(latched_views, 'monotonic', lambda: clock.now_sec)
    convert = conversions.map_cloud

    def slowly(*arguments: object) -> PointCloud2:
        clock.now_sec += 0.2
        return convert(*arguments)
    monkeypatch.setattr(conversions, 'map_cloud', slowly)
    node.trigger_activate()
    heard = peer.listen(PointCloud2, '/mapper/map_points', latched=True)
    peer.until(lambda: node.count_subscribers('/mapper/map_points'), 'the listener')
    mapper, published = OneMap(), []
    for wait_sec in (0.0, 2.0, 2.1):
        clock.now_sec += wait_sec
        before = len(heard)
        publishers.publish(mapper.add(keyframe()), mapper)
        if wait_sec != 2.0:
            peer.until(lambda before=before: len(heard) == before + 1, 'a map')
        published.append(len(heard) > before)
    assert published == [True, False, True]


@pytest.mark.parametrize(('module', 'failing', 'topic', 'kind'), [
    (conversions, 'map_cloud', '/mapper/map_points', PointCloud2),
    (conversions, 'serialized_path', '/mapper/path', Path),
    (latched_views, 'graph_markers', '/mapper/graph', MarkerArray)])
def test_a_map_that_could_not_be_published_is_published_later(
        module: object, failing: str, topic: str, kind: type, node: LifecycleNode, peer: Peer,
        monkeypatch: pytest.MonkeyPatch) -> None:
    clock, failures = Clock(), []
    monkeypatch.setattr(latched_views, 'monotonic', lambda: clock.now_sec)
    node.trigger_configure()
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    views = LatchedViews(*(
        node.create_lifecycle_publisher(message, name, qos) for message, name in (
            (PointCloud2, '/mapper/map_points'), (Path, '/mapper/path'),
            (MarkerArray, '/mapper/graph'))), 1.0, 10**6, failures.append)
    node.trigger_activate()
    heard = peer.listen(kind, topic, latched=True)
    peer.until(lambda: node.count_subscribers(topic), 'the listener')
    mapper, header = OneMap(), conversions.to_header(10**9, 'map')
    mapper.add(keyframe())

    def fail(*_: object) -> None:
        raise MemoryError('no room for the message')
    with monkeypatch.context() as patch:
        patch.setattr(module, failing, fail)
        views.change()
        views.refresh(mapper, header)
        peer.until(lambda: failures, 'the failure')
    assert isinstance(failures[0], MemoryError)
    views.refresh(mapper, header)  # not sooner than what succeeds
    assert not heard
    clock.now_sec += 60.0
    peer.until(lambda: views.refresh(mapper, header) or heard, 'what failed before')
    clock.now_sec += 60.0
    views.refresh(mapper, header)  # nothing has changed
    views.destroy()
    assert len(heard) == len(failures) == 1
