# SPDX-License-Identifier: Apache-2.0
"""What lives from configure to cleanup: mapper, worker, publishers."""
from __future__ import annotations

import traceback
from concurrent.futures import Future
from pathlib import Path
from threading import Lock

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from spann3r_ros.core.files import write_files
from spann3r_ros.core.types import DeviceMemoryError, Frame, FrameError
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.storage.exports import encode_ply, encode_tum
from spann3r_ros.mapping.storage.saved_map import SavedMap, encode_saved_map, read_saved_map
from spann3r_ros.pipeline.image_clock import ImageClock
from spann3r_ros.pipeline.slot import FrameSlot
from spann3r_ros.pipeline.worker import Worker
from spann3r_ros.ros.inputs.intake import Intake
from spann3r_ros.ros.outputs.diagnostics import ERROR, WARN, Diagnostics, Health
from spann3r_ros.ros.outputs.publishers import MapPublishers
from spann3r_ros.ros.tf.frame_tree import FrameTree
from spann3r_ros.ros.tf.tf_listening import ListeningThread

from .conversions import to_status
from .parameters import Settings

STATUS_PERIOD_SEC = 1.0
WARNING_PERIOD_SEC = 2.0
SAVED_MAP = 'map.npz'


class MapEmptyError(RuntimeError):
    """There is no map to save yet."""


class Session:
    """Owns a mapper and everything that feeds it or tells of it; the worker's reporter.

    Public methods are called on the executor's thread. `deliver` and the methods after it run on
    the worker's.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, mapper: Mapper,
                 listening: ListeningThread) -> None:
        self._node = node
        self._settings = settings
        self._mapper = mapper
        self._map_status = mapper.status()
        self._last_error = ''
        self._health = Health()
        self._intake: Intake | None = None
        self._enabled = True
        self._clock = ImageClock()
        self._refreshing: Future | None = None
        self._status_lock = Lock()
        self._tree = FrameTree(node, settings.node, listening)
        self._publishers = MapPublishers(node, settings, self._tree)
        self._diagnostics = Diagnostics(node, settings.node.diagnostics)
        self._slot = FrameSlot(blocking=settings.node.mode == 'replay')
        # Wall time: a paused or late /clock must not silence the status.
        self._timer = node.create_timer(STATUS_PERIOD_SEC, self._tick,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._worker = Worker(mapper.process, self._slot, self)

    def activate(self) -> None:
        """Take images."""
        self._slot.open()
        self._intake = Intake(self._node, self._settings.node, self._slot, self._clock, self)
        self._intake.enabled = self._enabled
        self._tree.listen(self._intake.match)
        self.publish_status()

    def deactivate(self) -> None:
        """Take no more images, drop the waiting one, finish the one in work; the map stays."""
        if self._intake is None:
            return
        self._tree.listen()
        self._intake.destroy()
        self._intake = None
        self._slot.close()
        self._worker.call(lambda: self._publishers.pause(self._mapper.voxel_map))
        self.publish_status()

    def close(self) -> None:
        """Undo the construction."""
        self.deactivate()
        self._node.destroy_timer(self._timer)
        self._worker.stop()
        self._publishers.destroy()
        self._tree.destroy()
        self._diagnostics.destroy()

    def reset(self) -> str:
        """Begin a new map; waiting frames are dropped, the accounts go on. Return a message."""
        self._forget_waiting()
        self._worker.call(self._reset)
        self.publish_status()
        return 'a new map begins'

    def new_fragment(self) -> str:
        """Let the next frame begin a fragment of the same map. Return a message."""
        self._worker.call(self._mapper.new_fragment)
        return f'the next frame begins fragment {self._map_status.fragment_id + 1}'

    def set_enabled(self, enabled: bool) -> str:
        """Take images, or skip them until further notice, also over a pause of the lifecycle."""
        self._enabled = enabled
        if self._intake is not None:
            self._intake.enabled = enabled
        self.publish_status()
        return 'images are taken' if enabled else 'images are skipped'

    def save(self) -> str:
        """Write map and trajectory into the map directory; return a message naming the files.

        In replay mode this ends the recording: the last frame joins the map first, and further
        frames are refused until a reset. Raises MapEmptyError, and OSError when a file cannot be
        written (older files then stay as they were).
        """
        paths = self._worker.call(self._save)
        self.publish_status()
        return 'wrote ' + ' and '.join(map(str, paths))

    def load(self) -> str:
        """Go on with the map that was saved last; waiting frames are dropped. Return a message.

        Raises OSError and ValueError for a file that cannot be read or does not fit; the map that
        is held then stays.
        """
        saved = read_saved_map(self._map_directory() / SAVED_MAP)
        self._forget_waiting()
        self._worker.call(lambda: self._load(saved))
        self.publish_status()
        return (f'{self._map_status.voxels} voxels, {self._map_status.keyframes} keyframes: let '
                'the camera go on from where it looked last')

    def up_in(self, optical_frame: str) -> np.ndarray | None:
        """Return the direction against gravity [3] in a camera's frame, if TF knows it."""
        return self._tree.up_in(optical_frame)

    def camera_at(self, optical_frame: str, stamp_ns: int) -> np.ndarray | None:
        """Return a camera's pose in the map [4, 4] at a stamp, if TF knows it."""
        return self._tree.camera_at(optical_frame, stamp_ns)

    def look_again(self) -> None:
        """Let the intake look for poses soon."""
        self._tree.wake()

    def image_failed(self, error: Exception) -> None:
        """Warn about an image that never became a frame."""
        self._note_failure(error)

    def time_jumped(self, stamp_ns: int, is_new: bool) -> None:
        """Begin a new map after the frames that wait; what TF said of the old time is void.

        A map that `is_new` has no images of the old time, and stays.
        """
        self._worker.call(lambda: self._tree.begin_again(stamp_ns))
        if not is_new:
            self._node.get_logger().warning(
                'the stamps of the images jumped back: a new map begins')
            self._worker.call(self._reset)

    def publish_status(self) -> None:
        """Publish accounts, timing and memory; any thread."""
        # Built under the lock: counts never run backwards on the topic.
        with self._status_lock:
            self._publishers.publish_status(to_status(
                self._worker.report(), self._map_status, self._state(), self._last_error,
                self._settings.node.map_frame))

    def publish_diagnostics(self) -> None:
        """Publish what robot monitors watch; any thread."""
        with self._status_lock:
            self._diagnostics.publish(
                self._state(), self._worker.report(), self._map_status, self._health)

    def deliver(self, update: MapUpdate) -> None:
        """Publish what a frame yielded."""
        self._publishers.publish(update, self._mapper.voxel_map)
        if not update.skipped:
            self._health = Health()

    def frame_settled(self) -> None:
        """Publish the new accounts."""
        self._map_status = self._mapper.status()
        self.publish_status()

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        """Warn about a frame the mapper could not use."""
        self._note_failure(error)

    def report_failed(self, error: Exception) -> None:
        """Log results that could not be published."""
        self._node.get_logger().error(
            'results not published: ' + ''.join(traceback.format_exception(error)))

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
        # An error shorter than the timer's period is told too.
        if worse:
            self.publish_diagnostics()

    def _forget_waiting(self) -> None:
        if self._intake is not None:
            self._intake.drop_waiting()
        self._slot.discard()
        self._clock.begin_again()

    def _reset(self) -> None:
        self._mapper.reset()
        self._begin_map()

    def _load(self, saved: SavedMap) -> None:
        self._mapper.load(saved)
        self._begin_map()

    def _begin_map(self) -> None:
        self._map_status = self._mapper.status()
        self._publishers.begin(self._mapper.voxel_map, self._mapper.trajectory)

    def _save(self) -> list[Path]:
        # A recording that has not begun does not end either.
        if self._settings.node.mode == 'replay' and self._mapper.status().keyframes:
            self._flush()
        cloud = self._mapper.voxel_map.arrays()
        if not len(cloud):
            raise MapEmptyError('the map is empty')
        directory = self._map_directory()
        directory.mkdir(parents=True, exist_ok=True)
        contents = {directory / 'map.ply': encode_ply(cloud),
                    directory / 'trajectory.tum': encode_tum(self._mapper.trajectory)}
        saved = self._mapper.saved()
        if saved is not None:
            contents[directory / SAVED_MAP] = encode_saved_map(saved)
        write_files(contents)
        if saved is None:  # an older one would be of another map than its companions
            (directory / SAVED_MAP).unlink(missing_ok=True)
        return list(contents)

    def _map_directory(self) -> Path:
        return Path(self._settings.node.map_directory).expanduser()

    def _flush(self) -> None:
        try:
            self.deliver(self._mapper.flush())
        except FrameError as error:
            self._note_failure(error)
        self._map_status = self._mapper.status()

    def _tick(self) -> None:
        if self._intake is not None:
            self._intake.match()
        self.publish_status()
        self.publish_diagnostics()
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._slot.submit(self._refresh)

    def _refresh(self) -> None:
        try:
            self._publishers.refresh(self._mapper.voxel_map)
        # Nobody waits for this call's result.
        except Exception as error:
            self.report_failed(error)
