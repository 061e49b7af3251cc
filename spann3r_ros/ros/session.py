# SPDX-License-Identifier: Apache-2.0
"""The session of the node from configure to cleanup: runner, inputs, outputs."""
from __future__ import annotations

import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Lock
from time import monotonic

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.logging import LoggingSeverity

from spann3r_ros.core.transforms import MAP_FROM_OPTICAL
from spann3r_ros.core.types import DeviceMemoryError, Frame, FrameError
from spann3r_ros.mapping.front_end import TIME_JUMPED
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MappingStatus, MapUpdate
from spann3r_ros.mapping.storage.map_directory import MapSnapshot, read_map, snapshot_map
from spann3r_ros.msg import MapperStatus
from spann3r_ros.pipeline.image_clock import JUMPED, Jump
from spann3r_ros.pipeline.intake import Intake
from spann3r_ros.pipeline.node_settings import Settings
from spann3r_ros.pipeline.runner import Runner
from spann3r_ros.pipeline.sync.camera_sync import Expected

from .conversions import to_hint, to_status
from .inputs.camera_watch import CameraWatch
from .inputs.initial_pose import InitialPose
from .inputs.subscriptions import InputSubscriptions
from .logs import Repetitions
from .outputs.diagnostics import ERROR, WARN, Diagnostics, Health
from .outputs.publishers import MapPublishers
from .tf.listener import ListeningThread
from .tf.tf_bridge import TfBridge

STATUS_PERIOD_SEC = 1.0


class Session:
    """Connects a runner with the node's topics; receives the reports of worker and intake.

    Public methods are called on the executor's thread. `deliver` and the public methods after it
    are called on the worker's thread.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, mapper: Mapper,
                 listening: ListeningThread) -> None:
        self._node = node
        self._settings = settings
        self._last_error = ''
        self._health = self._shown_health = Health()
        self._repetitions = Repetitions()
        self._intake: Intake | None = None
        self._inputs: InputSubscriptions | None = None
        self._initial_pose: InitialPose | None = None
        self._watch: CameraWatch | None = None
        self._enabled = True
        self._warned_of_clock = False
        self._refreshing: Future | None = None
        # Encodes and writes maps, beside the executor and the worker.
        self._files = ThreadPoolExecutor(1, 'map_files')
        self._status_lock = Lock()
        self._tf = TfBridge(node, settings.node, listening, self.input_fault)
        self._publishers = MapPublishers(node, settings, self._tf.roles,
                                         self.report_failed)
        self._diagnostics = Diagnostics(node, settings.node.diagnostics)
        # Wall time: the status is published also while /clock stands still or has not started.
        self._timer = node.create_timer(STATUS_PERIOD_SEC, self._tick,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._runner = Runner(mapper, settings.node.mode == 'replay', self)

    def activate(self) -> None:
        """Subscribe to the inputs and accept images."""
        self._runner.slot.open()
        intake = Intake(self._settings.node, self._runner, self._tf.tree, self,
                        self._expected())
        intake.enabled = self._enabled
        self._inputs = InputSubscriptions(self._node, self._settings.node, intake)
        self._initial_pose = InitialPose(self._node, self._settings.node.map_frame,
                                         self._take_hint, self.input_fault)
        self._watch = CameraWatch(self._node, self._inputs.images,
                                  self._runner.slot.accounts().received)
        self._intake = intake
        self._tf.begin(intake.match, lambda: intake.waiting > 0)
        self.publish_status()

    def deactivate(self) -> None:
        """Accept no more images, drop waiting ones, finish the one in progress; keep the map."""
        if self._intake is None:
            return
        self._tf.end()
        self._inputs.destroy()
        self._initial_pose.destroy()
        self._intake.drop_waiting()
        self._intake = self._inputs = self._initial_pose = self._watch = None
        self._runner.slot.close()
        self._runner.call(lambda: self._publishers.pause(self._runner.mapper))
        self.publish_status()
        self._node.get_logger().info(
            f'deactivated: {self._runner.slot.accounts().received} images received, the map has '
            f'{self._runner.map_status.keyframes} keyframes')

    def close(self) -> None:
        """Stop the worker and destroy everything that the constructor created.

        If one of the steps raises, for example the network's reset, the others are done as well.
        """
        with ExitStack() as steps:
            steps.callback(self._diagnostics.destroy)
            steps.callback(self._tf.destroy)
            steps.callback(self._publishers.destroy)
            steps.callback(self._files.shutdown)
            steps.callback(self._runner.stop)
            steps.callback(self._node.destroy_timer, self._timer)
            self.deactivate()

    def configure(self, settings: Settings) -> None:
        """Apply settings that differ only in what needs no reload, after the waiting frame."""
        self._settings = settings
        if self._intake is not None:
            self._intake.configure(settings.node)
        self._tf.configure(settings.node)
        with self._status_lock:
            self._diagnostics.configure(settings.node.diagnostics)
        self._runner.configure(settings.mapper, lambda: self._publishers.configure(settings))

    def reset(self) -> str:
        """Begin a new map and drop the waiting frames; keep the accounts. Return a message."""
        self._forget_waiting()
        self._runner.reset(self._begin_map)
        self.publish_status()
        return 'a new map begins'

    def new_fragment(self) -> str:
        """Let the next frame begin a fragment of the same map. Return a message."""
        self._runner.call(self._runner.mapper.new_fragment)
        return f'the next frame begins fragment {self._runner.map_status.fragment_id + 1}'

    def set_enabled(self, enabled: bool) -> str:
        """Accept images, or skip them until the next call; this survives a deactivation."""
        self._enabled = enabled
        self._tf.roles.pause(not enabled)
        if self._intake is not None:
            self._intake.enabled = enabled
        self.publish_status()
        return 'images are taken' if enabled else 'images are skipped'

    def save(self) -> Future[str]:
        """Write the map into the map directory; return the future of a message with its path.

        The worker takes a snapshot after the waiting frame; another thread encodes and writes it,
        so that mapping goes on. In replay mode the frames that wait are processed first, and cloud
        and path have all of them. The future raises MapEmptyError, and OSError when a file cannot
        be written (the older map is then unchanged).
        """
        replay = self._settings.node.mode == 'replay'
        if replay and self._intake is not None:
            self._intake.drain()
        snapshot = self._runner.slot.submit(lambda: snapshot_map(
            self._runner.mapper, self._publish_end if replay else None))
        return self._files.submit(self._write, snapshot, self._map_directory())

    def load(self) -> str:
        """Continue the map that was saved last; drop the waiting frames. Return a message.

        Raises ValueError for a map that is not sound or does not fit, and OSError for a file that
        cannot be read; nothing has changed then.
        """
        saved = read_map(self._map_directory())
        message = self._runner.load(saved)
        if self._intake is not None:
            self._intake.drop_waiting()
        self._runner.call(self._begin_map)
        self.publish_status()
        status = self._runner.map_status
        where = '' if status.localisation == 'searching' else (
            '; start the camera at its last pose in this map, with the same view')
        return f'{status.voxels} voxels, {status.keyframes} keyframes: {message}{where}'

    def match_soon(self) -> None:
        """Have the intake check its waiting images, after the calls that the executor has now."""
        self._tf.call_soon()

    def image_waits(self) -> None:
        """Publish how many images wait, for a player that bounds the images in progress."""
        if self._settings.node.mode == 'replay':
            self.publish_status()

    def image_failed(self, error: Exception) -> None:
        """Report an image, mask or calibration that cannot be used, or an image without pose."""
        self._note_failure(error)
        self.publish_status()

    def input_fault(self, reason: str) -> None:
        """Report what is wrong with the messages of other nodes, in log, status and /diagnostics.

        It may be called from any thread.
        """
        self._note_health(WARN, reason)
        self._node.get_logger().warning(reason)
        self.publish_status()

    def time_jumped(self, stamp_ns: int, jump: Jump) -> None:
        """Begin a fragment or a new map after the waiting frames; forget the old transforms."""
        if jump.begins_fragment:
            self._runner.end_sequence(TIME_JUMPED)
        self._runner.call(lambda: self._tf.tree.begin_again(stamp_ns))
        self._runner.call(lambda: self._publishers.follow_jump(stamp_ns))
        if jump is not Jump.NOTHING:
            self.input_fault(JUMPED[jump])
        if jump is Jump.RESET:
            self._runner.reset(self._begin_map, TIME_JUMPED)

    def map_replaced(self, error: FrameError) -> None:
        """Begin the map again without its first image, which was an odd one."""
        self._runner.replace_first(self._begin_map)
        self.image_failed(error)

    def publish_status(self) -> None:
        """Publish accounts, timing and memory; may be called from any thread."""
        # The message is built under the lock, so that no older one is published after a newer one.
        with self._status_lock:
            self._publishers.publish_status(self._status)

    def publish_diagnostics(self) -> None:
        """Publish /diagnostics; may be called from any thread."""
        with self._status_lock:
            self._diagnostics.note(self._state(), self._runner.slot.accounts())
            health = self._health
            if self._diagnostics.has_subscribers:
                self._diagnostics.publish(
                    self._runner.report(), self._mapping_status(), health)
            self._shown_health = health

    def deliver(self, update: MapUpdate) -> None:
        """Publish the results of a frame."""
        self._publishers.publish(update, self._runner.mapper)
        # A refusal stays until it was in /diagnostics, also if the next frame is good.
        with self._status_lock:
            used = not update.skipped or update.live_pose is not None
            if used and self._shown_health is self._health:
                self._health = Health()
        logger = self._node.get_logger()
        if logger.is_enabled_for(LoggingSeverity.DEBUG):
            tokens = self._runner.mapper.status().memory.status.tokens
            for keyframe in update.keyframes:
                logger.debug(
                    f'keyframe {keyframe.stamp_ns} ns in fragment {keyframe.fragment_id}, '
                    f'{"a" if keyframe.pose else "no"} pose, {tokens} tokens, network '
                    f'{1e3 * update.inference_sec:.0f} ms')

    def frame_settled(self) -> None:
        """Publish the new accounts."""
        self.publish_status()

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        """Log a warning about a frame that the mapper could not use."""
        self._note_failure(error)

    def report_failed(self, error: Exception) -> None:
        """Log results that could not be published; may be called from any thread."""
        self._node.get_logger().error(
            'results not published: ' + ''.join(traceback.format_exception(error)))

    def _take_hint(self, message: PoseWithCovarianceStamped) -> None:
        """Use a pose of the robot's base in the map as a hint; raise HintError if it is none.

        Without a mount on TF the base is taken for a frame at the camera that looks along its x.
        """
        mapper, node = self._runner.mapper, self._settings.node
        camera = self._runner.call(lambda: mapper.camera)
        mount = self._tf.tree.lookup(node.base_frame, camera[0], None) if camera else None
        hint = to_hint(message, MAP_FROM_OPTICAL if mount is None else mount)
        answer = self._runner.take_hint(hint)
        self._node.get_logger().info(f'a pose on initialpose: {answer}')
        self.publish_status()

    def _status(self) -> MapperStatus:
        intake = self._intake
        return to_status(self._runner.report(), self._mapping_status(), self._state(),
                         0 if intake is None else intake.waiting, self._last_error,
                         self._settings.node.map_frame)

    def _mapping_status(self) -> MappingStatus:
        """Return the status of the map; only the publisher knows whether the grid has a floor."""
        status = self._runner.map_status
        return status if status.grid_reason else replace(
            status, grid_reason=self._publishers.grid_missing)

    def _expected(self) -> Expected:
        """Return what images wait for: calibrations and transforms that have a publisher."""
        return Expected(lambda: self._node.count_publishers(
            self._node.resolve_topic_name('camera_info')) > 0, self._tf.is_published,
            may_stop=True)

    def _state(self) -> str:
        if self._intake is None:
            return 'inactive'
        return 'active' if self._enabled else 'paused'

    def _note_failure(self, error: Exception) -> None:
        refused = isinstance(error, FrameError) and not isinstance(error, DeviceMemoryError)
        level = WARN if refused else ERROR
        message = str(error) if refused else f'{type(error).__name__}: {error}'
        repeated = self._repetitions.count(message, monotonic())
        logger = self._node.get_logger()
        if repeated is not None and refused:
            logger.warning(f'frame refused: {message}{_times(repeated)}')
        elif repeated is not None:
            text = message if repeated else ''.join(traceback.format_exception(error))
            logger.error(f'frame failed: {text}{_times(repeated)}')
        self._note_health(level, message)

    def _note_health(self, level: bytes, message: str) -> None:
        """Show a fault in status and /diagnostics; may be called from any thread."""
        with self._status_lock:
            worse = level == ERROR and self._health.level != ERROR
            self._last_error, self._health = message, Health(level, message)
        # Published at once: before the next tick of the timer another frame may succeed.
        if worse:
            self.publish_diagnostics()

    def _write(self, snapshot: Future[MapSnapshot], folder: Path) -> str:
        """Encode a map and write it into a folder; return a message."""
        files = snapshot.result().encode()
        directory = files.write(folder)
        self.publish_status()
        return f'wrote {directory} with {", ".join(sorted(files.contents))}'

    def _publish_end(self, update: MapUpdate) -> None:
        """Publish what completes a map that is saved, as if the recording had ended."""
        for failed in update.failed:
            self._node.get_logger().warning(f'the last frame is not in the map: {failed.error}')
        self._publishers.publish(update, self._runner.mapper)
        self._publishers.refresh(self._runner.mapper, force=True)

    def _forget_waiting(self) -> None:
        if self._intake is not None:
            self._intake.drop_waiting()
        self._runner.forget_waiting()

    def _begin_map(self) -> None:
        self._publishers.begin(self._runner.mapper)

    def _map_directory(self) -> Path:
        return Path(self._settings.node.map_directory).expanduser()

    def _tick(self) -> None:
        self._check_clock()
        if self._intake is not None:
            self._intake.match()
            accounts = self._runner.slot.accounts()
            self._watch.note(accounts.received + self._intake.waiting, accounts.waiting > 0,
                             self._settings.node.diagnostics.stale_after_sec)
        self.publish_status()
        self.publish_diagnostics()
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._runner.slot.submit(self._refresh)

    def _check_clock(self) -> None:
        """Warn once if the time that the node follows has two sources."""
        if self._warned_of_clock or not self._node.get_parameter('use_sim_time').value:
            return
        count = self._node.count_publishers('/clock')
        if count > 1:
            self._warned_of_clock = True
            self.input_fault(
                f'/clock has {count} publishers: time may jump. Is a recording played that holds '
                '/clock, and --clock too?')

    def _refresh(self) -> None:
        try:
            self._publishers.refresh(self._runner.mapper)
        # The future of this call is not read, so the error is reported here.
        except Exception as error:
            self.report_failed(error)


def _times(repeated: int) -> str:
    return f' ({repeated} times since the last line)' if repeated else ''
