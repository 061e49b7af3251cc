# SPDX-License-Identifier: Apache-2.0
"""The back end: it decides how the fragments of a map move, from the keyframes they receive.

It never changes a pose in a fragment. What it decides depends on the frames alone, never on time.
"""
from __future__ import annotations

import logging
from collections.abc import Sequence

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, map_axes
from spann3r_ros.core.types import Frame

from .fragments.atlas import Atlas
from .loops.correction import Correction
from .loops.loop_closer import LoopCloser
from .mapper_config import MapperConfig
from .memory_manager import MemoryManager
from .relocalisation.relocaliser import Relocaliser
from .scale.scale_tracker import ScaleTracker

logger = logging.getLogger(__name__)


class BackEnd:
    """Levels a map that began without gravity, measures its scale, and closes its loops.

    `levelled` is true once the map is level, or if given poses place it. `correction` takes loops
    and measured scales. With given poses it is not used: nothing corrects these. While the current
    fragment has no place in the map, only `relocaliser` uses its keyframes.
    """

    def __init__(self, config: MapperConfig, memory: MemoryManager) -> None:
        self.levelled = False
        self.scale = ScaleTracker(config)
        self.loops = LoopCloser(config, memory)
        self.correction = Correction(config.loops)
        self.relocaliser = Relocaliser(config, memory)

    @property
    def is_pending(self) -> bool:
        """Return whether a decision is still to be applied."""
        return self.correction.is_pending

    def configure(self, config: MapperConfig) -> None:
        """Use other settings from the next frame on."""
        self.scale.configure(config)
        self.loops.configure(config)
        self.correction.configure(config.loops)
        self.relocaliser.configure(config)

    def take_restart_reason(self) -> str:
        """Return why a new fragment has to begin, once, or an empty text."""
        reason, self.scale.restart_reason = self.scale.restart_reason, ''
        return reason

    def observe(self, frame: Frame, keyframes: Sequence[Keyframe], atlas: Atlas) -> None:
        """Use a frame whose estimate is final, and the keyframes that it completed."""
        if frame.world_from_camera is None and self._relocalise(keyframes, atlas):
            return
        self._level(frame, keyframes, atlas)
        for keyframe in keyframes:
            if keyframe.stamp_ns == frame.stamp_ns:
                self.scale.observe(frame, keyframe, atlas)
        if frame.world_from_camera is not None:
            return
        for prior in self.scale.priors(atlas):
            self.correction.set_scale(prior, is_due=False)
        for keyframe in keyframes:
            self.correction.add(self.loops.observe(keyframe, atlas), atlas)
            self.correction.observe(atlas)

    def finish(self, atlas: Atlas) -> None:
        """Apply what has been decided, because no frame follows."""
        self.correction.finish(atlas)

    def _relocalise(self, keyframes: Sequence[Keyframe], atlas: Atlas) -> bool:
        """Search for the place of keyframes; return whether it was unknown when they came."""
        unlocated = atlas.unlocated()
        searched = [one for one in keyframes if one.fragment_id in unlocated]
        for keyframe in keyframes:
            found = self.relocaliser.observe(keyframe, atlas)
            if found:
                self.correction.add(found, atlas)
                # It has not seen the keyframes of the search.
                self.loops.begin_again()
        for _ in searched:
            self.correction.observe(atlas)
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
        self.levelled = True
        in_map = pose.in_map(atlas.current.map_from_fragment).world_from_camera
        # The map was begun by a camera that was thought to be level.
        up_of_first = MAP_FROM_OPTICAL[:3, :3].T @ in_map[:3, :3] @ frame.first_pose[2, :3]
        logger.info('the map is levelled: gravity was not known at its first image')
        atlas.move_all(map_axes(up_of_first) @ invert(MAP_FROM_OPTICAL))
