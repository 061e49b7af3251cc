# SPDX-License-Identifier: Apache-2.0
"""The length of a fragment's unit in metres, from odometry of the camera.

Corners are tracked from one keyframe to a later one. A corner with the ray b in the first image,
at the depth z of that keyframe, is seen in the second image at

    R exp(w) b + u t / z,

up to its own depth. (R, t) is the motion by the odometry, in metres; u, the number of units per
metre, and w, an error of the rotation, are estimated. So the scale is that of the depth, and it
does not depend on the path of the map. An error d of the camera's place on the robot adds
(Q - I) d to the motion o along the axes of the first camera; Q is the rotation from the second
camera to the first. Hence each pair of keyframes measures

    u + (o / |o|) (Q - I) (u d) / |o| + noise.
"""
from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert, rotation_vector
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of
from spann3r_ros.mapping.storage.saved_values import (
    intrinsics_tree,
    read_intrinsics,
    read_rigid,
    read_stamp,
)
from spann3r_ros.mapping.tracking.corner_tracks import (
    MIN_TRACKS,
    at_pixels,
    find_corners,
    follow,
    rays,
    to_gray,
)
from spann3r_ros.mapping.tracking.focal_length import weighted_median

from .scale_fit import (
    DRIFT_EXCESS,
    EXCESS,
    RobustFit,
    ScaleDrift,
    ScaleFit,
    distance_to_end,
    fit_robustly,
)

# Least way of a pair in metres; a longer one than the most, or a later one, has too much error of
# the odometry. In short pairs, slip of the wheels is seen as what it is. A robot at 0.5 m/s with
# images at 10 Hz has a pair every second image, with noise of the odometry too.
MIN_PAIR_M = 0.09
MAX_PAIR_M = 1.0
MAX_PAIR_NS = 20_000_000_000
# Most frames between keyframes that wait for the estimates of these.
MAX_PASSED = 32
# Least median motion of the corners in the image by the translation.
MIN_PARALLAX_PX = 1.5
# Standard deviation of the rotation by the odometry, in radians about each axis: of any rotation,
# and as a share of its angle.
ROTATION_DEVIATION = 0.001
ROTATION_NOISE = 0.03
# Corners on one object have nearly the same error: so many count as one measurement.
TRACKS_PER_MEASUREMENT = 2
# Least standard deviation of a residual in pixels; the scale of most residuals.
MIN_RESIDUAL_PX = 0.1
# The median length of two normal numbers of variance one.
CHI2_MEDIAN = 1.177
SOLVER_ROUNDS = 8
# A pair with a larger relative standard deviation is not used.
MAX_PAIR_DEVIATION = 0.3
# Fewer pairs give no scale, and neither does a shorter way.
MIN_PAIRS = 7
MIN_WAY_M = 0.8
# Noise of the odometry: a share of a way of PAIR_NOISE_WAY_M, which falls with the root of a
# longer one, and a length.
PAIR_NOISE = 0.03
PAIR_NOISE_WAY_M = 0.1
PAIR_NOISE_M = 0.003
# Least share of the way whose pairs agree.
MIN_AGREEING = 0.6


@dataclass(frozen=True)
class Pair:
    """Two frames: units per metre by them, with its standard deviation, and their motion.

    `driven` [3] is the motion by the odometry in metres along the axes of the first camera,
    `turned` [3, 3] the rotation from the second camera to the first.
    """

    units_per_metre: float
    deviation: float
    driven: np.ndarray
    turned: np.ndarray

    @property
    def extent(self) -> float:
        """Return the length of the motion in metres."""
        return float(np.linalg.norm(self.driven))


@dataclass(frozen=True)
class PassedView:
    """A frame: `gray` uint8 [h, w]; `odom_from_camera` [4, 4] is in metres."""

    stamp_ns: int
    gray: np.ndarray
    intrinsics: Intrinsics
    odom_from_camera: np.ndarray


@dataclass(frozen=True)
class View(PassedView):
    """A keyframe; `depth` [h, w] is in units, 0 or NaN where it is not used."""

    depth: np.ndarray

    @cached_property
    def corners(self) -> np.ndarray:
        """Return corners of known depth, float32 [n, 1, 2]."""
        with np.errstate(invalid='ignore'):
            known = self.depth > 0.0
        corners = find_corners(self.gray, known)
        return corners[at_pixels(known, corners.reshape(-1, 2))]


@dataclass(frozen=True)
class _Reached:
    """A frame that was compared with a keyframe before it.

    `motion` [4, 4] is first-from-second in metres, `moved` [3] the translation in units, by the
    images, and `deviation` the standard deviation of its length.
    """

    motion: np.ndarray
    moved: np.ndarray
    deviation: float


UNMOVED = _Reached(np.eye(4), np.zeros(3), 0.0)


class OdometryPairs:
    """Cuts the path of one fragment into pairs of frames that follow each other.

    Each frame is compared with the last keyframe of the fragment, whose depth is known. Frames
    that are no keyframes make the pairs short where keyframes are far apart.
    """

    def __init__(self) -> None:
        # The estimate of a keyframe comes after the frames that follow it.
        self._passed: deque[PassedView] = deque(maxlen=MAX_PASSED)
        self._first: View | None = None
        self._reached = UNMOVED

    def begin(self) -> None:
        """Let the next keyframe be the first one of a fragment."""
        self._first, self._reached = None, UNMOVED

    def pass_by(self, view: PassedView) -> None:
        """Take a frame that is no keyframe, if it is far enough from the one before."""
        if not self._passed or _way(self._passed[-1], view) >= MIN_PAIR_M:
            self._passed.append(view)

    def add(self, keyframe: Keyframe, odom_from_camera: np.ndarray) -> list[Pair]:
        """Take the next keyframe; return the pairs up to it."""
        view = View(keyframe.stamp_ns, to_gray(keyframe.image), keyframe.intrinsics,
                    odom_from_camera,
                    np.where(keyframe.confidence > 0.0, keyframe.depth, np.float32(0.0)))
        passed = [one for one in self._passed if one.stamp_ns < view.stamp_ns]
        for _ in passed:
            self._passed.popleft()
        first = self._first
        if first is None or not 0 <= view.stamp_ns - first.stamp_ns <= MAX_PAIR_NS:
            self._first, self._reached = view, UNMOVED
            return []
        # A last frame near the keyframe would leave a way that is too short for a pair.
        found = [self._reach(first, one)[1] for one in passed
                 if one.stamp_ns > first.stamp_ns and _way(one, view) >= MIN_PAIR_M]
        if _way(first, view) >= MIN_PAIR_M:
            parallax, pair = self._reach(first, view)
            found.append(pair)
            if not parallax < MIN_PARALLAX_PX:
                self._first, self._reached = view, UNMOVED
        return [one for one in found if one is not None]

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'first': None if self._first is None else _view_tree(self._first),
                'passed': [_view_tree(one) for one in self._passed],
                'reached': vars_of(self._reached)}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        if node.has('first'):
            first = node.node('first')
            passed = _read_view(first)
            self._first = View(**vars(passed), depth=first.array(
                'depth', np.float32, passed.gray.shape, finite=False))
        # Maps of former versions have neither.
        if node.has('passed'):
            self._passed.extend(_read_view(one) for one in node.nodes('passed'))
        if node.has('reached'):
            reached = node.node('reached')
            self._reached = _Reached(
                read_rigid(reached, 'motion'), reached.array('moved', np.float64, (3,)),
                reached.number('deviation', 0.0))

    def _reach(self, first: View, view: PassedView) -> tuple[float, Pair | None]:
        """Return the parallax from a keyframe to a view, and the pair that ends with the view.

        The parallax is infinite if the two cannot be compared.
        """
        motion, reached = invert(first.odom_from_camera) @ view.odom_from_camera, self._reached
        whole = float(np.linalg.norm(motion[:3, 3]))
        found = None if whole > MAX_PAIR_M else compare(first, view, motion)
        if found is None:
            return math.inf, None
        parallax, units, deviation = found
        step = motion[:3, 3] - reached.motion[:3, 3]
        way = float(np.linalg.norm(step))
        if parallax < MIN_PARALLAX_PX or way < MIN_PAIR_M:
            return parallax, None
        moved, turned = units * motion[:3, 3], reached.motion[:3, :3].T
        units = float((moved - reached.moved) @ step) / way**2
        deviation = math.hypot(deviation * whole, reached.deviation)
        if not 0.0 < deviation < MAX_PAIR_DEVIATION * units * way:
            return parallax, None
        self._reached = _Reached(motion, moved, deviation)
        return parallax, Pair(units, deviation / way, turned @ step, turned @ motion[:3, :3])


def _way(first: PassedView, second: PassedView) -> float:
    """Return the distance of two views in metres, by the odometry."""
    return float(np.linalg.norm(second.odom_from_camera[:3, 3] - first.odom_from_camera[:3, 3]))


def _view_tree(view: PassedView) -> dict[str, Any]:
    return {**vars_of(view), 'intrinsics': intrinsics_tree(view.intrinsics)}


def _read_view(node: SavedNode) -> PassedView:
    intrinsics = read_intrinsics(node.node('intrinsics'))
    return PassedView(read_stamp(node), node.array(
        'gray', np.uint8, (intrinsics.height, intrinsics.width)), intrinsics,
        read_rigid(node, 'odom_from_camera'))


def compare(first: View, second: PassedView,
            first_from_second: np.ndarray) -> tuple[float, float, float] | None:
    """Return the parallax in pixels, units per metre and the standard deviation of that.

    `first_from_second` [4, 4] is the motion in metres. None if too few corners are tracked.
    """
    tracks = follow(first.gray, second.gray, first.corners)
    if len(tracks) < MIN_TRACKS:
        return None
    second_from_first = invert(first_from_second)
    # What a corner moves by u = 1, up to its depth.
    shifts = second_from_first[:3, 3] / at_pixels(first.depth, tracks.starts)[:, None]
    turned = rays(tracks.starts, first.intrinsics) @ second_from_first[:3, :3].T
    seen = rays(tracks.ends, second.intrinsics)[:, :2]
    focal = second.intrinsics.fx
    angle = float(np.linalg.norm(rotation_vector(second_from_first[:3, :3])))
    certainty = 1.0 / (ROTATION_DEVIATION**2 + (ROTATION_NOISE * angle)**2)
    units_per_metre, error = 0.0, np.zeros(3)
    for _ in range(SOLVER_ROUNDS):
        rotated = turned @ cv2.Rodrigues(error)[0].T
        points = rotated + units_per_metre * shifts
        if (points[:, 2] <= 0.0).any():
            return None
        places = points[:, :2] / points[:, 2:]
        residuals = focal * (seen - places)
        design = _image_motion(points, places, focal, np.stack([
            shifts, *(np.cross(axis, rotated) for axis in np.eye(3))], axis=2))
        sizes = np.linalg.norm(residuals, axis=1)
        spread = max(MIN_RESIDUAL_PX, float(np.median(sizes)) / CHI2_MEDIAN)
        weights = 1.0 / (spread**2 * TRACKS_PER_MEASUREMENT * (1.0 + (sizes / spread)**2))
        information = np.einsum('n,nij,nik->jk', weights, design, design)
        gradient = np.einsum('n,nij,ni->j', weights, design, residuals)
        information[[1, 2, 3], [1, 2, 3]] += certainty
        gradient[1:] -= certainty * error
        step = np.linalg.solve(information, gradient)
        units_per_metre, error = units_per_metre + step[0], error + step[1:]
    parallax = units_per_metre * np.median(np.linalg.norm(design[:, :, 0], axis=1))
    return float(parallax), float(units_per_metre), math.sqrt(np.linalg.inv(information)[0, 0])


def _image_motion(points: np.ndarray, places: np.ndarray, focal: float,
                  motions: np.ndarray) -> np.ndarray:
    """Return the motions [n, 2, m] in pixels by motions [n, 3, m] of points in the camera."""
    across = motions[:, :2] - places[:, :, None] * motions[:, 2:]
    return focal * across / points[:, 2, None, None]


def fit_pairs(pairs: Sequence[Pair], mount_deviation: float) -> ScaleFit | None:
    """Return the scale by pairs, with its variance; None if they do not give one.

    `mount_deviation` is the standard deviation, in metres, of each coordinate of the camera's
    place on the robot. Pairs that contradict most of the others, such as those of wheels that
    slip, have no weight. The variance does not contain an error that the odometry has everywhere.
    """
    fit = _solve(pairs, mount_deviation, drifts=False)
    if fit is None:
        return None
    units = fit.unknowns[0]
    return ScaleFit(-math.log(units), float(fit.covariance[0, 0] / units**2))


def fit_drifting_pairs(pairs: Sequence[Pair], mount_deviation: float) -> ScaleDrift | None:
    """Return the scale by pairs, as `fit_pairs` does, if it changes in proportion to the way."""
    fit = _solve(pairs, mount_deviation, drifts=True)
    if fit is None:
        return None
    units, rise = fit.unknowns[[0, -1]]
    relative = fit.covariance / units**2
    return ScaleDrift(ScaleFit(-math.log(units), float(relative[0, 0])),
                      ScaleFit(-float(rise / units), float(relative[-1, -1])))


def _solve(pairs: Sequence[Pair], mount_deviation: float, drifts: bool) -> RobustFit | None:
    """Fit units per metre (at the end, if it drifts), the mount [3], and the rise of the units."""
    if len(pairs) < MIN_PAIRS:
        return None
    values, deviations = (np.array([getattr(one, name) for one in pairs])
                          for name in ('units_per_metre', 'deviation'))
    driven = np.array([one.driven for one in pairs])
    way = np.linalg.norm(driven, axis=1)
    if way.sum() < MIN_WAY_M:
        return None
    turned = np.array([one.turned for one in pairs])
    design = np.ones((len(pairs), 5 if drifts else 4))
    design[:, 1:4] = np.einsum('ni,nij->nj', driven, turned - np.eye(3)) / way[:, None]**2
    if drifts:
        design[:, 4] = -distance_to_end(way)
    start = np.zeros(design.shape[1])
    start[0] = weighted_median(values, way)
    mount = np.zeros(len(start))
    mount[1:4] = 1.0 / mount_deviation**2
    fit = fit_robustly(
        values, design, start,
        lambda unknowns: deviations**2 + unknowns[0]**2 * (
            PAIR_NOISE**2 * PAIR_NOISE_WAY_M / way + (PAIR_NOISE_M / way)**2),
        lambda unknowns: np.diag(mount / unknowns[0]**2), DRIFT_EXCESS if drifts else EXCESS)
    if fit is None or way[fit.weights > 0.0].sum() < MIN_AGREEING * way.sum():
        return None
    return fit


def pair_tree(pair: Pair) -> dict[str, Any]:
    """Return a pair for a saved map."""
    return vars_of(pair)


def read_pair(node: SavedNode) -> Pair:
    """Return the pair of a node; raise ValueError if it is wrong."""
    pair = Pair(node.number('units_per_metre', 1e-12), node.number('deviation', 1e-12),
                node.array('driven', np.float64, (3,)), node.array('turned', np.float64, (3, 3)))
    if pair.extent == 0.0:
        raise node.fault('driven', 'a motion', pair.driven.tolist())
    return pair
