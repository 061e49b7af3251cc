# SPDX-License-Identifier: Apache-2.0
"""A mapper that runs over photographs or a video, and what became of each image."""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MapUpdate
from spann3r_ros.mapping.selection.sight import REPEATED
from spann3r_ros.mapping.storage.map_directory import encode_map
from spann3r_ros.pipeline.bag_replay import Observer, ReplaySummary, Result, summarise
from spann3r_ros.pipeline.runner import Runner

NO_POSE = 'its points give no pose'
# A network may need two images for a pointmap: a photograph alone comes twice, this far apart.
AGAIN_NS = 10**9

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """A frame, and the name of its image."""

    name: str
    frame: Frame


class PhotoRun:
    """Passes images to a runner, and records which of them have a place in the map.

    `observe` gets the name and the keyframe of each image with a pose, on the worker's thread.
    `registered` are the names and stamps of those with a pose, in the order of the map;
    `left_out` the names and the reasons of others. Images that show nothing new are in neither.
    `names` are those of all images by their stamps.
    The `observers` are called after each image.
    The methods are called on one thread, those of a `Reporter` and the observers on the worker's.
    """

    def __init__(self, mapper: Mapper,
                 observe: Callable[[str, Keyframe], object] = lambda *_: None,
                 observers: Sequence[Observer] = ()) -> None:
        self._observe, self._observers = observe, observers
        self.registered: dict[str, int] = {}
        self.left_out: dict[str, str] = {}
        self.defects: list[Exception] = []
        self.images = 0
        self.names: dict[int, str] = {}
        self._given: deque[int] = deque()
        self._newest: Named | None = None
        self._blind = False
        self._fragments: set[int] = set()
        self._runner = Runner(mapper, blocking=True, reporter=self)
        self._runner.slot.open()

    def take(self, images: Iterable[Named], done: Callable[[int], object]) -> bool:
        """Map images until they end or the user interrupts; return whether they ended.

        `done` gets 1 for each image.
        """
        try:
            for one in images:
                self._put(one)
                done(1)
            self._again()
        except KeyboardInterrupt:
            ended = False
        except BaseException:
            self.close()
            raise
        else:
            ended = True
        self._runner.flush()
        return ended

    def save(self, folder: Path) -> None:
        """Write the map into a folder; raises as `encode_map` and `MapFiles.write`."""
        self._runner.call(lambda: encode_map(self._runner.mapper)).write(folder)

    def summary(self, seconds: float, warnings: list[str]) -> ReplaySummary:
        """Return the summary after `take`."""
        return summarise(self._runner, self._fragments, self.images, seconds, warnings)

    def read(self, function: Callable[[Mapper], Result]) -> Result:
        """Return what a function returns of the mapper; it runs on the worker's thread."""
        return self._runner.call(lambda: function(self._runner.mapper))

    def close(self) -> None:
        """End the worker."""
        self._runner.stop()

    def deliver(self, update: MapUpdate) -> None:
        """Record which images have a pose."""
        self._blind = update.blind
        self._fragments.update(one.fragment_id for one in update.keyframes)
        for keyframe in update.keyframes:
            name = self.names[keyframe.stamp_ns]
            if keyframe.pose is None:
                self.left_out.setdefault(name, NO_POSE)
            else:
                self.registered.setdefault(name, keyframe.stamp_ns)
                self._observe(name, keyframe)
                self.left_out.pop(name, None)

    def frame_settled(self) -> None:
        """Record an image that shows nothing."""
        name = self.names[self._given.popleft()]
        if self._blind:
            self.left_out[name] = self._runner.map_status.blind_reason or REPEATED
        self._blind = False
        for observe in self._observers:
            observe(self._runner.report(), self._runner.map_status)

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        """Record an image that the mapper could not use; anything but a FrameError is a defect."""
        name = self.names[frame.stamp_ns]
        self._blind = False
        if name not in self.registered:
            self.left_out[name] = str(error)
        if isinstance(error, FrameError):
            logger.warning('%s: %s', name, error)
        else:
            self.report_failed(error)

    def report_failed(self, error: Exception) -> None:
        """Keep a defect."""
        self.defects.append(error)
        logger.error('%s: %s', type(error).__name__, error, exc_info=error)

    def _put(self, one: Named) -> None:
        self.names[one.frame.stamp_ns] = one.name
        self._given.append(one.frame.stamp_ns)
        self.images += 1
        self._newest = one
        self._runner.slot.put(one.frame)

    def _again(self) -> None:
        """Give the only image a second time, if the network has no pointmap of it."""
        last = self._newest
        if self.images == 1 and not self._runner.call(self._runner.mapper.status).keyframes:
            self._put(replace(last, frame=replace(last.frame,
                                                  stamp_ns=last.frame.stamp_ns + AGAIN_NS)))
            self.images = 1
