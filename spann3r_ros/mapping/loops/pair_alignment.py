# SPDX-License-Identifier: Apache-2.0
"""The similarity between the cameras of two keyframes, measured by the network on their images.

The network estimates both images alone, in the frame of the first camera and in a unit of its own.
PnP gives the pose (R, c) of the second camera in that frame. The depths d of the keyframes, each
in the unit of its fragment, give two scales, over the pixels where both are known:

    s_1 = median( d_1 / depth of the pair, first image )       s_2 likewise
    first_from_second = [ (s_1 / s_2) R, s_1 c; 0, 1 ]

The error vector xi of a measurement is that of `core.similarity`, in the frame of the second
camera and in its fragment's unit. With the error (dc, dr) of the PnP pose and those of log s_1 and
log s_2, and s = s_1 / s_2:

    shift   s_2 R^T dc + R^T (s_1 c) / s  d log s_1        turn   R^T dr
    scale   d log s_1 - d log s_2
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.similarity import SHIFT, TURN, error_vectors, inverted, similarities_of
from spann3r_ros.core.transforms import invert, invert_similarity
from spann3r_ros.core.types import Pointmap, clean
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.memory_manager import MemoryManager
from spann3r_ros.mapping.tracking.measured_pose import measure_pose
from spann3r_ros.mapping.tracking.pnp import PIXELS_PER_MEASUREMENT

# A scale needs so many pixels at which both depths are known.
MIN_SHARED_POINTS = 200
# Lower bound of the standard deviation of a scale's logarithm, however small its residuals are.
MIN_SCALE_DEVIATION = 1e-3
DEVIATION_OF_MEDIAN = 1.4826
# Lower bound of the error that all points of a pair have in common: of the shift as a share of the
# depth, of the rotation in radians, and of the scale's logarithm.
MIN_DEVIATION = 0.01
# The difference of two measurements has twice the variance of one.
SAMPLE_OF_DIFFERENCE = 0.5
# The six numbers of a pose.
POSE = slice(0, 6)


class MismatchError(Exception):
    """Two keyframes do not show the same place; the text is the reason."""


@dataclass(frozen=True)
class View:
    """What is compared of a keyframe: image uint8 [h, w, 3] and depth [h, w], NaN if unknown.

    The depth is in the unit of the keyframe's fragment.
    """

    image: np.ndarray
    depth: np.ndarray
    intrinsics: Intrinsics


@dataclass(frozen=True)
class Alignment:
    """A measured similarity `first_from_second` [4, 4] between two cameras.

    `covariance` [7, 7] is that of its error in the frame of the second camera. `spread` is the
    larger median distance of the log depth ratios of an image from their median.
    """

    first_from_second: np.ndarray
    covariance: np.ndarray
    spread: float


@dataclass(frozen=True)
class DepthRatio:
    """The median of log (depth of the keyframe / depth of the pair), its variance and spread."""

    log: float
    variance: float
    spread: float


def align_pair(first: View, second: View, memory: MemoryManager, config: PoseConfig) -> Alignment:
    """Return the similarity from the network's estimate of (first, second).

    Raises MismatchError without enough shared depth, and FrameError if the pair has no pose.
    """
    estimates = memory.pair(first.image, second.image)
    solution = measure_pose(_cleaned(estimates[1]), second.intrinsics, config)
    pose = solution.fragment_from_camera
    ratios = [_depth_ratio(view, _cleaned(estimate).pointmap, reference_from_camera,
                           config.min_confidence)
              for view, estimate, reference_from_camera
              in zip((first, second), estimates, (np.eye(4), pose), strict=True)]
    first_scale, second_scale = (np.exp(ratio.log) for ratio in ratios)
    scale, rotation, shift = first_scale / second_scale, pose[:3, :3], first_scale * pose[:3, 3]
    measured = np.eye(4)
    measured[:3, :3], measured[:3, 3] = scale * rotation, shift
    # Columns: the six errors of the pose, those of the logarithms of both scales.
    jacobian = np.zeros((7, 8))
    jacobian[SHIFT, :3] = second_scale * rotation.T
    jacobian[TURN, 3:6] = rotation.T
    jacobian[SHIFT, 6] = rotation.T @ shift / scale
    jacobian[6, 6:] = 1.0, -1.0
    errors = np.zeros((8, 8))
    errors[POSE, POSE] = solution.covariance
    errors[6, 6], errors[7, 7] = (ratio.variance for ratio in ratios)
    return Alignment(measured, jacobian @ errors @ jacobian.T, max(one.spread for one in ratios))


def align_both_ways(first: View, second: View, memory: MemoryManager,
                    config: PoseConfig) -> tuple[Alignment, np.ndarray]:
    """Return the mean of both orders of the pair, and their difference as an error vector [7].

    Residuals do not show the error that all points of a pair have in common. Its variance is that
    of the difference of both orders, and at least `MIN_DEVIATION` squared.
    """
    forward = align_pair(first, second, memory, config)
    backward = align_pair(second, first, memory, config)
    other, other_covariance = inverted(backward.first_from_second, backward.covariance)
    difference = error_vectors(invert_similarity(forward.first_from_second) @ other)
    middle = forward.first_from_second @ similarities_of(0.5 * difference)
    distance = float(np.nanmedian(second.depth))
    common = [SAMPLE_OF_DIFFERENCE * float(part @ part) / len(part) + (MIN_DEVIATION * unit)**2
              for part, unit in ((difference[SHIFT], distance), (difference[TURN], 1.0),
                                 (difference[6:], 1.0))]
    covariance = 0.5 * (forward.covariance + other_covariance) + np.diag(
        np.repeat(common, (3, 3, 1)))
    return Alignment(middle, covariance, max(forward.spread, backward.spread)), difference


def _cleaned(estimate: Estimate) -> Estimate:
    return replace(estimate, pointmap=clean(estimate.pointmap))


def _depth_ratio(view: View, pointmap: Pointmap, reference_from_camera: np.ndarray,
                 min_confidence: float) -> DepthRatio:
    row = invert(reference_from_camera)[2]
    depth = pointmap.points @ row[:3] + row[3]
    with np.errstate(invalid='ignore'):
        shared = (depth > 0.0) & (view.depth > 0.0) & (pointmap.confidence > min_confidence)
    count = int(shared.sum())
    if count < MIN_SHARED_POINTS:
        raise MismatchError(f'too few points with a depth: {count}')
    ratios = np.log(view.depth[shared] / depth[shared])
    middle = float(np.median(ratios))
    spread = float(np.median(np.abs(ratios - middle)))
    variance = (DEVIATION_OF_MEDIAN * spread)**2 * PIXELS_PER_MEASUREMENT / count
    return DepthRatio(middle, variance + MIN_SCALE_DEVIATION**2, spread)
