# SPDX-License-Identifier: Apache-2.0
"""Replay of a recording without ROS, with the same result as the node in replay mode."""
from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from spann3r_ros.core.encodings import ImageDecoder, to_mask
from spann3r_ros.core.image_files.depth_images import to_depth
from spann3r_ros.core.messages import set_stamp, to_intrinsics, to_nanoseconds
from spann3r_ros.core.types import Frame, FrameError
from spann3r_ros.mapping.front_end import TIME_JUMPED
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapping_status import MappingStatus, MapUpdate
from spann3r_ros.mapping.storage.map_directory import map_hashes, snapshot_map
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .image_clock import JUMPED, Jump
from .intake import Intake
from .node_settings import NodeConfig
from .resumption import Resumption
from .runner import Runner
from .sync.camera_sync import Expected
from .transform_tree import StampedTransform, TransformTree
from .worker import WorkerReport

Result = TypeVar('Result')
Observer = Callable[[WorkerReport, MappingStatus], object]

# While images wait for the network, transforms that are newer by up to this much arrive.
CACHE_SEC = 600.0
# The roles whose stamp may be the time of recording instead.
STAMPED = ('image', 'camera_info', 'mask', 'depth')
# Most different warnings that a summary lists.
MAX_WARNINGS = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplaySummary:
    """The results of a replay, as written to `summary.json`.

    `frames` counts every image of the camera by its result. `recovered` counts how often mapping
    went on after a failure, `blind` the skipped images that show nothing. `poses` counts the
    keyframes with a pose. `loops` counts those that the map follows. `scale` says
    whether the map is in metres, from which source, and the relative standard deviation of the
    scale (None if it is not). `sha256` contains hashes of the arrays of map and trajectory.
    """

    images: int
    frames: dict[str, int]
    recovered: int
    blind: int
    poses: int
    voxels: int
    fragments: int
    loops: int
    scale: dict[str, Any]
    threads: int
    seconds: float
    sha256: dict[str, str]
    warnings: list[str]


class Warnings(logging.Handler):
    """Counts the different warnings and errors that the package logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count one record by its text."""
        text = record.getMessage().splitlines()[0]
        if text in self._counts or len(self._counts) < MAX_WARNINGS:
            self._counts[text] += 1

    def texts(self) -> list[str]:
        """Return each text once, with its number of occurrences."""
        return [self._numbered(text) for text in self._counts]

    def most_frequent(self) -> str:
        """Return the text that occurred most often, with that number; empty without any."""
        return next((self._numbered(text) for text, _ in self._counts.most_common(1)), '')

    def _numbered(self, text: str) -> str:
        count = self._counts[text]
        return text if count == 1 else f'{text} ({count} times)'


class Replay:
    """Passes the messages of a recording to a runner; no image is dropped for lack of time.

    Messages have the fields of the ROS types. `expected` describes what the recording contains.
    The methods are called on one thread, those of a `Reporter` on the worker's, and there
    `updated` with each update and the `observers` after each frame.
    """

    def __init__(self, mapper: Mapper, config: NodeConfig, expected: Expected,
                 observers: Sequence[Observer] = (),
                 updated: Callable[[MapUpdate], object] = lambda _: None) -> None:
        self._mapper = mapper
        self._observers, self._updated = observers, updated
        self._config = replace(config, mode='replay')
        self._tree = TransformTree(CACHE_SEC)
        self._fragments: set[int] = set()
        self._decode = ImageDecoder(logger.warning)
        self._matches_due = 0
        self._resumption: Resumption | None = None
        self.defects: list[Exception] = []
        self._runner = Runner(mapper, blocking=True, reporter=self)
        self._runner.slot.open()
        self._intake = Intake(self._config, self._runner, self._tree, self, expected)

    def take(self, role: str, message: Any, recorded_ns: int) -> None:  # noqa: ANN401
        """Process a message; its role is one of those of `CameraBag.messages`.

        `recorded_ns` is the time of recording.
        """
        if self._config.stamp_source == 'receipt' and role in STAMPED:
            set_stamp(message, recorded_ns)
        getattr(self, f'_take_{role}')(message)
        while self._matches_due:
            self._matches_due -= 1
            self._intake.match()

    def refuse(self, role: str, error: ValueError) -> None:
        """Count a malformed message if it is an image, and log it; its role is as in `take`."""
        if role == 'image':
            self._intake.refuse_image(FrameError(str(error)))
        elif role in ('mask', 'depth'):
            self._intake.refuse_mask(FrameError(str(error)))
        else:
            logger.warning('message refused: %s', error)

    def resume(self, saved: SavedNode) -> str:
        """Continue a saved map with the images of the recording that it does not have; return how.

        Raises ValueError for a map that does not fit.
        """
        message = self._runner.load(saved)
        self._fragments.update(self._runner.call(lambda: self._mapper.fragment_ids))
        if (newest_ns := self._mapper.newest_ns) is not None:
            self._resumption = Resumption(newest_ns)
            self._intake.resume(self._resumption)
        return message

    def finish(self) -> None:
        """End the recording: finish the waiting images and merge the last keyframe.

        Raises ValueError if the recording does not continue the map that was loaded.
        """
        self._intake.drain(ended=True)
        if self._resumption is not None:
            self._resumption.check_end()
        self._runner.flush()

    def save(self, folder: Path) -> None:
        """Write the map into a folder; raises as `snapshot_map` and `MapFiles.write`.

        The map has the images that have passed the intake.
        """
        self._runner.call(lambda: snapshot_map(self._mapper)).encode().write(folder)

    def read(self, function: Callable[[Mapper], Result]) -> Result:
        """Return what a function returns of the mapper; it runs on the worker's thread."""
        return self._runner.call(lambda: function(self._mapper))

    def observe_end(self, observe: Observer) -> None:
        """Call an observer once more, after `finish`."""
        self._runner.call(lambda: observe(self._runner.report(), self._runner.map_status))

    def close(self) -> None:
        """End the worker."""
        self._runner.stop()

    def summary(self, images: int, seconds: float, warnings: list[str]) -> ReplaySummary:
        """Return the summary after `finish`."""
        return summarise(self._runner, self._fragments, images, seconds, warnings)

    def match_soon(self) -> None:
        """Have the intake check its waiting images after this message."""
        self._matches_due += 1

    def image_waits(self) -> None:
        """Do nothing: a replay publishes no status."""

    def image_failed(self, error: Exception) -> None:
        """Log an image or a mask that could not be used."""
        _log_failure('image refused', error)

    def time_jumped(self, stamp_ns: int, jump: Jump) -> None:
        """Begin a fragment or a new map; forget the old transforms."""
        if jump.begins_fragment:
            self._runner.end_sequence(TIME_JUMPED)
        self._runner.call(lambda: self._tree.begin_again(stamp_ns))
        if jump is not Jump.NOTHING:
            logger.warning('%s', JUMPED[jump])
        if jump is Jump.RESET:
            self._runner.reset(self._fragments.clear, TIME_JUMPED)

    def input_fault(self, reason: str) -> None:
        """Log what the recording does not have."""
        logger.warning('%s', reason)

    def map_replaced(self, error: Exception) -> None:
        """Begin the map again without its first image, which was an odd one."""
        self._runner.replace_first(self._fragments.clear)
        self.image_failed(error)

    def deliver(self, update: MapUpdate) -> None:
        """Record the fragments of the keyframes; pass the update on."""
        self._fragments.update(keyframe.fragment_id for keyframe in update.keyframes)
        self._updated(update)

    def frame_settled(self) -> None:
        """Call the observers."""
        for observe in self._observers:
            observe(self._runner.report(), self._runner.map_status)

    def frame_failed(self, frame: Frame, error: Exception) -> None:
        """Log a frame that the mapper could not use; anything but a FrameError is a defect."""
        if not isinstance(error, FrameError):
            self.defects.append(error)
        _log_failure('frame refused', error)

    def report_failed(self, error: Exception) -> None:
        """Keep a defect."""
        self.defects.append(error)
        _log_failure('result lost', error)

    def _take_image(self, message: Any) -> None:  # noqa: ANN401
        try:
            stamp_ns = to_nanoseconds(message.header.stamp)
        except FrameError as error:
            self._intake.refuse_image(error)
        else:
            self._intake.take_image(stamp_ns, message.header.frame_id,
                                    partial(self._decode, message))

    def _take_camera_info(self, message: Any) -> None:  # noqa: ANN401
        self._intake.take_calibration(_stamp_ns(message), partial(
            to_intrinsics, message, self._config.image_rectified), message.header.frame_id)

    def _take_mask(self, message: Any) -> None:  # noqa: ANN401
        try:
            stamp_ns = to_nanoseconds(message.header.stamp)
        except FrameError as error:
            self._intake.refuse_mask(error)
        else:
            self._intake.take_mask(stamp_ns, partial(to_mask, message))

    def _take_depth(self, message: Any) -> None:  # noqa: ANN401
        try:
            stamp_ns = to_nanoseconds(message.header.stamp)
        except FrameError as error:
            self._intake.refuse_mask(error)
        else:
            self._intake.take_depth(stamp_ns, partial(to_depth, message))

    def _take_tf(self, message: Any, static: bool = False) -> None:  # noqa: ANN401
        for transform in message.transforms:
            self._tree.take(_stamped(transform, transform.child_frame_id,
                                     transform.transform.translation,
                                     transform.transform.rotation), static)
        self._matches_due += self._intake.waiting > 0

    def _take_tf_static(self, message: Any) -> None:  # noqa: ANN401
        self._take_tf(message, static=True)

    def _take_odometry(self, message: Any) -> None:  # noqa: ANN401
        pose = message.pose.pose
        self._tree.take(_stamped(message, message.child_frame_id, pose.position,
                                 pose.orientation))
        self._matches_due += self._intake.waiting > 0


def summarise(runner: Runner, fragments: Collection[int], images: int, seconds: float,
              warnings: list[str]) -> ReplaySummary:
    """Return the summary of a recording that has ended; `fragments` are those with keyframes."""
    accounts = asdict(runner.report().accounts)
    del accounts['waiting']
    blind = accounts.pop('blind')
    status, mapper = runner.map_status, runner.mapper
    poses, voxels, hashes = runner.call(lambda: (
        len(mapper.trajectory), len(mapper.cloud()), map_hashes(mapper)))
    return ReplaySummary(
        images=images, frames=accounts, recovered=status.memory.recoveries,
        blind=blind, poses=poses, voxels=voxels,
        fragments=len(fragments), loops=status.loops_accepted,
        scale=_scale(status),
        threads=status.memory.status.threads,
        seconds=round(seconds, 3), sha256=hashes, warnings=warnings)


def _scale(status: MappingStatus) -> dict[str, Any]:
    metric, source = status.scale.metric, status.scale.source
    deviation = round(math.sqrt(status.scale.variance), 4) if metric else None
    return {'metric': metric, 'source': source, 'deviation': deviation}


def _stamp_ns(message: Any) -> int:  # noqa: ANN401
    stamp = message.header.stamp
    return stamp.sec * 10**9 + stamp.nanosec


def _stamped(message: Any, child: str, place: Any, turn: Any) -> StampedTransform:  # noqa: ANN401
    return StampedTransform(message.header.frame_id, child, _stamp_ns(message),
                            (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))


def _log_failure(what: str, error: Exception) -> None:
    if isinstance(error, FrameError):
        logger.warning('%s: %s', what, error)
    else:
        logger.error('%s: %s: %s', what, type(error).__name__, error, exc_info=error)
