# SPDX-License-Identifier: Apache-2.0
"""Whether two keyframes show the same place: alignment, common geometry, common appearance.

A network also answers a pair of images that have nothing in common: with confident points of the
right shape, as if the second camera stood near the first. What it says of such a pair is also much
the same in both orders. Therefore the answer is compared with what the map has:

* both orders of the pair agree;
* the depths of the pair are those of the keyframes, up to a scale;
* with the measured similarity the depths of one keyframe are those of the other where both see the
  same, on enough of the image, and hardly any point would hide what the other one sees;
* the images correlate there.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from spann3r_ros.core.keyframe import ray_planes
from spann3r_ros.core.similarity import SHIFT, TURN
from spann3r_ros.core.transforms import invert_similarity
from spann3r_ros.core.types import DeviceMemoryError, FrameError
from spann3r_ros.mapping.fragments.keyframe_store import KeptKeyframe, confident_depth
from spann3r_ros.mapping.mapper_config import LoopConfig, MapperConfig
from spann3r_ros.mapping.memory_manager import MemoryManager

from .pair_alignment import Alignment, MismatchError, View, align_both_ways

# Largest difference between both orders of a pair: of the shift as a share of the depth, of the
# rotation in degrees, and of the scale's logarithm.
MAX_SHIFT, MAX_TURN_DEG, MAX_LOG_SCALE = 0.1, 5.0, 0.1
# Depths agree if the logarithm of their quotient is below so many times `loops.max_residual`.
AGREEING = 2.0
# Of the points that the other keyframe should see, at most this share may be in front of what it
# sees.
MAX_CONFLICT = 0.2
# The images are compared in a band between these widths, as shares of the image's width. Shading
# is slower, noise is faster.
FINE, COARSE = 0.01, 0.08
SAMPLED_AT_ONCE = 1024


@dataclass(frozen=True)
class Overlap:
    """What two keyframes have in common; each number is that of the worse of both directions.

    `support` is the share of the known pixels of a keyframe whose depth is that of the other one.
    `conflict` is the share of the points in the other image that are in front of its surface.
    `residual` is the median of |log depth ratio| of the points that are not hidden in the other
    image. `correlation` is that of the gray values of both images where the depths agree.
    """

    support: float
    conflict: float
    residual: float
    correlation: float


@dataclass(frozen=True)
class Match:
    """Two keyframes that show the same place."""

    alignment: Alignment
    overlap: Overlap


def view_of(kept: KeptKeyframe, min_confidence: float) -> View:
    """Return what is compared of a kept keyframe."""
    return View(kept.rgb(), confident_depth(kept, min_confidence), kept.intrinsics)


def match(first: View, second: View, memory: MemoryManager, config: MapperConfig) -> Match:
    """Return the measured similarity of two keyframes; MismatchError if they do not match."""
    limits = config.loops
    try:
        alignment, difference = align_both_ways(first, second, memory, config.pose)
    except DeviceMemoryError as error:
        raise MismatchError(f'no memory: {error}') from error
    except FrameError as error:
        raise MismatchError(f'no pose: {error}') from error
    _check_difference(difference, second.depth)
    if not alignment.spread <= limits.max_residual:
        raise MismatchError(f'other depths: ratios spread by {alignment.spread:.3f}')
    overlap = compare(first, second, alignment.first_from_second, limits)
    check_overlap(overlap, limits)
    return Match(alignment, overlap)


def check_overlap(overlap: Overlap, limits: LoopConfig) -> None:
    """Raise MismatchError unless two keyframes have enough in common; NaN is not enough."""
    if not overlap.support >= limits.min_support:
        raise MismatchError(f'little overlap: {overlap.support:.2f}')
    if not overlap.conflict <= MAX_CONFLICT:
        raise MismatchError(f'conflicting views: {overlap.conflict:.2f}')
    if not overlap.residual <= limits.max_residual:
        raise MismatchError(f'other geometry: residual {overlap.residual:.3f}')
    if not overlap.correlation >= limits.min_correlation:
        raise MismatchError(f'other appearance: correlation {overlap.correlation:.2f}')


def compare(first: View, second: View, first_from_second: np.ndarray,
            limits: LoopConfig) -> Overlap:
    """Return what two keyframes have in common if their cameras are placed so."""
    one = _seen_by(first, second, invert_similarity(first_from_second), limits.max_residual)
    other = _seen_by(second, first, first_from_second, limits.max_residual)
    return Overlap(min(one.support, other.support), max(one.conflict, other.conflict),
                   max(one.residual, other.residual), min(one.correlation, other.correlation))


def _check_difference(difference: np.ndarray, depth: np.ndarray) -> None:
    """Raise MismatchError if both orders differ; `depth` is that of the second keyframe."""
    near = float(np.nanmedian(depth))
    shift = float(np.linalg.norm(difference[SHIFT])) / near
    turn = math.degrees(np.linalg.norm(difference[TURN]))
    scale = abs(float(difference[6]))
    if not (shift <= MAX_SHIFT and turn <= MAX_TURN_DEG and scale <= MAX_LOG_SCALE):
        raise MismatchError(f'orders disagree: by {shift:.2f} of the depth, {turn:.1f} degrees, '
                            f'{math.expm1(scale):.0%} of the scale')


def _seen_by(view: View, other: View, other_from_view: np.ndarray, max_residual: float) -> Overlap:
    """Return what `other` shows of the points of `view`."""
    known = view.depth > 0.0
    depth, image_x, image_y = _project(view, other.intrinsics, other_from_view, known)
    height, width = other.depth.shape
    with np.errstate(invalid='ignore'):
        inside = ((depth > 0.0) & (image_x >= 0.0) & (image_x <= width - 1.0) & (image_y >= 0.0)
                  & (image_y <= height - 1.0))
    columns, rows = (np.rint(one[inside]).astype(np.intp) for one in (image_x, image_y))
    ratios = np.log(depth[inside] / other.depth[rows, columns])
    ratios_known = np.isfinite(ratios)
    tolerance = AGREEING * max_residual
    # A point behind the surface of the other view is hidden there, which proves nothing.
    agreeing = ratios_known & (np.abs(ratios) <= tolerance)
    seen = ratios_known & (ratios <= tolerance)
    if not agreeing.any():
        return Overlap(0.0, 1.0, math.inf, -1.0)
    return Overlap(
        float(agreeing.sum() / known.sum()), float(1.0 - agreeing.sum() / seen.sum()),
        float(np.median(np.abs(ratios[seen]))),
        _correlation(_band(view.image)[known][inside][agreeing],
                     _sampled(_band(other.image), image_x[inside][agreeing],
                              image_y[inside][agreeing])))


def _sampled(image: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the values [n] of an image float32 [h, w] at columns and rows, float32 [n]."""
    # OpenCV takes no maps of more than 32,767 rows: a larger keyframe may have more points.
    height = -(-len(columns) // SAMPLED_AT_ONCE)
    places = np.zeros((2, height * SAMPLED_AT_ONCE), np.float32)
    places[:, :len(columns)] = columns, rows
    return cv2.remap(image, *places.reshape(2, height, SAMPLED_AT_ONCE),
                     cv2.INTER_LINEAR).ravel()[:len(columns)]


def _project(view: View, camera: object, other_from_view: np.ndarray,
             known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return depth, column and row, float32 [n], of the known points of a view in another one."""
    x, y = (plane[known] for plane in ray_planes(view.intrinsics))
    depth = view.depth[known]
    points = other_from_view[:3, :3] @ np.stack((x * depth, y * depth, depth)) + (
        other_from_view[:3, 3:])
    with np.errstate(divide='ignore', invalid='ignore'):
        return (points[2],
                (camera.fx * points[0] / points[2] + camera.cx).astype(np.float32),
                (camera.fy * points[1] / points[2] + camera.cy).astype(np.float32))


def _band(image: np.ndarray) -> np.ndarray:
    """Return the gray values, float32 [h, w], without fine noise and without slow shading."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    width = image.shape[1]
    return (cv2.GaussianBlur(gray, (0, 0), FINE * width)
            - cv2.GaussianBlur(gray, (0, 0), COARSE * width))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of values [n]; 0 if one of them does not vary."""
    first, second = first - first.mean(), second - second.mean()
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / size if size > 0.0 else 0.0
