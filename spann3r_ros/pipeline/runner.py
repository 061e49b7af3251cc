# SPDX-License-Identifier: Apache-2.0
"""A mapper behind its slot and its worker thread: the same for node, replay and evaluation."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.mapping.front_end import ASKED_FOR, FIRST_ODD
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.mapping_status import MappingStatus, MapUpdate
from spann3r_ros.mapping.relocalisation.hint import Hint
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .image_clock import ImageClock
from .slot import FrameSlot
from .sync.map_calibration import MapCalibration
from .sync.map_size import MapSize
from .worker import Reporter, Worker, WorkerReport

Result = TypeVar('Result')


class Runner:
    """Owns slot, worker and image clock of a mapper, and calibration and size of its images.

    If `blocking`, every frame is used and `slot.put` waits; otherwise the newest frame replaces
    the waiting one. The methods are called on the owner's thread, those of the reporter on the
    worker's. The mapper is used only by `call`.
    """

    def __init__(self, mapper: Mapper, blocking: bool, reporter: Reporter) -> None:
        self.mapper = mapper
        self.clock = ImageClock()
        self.calibration = MapCalibration(mapper.check_camera)
        self.size = MapSize()
        self.slot = FrameSlot(blocking)
        # Any thread may read it: a status is immutable.
        self.map_status: MappingStatus = mapper.status()
        # The map came from a file: it is reset only if somebody asks for it.
        self.is_loaded = False
        # How many frames had been processed when the map began.
        self._processed_before = 0
        self._reporter = reporter
        self._worker = Worker(mapper.process, self.slot, reporter, self._note_status)

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a function on the worker thread, after the waiting frame; return what it returns."""
        return self._worker.call(function)

    def report(self) -> WorkerReport:
        """Return accounts and timing; may be called from any thread."""
        return self._worker.report()

    def forget_waiting(self) -> None:
        """Drop the waiting frame; any stamp, size and calibration are then accepted."""
        self.slot.discard()
        self.clock.begin_again()
        self.calibration.begin_again()
        self.size.begin_again()

    def reset(self, begun: Callable[[], None] = lambda: None, reason: str = ASKED_FOR) -> None:
        """Begin a new map, then call `begun` on the worker thread."""
        def reset() -> None:
            self.mapper.reset(reason)
            self._processed_before = self.slot.accounts().processed
            self._note_status()
            begun()
        self.call(reset)
        self.is_loaded = False

    def replace_first(self, begun: Callable[[], None] = lambda: None) -> None:
        """Begin the map again; its images now count as failed; then call `begun`.

        Raises RuntimeError, and changes nothing, if the map was loaded.
        """
        if self.is_loaded:
            raise RuntimeError('a loaded map has no odd first image')

        def revoke() -> None:
            self.slot.revoke(self.slot.accounts().processed - self._processed_before)
        self.call(revoke)
        self.reset(begun, FIRST_ODD)

    def end_sequence(self, reason: str) -> None:
        """Finish the frames that came and deliver them; the next one begins a fragment."""
        self.call(lambda: self._deliver(self.mapper.end_sequence(reason)))

    def load(self, saved: SavedNode) -> str:
        """Continue a saved map as `Mapper.load` does, after the waiting frame; return how.

        Waiting frames are dropped; the next image may have any stamp, and the calibration of the
        map. Raises ValueError if the map does not fit; nothing has changed then.
        """
        def load() -> str:
            message = self.mapper.load(saved)
            self._note_status()
            return message
        message = self.call(load)
        self.is_loaded = True
        # No image comes in between: the caller's thread passes them to the slot.
        self.forget_waiting()
        self.clock.begin_again(self.mapper.newest_ns)
        if (calibration := self.mapper.calibration) is not None:
            self.calibration.begin_with(calibration.size, calibration.intrinsics)
            self.size.begin_with(calibration.size)
        return message

    def take_hint(self, hint: Hint) -> str:
        """Use a hint where the camera is, as `Mapper.take_hint` does, after the waiting frame."""
        def take() -> str:
            message = self.mapper.take_hint(hint)
            self._note_status()
            return message
        return self.call(take)

    def configure(self, config: MapperConfig, then: Callable[[], None]) -> None:
        """Let the mapper use other settings after the waiting frame, then call `then`."""
        def configure() -> None:
            self.mapper.configure(config)
            self._note_status()
            then()
        self.call(configure)

    def flush(self) -> None:
        """End the recording and deliver the last keyframes and failures.

        Without a keyframe this does nothing, and the map stays open.
        """
        self.call(self._flush)

    def move_fragment(self, fragment_id: int, map_from_fragment: np.ndarray) -> None:
        """Place a fragment anew, as `Mapper.move_fragment` describes, and deliver the update."""
        def move() -> None:
            self._deliver(self.mapper.move_fragment(fragment_id, map_from_fragment))
        self.call(move)

    def stop(self) -> None:
        """End the thread after the frame in progress, and free the network's memory."""
        self._worker.stop()
        self.mapper.close()

    def _flush(self) -> None:
        if self.mapper.status().keyframes:
            self._deliver(self.mapper.flush())

    def _deliver(self, update: MapUpdate) -> None:
        self._note_status()
        self._worker.deliver(update)

    def _note_status(self) -> None:
        self.map_status = self.mapper.status()


class Collector:
    """A reporter that keeps all updates, in order, and all failures."""

    def __init__(self, observe: Callable[[], object] = lambda: None) -> None:
        self.updates: list[MapUpdate] = []
        self.failures: list[tuple[Frame, Exception]] = []
        self.defects: list[Exception] = []
        self._observe = observe

    def deliver(self, update: MapUpdate) -> None:
        """Keep an update."""
        self.updates.append(update)

    def frame_settled(self) -> None:
        """Call the observer."""
        self._observe()

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        """Keep the failure; anything but a FrameError is a defect."""
        self.failures.append((frame, error))
        if not isinstance(error, FrameError):
            self.defects.append(error)

    def report_failed(self, error: Exception) -> None:
        """Keep a defect of the observer."""
        self.defects.append(error)


def run_frames(mapper: Mapper, frames: Iterable[Frame],
               observe: Callable[[], object] = lambda: None) -> Collector:
    """Run a mapper over a recording without dropping a frame; return the updates and failures.

    `observe` is called after each frame. An exception other than a FrameError of a frame is a
    defect and is raised.
    """
    collector = Collector(observe)
    runner = Runner(mapper, blocking=True, reporter=collector)
    try:
        runner.slot.open()
        for frame in frames:
            runner.slot.put(frame)
        runner.flush()
    finally:
        runner.stop()
    if collector.defects:
        raise collector.defects[0]
    return collector
