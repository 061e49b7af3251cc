# SPDX-License-Identifier: Apache-2.0
"""The live view of a node: the mapper's messages, as the page asks for them."""
from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from harness import DEADLINE_SEC, Peer
from nav_msgs.msg import Path
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from report_values import room_cloud
from sensor_msgs.msg import CompressedImage
from spann3r_ros.msg import MapperStatus

from spann3r_ros.ros import conversions
from spann3r_ros.ros.live_view import LATCHED, LiveViewNode
from spann3r_ros.tools.launch_plan import arguments, make_plan

ROOT = pathlib.Path(__file__).parents[2]


def ask(node: LiveViewNode, what: str) -> Any:  # noqa: ANN401
    with urllib.request.urlopen(node.server.url + what, timeout=30) as answer:
        return json.load(answer)


def transform_at(x: float, y: float, z: float) -> np.ndarray:
    transform = np.eye(4)
    transform[:3, 3] = x, y, z
    return transform


def jpeg_message() -> CompressedImage:
    data = cv2.imencode('.jpg', np.full((32, 48, 3), 90, np.uint8))[1].tobytes()
    return CompressedImage(format='jpeg', data=data)


def test_cloud_of_the_mapper_is_read_as_it_was_written() -> None:
    cloud = room_cloud(50)
    cloud.points[7] = np.nan
    read = conversions.from_cloud(conversions.map_cloud(cloud, conversions.to_header(1, 'map'),
                                                        10**6))
    kept = np.arange(50) != 7
    assert np.array_equal(read.points, cloud.points[kept])
    assert np.array_equal(read.colors, cloud.colors[kept])
    assert np.array_equal(read.confidence, cloud.confidence[kept])


def test_page_gets_the_newest_messages(peer: Peer) -> None:
    node = LiveViewNode(context=peer.context, parameter_overrides=[Parameter('port', value=0)])
    executor = SingleThreadedExecutor(context=peer.context)
    executor.add_node(node)
    cloud, header = room_cloud(900), conversions.to_header(1, 'map')
    pose = PoseWithCovarianceStamped()
    pose.pose.pose = conversions.to_pose(transform_at(1.0, 2.0, 3.0))
    messages = [
        ('mapper/map_points', conversions.map_cloud(cloud, header, 10**6), LATCHED),
        ('mapper/path', Path(poses=[PoseStamped(pose=pose.pose.pose)] * 3), LATCHED),
        ('mapper/pose', pose, 1), ('mapper/status', MapperStatus(phase='tracking'), 1),
        ('image', conversions.to_float_image(np.zeros((4, 4), np.float32), header), 1),
        ('image/compressed', jpeg_message(), 1)]
    publishers = [(peer.node.create_publisher(type(one), topic, profile), one)
                  for topic, one, profile in messages]
    node._look()
    # Nobody has opened the page.
    assert peer.node.count_subscribers('/mapper/map_points') == 0
    state, deadline_sec = {}, time.monotonic() + DEADLINE_SEC
    try:
        while not (state.get('version') and state['image'] and state['camera']
                   and state['counts']):
            assert time.monotonic() < deadline_sec, state
            for publisher, one in publishers:
                publisher.publish(one)
            executor.spin_once(timeout_sec=0.05)
            state = ask(node, 'state?have=0')
        scene = ask(node, 'map')
        assert peer.node.count_subscribers('/mapper/map_points') == 1
    finally:
        executor.shutdown()
        node.destroy_node()
    assert dict(state['counts'])['state'] == 'tracking'
    assert [row[3] for row in state['camera']['pose']] == [1.0, 2.0, 3.0]
    assert scene['points']['count'] == 900
    assert scene['path'] == [[1.0, 2.0, 3.0]] * 3


def test_node_names_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([sys.executable, '-m', 'spann3r_ros.ros.live_view', '--ros-args',
                               '-p', f'port:={port}'], capture_output=True, text=True,
                              timeout=DEADLINE_SEC, check=False)
    assert done.returncode == 1
    assert f'port {port} of 127.0.0.1 cannot be used for the live view' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('port', ['-1', '65536', 'no'])
def test_launch_names_a_port_that_is_none(port: str) -> None:
    values = {name: one.default for name, one in arguments(ROOT).items()}
    with pytest.raises(ValueError, match='view_port: expected a number from 0 to 65535, got'):
        make_plan(values | {'view_port': port}, lambda _: None)
