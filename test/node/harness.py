# SPDX-License-Identifier: Apache-2.0
"""The mapper in its own process, and a node that communicates with it over DDS."""
from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any, TypeVar

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from drawn_index import encode_index
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import ListParameters, SetParametersAtomically
from rclpy.event_handler import QoSSubscriptionMatchedInfo, SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from spann3r_ros.msg import MapperStatus
from std_srvs.srv import SetBool, Trigger
from synthetic import SyntheticScene, orbit_trajectory
from synthetic_mapper import CAMERA, FRAMES

from spann3r_ros.tools.processes import resident_bytes

DEADLINE_SEC = 300.0  # only what has failed waits so long
ANSWER_SEC = 2.0
END_SEC = 10.0
START_NS = 1_700_000_000_123_456_789
PERIOD_NS = 33_333_333
OPTICAL_FRAME = 'camera_optical'
TRANSITIONS = {
    'configure': Transition.TRANSITION_CONFIGURE, 'activate': Transition.TRANSITION_ACTIVATE,
    'deactivate': Transition.TRANSITION_DEACTIVATE, 'cleanup': Transition.TRANSITION_CLEANUP,
}
SERVICES = {
    '/mapper/change_state': ChangeState,
    '/mapper/set_parameters_atomically': SetParametersAtomically,
    '/mapper/reset': Trigger, '/mapper/new_fragment': Trigger, '/mapper/save_map': Trigger,
    '/mapper/load_map': Trigger, '/mapper/set_enabled': SetBool,
    '/mapper/list_parameters': ListParameters, '/mapper/get_state': GetState,
}
Result = TypeVar('Result')
Value = bool | int | float | str
Message = Any  # rclpy's generated classes share no base


def stamp_of(index: int) -> int:
    return START_NS + index * PERIOD_NS


def to_ns(stamp: Time) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def raw_image(rgb: np.ndarray, stamp_ns: int) -> Image:
    height, width, _ = rgb.shape
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width,
                    data=rgb.tobytes())
    message.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    message.header.frame_id = OPTICAL_FRAME
    return message


def compressed(rgb: np.ndarray, stamp_ns: int, suffix: str = '.jpg') -> CompressedImage:
    _, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    message = CompressedImage(header=raw_image(rgb, stamp_ns).header, data=data.tobytes())
    message.format = 'jpeg' if suffix == '.jpg' else 'png'
    return message


class Orbit:
    """The frames of the synthetic mapper."""

    def __init__(self) -> None:
        self.poses = orbit_trajectory(FRAMES)
        scene = SyntheticScene()
        self.rgb = [encode_index(scene.render(pose, CAMERA)[0], index)
                    for index, pose in enumerate(self.poses)]

    def image(self, index: int) -> Image:
        return raw_image(self.rgb[index % len(self.rgb)], stamp_of(index))


class Mapper:
    """The mapper's process; its output goes to `log`."""

    program = Path(__file__).with_name('synthetic_mapper.py')
    remaps = ('image:=/camera/image_raw', 'camera_info:=/camera/camera_info')

    def __init__(self, directory: Path, options: dict[str, Any] | None = None,
                 log_level: str = 'info', **parameters: Value) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if options:
            checkpoint = directory / 'options.json'
            checkpoint.write_text(json.dumps(options))
            parameters['checkpoint'] = str(checkpoint)
        parameters.setdefault('map_directory', str(directory / 'maps'))
        # The fast way needs torch, which takes seconds to load and which nothing else here needs.
        parameters.setdefault('resampling', 'exact')
        # The images of the tests differ much: most of them would be keyframes anyway, but not all.
        parameters.setdefault('keyframes.selection', 'stride')
        arguments = ['--ros-args', '--log-level', f'mapper:={log_level}',
                     *(word for remap in self.remaps for word in ('-r', remap))]
        for name, value in parameters.items():
            arguments += ['-p', f'{name}:={json.dumps(value)}']
        self.map_directory = Path(parameters['map_directory'])
        self.log_path = directory / 'mapper.log'
        with self.log_path.open('w') as log:
            # A session of its own: signals reach it as they would under a launch system.
            self.process = subprocess.Popen(
                [sys.executable, str(self.program), *arguments], stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, 'OMP_NUM_THREADS': '1'})

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def threads(self) -> int:
        return len(os.listdir(f'/proc/{self.process.pid}/task'))

    @property
    def resident_bytes(self) -> int:
        return resident_bytes(self.process.pid)

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SEC)

    def end(self) -> None:
        """Stop it, by force if need be: one that is killed leaves its shared memory behind."""
        if self.alive():
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SEC)
        self.kill()

    def kill(self) -> None:
        if self.alive():
            self.process.kill()
            self.process.wait(DEADLINE_SEC)


class Peer:
    """A node in the test's process: publishes images, collects the mapper's messages.

    All of its names are in a namespace, as those of its mapper.
    """

    def __init__(self, namespace: str = '') -> None:
        self._namespace = namespace
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('peer', context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._closing = Event()
        self._changed = Condition()
        self.received: dict[str, list[Message]] = defaultdict(list)
        self.writers: dict[str, int] = defaultdict(int)  # found by `listen`, by topic
        # Created before the mapper: a server that has not discovered a client loses the response.
        self._clients = {service: self.node.create_client(kind, namespace + service)
                         for service, kind in SERVICES.items()}
        self.is_known = True
        self._thread = Thread(target=self._spin)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def serve(self, node: Node) -> None:
        """Run the callbacks of another node on the thread of this peer's."""
        self._executor.add_node(node)

    def listen(self, kind: type, topic: str, latched: bool = False) -> list[Message]:
        """Collect a topic's messages into the returned list."""
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        def count(matched: QoSSubscriptionMatchedInfo) -> None:
            self.writers[topic] = matched.current_count

        self.node.create_subscription(kind, self._namespace + topic,
                                      lambda message: self._take(topic, message), QoSProfile(
                                          depth=1000, durability=durability),
                                      event_callbacks=SubscriptionEventCallbacks(matched=count))
        self._ask_by_the_last()
        return self.received[topic]

    def publisher(self, kind: type, topic: str, latched: bool = False) -> Publisher:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        made = self.node.create_publisher(kind, self._namespace + topic, QoSProfile(
            depth=1000, durability=durability))
        self._ask_by_the_last()
        return made

    def _ask_by_the_last(self) -> None:
        """Make the client of `_meet` again, after what was made before."""
        self._clients['/mapper/get_state'] = self.node.create_client(
            GetState, self._namespace + '/mapper/get_state')
        self.is_known = False

    def until_read(self, publisher: Publisher) -> None:
        """Wait until the mapper reads a topic and has discovered all that was made here.

        What it has not discovered it does not hear, though it may have been discovered itself.
        """
        self.until(publisher.get_subscription_count, f'the mapper to read {publisher.topic_name}')
        if not self.is_known:
            self._meet()
            self.is_known = True

    def endpoints(self, ask: str, *nodes: str) -> dict[str, list[str]]:
        """Return topics, or services, and their types of nodes, as far as the graph is known."""
        with suppress(NodeNameNonExistentError):
            return {name: kinds for node in nodes
                    for name, kinds in getattr(self.node, ask)(node, '/')}
        return {}

    def until(self, condition: Callable[[], Result], what: str) -> Result:
        """Wait until the condition holds and return its value; fail at the deadline."""
        end = time.monotonic() + DEADLINE_SEC
        while not (result := condition()):
            with self._changed:
                self._changed.wait(0.02)
            assert time.monotonic() < end, f'timed out waiting for {what}'
        return result

    def call(self, service: str, request: Message = None) -> Message:
        self._meet()
        client = self._clients[service]
        self.until(client.service_is_ready, f'service {service}')
        future = client.call_async(request or SERVICES[service].Request())
        self.until(future.done, f'answer of {service}')
        return future.result()

    def trigger(self, service: str) -> Trigger.Response:
        return self.call(service)

    def set_enabled(self, enabled: bool) -> SetBool.Response:
        return self.call('/mapper/set_enabled', SetBool.Request(data=enabled))

    def change_state(self, transition: str) -> bool:
        """Ask for a transition; return whether it was made."""
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[transition]))
        return self.call('/mapper/change_state', request).success

    def state(self) -> str:
        return self._meet().current_state.label

    def _meet(self) -> GetState.Response:
        """Ask for the state until an answer comes; every client is known to the mapper then.

        The middleware drops the answer to a client that the server has not discovered yet, so a
        request that must not be made twice waits for this. Clients are discovered in the order
        in which they were made, and this one is the last.
        """
        client = self._clients['/mapper/get_state']
        begun, asked, futures = time.monotonic(), -math.inf, []

        def answer() -> GetState.Response | None:
            nonlocal asked
            now = time.monotonic()
            # A short timeout: sometimes the acknowledgement of the middleware never comes.
            likely = client.service_is_ready() or now > begun + END_SEC
            if likely and now > asked + ANSWER_SEC:
                asked = now
                futures.append(client.call_async(GetState.Request()))
            return next((future.result() for future in futures if future.done()), None)
        return self.until(answer, 'the state of the mapper')

    def set_text(self, name: str, value: str) -> Message:
        return self.set_parameters({name: value})

    def set_parameters(self, changes: dict[str, Value]) -> Message:
        request = SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in changes.items()])
        return self.call('/mapper/set_parameters_atomically', request).result

    def statuses(self) -> list[MapperStatus]:
        """Begin to collect statuses, at the first call; every one must balance."""
        if '/mapper/status' not in self.received:
            self.listen(MapperStatus, '/mapper/status')
        return self.received['/mapper/status']

    def until_settled(self, received: int) -> MapperStatus:
        """Wait for the status in which this many frames were received and none waits."""
        def settled() -> MapperStatus | None:
            last = self.statuses()[-1] if self.statuses() else None
            done = last and last.frames_received == received and not last.frames_waiting
            return last if done else None
        return self.until(settled, f'{received} settled frames')

    def _take(self, topic: str, message: Message) -> None:
        with self._changed:
            self.received[topic].append(message)
            self._changed.notify_all()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)


class Camera:
    """A reliable image publisher that waits for its reader."""

    def __init__(self, peer: Peer, kind: type = Image,
                 topic: str = '/camera/image_raw') -> None:
        self._peer = peer
        self._publisher = peer.publisher(kind, topic)

    @property
    def readers(self) -> int:
        return self._publisher.get_subscription_count()

    def connect(self) -> None:
        self._peer.until_read(self._publisher)

    def send(self, *messages: Message) -> None:
        self.connect()
        for message in messages:
            self._publisher.publish(message)


@contextmanager
def running(mapper: Mapper) -> Iterator[Mapper]:
    """End the mapper; pytest shows its log with a failure."""
    try:
        yield mapper
    finally:
        mapper.end()
        sys.stderr.write(mapper.log)


def balanced(status: MapperStatus) -> bool:
    return status.frames_received == (
        status.frames_processed + status.frames_skipped + status.frames_dropped
        + status.frames_failed + status.frames_waiting)
