# SPDX-License-Identifier: Apache-2.0
"""What lives from configure to cleanup: runner, inputs, outputs."""
from __future__ import annotations

import traceback
from concurrent.futures import Future
from pathlib import Path
from threading import Lock

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from spann3r_ros.core.types import DeviceMemoryError, Frame, FrameError
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.storage.products import SAVED_MAP, save_products
from spann3r_ros.mapping.storage.saved_map import read_saved_map
from spann3r_ros.pipeline.intake import Intake
from spann3r_ros.pipeline.node_settings import Settings
from spann3r_ros.pipeline.runner import Runner
from spann3r_ros.pipeline.sync.camera_sync import Expected

from .conversions import to_status
from .inputs.subscriptions import InputSubscriptions
from .outputs.diagnostics import ERROR, WARN, Diagnostics, Health
from .outputs.publishers import MapPublishers
from .tf.listener import ListeningThread
from .tf.tf_bridge import TfBridge

STATUS_PERIOD_SEC = 1.0
WARNING_PERIOD_SEC = 2.0


class Session:
    """Joins a runner with the node's topics; reports for the worker and for the intake.

    Public methods are called on the executor's thread. `deliver` and the methods after it run on
    the worker's.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, mapper: Mapper,
                 listening: ListeningThread) -> None:
        self._node = node
        self._settings = settings
        self._last_error = ''
        self._health = Health()
        self._intake: Intake | None = None
        self._inputs: InputSubscriptions | None = None
        self._enabled = True
        self._refreshing: Future | None = None
        self._status_lock = Lock()
        self._tf = TfBridge(node, settings.node, listening)
        self._publishers = MapPublishers(node, settings, self._tf.roles)
        self._diagnostics = Diagnostics(node, settings.node.diagnostics)
        # Wall time: a paused or late /clock must not silence the status.
        self._timer = node.create_timer(STATUS_PERIOD_SEC, self._tick,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._runner = Runner(mapper, settings.node.mode == 'replay', self)

    def activate(self) -> None:
        """Take images."""
        self._runner.slot.open()
        intake = Intake(self._settings.node, self._runner.slot, self._runner.clock,
                        self._tf.tree, self, self._expected())
        intake.enabled = self._enabled
        self._inputs = InputSubscriptions(self._node, self._settings.node, intake)
        self._intake = intake
        self._tf.listen(intake.match, lambda: intake.waits)
        self.publish_status()

    def deactivate(self) -> None:
        """Take no more images, drop the waiting one, finish the one in work; the map stays."""
        if self._intake is None:
            return
        self._tf.listen()
        self._inputs.destroy()
        self._intake.drop_waiting()
        self._intake = self._inputs = None
        self._runner.slot.close()
        self._runner.call(lambda: self._publishers.pause(self._voxel_map))
        self.publish_status()

    def close(self) -> None:
        """Undo the construction."""
        self.deactivate()
        self._node.destroy_timer(self._timer)
        self._runner.stop()
        self._publishers.destroy()
        self._tf.destroy()
        self._diagnostics.destroy()

    def reset(self) -> str:
        """Begin a new map; waiting frames are dropped, the accounts go on. Return a message."""
        self._forget_waiting()
        self._runner.reset(self._begin_map)
        self.publish_status()
        return 'a new map begins'

    def new_fragment(self) -> str:
        """Let the next frame begin a fragment of the same map. Return a message."""
        self._runner.call(self._runner.mapper.new_fragment)
        return f'the next frame begins fragment {self._runner.map_status.fragment_id + 1}'

    def set_enabled(self, enabled: bool) -> str:
        """Take images, or skip them until further notice, also over a pause of the lifecycle."""
        self._enabled = enabled
        if self._intake is not None:
            self._intake.enabled = enabled
        self.publish_status()
        return 'images are taken' if enabled else 'images are skipped'

    def save(self) -> str:
        """Write map and trajectory into the map directory; return a message naming the files.

        In replay mode this ends the recording: the frames that wait and the last keyframe join
        the map first, and further frames are refused until a reset. Raises MapEmptyError, and
        OSError when a file cannot be written (older files then stay as they were).
        """
        if self._settings.node.mode == 'replay':
            if self._intake is not None:
                self._intake.drain()
            error = self._runner.flush()
            if error is not None:
                self._note_failure(error)
        paths = self._runner.call(
            lambda: save_products(self._runner.mapper, self._map_directory()))
        self.publish_status()
        return 'wrote ' + ' and '.join(map(str, paths))

    def load(self) -> str:
        """Go on with the map that was saved last; waiting frames are dropped. Return a message.

        Raises ValueError for a file that is none of ours or does not fit, OSError for one that
        cannot be read: the present map then stays.
        """
        path = self._map_directory() / SAVED_MAP
        saved = read_saved_map(path)
        self._forget_waiting()
        self._runner.load(saved, self._begin_map)
        self.publish_status()
        status = self._runner.map_status
        return (f'{status.voxels} voxels, {status.keyframes} keyframes: let the camera go on from '
                'where it looked last')

    def match_soon(self) -> None:
        """Have the intake look again, after what else waits for the executor."""
        self._tf.call_soon()

    def image_failed(self, error: Exception) -> None:
        """Report an image or a mask that could not be used, or an image that got no pose."""
        self._note_failure(error)
        self.publish_status()

    def time_jumped(self, stamp_ns: int, is_new: bool) -> None:
        """Begin a new map after the frames that wait; transforms of the old time are void.

        A map that `is_new` has no images of the old time, and stays.
        """
        self._runner.call(lambda: self._tf.tree.begin_again(stamp_ns))
        if not is_new:
            self._node.get_logger().warning(
                'the stamps of the images jumped back: a new map begins')
            self._runner.reset(self._begin_map)

    def publish_status(self) -> None:
        """Publish accounts, timing and memory; any thread."""
        # Built under the lock: counts never run backwards on the topic.
        with self._status_lock:
            self._publishers.publish_status(to_status(
                self._runner.report(), self._runner.map_status, self._state(), self._last_error,
                self._settings.node.map_frame))

    def publish_diagnostics(self) -> None:
        """Publish what robot monitors watch; any thread."""
        with self._status_lock:
            self._diagnostics.publish(
                self._state(), self._runner.report(), self._runner.map_status, self._health)

    def deliver(self, update: MapUpdate) -> None:
        """Publish what a frame yielded."""
        self._publishers.publish(update, self._voxel_map)
        if not update.skipped:
            self._health = Health()

    def frame_settled(self) -> None:
        """Publish the new accounts."""
        self.publish_status()

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        """Warn about a frame the mapper could not use."""
        self._note_failure(error)

    def report_failed(self, error: Exception) -> None:
        """Log results that could not be published."""
        self._node.get_logger().error(
            'results not published: ' + ''.join(traceback.format_exception(error)))

    @property
    def _voxel_map(self) -> VoxelMap:
        return self._runner.mapper.voxel_map

    def _expected(self) -> Expected:
        """Return whether a replay has calibrations and transforms to wait for: from publishers."""
        return Expected(lambda: self._node.count_publishers(
            self._node.resolve_topic_name('camera_info')) > 0, self._tf.is_published)

    def _state(self) -> str:
        if self._intake is None:
            return 'inactive'
        return 'active' if self._enabled else 'paused'

    def _note_failure(self, error: Exception) -> None:
        logger = self._node.get_logger()
        if isinstance(error, FrameError) and not isinstance(error, DeviceMemoryError):
            level = WARN
            self._last_error = str(error)
            logger.warning(f'frame refused: {error}', throttle_duration_sec=WARNING_PERIOD_SEC)
        else:
            level = ERROR
            self._last_error = f'{type(error).__name__}: {error}'
            logger.error('frame failed: ' + ''.join(traceback.format_exception(error)),
                         throttle_duration_sec=WARNING_PERIOD_SEC)
        worse = level == ERROR and self._health.level != ERROR
        self._health = Health(level, self._last_error)
        # An error shorter than the timer's period is published too.
        if worse:
            self.publish_diagnostics()

    def _forget_waiting(self) -> None:
        if self._intake is not None:
            self._intake.drop_waiting()
        self._runner.forget_waiting()

    def _begin_map(self) -> None:
        self._publishers.begin(self._voxel_map, self._runner.mapper.trajectory)

    def _map_directory(self) -> Path:
        return Path(self._settings.node.map_directory).expanduser()

    def _tick(self) -> None:
        if self._intake is not None:
            self._intake.match()
        self.publish_status()
        self.publish_diagnostics()
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._runner.slot.submit(self._refresh)

    def _refresh(self) -> None:
        try:
            self._publishers.refresh(self._voxel_map)
        # Nobody waits for this call's result.
        except Exception as error:
            self.report_failed(error)
