# SPDX-License-Identifier: Apache-2.0
"""The length of a fragment's unit in metres, from given depth images.

The ratio of the given depth to that of a keyframe is metres per unit at each pixel. A keyframe
gives the median of its logarithm.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of

from .scale_fit import ScaleDrift, ScaleFit, distance_to_end, fit_robustly, inflation

# Fewer keyframes give no scale.
MIN_KEYFRAMES = 3
# Least share of the pixels of a keyframe that have both depths.
MIN_SHARE = 0.05
# A network errs by patches: the pixels of one keyframe are so many measurements.
PATCHES = 20
# Least standard deviation of the ratio of a keyframe.
LEAST_DEVIATION = 0.001
# Standard error of a median divided by that of a mean; of normal noise, the standard deviation
# divided by the median absolute deviation.
MEDIAN_ERROR, FROM_MEDIAN_DEVIATION = 1.25, 1.48


@dataclass(frozen=True)
class DepthRatio:
    """Of one keyframe: the median logarithm of metres per unit, and the variance of that."""

    log_ratio: float
    variance: float
    extent: float = 1.0


def compare_depths(keyframe: Keyframe, metres: np.ndarray,
                   min_confidence: float) -> DepthRatio | None:
    """Return the ratio of a given depth [h, w], NaN where unknown, to that of a keyframe.

    None if too few of the pixels of that confidence have both.
    """
    with np.errstate(invalid='ignore'):
        known = ((keyframe.confidence >= min_confidence) & (keyframe.depth > 0.0)
                 & (metres > 0.0) & np.isfinite(metres))
    if known.sum() < MIN_SHARE * known.size:
        return None
    ratios = np.log(metres[known] / keyframe.depth[known])
    median = float(np.median(ratios))
    deviation = FROM_MEDIAN_DEVIATION * float(np.median(np.abs(ratios - median)))
    return DepthRatio(median, (MEDIAN_ERROR * deviation)**2 / PATCHES)


def fit_ratios(ratios: Sequence[DepthRatio]) -> ScaleFit | None:
    """Return the scale by the ratios of keyframes; None if they are too few."""
    if len(ratios) < MIN_KEYFRAMES:
        return None
    values = np.array([one.log_ratio for one in ratios])
    median = float(np.median(values))
    deviation = FROM_MEDIAN_DEVIATION * float(np.median(np.abs(values - median)))
    single = max((MEDIAN_ERROR * deviation)**2, float(np.mean([one.variance for one in ratios])))
    return ScaleFit(median, single / len(values) * inflation(values - median))


def fit_drifting_ratios(ratios: Sequence[DepthRatio]) -> ScaleDrift | None:
    """Return the scale by the ratios of keyframes if it changes in proportion to their number."""
    if len(ratios) < MIN_KEYFRAMES:
        return None
    values, variances = (np.array([getattr(one, name) for one in ratios])
                         for name in ('log_ratio', 'variance'))
    # Depth without an error has no variance.
    variances = np.maximum(variances, LEAST_DEVIATION**2)
    design = np.column_stack([np.ones(len(ratios)), -distance_to_end(np.ones(len(ratios)))])
    fit = fit_robustly(values - values[-1], design, np.zeros(2), lambda _: variances)
    end, rise = fit.unknowns
    return ScaleDrift(ScaleFit(float(end + values[-1]), float(fit.covariance[0, 0])),
                      ScaleFit(float(rise), float(fit.covariance[1, 1])))


def ratio_tree(ratio: DepthRatio) -> dict[str, Any]:
    """Return a ratio for a saved map."""
    return vars_of(ratio)


def read_ratio(node: SavedNode) -> DepthRatio:
    """Return the ratio of a node; raise ValueError if it is wrong."""
    return DepthRatio(node.number('log_ratio'), node.number('variance', 0.0))
