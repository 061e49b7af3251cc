# SPDX-License-Identifier: Apache-2.0
"""Joins images with their camera's calibration and with its pose on the robot."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from sys import getsizeof

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.types import Frame, FrameError

from .bounds import QueueBounds, frame_bytes
from .history import History
from .map_calibration import MapCalibration
from .outlet import Outlet
from .wait_clock import WaitClock

MAX_CALIBRATIONS = 1000
# Most bytes of their distortion's coefficients, of which a malformed one may have any number.
MAX_COEFFICIENT_BYTES = 1_000_000


class Calibrations(History[Intrinsics | None]):
    """The received calibrations and their stamps; None for one of an uncalibrated camera."""

    def __init__(self, timeout_sec: float) -> None:
        super().__init__(QueueBounds(MAX_CALIBRATIONS, MAX_COEFFICIENT_BYTES), _bytes)
        self.timeout_sec = timeout_sec

    def find(self, stamp_ns: int, size: tuple[int, int]) -> tuple[Intrinsics | None, str]:
        """Return the calibration of an image of a size (height, width), or None and the reason.

        It is the newest one not after the image, or else the first one after it. None if its stamp
        is farther from the image's than the timeout (0: no limit), if its size is another one, or
        if nothing was received; the reason is then empty.
        """
        found = self._nearest(stamp_ns)
        if found is None:
            return None, ''
        if not self.is_near(stamp_ns):
            return None, (f'no camera_info has a stamp within {self.timeout_sec:g} s of '
                          'the image (camera_info_timeout_sec)')
        intrinsics = found[1]
        if intrinsics is None:
            return None, ('camera_info has no calibration (K, or P with image_rectified, is 0 or '
                          'not usable)')
        if (intrinsics.height, intrinsics.width) != size:
            return None, (f'camera_info is for images of {intrinsics.width}x{intrinsics.height} '
                          f'pixels, but the images have {size[1]}x{size[0]}')
        return intrinsics, ''

    def is_near(self, stamp_ns: int) -> bool:
        """Return whether a message came whose stamp is near enough to an image's."""
        found = self._nearest(stamp_ns)
        return found is not None and (
            not self.timeout_sec
            or abs(stamp_ns - found[0]) <= round(self.timeout_sec * 1e9))

    def _nearest(self, stamp_ns: int) -> tuple[int, Intrinsics | None] | None:
        return self.newest_until(stamp_ns) or self.first()


@dataclass(frozen=True)
class Expected:
    """Whether there are calibrations, and whether there are transforms, to wait for.

    If `may_stop`, the messages may stop without a notice. Then the waits of a replay also end
    after a silence.
    """

    calibration: Callable[[], bool]
    transforms: Callable[[], bool]
    may_stop: bool = False


@dataclass(frozen=True)
class Timeouts:
    """How long an image waits at most for its calibration, and for the camera's mount."""

    calibration_sec: float
    transforms_sec: float


class CameraSync:
    """Gives every frame its calibration and its first pose by TF, and passes it on.

    Every image gets the calibration of its map, which is that of the first image. In a `replay`
    an image waits until a calibration of its stamp or later was received, and until TF connects
    base and camera at its stamp, if these are expected. So the result does not depend on the
    order of the messages. After a timeout the next images do not wait for a calibration until
    another one comes, or for transforms until they connect base and camera. Live, images get what
    was received before them, with two exceptions. The first image of a map waits until a
    calibration near it was received, if one is expected. The first images wait for transforms
    until these connect base and camera for the first time, or one image has waited in vain. If
    more images wait than the bounds allow, the oldest goes on; live it is dropped if it waits for
    a calibration. The outlet may block, so `match` passes on at most one frame and asks for
    another call if more are waiting.
    """

    def __init__(self, calibrations: Calibrations, map_calibration: MapCalibration,
                 first_pose_at: Callable[[str, int, bool], np.ndarray | None],
                 expected: Expected, replay: bool, timeouts: Timeouts, bounds: QueueBounds,
                 outlet: Outlet, clock: WaitClock) -> None:
        self._calibrations = calibrations
        self._map_calibration = map_calibration
        self._replay = replay
        self._first_pose_at = first_pose_at
        self._expected = expected
        self.timeouts = timeouts
        self._bounds = bounds
        self._outlet = outlet
        self._clock = clock
        self._waiting: deque[tuple[float, Frame]] = deque()  # since when they wait
        self._expects_calibration = self._expects_transforms = False
        self._transforms_settled = not timeouts.transforms_sec
        # How many calibrations had come when a wait for one more ended by the timeout.
        self._received_at_timeout = -1

    def __len__(self) -> int:
        """Return the number of waiting frames."""
        return len(self._waiting)

    def take_frame(self, frame: Frame) -> None:
        """Pass a frame on, now or later."""
        self._waiting.append((self._clock.time_of(frame), frame))
        self.match()

    def match(self) -> None:
        """Pass on the next frame if it has all that it needs, or has waited long enough."""
        if not self._waiting:
            return
        since_sec, frame = self._waiting[0]
        needs_calibration, needs_transforms = self._needs(frame)
        over = self._bounds.exceeded(
            len(self._waiting), sum(frame_bytes(one) for _, one in self._waiting))
        waited_sec = self._clock.now() - since_sec
        awaits_calibration = needs_calibration and waited_sec <= self.timeouts.calibration_sec
        awaits_transforms = needs_transforms and waited_sec <= self.timeouts.transforms_sec
        if (awaits_calibration or awaits_transforms) and not over:
            return
        if awaits_calibration and not self._replay:
            self._waiting.popleft()
            self._outlet.refuse('the first image of the map waits for a calibration, and newer '
                                'images came')
            return
        if needs_calibration:
            self._received_at_timeout = self._calibrations.received
        self._transforms_settled |= needs_transforms
        self._pass_on_first()
        if self._waiting:
            self._outlet.match_soon()

    def drain(self) -> None:
        """Pass on all frames with the data received so far, because no more will come."""
        while self._waiting:
            self._pass_on_first()

    def drop_waiting(self) -> None:
        """Drop all waiting frames."""
        for _ in self._waiting:
            self._outlet.drop()
        self._waiting.clear()

    def _needs(self, frame: Frame) -> tuple[bool, bool]:
        """Return whether a frame waits for its calibration, and whether for transforms."""
        # A player that has published everything may be gone before its messages are processed.
        self._expects_calibration |= self._expected.calibration()
        if self._replay or not self._transforms_settled:
            self._expects_transforms |= self._expected.transforms()
        if self._replay:
            calibration = (self._received_at_timeout != self._calibrations.received
                           and not self._calibrations.reaches(frame.stamp_ns))
        else:
            calibration = (not self._map_calibration.has_begun
                           and not self._calibrations.is_near(frame.stamp_ns))
        transforms = (not self._transforms_settled and self._expects_transforms
                      and self._first_pose_at(frame.frame_id, frame.stamp_ns, False) is None)
        return self._expects_calibration and calibration, transforms

    def _pass_on_first(self) -> None:
        _, frame = self._waiting.popleft()
        try:
            frame = self._completed(frame)
        except FrameError as error:
            self._outlet.fail(error)
        else:
            self._outlet.pass_on(frame)

    def _completed(self, frame: Frame) -> Frame:
        size = frame.rgb.shape[:2]
        intrinsics = self._map_calibration.choose(
            size, *self._calibrations.find(frame.stamp_ns, size))
        first_pose = self._first_pose_at(frame.frame_id, frame.stamp_ns, False)
        if first_pose is None:
            first_pose = self._first_pose_at(frame.frame_id, frame.stamp_ns, True)
        else:
            self._transforms_settled = not self._replay
        return replace(frame, first_pose=first_pose, intrinsics=intrinsics)


def _bytes(intrinsics: Intrinsics | None) -> int:
    """Return the bytes of the distortion's coefficients."""
    if intrinsics is None or intrinsics.distortion is None:
        return 0
    return sum(map(getsizeof, intrinsics.distortion.coefficients))
