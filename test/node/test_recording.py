# SPDX-License-Identifier: Apache-2.0
"""A run that is recorded with its inputs is replayed without ROS, and gives the same map.

`ros2 bag record` is not run: a node subscribes to the topics that the launch file has it record.
"""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import Camera, Mapper, Orbit, Peer, running
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from spann3r_ros.msg import MapperStatus
from synthetic_mapper import CAMERA
from test_toy_network import TOY_PACKAGE, ToyMapper
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from spann3r_ros.cli.main import main
from spann3r_ros.datasets.bag_writer import LATCHED, METADATA_VERSION
from spann3r_ros.networks.registry import network_kinds
from spann3r_ros.tools.launch_plan import BagImages, arguments, make_plan

ROOT = Path(__file__).parents[2]
COUNT = 8
LATE = ('/tf_static', '/mapper/map_points', '/mapper/path', '/mapper/graph')
KINDS = {
    '/tf': TFMessage, '/tf_static': TFMessage, '/camera/image_raw': Image,
    '/camera/camera_info': CameraInfo, '/mapper/points': PointCloud2,
    '/mapper/map_points': PointCloud2, '/mapper/confidence': Image,
    '/mapper/depth/image_rect': Image, '/mapper/depth/camera_info': CameraInfo,
    '/mapper/pose': PoseWithCovarianceStamped, '/mapper/odometry': Odometry,
    '/mapper/path': PathMessage, '/mapper/graph': MarkerArray, '/mapper/status': MapperStatus}
# Nobody publishes them in this run.
SILENT = {'/camera/mask', '/camera/depth', '/depth', '/mask', '/diagnostics', '/mapper/map'}


@pytest.fixture
def mapper(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapper]:
    monkeypatch.setenv('PYTHONPATH', f'{TOY_PACKAGE}:{ROOT}:{os.environ.get("PYTHONPATH", "")}')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.syspath_prepend(str(TOY_PACKAGE))
    (tmp_path / 'orbit.toy').write_text('{}')
    with running(ToyMapper(tmp_path, checkpoint=str(tmp_path / 'orbit.toy'), mode='replay',
                           map_publish_period_sec=0.0)) as mapper:
        peer.until(peer.statuses, 'a first status')
        network_kinds.cache_clear()
        yield mapper
        network_kinds.cache_clear()
        sys.modules.pop('toy_network', None)


class Recorder:
    """Keeps the serialised messages of topics in their order, and writes them as a bag."""

    def __init__(self, peer: Peer, topics: list[str]) -> None:
        self.messages: list[tuple[str, bytes]] = []
        for topic in topics:
            qos = QoSProfile(depth=1000)
            if topic in LATE:
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            peer.node.create_subscription(
                KINDS[topic], topic, lambda data, topic=topic: self.messages.append((topic, data)),
                qos, raw=True)

    def count(self, topic: str) -> int:
        return sum(one == topic for one, _ in self.messages)

    def write(self, path: Path) -> None:
        store, clock = get_typestore(Stores.ROS2_JAZZY), count(10**18, 10**6)
        store.register(get_types_from_msg(
            (ROOT / 'msg' / 'MapperStatus.msg').read_text(), 'spann3r_ros/msg/MapperStatus'))
        with Writer(path, version=METADATA_VERSION) as writer:
            connections = {topic: writer.add_connection(
                topic, f'{KINDS[topic].__module__.split(".")[0]}/msg/{KINDS[topic].__name__}',
                typestore=store, offered_qos_profiles=[LATCHED] if topic in LATE else [])
                for topic in KINDS}
            for topic, data in self.messages:
                writer.write(connections[topic], next(clock), data)


def calibration(index: int, orbit: Orbit) -> CameraInfo:
    info = CameraInfo(height=CAMERA.height, width=CAMERA.width, distortion_model='plumb_bob',
                      d=[0.0] * 5, k=CAMERA.matrix.reshape(-1).tolist())
    info.p = [*info.k[:3], 0.0, *info.k[3:6], 0.0, *info.k[6:], 0.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.header = orbit.image(index).header
    return info


def test_a_recorded_run_is_replayed_to_the_same_map(
        peer: Peer, camera: Camera, orbit: Orbit, mapper: Mapper, tmp_path: Path) -> None:
    given = {name: one.default for name, one in arguments(ROOT).items()} | {
        'image_topic': '/camera/image_raw', 'image_transport': 'raw', 'record_inputs': 'true',
        'recording': str(tmp_path / 'recorded')}
    recorder = make_plan(given, lambda _: BagImages('', False)).recorder
    topics = recorder[recorder.index('--topics') + 1:]
    assert set(KINDS) <= set(topics) <= {*KINDS, *SILENT}
    recorded = Recorder(peer, list(KINDS))
    infos = Camera(peer, CameraInfo, '/camera/camera_info')
    for index in range(COUNT):
        infos.send(calibration(index, orbit))
        camera.send(orbit.image(index))
        peer.until_settled(index + 1)
    assert peer.trigger('/mapper/save_map').success
    for topic, least in (('/camera/image_raw', COUNT), ('/camera/camera_info', COUNT),
                         ('/mapper/odometry', COUNT), ('/mapper/path', 1), ('/tf', 1)):
        peer.until(lambda topic=topic, least=least: recorded.count(topic) >= least, topic)
    recorded.write(tmp_path / 'recorded')

    # Depth and confidence are no cameras: the images are found among the recorded topics.
    output = tmp_path / 'out'
    assert main(['replay', str(tmp_path / 'recorded'), '--checkpoint',
                 str(tmp_path / 'orbit.toy'), '--output', str(output), '--quiet',
                 '--set', 'resampling=exact', '--set', 'keyframes.selection=stride']) == 0
    frames = json.loads((output / 'summary.json').read_text())['frames']
    assert (frames['received'], frames['processed']) == (COUNT, COUNT)
    for name in ('map.ply', 'trajectory.tum'):
        assert (output / 'map' / name).read_bytes() == (
            mapper.map_directory / 'map' / name).read_bytes()


