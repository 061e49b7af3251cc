# SPDX-License-Identifier: Apache-2.0
"""A mapper behind its slot and its worker thread: the same for node, replay and evaluation."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MappingStatus, MapUpdate
from spann3r_ros.mapping.storage.saved_map import SavedMap

from .image_clock import ImageClock
from .slot import FrameSlot
from .worker import Reporter, Worker, WorkerReport

Result = TypeVar('Result')


class Runner:
    """Owns slot, worker and image clock of a mapper.

    If `blocking`, every frame is used and `slot.put` waits; otherwise the newest frame replaces
    the waiting one. The methods are called on the owner's thread, those of the reporter on the
    worker's. The mapper is used only by `call`.
    """

    def __init__(self, mapper: Mapper, blocking: bool, reporter: Reporter) -> None:
        self.mapper = mapper
        self.clock = ImageClock()
        self.slot = FrameSlot(blocking)
        # Any thread may read it: a status is immutable.
        self.map_status: MappingStatus = mapper.status()
        self._reporter = reporter
        self._worker = Worker(self._process, self.slot, reporter, self._note_status)

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a function on the worker thread, after the waiting frame; return what it returns."""
        return self._worker.call(function)

    def report(self) -> WorkerReport:
        """Return accounts and timing; may be called from any thread."""
        return self._worker.report()

    def forget_waiting(self) -> None:
        """Drop the waiting frame; the image clock then accepts any stamp."""
        self.slot.discard()
        self.clock.begin_again()

    def reset(self, begun: Callable[[], None] = lambda: None) -> None:
        """Begin a new map, then call `begun` on the worker thread."""
        def reset() -> None:
            self.mapper.reset()
            self._note_status()
            begun()
        self.call(reset)

    def load(self, saved: SavedMap, begun: Callable[[], None] = lambda: None) -> None:
        """Continue a saved map, then call `begun`; raise ValueError if the map does not fit."""
        def load() -> None:
            self.mapper.load(saved)
            self._note_status()
            begun()
        self.call(load)

    def flush(self) -> FrameError | None:
        """End the recording and deliver the last keyframes; return the network's error, if any.

        Frames that turn out to be unusable are counted and reported as failed. Without a keyframe
        this does nothing, and the map stays open.
        """
        return self.call(self.flush_now)

    def flush_now(self) -> FrameError | None:
        """Do what `flush` does, on the worker thread."""
        if not self.mapper.status().keyframes:
            return None
        try:
            update = self.mapper.flush()
            self._reporter.deliver(update)
            self._worker.refuse_earlier(update)
        except FrameError as error:
            self._deliver_rest()
            return error
        finally:
            self._note_status()
        return None

    def stop(self) -> None:
        """End the thread after the frame in progress, and free the network's memory."""
        self._worker.stop()
        self.mapper.close()

    def _process(self, frame: Frame) -> MapUpdate:
        try:
            return self.mapper.process(frame)
        except Exception:
            self._deliver_rest()
            raise

    def _deliver_rest(self) -> None:
        """Deliver the keyframes that came although a frame failed."""
        if keyframes := self.mapper.take_keyframes():
            try:
                self._reporter.deliver(MapUpdate(keyframes=keyframes))
            except Exception as error:
                self._reporter.report_failed(error)

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

    An error of the network at the end counts as one of the last frame. `observe` is called
    after each frame. An exception other than a FrameError of a frame is a
    defect and is raised.
    """
    collector = Collector(observe)
    runner = Runner(mapper, blocking=True, reporter=collector)
    try:
        runner.slot.open()
        frame = None
        for frame in frames:
            runner.slot.put(frame)
        error = runner.flush()
        if error is not None:
            collector.frame_failed(frame, error)
    finally:
        runner.stop()
    if collector.defects:
        raise collector.defects[0]
    return collector
