# SPDX-License-Identifier: Apache-2.0
"""The back end: it decides how the fragments of a map move, from the keyframes they receive.

It never changes a pose in a fragment. What it decides depends on the frames alone, never on time.
The keyframes that it observes are in the map already. So a part of it that fails costs no frame:
the failure is logged and counted, and the next keyframe finds all parts at work.
"""
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, map_axes
from spann3r_ros.core.types import Frame

from .fragments.atlas import Atlas
from .loops.correction import Correction
from .loops.join_check import check_join
from .loops.loop_closer import LoopCloser
from .loops.pose_graph import ScalePrior
from .mapper_config import MapperConfig
from .memory_manager import MemoryManager
from .relocalisation.relocaliser import Relocaliser
from .scale.scale_tracker import ScaleTracker
from .storage.saved_tree import SavedNode

logger = logging.getLogger(__name__)


class BackEnd:
    """Levels a map that began without gravity, checks joins, measures the scale, closes loops.

    `levelled` is true once the map is level, or if given poses place it. `correction` takes loops
    and measured scales. With given poses it is not used: nothing corrects these. `failures` counts
    the parts that have failed, `failure` is the reason of the last one, or empty.
    While the current fragment has no place in the map, only `relocaliser` uses its keyframes.
    """

    def __init__(self, config: MapperConfig, memory: MemoryManager) -> None:
        self._config = config
        self.levelled = False
        self.scale = ScaleTracker(config)
        self.loops = LoopCloser(config, memory)
        self.correction = Correction(config.loops)
        self.relocaliser = Relocaliser(config, memory)
        self.failures, self.failure = 0, ''

    @property
    def is_pending(self) -> bool:
        """Return whether a decision is still to be applied."""
        return self.correction.is_pending

    def configure(self, config: MapperConfig) -> None:
        """Use other settings from the next frame on."""
        self._config = config
        self.scale.configure(config)
        self.loops.configure(config)
        self.correction.configure(config.loops)
        self.relocaliser.configure(config)

    def take_restart_reason(self) -> str:
        """Return why a new fragment has to begin, once, or an empty text."""
        reason, self.scale.restart_reason = self.scale.restart_reason, ''
        return reason

    def observe(self, frame: Frame, keyframes: Sequence[Keyframe], atlas: Atlas) -> None:
        """Use a frame whose estimate is final, and the keyframes that it completed.

        Raises no Exception: see `failures`.
        """
        if frame.world_from_camera is None and self._relocalise(keyframes, atlas):
            return
        with self._counted('levelling the map'):
            self._level(frame, keyframes, atlas)
        for keyframe in keyframes:
            with self._counted('checking a join'):
                check_join(keyframe, atlas, self._config)
            if keyframe.stamp_ns == frame.stamp_ns:
                with self._counted('measuring the scale'):
                    self.scale.observe(frame, keyframe, atlas)
        if frame.world_from_camera is not None:
            return
        for keyframe in keyframes:
            with self._counted('looking for a loop'):
                self.correction.add(self.loops.observe(keyframe, atlas), atlas)
            with self._counted('correcting the map'):
                self.correction.observe(atlas, self.scale.priors(atlas))

    def finish(self, atlas: Atlas) -> None:
        """Apply what has been decided, because no frame follows; raise no Exception."""
        priors: list[ScalePrior] = []
        with self._counted('measuring the scale'):
            priors = self.scale.priors(atlas)
        while self.correction.is_pending:
            with self._counted('correcting the map'):
                self.correction.finish(atlas, priors)

    def tree(self) -> dict[str, Any]:
        """Return the counters for a saved map; the parts are saved by themselves."""
        return {'failures': self.failures, 'failure': self.failure}

    def restore(self, node: SavedNode) -> None:
        """Take over saved counters; raise ValueError if they are wrong."""
        self.failures, self.failure = node.integer('failures'), node.text('failure')

    @contextmanager
    def _counted(self, part: str) -> Iterator[None]:
        """Log and count an Exception within a `with` statement, which then ends."""
        try:
            yield
        except Exception as error:
            failure = f'{part}: {type(error).__name__}: {error}'
            if failure != self.failure:
                logger.exception('the back end failed: %s', failure)
            self.failures, self.failure = self.failures + 1, failure

    def _relocalise(self, keyframes: Sequence[Keyframe], atlas: Atlas) -> bool:
        """Search for the place of keyframes; return whether it was unknown when they came."""
        unlocated = atlas.unlocated()
        searched = [one for one in keyframes if one.fragment_id in unlocated]
        for keyframe in keyframes:
            with self._counted('searching for the place of the camera'):
                found = self.relocaliser.observe(keyframe, atlas)
                if found:
                    self.correction.add(found, atlas)
                    # It has not seen the keyframes of the search.
                    self.loops.begin_again()
        for _ in searched:
            with self._counted('correcting the map'):
                self.correction.observe(atlas, self.scale.priors(atlas))
        return bool(searched)

    def _level(self, frame: Frame, keyframes: Sequence[Keyframe], atlas: Atlas) -> None:
        """Level the map by the first frame whose direction against gravity is known.

        The map is then as if that direction, and no more, had been known at its first frame: its
        origin and the direction of its x axis stay those of the first camera.
        """
        if self.levelled or frame.first_pose is None:
            return
        pose = next((one.pose for one in keyframes if one.stamp_ns == frame.stamp_ns), None)
        if pose is None:
            return
        in_map = pose.in_map(atlas.current.map_from_fragment).world_from_camera
        # The map was begun by a camera that was thought to be level.
        up_of_first = MAP_FROM_OPTICAL[:3, :3].T @ in_map[:3, :3] @ frame.first_pose[2, :3]
        atlas.move_all(map_axes(up_of_first) @ invert(MAP_FROM_OPTICAL))
        self.levelled = True
        logger.info('the map is levelled: gravity was not known at its first image')
