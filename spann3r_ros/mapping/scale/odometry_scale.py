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

from .scale_fit import ScaleFit, inflation

# Least way of a pair in metres; a longer one than the most, or a later one, has too much error of
# the odometry. In short pairs, slip of the wheels is seen as what it is.
MIN_PAIR_M = 0.1
MAX_PAIR_M = 1.0
MAX_PAIR_NS = 20_000_000_000
# Least median motion of the corners in the image by the translation.
MIN_PARALLAX_PX = 1.5
# Standard deviation of the rotation by the odometry, in radians about each axis: of any rotation,
# and as a share of its angle.
ROTATION_DEVIATION = 0.002
ROTATION_NOISE = 0.03
# Corners on one object have nearly the same error: so many count as one measurement.
TRACKS_PER_MEASUREMENT = 2
# Least standard deviation of a residual in pixels; the scale of most residuals.
MIN_RESIDUAL_PX = 0.1
# The median length of two, and of one, normal numbers of variance one.
CHI2_MEDIAN, CHI1_MEDIAN = 1.177, 0.674
SOLVER_ROUNDS = 8
# A pair with a larger relative standard deviation is not used.
MAX_PAIR_DEVIATION = 0.3
# Fewer pairs give no scale, and neither does a shorter way.
MIN_PAIRS = 7
MIN_WAY_M = 0.8
# Noise of the odometry over one pair: a share of its length, and a length.
PAIR_NOISE = 0.03
PAIR_NOISE_M = 0.003
# Tukey's biweight is zero for residuals of so many standard deviations.
OUTLIER_SIGMAS = 3.0
# Least share of the way whose pairs agree.
MIN_AGREEING = 0.6
FIT_ROUNDS = 12


@dataclass(frozen=True)
class Pair:
    """Two keyframes: units per metre by them, with its standard deviation, and their motion.

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
class View:
    """A keyframe: `gray` uint8 [h, w], `depth` [h, w] in units, 0 or NaN where it is not used.

    `odom_from_camera` [4, 4] is in metres.
    """

    stamp_ns: int
    gray: np.ndarray
    depth: np.ndarray
    intrinsics: Intrinsics
    odom_from_camera: np.ndarray

    @cached_property
    def corners(self) -> np.ndarray:
        """Return corners of known depth, float32 [n, 1, 2]."""
        with np.errstate(invalid='ignore'):
            known = self.depth > 0.0
        corners = find_corners(self.gray, known)
        return corners[at_pixels(known, corners.reshape(-1, 2))]


class OdometryPairs:
    """Cuts the path of one fragment into pairs of keyframes that follow each other."""

    def __init__(self) -> None:
        self._first: View | None = None

    def add(self, keyframe: Keyframe, odom_from_camera: np.ndarray) -> Pair | None:
        """Take the next keyframe; return the pair that ends with it."""
        view = View(keyframe.stamp_ns, to_gray(keyframe.image),
                    np.where(keyframe.confidence > 0.0, keyframe.depth, np.float32(0.0)),
                    keyframe.intrinsics, odom_from_camera)
        first = self._first
        if first is None or not 0 <= view.stamp_ns - first.stamp_ns <= MAX_PAIR_NS:
            self._first = view
            return None
        motion = invert(first.odom_from_camera) @ odom_from_camera
        way = float(np.linalg.norm(motion[:3, 3]))
        if way < MIN_PAIR_M:
            return None
        found = None if way > MAX_PAIR_M else compare(first, view, motion)
        if found is not None and found[0] < MIN_PARALLAX_PX:
            return None
        self._first = view
        if found is None or not 0.0 < found[2] < MAX_PAIR_DEVIATION * found[1]:
            return None
        return Pair(found[1], found[2], motion[:3, 3], motion[:3, :3])

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        first = self._first
        return {'first': None if first is None else {
            **vars_of(first), 'intrinsics': intrinsics_tree(first.intrinsics)}}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        if node.has('first'):
            first = node.node('first')
            intrinsics = read_intrinsics(first.node('intrinsics'))
            size = intrinsics.height, intrinsics.width
            self._first = View(
                read_stamp(first), first.array('gray', np.uint8, size),
                first.array('depth', np.float32, size, finite=False), intrinsics,
                read_rigid(first, 'odom_from_camera'))


def compare(first: View, second: View,
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
    if len(pairs) < MIN_PAIRS:
        return None
    values, deviations = (np.array([getattr(one, name) for one in pairs])
                          for name in ('units_per_metre', 'deviation'))
    driven = np.array([one.driven for one in pairs])
    way = np.linalg.norm(driven, axis=1)
    if way.sum() < MIN_WAY_M:
        return None
    design = np.ones((len(pairs), 4))
    turned = np.array([one.turned for one in pairs])
    design[:, 1:] = np.einsum('ni,nij->nj', driven, turned - np.eye(3)) / way[:, None]**2
    unknowns = np.array([weighted_median(values, way), 0.0, 0.0, 0.0])
    for _ in range(FIT_ROUNDS):
        variances = deviations**2 + unknowns[0]**2 * (PAIR_NOISE**2 + (PAIR_NOISE_M / way)**2)
        residuals = (values - design @ unknowns) / np.sqrt(variances)
        excess = max(1.0, float(np.median(np.abs(residuals))) / CHI1_MEDIAN)
        weights = np.clip(1.0 - (residuals / (OUTLIER_SIGMAS * excess))**2, 0.0, None)**2
        scaled = (weights / (variances * excess**2))[:, None] * design
        prior = np.diag([0.0, *3 * [(unknowns[0] * mount_deviation)**-2]])
        before, unknowns = unknowns, np.linalg.solve(scaled.T @ design + prior, scaled.T @ values)
        if unknowns[0] <= 0.0:
            return None
        if abs(unknowns[0] - before[0]) < 1e-6 * before[0]:
            break
    used = weights > 0.0
    if way[used].sum() < MIN_AGREEING * way.sum():
        return None
    # Neighbours that agree are no independent measurements; what the mount adds is known already.
    information = scaled.T @ design / inflation(residuals[used]) + prior
    variance = np.linalg.inv(information)[0, 0] / unknowns[0]**2
    return ScaleFit(-math.log(unknowns[0]), float(variance))


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
