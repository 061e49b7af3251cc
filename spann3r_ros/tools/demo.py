# SPDX-License-Identifier: Apache-2.0
"""Runs the mapper and the bag player, each in its own process, and records counts and times.

The processes use a DDS domain of their own, on this machine only. The results are in the output
folder: the directory map, run.json, and a log of each process. `spann3r report` reads them.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger
from tqdm import tqdm

from spann3r_ros import share_directory
from spann3r_ros.core.files import write_json
from spann3r_ros.core.messages import to_nanoseconds
from spann3r_ros.datasets.bags import COMPRESSED, CameraBag, TopicNames, base_topic, info_topic
from spann3r_ros.mapping.storage.manifest import read_manifest
from spann3r_ros.msg import MapperStatus
from spann3r_ros.pipeline.node_settings import read_yaml
from spann3r_ros.viewer.run_record import RunRecord, Sample, metric_scale

from .player import settled
from .processes import Child, ProcessError, private_domain

MAPPER = ('-m', 'spann3r_ros.ros.mapper_node')
LIVE_VIEW = ('-m', 'spann3r_ros.ros.live_view')
PLAYER = ('-m', 'spann3r_ros.tools.bag_player')
PROFILE = 'FASTRTPS_DEFAULT_PROFILES_FILE'
SPIN_SEC = 0.05
ASK_SEC = 2.0
LAST_STATUS_SEC = 2.0
STATUS_DEPTH = 100
# Files of an earlier run are removed first, so that they are not taken for results of this one.
PRODUCTS = ('map/manifest.json', 'map/map.ply', 'map/trajectory.tum', 'run.json', 'map.png',
            'report.html')


@dataclass(frozen=True)
class DemoOptions:
    """The bag, the mapper and the folder of the results."""

    bag: Path
    topic: str = ''
    checkpoint: str = ''
    device: str = 'auto'
    output: Path = Path('output')
    parameters: Path | None = None
    patience_sec: float = 120.0
    view: bool = False
    view_port: int = 8090
    mapper: tuple[str, ...] = MAPPER


@dataclass(frozen=True)
class DemoRun:
    """The results of a run: final counts, times, and the response to ~/save_map.

    `samples` are the columns of a `RunRecord`. `settings` are the parameters that were given to
    the mapper. `metres` is the length of a map unit; None if the map is not metric.
    """

    bag: str
    images: int
    received: int
    processed: int
    skipped: int
    dropped: int
    failed: int
    voxels: int
    working_frames: int
    long_term_tokens: int
    device_bytes: int
    wall_sec: float
    latencies_sec: list[float]
    inference_sec: list[float]
    saved: bool
    message: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    network: str = ''
    metres: float | None = None


class Watcher(Node):
    """Receives every status of the mapper, in order."""

    def __init__(self) -> None:
        super().__init__('demo')
        self.last: MapperStatus | None = None
        self.latencies_sec: list[float] = []
        self.inference_sec: list[float] = []
        self.record = RunRecord()
        self.first_sec = self.last_sec = 0.0
        self.create_subscription(MapperStatus, '/mapper/status', self._take, STATUS_DEPTH)
        # Endpoints are discovered in the order of their creation: once the mapper answers the
        # second client, it has discovered the first one too.
        self._save = self.create_client(Trigger, '/mapper/save_map')
        self._get_state = self.create_client(GetState, '/mapper/get_state')

    def _take(self, status: MapperStatus) -> None:
        before = self.last
        self.last = status
        if status.frames_received and not self.first_sec:
            self.first_sec = monotonic()
        if before is None or settled(status) > settled(before):
            self.last_sec = monotonic()
        # Only one image is in the mapper at a time, so each processed image has its own status.
        if status.frames_processed > (before.frames_processed if before else 0):
            self.latencies_sec.append(status.latency_last_sec)
            self.inference_sec.append(status.inference_last_sec)
            self.record.add(to_sample(status))

    def state(self, check: Callable[[], None], patience_sec: float) -> str:
        """Return the mapper's lifecycle state; it responds after its automatic start.

        The request is repeated, because the middleware drops the response to a client that the
        server has not discovered yet.
        """
        wait(self, self._get_state.service_is_ready, patience_sec, 'no mapper was found', check)
        asked_sec, futures = -math.inf, []

        def answered() -> bool:
            nonlocal asked_sec
            if monotonic() > asked_sec + ASK_SEC:
                asked_sec = monotonic()
                futures.append(self._get_state.call_async(GetState.Request()))
            return any(future.done() for future in futures)
        wait(self, answered, patience_sec, 'the mapper was not ready', check)
        return next(future.result() for future in futures if future.done()).current_state.label

    def save(self, check: Callable[[], None], patience_sec: float) -> Trigger.Response:
        """Request ~/save_map, which ends the recording and writes the map; return the response."""
        future = self._save.call_async(Trigger.Request())
        wait(self, future.done, patience_sec, 'the mapper did not save its map', check)
        return future.result()


def wait(node: Node, condition: Callable[[], bool], patience_sec: float, complaint: str,
         check: Callable[[], None]) -> None:
    """Spin until the condition is true; raise ProcessError after `patience_sec`.

    `check` is called repeatedly and may raise.
    """
    deadline_sec = monotonic() + patience_sec
    while not condition():
        check()
        if monotonic() > deadline_sec:
            raise ProcessError(f'{complaint} in {patience_sec:g} s')
        rclpy.spin_once(node, timeout_sec=SPIN_SEC)


def play_through(options: DemoOptions, stop: Event,
                 watch: Callable[[], Watcher] = Watcher) -> DemoRun:
    """Play a bag through a mapper and return the results; `watch` makes the node that listens.

    Raises BagError for a bag or topic that cannot be played, ProcessError when a process fails,
    and KeyboardInterrupt after `stop` was set.
    """
    with CameraBag(options.bag, TopicNames(options.topic)) as bag:
        images, image_topic = bag.count, bag.image.topic
        compressed = bag.is_compressed
        sys.stderr.writelines(f'demo: {text}\n' for text in bag.warnings)
    output = options.output
    output.mkdir(parents=True, exist_ok=True)
    for name in PRODUCTS:
        (output / name).unlink(missing_ok=True)
    with ExitStack() as stack:
        os.environ |= {'ROS_DOMAIN_ID': str(stack.enter_context(private_domain())),
                       'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
        os.environ.pop('ROS_LOCALHOST_ONLY', None)
        os.environ.setdefault(PROFILE, str(share_directory() / 'config' / 'fastdds.xml'))
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        watcher = watch()
        stack.callback(watcher.destroy_node)
        mapper = stack.enter_context(
            Child(mapper_command(options, image_topic, compressed), output / 'mapper.log'))
        children = [mapper]
        if options.view:
            children.append(stack.enter_context(
                Child(view_command(options, image_topic), output / 'live_view.log')))
            where = (f'http://127.0.0.1:{options.view_port}/' if options.view_port
                     else f'see {output / "live_view.log"}')
            sys.stderr.write(f'live view: {where}\n')

        def check() -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            for child in children:
                child.check()
            if mapper.status is not None:
                raise mapper.failure('ended before the bag did')

        state = watcher.state(check, options.patience_sec)
        if state != 'active':
            raise mapper.failure(f'is {state}, not active')
        # The player starts after the first status was received: a status that is missed would
        # lose the latency of its frame.
        wait(watcher, lambda: watcher.last is not None, options.patience_sec,
             'the mapper published no status', check)
        player = stack.enter_context(
            Child(player_command(options, image_topic, compressed), output / 'player.log'))
        children.append(player)
        follow(watcher, images, player, check, options.patience_sec)
        if settled(watcher.last) < images:
            images = count_readable(options.bag, image_topic)
        answer = watcher.save(check, options.patience_sec)
        return to_run(watcher, options, images, compressed, answer)


def follow(watcher: Watcher, images: int, player: Child, check: Callable[[], None],
           patience_sec: float) -> None:
    """Show progress until every image is finished; raise ProcessError if an image is lost.

    The player ends when the mapper has finished all that it sent, which may be less than `images`
    where a part of the bag is damaged.
    """
    with tqdm(total=images, unit='frame', desc='mapping') as bar:
        while settled(watcher.last) < images and player.status != 0:
            done = settled(watcher.last)
            bar.update(done - bar.n)
            wait(watcher, lambda done=done: settled(watcher.last) > done or player.status == 0,
                 patience_sec, 'the mapper finished no frame', check)
        # The status of the last image may come after the player's end.
        deadline_sec = monotonic() + LAST_STATUS_SEC
        while settled(watcher.last) < images and monotonic() < deadline_sec:
            check()
            rclpy.spin_once(watcher, timeout_sec=SPIN_SEC)
        bar.update(settled(watcher.last) - bar.n)


def count_readable(path: Path, topic: str) -> int:
    """Return how many images of a bag can be read; print what is damaged."""
    with CameraBag(path, TopicNames(topic)) as bag:
        known = bag.warnings
        for _ in bag.raw():
            pass
        sys.stderr.writelines(f'demo: {text}\n' for text in bag.warnings if text not in known)
        return bag.count


def to_sample(status: MapperStatus) -> Sample:
    """Return the sample of the newest processed frame."""
    return Sample(
        to_nanoseconds(status.header.stamp), status.latency_last_sec, status.inference_last_sec,
        status.confidence, status.memory_tokens, status.memory_capacity_tokens,
        status.device_bytes, status.keyframe_bytes, status.voxels, status.fragments,
        status.loops_accepted, status.loops_rejected,
        *metric_scale(status.metric, status.scale, status.scale_variance))


def parameters_of(options: DemoOptions, compressed: bool) -> dict[str, str]:
    """Return the parameters that the demo gives to the mapper."""
    return {'mode': 'replay', 'device': options.device, 'checkpoint': options.checkpoint,
            'map_directory': str(options.output.resolve()),
            'image_transport': 'compressed' if compressed else 'raw'}


def mapper_command(options: DemoOptions, topic: str, compressed: bool) -> list[str]:
    """Return the arguments of the interpreter that run the mapper."""
    settings = [f'{name}:={json.dumps(text)}'
                for name, text in parameters_of(options, compressed).items()]
    remaps = [f'image:={base_topic(topic)}', f'camera_info:={info_topic(topic)}']
    file = ['--params-file', str(options.parameters)] if options.parameters else []
    return [*options.mapper, '--ros-args', *file,
            *(word for setting in settings for word in ('-p', setting)),
            *(word for remap in remaps for word in ('-r', remap))]


def view_command(options: DemoOptions, topic: str) -> list[str]:
    """Return the arguments of the interpreter that run the live view."""
    return [*LIVE_VIEW, '--ros-args', '-p', f'port:={options.view_port}',
            '-r', f'image:={base_topic(topic)}']


def player_command(options: DemoOptions, topic: str, compressed: bool) -> list[str]:
    """Return the arguments of the interpreter that run the bag player."""
    command = [*PLAYER, '--bag', str(options.bag), '--topic', topic, '--rate', '0',
               '--window', '1', '--patience-sec', str(options.patience_sec), '--quiet']
    if compressed and not topic.endswith(COMPRESSED):
        # The mapper expects compressed images on the topic that image_transport would use.
        command += ['--ros-args', '-r', f'{topic}:={topic}{COMPRESSED}']
    return command


def to_run(watcher: Watcher, options: DemoOptions, images: int, compressed: bool,
           answer: Trigger.Response) -> DemoRun:
    """Return the results of the run; the voxels are those of the saved map."""
    last, voxels = watcher.last, 0
    settings = read_yaml(options.parameters) if options.parameters else {}
    if answer.success:
        voxels = read_manifest(options.output / 'map').values['counts']['points']
    return DemoRun(
        bag=str(options.bag.resolve()), images=images, received=last.frames_received,
        processed=last.frames_processed, skipped=last.frames_skipped,
        dropped=last.frames_dropped, failed=last.frames_failed, voxels=voxels,
        working_frames=last.working_frames, long_term_tokens=last.long_term_tokens,
        device_bytes=last.device_bytes, wall_sec=watcher.last_sec - watcher.first_sec,
        latencies_sec=watcher.latencies_sec, inference_sec=watcher.inference_sec,
        saved=answer.success, message=answer.message, samples=watcher.record.columns(),
        settings=settings | parameters_of(options, compressed), network=last.network,
        metres=last.scale if last.metric else None)


def parse(arguments: Sequence[str] | None) -> DemoOptions:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog='demo', description='Play a bag into the mapper.')
    parser.add_argument('--bag', type=Path, help='rosbag2 folder or file; default: bundled')
    parser.add_argument('--topic', default='',
                        help='image topic; default: that of the only camera')
    parser.add_argument('--checkpoint', default='', help='weights; default: the bundled model')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--output', type=Path, default=Path('output'),
                        help='folder of the results (default: %(default)s)')
    parser.add_argument('--params-file', type=Path, help="the mapper's parameters as YAML")
    parser.add_argument('--view', action='store_true',
                        help='show the growing map in a browser of this machine')
    parser.add_argument('--view-port', type=int, default=8090, help='(default: %(default)s)')
    parser.add_argument('--patience-sec', type=float, default=120.0, help=(
        'fail after so many seconds without progress (default: %(default)s)'))
    args = parser.parse_args(arguments)
    bag = args.bag or share_directory() / 'bags' / 'demo_room'
    checkpoint = str(Path(args.checkpoint).resolve()) if args.checkpoint else ''
    return DemoOptions(bag, args.topic, checkpoint, args.device, args.output, args.params_file,
                       args.patience_sec, args.view, args.view_port)


@contextmanager
def signals_noted() -> Iterator[Event]:
    """Yield an event that SIGINT and SIGTERM set.

    An exception from a signal handler could occur after a process was started and before it is
    stored; the process would then never be stopped.
    """
    stop = Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None, mapper: tuple[str, ...] = MAPPER) -> Path:
    """Run the demo and return the folder of its results; raise SystemExit with the error."""
    options = replace(parse(arguments), mapper=mapper)
    try:
        with signals_noted() as stop:
            run = play_through(options, stop)
    except (ValueError, OSError, ProcessError) as error:
        raise SystemExit(f'demo: {error}') from error
    except KeyboardInterrupt as error:
        raise SystemExit(130) from error
    write_json(options.output / 'run.json', asdict(run))
    return options.output
