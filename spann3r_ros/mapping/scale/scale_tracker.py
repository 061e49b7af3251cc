# SPDX-License-Identifier: Apache-2.0
"""The metric scale of a map whose poses are solved: measured per fragment, then applied."""
from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import similarity_scale
from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import Preprocessed, fit_depth
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.loops.pose_graph import ScalePrior
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of
from spann3r_ros.mapping.tracking.corner_tracks import to_gray

from .depth_scale import (
    compare_depths,
    fit_drifting_ratios,
    fit_ratios,
    ratio_tree,
    read_ratio,
)
from .map_scale import Scale
from .odometry_scale import (
    OdometryPairs,
    PassedView,
    fit_drifting_pairs,
    fit_pairs,
    pair_tree,
    read_pair,
)
from .scale_fit import ScaleDrift, ScaleFit, ScaleSeries, read_fit

# What one fragment that is placed by another adds to the relative standard deviation.
JOIN_DEVIATION = 0.02
# What one adds whose scale was assumed: another sequence of the network may have another unit.
ASSUMED_DEVIATION = 0.5
# A fragment moves when its scale differs by more than this, and by half a standard deviation.
MIN_CORRECTION = 0.005
CORRECTION_SIGMAS = 0.5
# The newest part of a fragment in which a change of its scale is looked for: metres; keyframes.
RECENT_M = 1.0
RECENT_KEYFRAMES = 8.0
SCALE_CHANGED = 'the scale changed'

logger = logging.getLogger(__name__)


class ScaleTracker:
    """Measures the scale of each fragment, and moves fragments so that the map is in metres.

    A fragment inherits the scale of the one before, as far as the map is metric, and refines it.
    `measured` has what the keyframes of each fragment say by themselves. If the scale changes
    within a fragment, `restart_reason` is set: a new fragment has to begin.
    """

    def __init__(self, config: MapperConfig) -> None:
        self._config = config
        self.restart_reason = ''
        self.measured: dict[int, ScaleFit] = {}
        # The place of the first camera in the map, which stays where it is.
        self._first_place: np.ndarray | None = None
        self._fragment_id: int | None = None
        self._pairs = OdometryPairs()
        self._series = self._new_series()
        # The scale that the current fragment inherits, and the one that its place has.
        self._inherited: ScaleFit | None = None
        self._applied: float | None = None
        # The logarithm of the factor by which the scale has changed at the end of a fragment.
        self._change: ScaleFit | None = None

    def configure(self, config: MapperConfig) -> None:
        """Use other deviations, and another known number, from the next keyframe on."""
        self._config = config

    def pass_by(self, frame: Frame, view: Preprocessed, intrinsics: Intrinsics | None) -> None:
        """Use a frame that is no keyframe, fitted to the network's input with these intrinsics."""
        if (self._config.scale.source in ('odometry', 'auto') and frame.odometry is not None
                and frame.world_from_camera is None and intrinsics is not None):
            self._pairs.pass_by(PassedView(frame.stamp_ns, to_gray(view.image), intrinsics,
                                           frame.odometry))

    def observe(self, frame: Frame, keyframe: Keyframe, atlas: Atlas) -> None:
        """Use a keyframe that is in the atlas, and its frame; move fragments if need be."""
        source = self._config.scale.source
        if source == 'none' or keyframe.pose is None or frame.world_from_camera is not None:
            return
        fragment = atlas.fragments[keyframe.fragment_id]
        if fragment.id != self._fragment_id:
            self._enter(fragment, atlas)
        if source == 'number':
            self._use_number(atlas)
            return
        measurements = self._measure(frame, keyframe)
        if not measurements:
            return
        for one in measurements:
            self._series.add(one)
        fit = self._series.fit(self._fit)
        if fit is None:
            return
        changed = None
        if self._applied is not None:
            changed = self._series.change(self._fit) or self._series.drift(self._fit_drift)
        if changed is None:
            self.measured[fragment.id] = fit
            self._use(fit, fragment, atlas)
        else:
            logger.warning('the scale of fragment %d changed by a factor of %.3f: a fragment '
                           'begins', fragment.id, math.exp(changed.log_scale - self._applied))
            self._change = replace(changed, log_scale=changed.log_scale - self._applied)
            self.restart_reason = SCALE_CHANGED

    def priors(self, atlas: Atlas) -> list[ScalePrior]:
        """Return the measured scales of fragments; none before the map is metric."""
        return [ScalePrior(one, fit.log_scale, max(fit.variance, MIN_CORRECTION**2))
                for one, fit in self.measured.items()
                if one in atlas.fragments and atlas.fragments[one].scale.metric]

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        source = self._source
        return {
            'source': source, 'fragment_id': self._fragment_id, 'first_place': self._first_place,
            'pairs': self._pairs.tree(), 'applied': self._applied,
            'measurements': self._series.tree(ratio_tree if source == 'depth' else pair_tree),
            'measured': [{'id': one, **vars_of(fit)} for one, fit in self.measured.items()],
            **{name: None if fit is None else vars_of(fit)
               for name, fit in (('inherited', self._inherited), ('change', self._change))}}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong.

        Measurements of another source than that of the settings are left out.
        """
        source = node.text('source')
        if node.has('first_place'):
            self._first_place = node.array('first_place', np.float64, (3,))
        if node.has('fragment_id'):
            self._fragment_id = node.integer('fragment_id')
        if node.has('applied'):
            self._applied = node.number('applied')
        if node.has('inherited'):
            self._inherited = read_fit(node.node('inherited'))
        if node.has('change'):
            self._change = read_fit(node.node('change'))
        self.measured = {one.integer('id'): read_fit(one) for one in node.nodes('measured')}
        if source == self._source:
            self._pairs.restore(node.node('pairs'))
            for one in node.nodes('measurements'):
                self._series.add((read_ratio if source == 'depth' else read_pair)(one))

    def _new_series(self) -> ScaleSeries:
        return ScaleSeries(RECENT_KEYFRAMES if self._config.scale.source == 'depth' else RECENT_M)

    def _fit(self, measurements: Sequence[Any]) -> ScaleFit | None:
        if self._config.scale.source == 'depth':
            return fit_ratios(measurements)
        return fit_pairs(measurements, self._config.scale.mount_deviation)

    def _fit_drift(self, measurements: Sequence[Any]) -> ScaleDrift | None:
        if self._config.scale.source == 'depth':
            return fit_drifting_ratios(measurements)
        return fit_drifting_pairs(measurements, self._config.scale.mount_deviation)

    def _enter(self, fragment: Fragment, atlas: Atlas) -> None:
        """Begin to measure another fragment, with the scale that it inherits."""
        if self._first_place is None:
            place = fragment.map_from_fragment @ fragment.fragment_from_sequence
            self._first_place = place[:3, 3]
        self._fragment_id, self._inherited = fragment.id, None
        self._pairs.begin()
        self._series = self._new_series()
        self.measured = {one: fit for one, fit in self.measured.items() if one in atlas.fragments}
        if not fragment.scale.metric:
            return
        self._applied = math.log(similarity_scale(fragment.map_from_fragment))
        added = JOIN_DEVIATION if fragment.connected else ASSUMED_DEVIATION
        variance = max(0.0, fragment.scale.variance - self._common_variance) + added**2
        self._inherited = ScaleFit(self._applied, variance)
        if not fragment.connected:
            self._change = None
        if self._change is not None:
            # The depth by which the fragment was placed was in the unit after the change.
            self._inherited = ScaleFit(self._applied + self._change.log_scale,
                                       self._change.variance + JOIN_DEVIATION**2)
            _rescale_join(atlas, fragment, self._change.log_scale)
            self._change = None
        self._settle(self._inherited, fragment, atlas)

    def _measure(self, frame: Frame, keyframe: Keyframe) -> list[Any]:
        """Return the next measurements of the series."""
        if self._config.scale.source == 'depth':
            if frame.depth is None:
                return []
            ratio = compare_depths(keyframe, fit_depth(
                frame, keyframe.depth.shape, self._config.field_of_view == 'letterbox',
                self._config.resampling == 'exact'), self._config.voxel_map.min_confidence)
            return [] if ratio is None else [ratio]
        if frame.odometry is None:
            return []
        return self._pairs.add(keyframe, frame.odometry)

    def _use(self, fit: ScaleFit, fragment: Fragment, atlas: Atlas) -> None:
        """Use the measured scale of the current fragment."""
        if self._inherited is not None:
            fit = fit.combined(self._inherited)
        is_clear = fit.variance + self._common_variance <= self._config.scale.max_deviation**2
        if fragment.scale.metric:
            self._settle(fit, fragment, atlas, MIN_CORRECTION if is_clear else math.inf)
        elif is_clear:
            logger.info('the map is metric: one of its units was %.4g m (%s)', math.exp(
                fit.log_scale) / similarity_scale(fragment.map_from_fragment), self._source)
            self._applied = math.log(similarity_scale(fragment.map_from_fragment))
            for one in atlas.fragments.values():
                one.scale = replace(one.scale, metric=True)
            self._settle(fit, fragment, atlas, least=0.0)

    def _use_number(self, atlas: Atlas) -> None:
        """Apply the number of the settings, which may have changed."""
        self._scale_all(math.log(self._config.scale.metres_per_unit / atlas.unit), atlas)
        for one in atlas.fragments.values():
            one.scale = Scale(1.0, True, 0.0, self._source)

    def _settle(self, fit: ScaleFit, fragment: Fragment, atlas: Atlas,
                least: float = MIN_CORRECTION) -> None:
        """Move what the scale of the current fragment decides; record how well it is known.

        A change of its logarithm that is not above `least` moves nothing.
        """
        variance = fit.variance + self._common_variance
        change = fit.log_scale - self._applied
        if abs(change) > max(least, CORRECTION_SIGMAS * math.sqrt(fit.variance) if least else 0.0):
            self._applied = fit.log_scale
            older = [one for one in self.measured if one < fragment.id]
            if older:
                atlas.move(fragment.id, fragment.map_from_fragment @ _scaling(
                    math.exp(change), fragment.fragment_from_sequence[:3, 3]))
            else:
                self._scale_all(change, atlas)
        for one in atlas.fragments.values():
            if one is fragment or one.id not in self.measured:
                joins = JOIN_DEVIATION**2 * (fragment.id - one.id)
                one.scale = Scale(1.0, True, variance + joins, self._source)

    def _scale_all(self, change: float, atlas: Atlas) -> None:
        """Scale the whole map, about the place of its first camera, by a logarithm."""
        if change:
            atlas.change_unit(_scaling(math.exp(change), self._first_place))

    @property
    def _common_variance(self) -> float:
        return self._config.scale.source_deviation**2

    @property
    def _source(self) -> str:
        source = self._config.scale.source
        return 'odometry' if source == 'auto' else source


def _rescale_join(atlas: Atlas, fragment: Fragment, change: float) -> None:
    """Multiply the measured scale of a fragment in the one before, about its first camera."""
    scaling = _scaling(math.exp(change), fragment.fragment_from_sequence[:3, 3])
    atlas.constraints = [
        replace(one, first_from_second=one.first_from_second @ scaling)
        if one.kind == 'overlap' and one.second == fragment.id else one
        for one in atlas.constraints]


def _scaling(factor: float, fixed: np.ndarray) -> np.ndarray:
    """Return the similarity [4, 4] by a factor that leaves a point [3] where it is."""
    similarity = np.diag([factor, factor, factor, 1.0])
    similarity[:3, 3] = (1.0 - factor) * fixed
    return similarity
