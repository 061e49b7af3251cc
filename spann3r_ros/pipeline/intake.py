# SPDX-License-Identifier: Apache-2.0
"""The intake: builds frames from decoded messages and puts them into the slot, without ROS."""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import map_axes
from spann3r_ros.core.types import Frame, FrameError

from .image_clock import Jump
from .node_settings import NodeConfig
from .rate_limiter import RateLimiter
from .resumption import Resumption
from .runner import Runner
from .slot import Outcome
from .sync.bounds import QueueBounds
from .sync.camera_sync import Calibrations, CameraSync, Expected, Timeouts
from .sync.map_size import SizeGate
from .sync.mask_sync import ExactMaskSync, LatestMaskSync, MaskSync
from .sync.outlet import Outlet
from .sync.pose_sync import PoseSync
from .sync.scale_sync import ScaleSync
from .sync.time_gate import TimeGate
from .sync.wait_clock import WaitClock
from .transform_tree import TransformTree

# Most images that wait in each of the queues: for a calibration, a mask, the scale, a pose.
LIVE_ITEMS = 30
REPLAY_ITEMS = 1000
# Least timeout, in image time, of a replay's wait for a calibration, a mask and for transforms.
REPLAY_TIMEOUT_SEC = 1.0
# How long the first image of a live map waits for a calibration.
LIVE_TIMEOUT_SEC = 2.0

logger = logging.getLogger(__name__)


class IntakeListener(Protocol):
    """What an intake reports to its owner, on the thread that calls the intake."""

    def image_failed(self, error: Exception) -> None:
        """Handle an image, a mask or a calibration that could not be used.

        Also an image without mask or pose.
        """

    def image_waits(self) -> None:
        """Handle that images wait for a calibration, for transforms, a mask, scale or pose."""

    def time_jumped(self, stamp_ns: int, jump: Jump) -> None:
        """Forget the old time, and do to the map what `jump` says: the stamps jumped back."""

    def map_replaced(self, error: FrameError) -> None:
        """Begin the map again without its first image, which was an odd one by an error."""

    def input_fault(self, reason: str) -> None:
        """Report what other nodes do not send; the images are used nevertheless."""

    def match_soon(self) -> None:
        """Arrange a call of `Intake.match`, after the calls that already wait."""


class Intake:
    """Builds a frame from every image and what belongs to it.

    An image passes the rate limiter. Its stamp has to follow those before it, and its size has to
    be the map's. Then it waits for what the settings require: calibration and first pose, mask,
    odometry or depth for the scale, pose. Each image ends in the slot or is counted as skipped,
    dropped or failed. While `enabled` is false every image is skipped. Not thread-safe.
    """

    def __init__(self, config: NodeConfig, runner: Runner, tree: TransformTree,
                 listener: IntakeListener, expected: Expected) -> None:
        self._config = config
        self._runner = runner
        self._slot = slot = runner.slot
        self._clock = runner.clock
        self._map_calibration = runner.calibration
        self._map_size = runner.size
        self._tree = tree
        self._listener = listener
        self.enabled = True
        self._resumption: Resumption | None = None
        # As the messages have them: of the last image and of the last calibration.
        self._frame_ids: dict[str, str] = {}
        self._warned_of_frames = self._warned_of_mount = False
        replay = config.mode == 'replay'
        bounds = QueueBounds(REPLAY_ITEMS if replay else LIVE_ITEMS, config.max_waiting_bytes)
        self._limiter = RateLimiter(config.max_rate)
        self._wait_clock = wait_clock = WaitClock(
            replay, (lambda: slot.accounts().waiting > 0) if expected.may_stop else None)
        self._calibrations = Calibrations(config.camera_info_timeout_sec)
        self._posed = config.pose_source == 'tf'

        def outlet(pass_on: Callable[[Frame], None]) -> Outlet:
            return Outlet(pass_on, self._drop, listener.image_failed, self.refuse_image,
                          listener.match_soon)

        self._poses = PoseSync(self._pose_of, bounds, config.pose_timeout_sec,
                               outlet(self._put), wait_clock, self._missing_pose)
        # Given poses are in metres.
        source = 'none' if self._posed else runner.mapper.scale_source
        self._scales = ScaleSync(source, config.odom_frame, tree, bounds, config.pose_timeout_sec,
                                 outlet(self._put), wait_clock, listener.input_fault)
        pass_on = self._poses.take_frame if self._posed else self._scales.take_frame
        self._masks = self._mask_sync(outlet(pass_on), bounds)
        self._cameras = CameraSync(
            self._calibrations, self._map_calibration, self._first_pose_at, expected, replay,
            self._timeouts(replay), bounds,
            outlet(pass_on if self._masks is None else self._masks.take_frame), wait_clock)
        self._sizes = SizeGate(self._map_size, self._replace, bounds,
                               outlet(self._cameras.take_frame))
        self._times = TimeGate(self._clock, config.time_jump != 'refuse',
                               self._is_alone, self._jump, bounds, outlet(self._accept))
        # In the order in which an image passes them.
        self._stages = [stage for stage in (self._times, self._sizes, self._cameras, self._masks,
                                            self._scales, self._poses) if stage is not None]

    def resume(self, resumption: Resumption) -> None:
        """Skip the images that a loaded map has, after all that images wait for has come."""
        self._resumption = resumption

    @property
    def waiting(self) -> int:
        """Return how many images wait for other data, or for further images."""
        return sum(map(len, self._stages))

    def configure(self, config: NodeConfig) -> None:
        """Use another rate, other timeouts and another `time_jump` from the next image on."""
        if config.max_rate != self._config.max_rate:
            self._limiter = RateLimiter(config.max_rate)
        self._config = config
        self._calibrations.timeout_sec = config.camera_info_timeout_sec
        self._cameras.timeouts = self._timeouts(config.mode == 'replay')
        self._poses.timeout_sec = self._scales.timeout_sec = config.pose_timeout_sec
        self._times.may_jump = config.time_jump != 'refuse'

    def take_image(self, stamp_ns: int, frame_id: str, decode: Callable[[], np.ndarray]) -> None:
        """Process an image; `decode` returns it, uint8 RGB [height, width, 3], or raises."""
        self._wait_clock.note_activity()
        if not self.enabled or not self._limiter.admits(stamp_ns):
            if self._clock.pass_over(stamp_ns):
                self._wait_clock.note_image(stamp_ns)
            self._slot.refuse(Outcome.SKIPPED)
            return
        self._note_frame('image', frame_id)
        try:
            rgb = decode()
            # tf2 refuses names that begin with a slash.
            frame_id = (self._config.optical_frame or frame_id).removeprefix('/')
            if self._posed and frame_id in ('', self._config.map_frame):
                raise FrameError(f'image: expected its frame, not {frame_id!r}, for a pose from '
                                 'TF; set the parameter optical_frame')
        # Whatever exception a malformed message causes, only this image fails, with a report.
        except Exception as error:
            self.refuse_image(error)
        else:
            self._times.take_frame(Frame(stamp_ns, frame_id, rgb))
            if self.waiting:
                self._listener.image_waits()

    def refuse_image(self, error: Exception) -> None:
        """Count an unusable image as failed and report it; while not `enabled`, as skipped."""
        if not self.enabled:
            self._slot.refuse(Outcome.SKIPPED)
            return
        self._slot.refuse(Outcome.FAILED)
        self._listener.image_failed(error)

    def refuse_mask(self, error: Exception) -> None:
        """Report an unusable mask or depth image; these are not counted in the accounts."""
        self._listener.image_failed(error)

    def take_calibration(self, stamp_ns: int, convert: Callable[[], Intrinsics | None],
                         frame_id: str = '') -> None:
        """Process a calibration; `convert` returns it or raises; None: an uncalibrated camera.

        A `frame_id` that is not that of the images is reported once.
        """
        self._wait_clock.note_activity()
        self._note_frame('camera_info', frame_id)
        try:
            intrinsics = convert()
        except FrameError as error:
            self._listener.image_failed(error)
            intrinsics = None
        self._calibrations.take(stamp_ns, intrinsics)
        self._cameras.match()

    def take_mask(self, stamp_ns: int, decode: Callable[[], np.ndarray]) -> None:
        """Process a mask; `decode` returns it, bool [height, width], or raises."""
        self._wait_clock.note_activity()
        if self._masks is None:
            return
        try:
            self._masks.take_mask(stamp_ns, decode())
        # Whatever exception a malformed mask causes, only this mask is lost.
        except Exception as error:
            self.refuse_mask(error)

    @property
    def takes_depth(self) -> bool:
        """Return whether depth images give the scale of the map."""
        return self._scales.takes_depth

    def take_depth(self, stamp_ns: int, decode: Callable[[], np.ndarray]) -> None:
        """Process a depth image; `decode` returns it, float32 [height, width] in m, or raises."""
        self._wait_clock.note_activity()
        if not self.takes_depth:
            return
        try:
            self._scales.take_depth(stamp_ns, decode())
        # Whatever exception a malformed depth image causes, only this one is lost.
        except Exception as error:
            self.refuse_mask(error)

    def match(self) -> None:
        """Check the waiting images, because TF has new transforms or time has passed."""
        for stage in self._stages:
            stage.match()

    def drain(self, ended: bool = False) -> None:
        """Finish the waiting images with the data received so far, or drop them.

        If the recording has `ended`, no more messages come. Otherwise more may come.
        """
        self._times.drain(ended)
        for stage in self._stages[1:]:
            stage.drain()

    def drop_waiting(self) -> None:
        """Drop all images that wait."""
        for stage in self._stages:
            stage.drop_waiting()

    def _timeouts(self, replay: bool) -> Timeouts:
        if replay:
            seconds = max(REPLAY_TIMEOUT_SEC, self._config.camera_info_timeout_sec)
            return Timeouts(seconds, seconds)
        # Given poses need no levelling.
        return Timeouts(LIVE_TIMEOUT_SEC, 0.0 if self._posed else self._config.level_timeout_sec)

    def _mask_sync(self, outlet: Outlet, bounds: QueueBounds) -> MaskSync | None:
        if self._config.mask == 'none':
            return None
        if self._config.mask == 'exact':
            return ExactMaskSync(outlet, bounds)
        return LatestMaskSync(outlet, bounds, REPLAY_TIMEOUT_SEC,
                              self._wait_clock if self._config.mode == 'replay' else None)

    def _note_frame(self, kind: str, frame_id: str) -> None:
        """Write a warning to the log, once, if calibrations and images differ in their frames."""
        self._frame_ids[kind] = frame_id.removeprefix('/')
        images, infos = self._frame_ids.get('image'), self._frame_ids.get('camera_info')
        if images and infos and images != infos and not self._warned_of_frames:
            self._warned_of_frames = True
            logger.warning('camera_info is of the frame %r, but the images are of %r: it is used '
                           'nevertheless', infos, images)

    def _is_alone(self) -> bool:
        """Return whether the map's only image, or its only one since the load, may be odd."""
        if self._runner.is_loaded:
            return self._clock.is_alone
        return self._clock.is_alone or self._map_size.is_provisional

    def _jump(self, stamp_ns: int, is_new: bool) -> None:
        """Forget what belongs to the old time: the next image is of an earlier one.

        Or it is of a later one, and the stamp of the map's only image was the wild one.
        """
        if self._resumption is not None and not self._resumption.is_over:
            self._listener.time_jumped(stamp_ns, Jump.NOTHING)  # the map has had this jump
            return
        is_loaded, is_alone = self._runner.is_loaded, not is_new and self._is_alone()
        former_ns = self._clock.newest_ns
        if is_loaded and former_ns is not None and stamp_ns > former_ns:
            return  # a loaded map goes on, whatever the stamp of its first image was
        if is_new or (is_alone and not is_loaded):
            jump = Jump.NOTHING
        elif is_alone:
            jump = Jump.LOADED
        else:
            jump = Jump.FRAGMENT if self._config.time_jump == 'fragment' else Jump.RESET
        for stage in self._stages[1:]:
            # In a map that goes on, the images of the old time are used.
            (stage.drain if jump is Jump.FRAGMENT else stage.drop_waiting)()
        self._wait_clock.begin_again(stamp_ns)
        self._calibrations.begin_again(stamp_ns)
        self._poses.begin_again()
        self._scales.begin_again()
        if self._masks is not None:
            self._masks.begin_again(stamp_ns)
        # If the map is new, they belong to the map that was loaded, or have begun again already.
        if not (is_new or jump.begins_fragment):
            self._map_calibration.begin_again()
            self._map_size.begin_again()
        self._listener.time_jumped(stamp_ns, jump)
        if is_alone and not is_loaded:
            self._listener.map_replaced(FrameError(
                f'stamp: expected that of the first image soon before {stamp_ns} ns, as the next '
                f'images have, got {former_ns} ns; the map begins again without it'))

    def _accept(self, frame: Frame) -> None:
        """Take an image whose stamp follows those before it."""
        self._wait_clock.note_image(frame.stamp_ns)
        self._sizes.take_frame(frame)

    def _replace(self, error: FrameError) -> None:
        """Begin the map again, because its first image has an odd size."""
        for stage in self._stages[2:]:
            stage.drop_waiting()
        self._map_calibration.begin_again()
        self._listener.map_replaced(error)

    def _put(self, frame: Frame) -> None:
        """Put a frame into the slot; in a replay this takes until the slot is free."""
        if self._resumption is not None and self._resumption.leaves_out(frame.stamp_ns):
            # From now on the map is that of the recording.
            self._runner.is_loaded = not self._resumption.is_over
            self._slot.refuse(Outcome.SKIPPED)
            return
        self._slot.put(frame)
        self._wait_clock.note_activity()

    def _drop(self) -> None:
        self._slot.refuse(Outcome.DROPPED)

    def _pose_of(self, frame: Frame) -> np.ndarray | None:
        return self._tree.lookup(self._config.map_frame, frame.frame_id, frame.stamp_ns)

    def _missing_pose(self, frame: Frame) -> str:
        return self._tree.missing_link(self._config.map_frame, frame.frame_id)

    def _first_pose_at(self, optical_frame: str, stamp_ns: int,
                       nearest: bool) -> np.ndarray | None:
        """Return the pose [4, 4] of the camera in a map that begins with its image.

        The z axis of the robot's base is the direction against gravity. None while TF does not
        connect the base with the camera, at the stamp or, if `nearest`, at any time.
        """
        lookup = self._tree.lookup_nearest if nearest else self._tree.lookup
        base_from_optical = lookup(self._config.base_frame, optical_frame, stamp_ns)
        if nearest and base_from_optical is None and not (self._posed or self._warned_of_mount):
            missing = self._tree.missing_link(self._config.base_frame, optical_frame)
            self._warned_of_mount = bool(missing)
            if missing:
                self._listener.input_fault(f'{missing} The map is not levelled by the robot.')
        if base_from_optical is None or self._config.map_origin == 'base':
            return base_from_optical
        return map_axes(base_from_optical[2, :3])
