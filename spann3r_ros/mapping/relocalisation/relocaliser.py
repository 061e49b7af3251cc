# SPDX-License-Identifier: Apache-2.0
"""The relocalisation: it notices that the camera's place is unknown, and searches for it.

The place becomes unknown

* with the first image after a load, unless it shows the view with which the map ended;
* with an image that shows nothing of the one before, after a gap: a covered lens, a camera that
  was off or carried away, stamps that jumped back;
* after several keyframes without a pose, and if a fragment cannot be joined;
* by a hint of a user that contradicts the present place.

Then a fragment begins that is *unlocated*: it is in no view of the map. Each of its keyframes is
searched for in the map. Two hits that agree, of two keyframes with two others, and more of them
than contradict, locate it: its group of fragments moves to the place of the hits, which become
accepted loops of the pose graph.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert_similarity, similarity_scale
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.loops.loop_closer import constraint_between
from spann3r_ros.mapping.loops.pair_alignment import Alignment, MismatchError
from spann3r_ros.mapping.loops.path_prior import map_from_camera
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.memory_manager import MemoryManager
from spann3r_ros.mapping.scale.map_scale import Scale
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .cut import shows_view_of
from .hint import Hint, HintError
from .hits import Hit, common_motion, read_hit
from .search import Search

# Reasons why the next frame begins an unlocated fragment.
LOADED_ELSEWHERE = 'the first image after the load is searched for in the map'
MOVED_AWAY = 'the image shows nothing of the last one'
CONTRADICTED = 'the pose on initialpose is elsewhere'
CUTS = (LOADED_ELSEWHERE, MOVED_AWAY, CONTRADICTED)
# What `reason` says while no keyframe has been searched for.
AWAITS_IMAGE = 'the next image decides whether the loaded map goes on'
# So many hits are compared with a new one.
MOST_HITS = 10
# A hint by which nothing was found in so many keyframes is dropped.
HINT_KEYFRAMES = 30
# Standard deviation of the logarithm of the scale if a hint alone gives the place.
HINT_LOG_SCALE = 0.5
# Least standard deviation of its position, in units of the map, and of its rotation in radians: a
# pose from a picture from above has variances of zero for what it does not say.
HINT_FLOOR = 0.1

logger = logging.getLogger(__name__)


class Relocaliser:
    """Observes the frames of one map and the keyframes of its unlocated fragments.

    `awaits_image` is true from a load until the first image has shown whether the map goes on.
    `reason` says what the search lacks. What is decided depends on frames, keyframes and hints.
    """

    def __init__(self, config: MapperConfig, memory: MemoryManager) -> None:
        self._config = config
        self._memory = memory
        self.awaits_image = False
        self.reason = ''
        self._before: tuple[int, np.ndarray] | None = None  # stamp and image of the last frame
        self._search: Search | None = None  # while the current fragment is unlocated
        self._hits: deque[Hit] = deque(maxlen=MOST_HITS)
        self._hint: Hint | None = None
        self._waited = 0  # keyframes since one was searched for
        self._hinted = 0  # keyframes with the hint
        self._continued = False  # the network goes on with the sequence of the loaded map

    @property
    def is_enabled(self) -> bool:
        """Return whether unlocated fragments are searched for."""
        return self._config.relocalisation.enabled

    def configure(self, config: MapperConfig) -> None:
        """Use other settings from the next frame on."""
        self._config = config
        if not self.is_enabled:
            self.awaits_image = False

    def begin_loaded(self, image: np.ndarray | None, continued: bool) -> None:
        """Let the first image decide whether a loaded map goes on, if the settings say so.

        `image` is that of the newest keyframe, for maps that were saved without a last image.
        `continued`: the network goes on with its sequence; then an image without a gap does, too.
        """
        if not self.is_enabled or self._config.relocalisation.after_load == 'continue':
            self._before = None
            return
        self.awaits_image, self.reason, self._continued = True, AWAITS_IMAGE, continued
        if self._before is None and image is not None:
            self._before = 0, image

    def cut(self, frame: Frame, view: Preprocessed) -> str:
        """Return why a frame begins an unlocated fragment; an empty text if it does not."""
        if not self.is_enabled or frame.world_from_camera is not None:
            self._before, self.awaits_image = None, False
            return ''
        before, self._before = self._before, (frame.stamp_ns, view.image)
        awaited, self.awaits_image = self.awaits_image, False
        config = self._config.relocalisation
        if awaited and config.after_load == 'search':
            return LOADED_ELSEWHERE
        if before is None:
            return LOADED_ELSEWHERE if awaited else ''
        gap_ns = frame.stamp_ns - before[0]
        is_next = 0 <= gap_ns <= round(config.max_gap_sec * 1e9)
        if is_next and not awaited:
            return ''
        if is_next and self._continued or shows_view_of(view.image, before[1]):
            if self._search is None:
                self._hint, self.reason = None, ''
            return ''
        return LOADED_ELSEWHERE if awaited else MOVED_AWAY

    def begin(self, fragment: Fragment, reason: str) -> None:
        """Search for a fragment whose place is not known."""
        fragment.unlocated, fragment.scale = True, Scale()
        if self._search is None or self._hits:
            logger.warning('the place of the camera in the map is not known, it is searched for: '
                           '%s', reason)
        self._search, self.reason = Search(self._memory), reason
        self._hits.clear()
        self._waited = self._config.relocalisation.interval

    def observe(self, keyframe: Keyframe, atlas: Atlas) -> list[Constraint]:
        """Use a keyframe that the atlas has just received.

        Returns accepted loops when they have located the fragment, and moves it. Raises nothing
        that the network raises.
        """
        if not self.is_enabled:
            self._give_up(atlas)
            return []
        if keyframe.fragment_id not in atlas.unlocated():
            if self._search is not None and atlas.current.id == keyframe.fragment_id:
                self._end()
            return []
        if self._search is None:
            self._search = Search(self._memory)
        if keyframe.pose is None:
            self.reason = 'the newest keyframe has no pose'
            return []
        if self._hint is not None and self._config.relocalisation.trust_hint:
            return self._locate([self._trusted(keyframe, atlas)], atlas)
        number = atlas.newest_number(keyframe.fragment_id)
        if keyframe.descriptor is None:
            self.reason = 'the network describes no places'
            return []
        self._search.index(number, keyframe, atlas)
        self._waited += 1
        if self._waited < self._config.relocalisation.interval:
            return []
        self._waited = 0
        return self._try(number, keyframe, atlas)

    def take_hint(self, hint: Hint, atlas: Atlas) -> tuple[str, str]:
        """Use a hint of a user; return a message, and a reason to begin a search, or ''.

        Raises HintError without relocalisation, and without a map.
        """
        if not self.is_enabled:
            raise HintError('initialpose: expected relocalisation.enabled, got a pose while it is '
                            'off')
        if not any(one.keyframes for one in atlas.fragments.values()):
            raise HintError('initialpose: expected a map, got a pose before the first keyframe')
        searches = self.awaits_image or atlas.current.id in atlas.unlocated()
        if not searches and len(atlas.current.path):
            camera = atlas.current.map_from_fragment @ atlas.current.path.transforms[-1]
            if hint.is_near(camera[None], self._config.relocalisation.hint_radius)[0]:
                return 'the camera is located near this pose already', ''
        self._hint, self._hinted = hint, 0
        if searches:
            return 'the place is searched for near this pose', ''
        return 'the camera is located elsewhere: its place is searched for near this pose', (
            CONTRADICTED)

    def tree(self) -> dict[str, Any] | None:
        """Return the state for a saved map, without a hint; None if there is none."""
        if self._before is None and self._search is None and not self.awaits_image:
            return None
        before = self._before
        return {'before': None if before is None else {'stamp_ns': before[0], 'image': before[1]},
                'searches': self._search is not None, 'reason': self.reason,
                'waited': self._waited,
                'hits': [one.tree() for one in self._hits],
                'refused': [] if self._search is None else [
                    {'number': one, 'keyframe': keyframe}
                    for one, keyframe in self._search.refused.items()]}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        if node.has('before'):
            before = node.node('before')
            self._before = (before.integer('stamp_ns'),
                            before.array('image', np.uint8, (None, None, 3)))
        self.reason = node.text('reason')
        self._waited = node.integer('waited')
        self._hits.extend(read_hit(one) for one in node.nodes('hits'))
        if node.flag('searches'):
            self._search = Search(self._memory)
            self._search.refused = {one.integer('number'): one.integer('keyframe')
                                    for one in node.nodes('refused')}

    def _try(self, number: int, keyframe: Keyframe, atlas: Atlas) -> list[Constraint]:
        """Search for one keyframe; return the loops if that locates it."""
        self._count_hint()
        try:
            hit = self._search.hit(number, keyframe, atlas, self._hint,
                                   {one.first for one in self._hits}, self._config)
        except MismatchError as error:
            self.reason = str(error)
            return []
        self._hits.append(hit)
        hits = [one for one in self._hits if {
            one.first_pose.fragment_id, one.second_pose.fragment_id} <= set(atlas.fragments)]
        agreeing = [one for one in hits if one is hit or hit.confirms(one, atlas)]
        against = sum(not hit.agrees_with(one, atlas) for one in hits)
        if len(agreeing) < 2 or len(agreeing) <= against:
            self.reason = (f'{len(agreeing)} keyframe agrees on a place' if len(agreeing) < 2
                           else f'{len(agreeing)} keyframes agree on a place, {against} do not')
            logger.info('keyframe %d shows the place of keyframe %d of the map: %s', number,
                        hit.first, self.reason)
            return []
        return self._locate(agreeing, atlas)

    def _locate(self, hits: Sequence[Hit], atlas: Atlas) -> list[Constraint]:
        """Move the group of the current fragment to the place of hits; return accepted loops."""
        loops = [replace(constraint_between(
            Alignment(one.first_from_second, one.covariance, 0.0), one.first_pose,
            one.second_pose), accepted=True) for one in hits]
        atlas.locate(common_motion(hits, atlas), hits[-1].first_pose.fragment_id)
        logger.info('the camera is located: keyframes %s show the places of keyframes %s of the '
                    'map', [one.second for one in hits], [one.first for one in hits])
        self._end()
        return loops

    def _trusted(self, keyframe: Keyframe, atlas: Atlas) -> Hit:
        """Return the hit that a hint means, beside the newest located keyframe of the map."""
        unlocated = atlas.unlocated()
        number, first = next((number, one) for number, one in reversed(atlas.keyframes().items())
                             if one.fragment_id not in unlocated)
        place = self._hint.map_from_camera.copy()
        place[:3, :3] *= similarity_scale(map_from_camera(atlas, keyframe.pose))
        axes = np.kron(np.eye(2), self._hint.map_from_camera[:3, :3].T)
        covariance = np.zeros((7, 7))
        covariance[:6, :6] = axes @ self._hint.covariance @ axes.T + HINT_FLOOR**2 * np.eye(6)
        covariance[:3] /= similarity_scale(place)
        covariance[:, :3] /= similarity_scale(place)
        covariance[6, 6] = HINT_LOG_SCALE**2
        return Hit(number, atlas.newest_number(keyframe.fragment_id), first.pose, keyframe.pose,
                   invert_similarity(map_from_camera(atlas, first.pose)) @ place, covariance,
                   float(np.nanmedian(keyframe.depth)))

    def _count_hint(self) -> None:
        if self._hint is None:
            return
        self._hinted += 1
        if self._hinted > HINT_KEYFRAMES:
            logger.warning('nothing was found near the pose on initialpose: the whole map is '
                           'searched')
            self._hint = None

    def _end(self) -> None:
        self._search, self._hint, self.reason = None, None, ''
        self._hits.clear()

    def _give_up(self, atlas: Atlas) -> None:
        """Take the places of unlocated fragments as assumed, because nothing searches for them."""
        if self._search is not None:
            self._end()
        atlas.assume_places()
