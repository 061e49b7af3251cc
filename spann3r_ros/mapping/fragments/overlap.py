# SPDX-License-Identifier: Apache-2.0
"""The overlap of two fragments: the keyframes that both see, and the join by them."""
from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import (
    invert_similarity,
    similarity_scale,
)
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode
from spann3r_ros.mapping.storage.saved_values import (
    keyframe_tree,
    read_confidence,
    read_keyframe,
    read_rigid,
    read_similarity,
)

from .fragment import Fragment
from .sequence_alignment import Alignment, AlignmentError, align
from .shared_views import SharedView

# A keyframe with fewer confident points is not seen again: a blank wall joins nothing.
MIN_KEYFRAME_POINTS = 50
# Keyframes whose confidence is compared with that of as many others.
COMPARED = 5
# The id of the newest image that is seen again; those before it have -1, -2 and so on.
NEWEST_ID = 0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Join:
    """How a new fragment got its place.

    `first` is the id of the fragment that it was joined to, `first_from_second` [4, 4] the place
    of the new one in it. `alignment` is None if the place was assumed; its covariance is that of a
    `Constraint`.
    """

    first: int
    first_from_second: np.ndarray
    alignment: Alignment | None = None


class Overlap:
    """Keeps the newest good keyframes of a fragment, and joins the next fragment by them.

    `keyframes`, oldest first, are in the frame of the current fragment. The images of all of them
    begin the sequence of a new fragment. `joining` is true until that fragment has its place.
    """

    def __init__(self, config: MapperConfig) -> None:
        self.keyframes: list[Keyframe] = []
        self.joining = False
        self._origin = 0  # the id of the fragment in which they were keyframes
        self._origin_from_current = np.eye(4)
        # Shares of confident pixels, of the first and the last keyframes of the current fragment.
        self._first_shares: list[float] = []
        self._last_shares: list[float] = []
        self._views: dict[int, SharedView] = {}  # what was seen again, by index in `keyframes`
        # Units of the current fragment per unit of the sequence placed last.
        self._placed_scale = 1.0
        self.configure(config)

    def configure(self, config: MapperConfig) -> None:
        """Use other thresholds from the next keyframe on."""
        self._most = config.fragments.overlap_keyframes
        self._min_confidence = config.voxel_map.min_confidence

    @property
    def confidence_share(self) -> float:
        """Return the share of confident pixels now over that at the beginning of the fragment.

        It is 1.0 until enough keyframes have come.
        """
        if len(self._last_shares) < COMPARED:
            return 1.0
        return sum(self._last_shares) / max(sum(self._first_shares), 1e-9)

    @property
    def origin(self) -> int:
        """Return the id of the fragment in which `keyframes` were keyframes."""
        return self._origin

    def count(self, confidence: np.ndarray) -> None:
        """Take the confidence [h, w] of a keyframe of the current fragment."""
        share = float((confidence >= self._min_confidence).mean())
        if len(self._first_shares) < COMPARED:
            self._first_shares.append(share)
        else:
            self._last_shares = [*self._last_shares, share][-COMPARED:]

    def add(self, keyframe: Keyframe) -> None:
        """Keep a keyframe of the current fragment that has a pose and no doubtful depth.

        If it has too few confident points, it is kept only as long as there is no better one.
        """
        confident = (keyframe.confidence >= self._min_confidence) & (keyframe.depth > 0.0)
        if self.keyframes and confident.sum() < MIN_KEYFRAME_POINTS:
            return
        if self._origin != keyframe.fragment_id:
            self.keyframes, self._origin = [], keyframe.fragment_id
            self._origin_from_current = np.eye(4)
        self.keyframes = [*self.keyframes, keyframe][-self._most:]

    def begin_fragment(self, fragment: Fragment, new_from_former: np.ndarray,
                       seen_again: bool) -> None:
        """Go on in a new fragment; `new_from_former` [4, 4] is a similarity.

        If the keyframes are not seen again, it is placed where the last one was, at the scale of
        the last sequence.
        """
        former_from_new = invert_similarity(new_from_former)
        self._origin_from_current = self._origin_from_current @ former_from_new
        self._placed_scale *= similarity_scale(new_from_former)
        self.keyframes = [one.moved_to(fragment.id, new_from_former) for one in self.keyframes]
        self._views, self._first_shares, self._last_shares = {}, [], []
        self.joining = bool(self.keyframes) and seen_again
        if self.keyframes and not seen_again:
            self._assume(fragment, len(self.keyframes) - 1)

    def images(self) -> list[tuple[int, np.ndarray]]:
        """Return the ids and images that begin the sequence of the new fragment."""
        first = NEWEST_ID + 1 - len(self.keyframes)
        return [(first + index, one.image) for index, one in enumerate(self.keyframes)]

    def keyframe(self, image_id: int) -> Keyframe:
        """Return the keyframe of an image that is seen again."""
        return self.keyframes[self._index(image_id)]

    def see(self, estimate: Estimate, second_from_camera: np.ndarray) -> None:
        """Take the estimate of an image that is seen again, and the camera that it implies."""
        index = self._index(estimate.image_id)
        keyframe, pointmap = self.keyframes[index], estimate.pointmap
        weights = np.minimum(pointmap.confidence, keyframe.confidence)
        self._views[index] = SharedView(
            keyframe.intrinsics, keyframe.depth, keyframe.pose.fragment_from_camera,
            pointmap.points, second_from_camera,
            np.where(weights >= self._min_confidence, weights, np.float32(0.0)))

    def join(self, fragment: Fragment, reference_id: int) -> Join:
        """Place the points of the new sequence, whose first image is `reference_id`."""
        self.joining = False
        try:
            alignment = align(list(self._views.values()))
        except AlignmentError as error:
            logger.warning('fragment %d is not connected: %s', fragment.id, error)
            seen = self._index(reference_id)
            self._assume(fragment, seen if 0 <= seen < len(self.keyframes) else -1)
            return Join(self._origin, self._origin_from_current)
        finally:
            self._views = {}
        fragment.fragment_from_sequence = alignment.first_from_second
        self._placed_scale = similarity_scale(alignment.first_from_second)
        fragment.connected = True
        logger.info('fragment %d is joined to %d by %d points, of which %.0f %% agree: scale '
                    '%.3g, spread of the depth %.1f %%', fragment.id, self._origin,
                    alignment.points, 100 * alignment.agreeing, self._placed_scale,
                    100 * alignment.spread)
        return Join(self._origin, self._origin_from_current, alignment)

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'shared': [keyframe_tree(one) for one in self.keyframes],
                'joining': self.joining, 'anchor_origin': self._origin,
                'origin_from_current': self._origin_from_current,
                'placed_scale': self._placed_scale,
                'first_shares': np.array(self._first_shares, float),
                'last_shares': np.array(self._last_shares, float),
                'views': [{'index': index, 'points': view.points, 'confidence': view.weights,
                           'second_from_camera': view.second_from_camera}
                          for index, view in self._views.items()]}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self._origin = node.integer('anchor_origin')
        self._placed_scale = node.number('placed_scale', 1e-12)
        if not node.has('shared'):  # a map of an earlier version
            self.keyframes = [read_keyframe(node.node('anchor'))] if node.has('anchor') else []
        else:
            self.keyframes = [read_keyframe(one) for one in node.nodes('shared')]
            self.joining = node.flag('joining')
            self._origin_from_current = read_similarity(node, 'origin_from_current')
            self._first_shares, self._last_shares = (
                node.array(name, np.float64, (None,)).tolist()
                for name in ('first_shares', 'last_shares'))
        if any(one.pose is None for one in self.keyframes):
            raise node.fault('shared', 'keyframes with a pose', 'one without')
        for saved in node.nodes('views') if node.has('views') else ():
            index = saved.integer('index', 0, len(self.keyframes) - 1)
            keyframe = self.keyframes[index]
            self._views[index] = SharedView(
                keyframe.intrinsics, keyframe.depth, keyframe.pose.fragment_from_camera,
                saved.array('points', np.float32, (*keyframe.depth.shape, 3), finite=False),
                read_rigid(saved, 'second_from_camera'),
                read_confidence(saved, keyframe.depth.shape))

    def _index(self, image_id: int) -> int:
        return image_id - NEWEST_ID + len(self.keyframes) - 1

    def _assume(self, fragment: Fragment, index: int) -> None:
        """Place the sequence's first camera at a keyframe, at the scale of the last sequence."""
        scale = self._placed_scale
        fragment.fragment_from_sequence = (
            self.keyframes[index].pose.fragment_from_camera @ np.diag([scale, scale, scale, 1.0]))
        fragment.connected = False
