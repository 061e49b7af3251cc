# SPDX-License-Identifier: Apache-2.0
"""The camera's path: a Kalman filter of tracked corners (prior) and pointmap poses (measurement).

Corners are tracked from the last keyframe to a frame. With the depths of the keyframe they give
the motion between the two (`predict`). Its error is small, but it adds up along the path. The
pointmap of the frame gives the pose in the whole map, with an error of its own in every frame.
The filter joins both. The state is a pose (R, c) in the fragment with the covariance P [6, 6]:
position in its units, then rotation in radians, both along its axes.

    prior       (R, c), P = P_last moved to c + covariance of the motion    `predict`
    innovation  y = (c_z - c, log(R_z R^T)), with (R_z, c_z) the pointmap's pose
    gain        K = P (P + R_shared / w)^-1
    update      c + (K y)[:3],  exp((K y)[3:]) R,  P - K P

R_shared is `PoseMeasurement.shared_covariance`: the measurement covariance if all points of the
pointmap had one error in common. w is the parameter `pose.pointmap_weight`. A frame without a
prior takes the pose of its pointmap, moved by the correction of the keyframe before it.

The updated pose differs from the pose of the pointmap. The difference moves the points of the
pointmap too: pointmap_correction = updated pose * inverse of the pointmap's pose.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import (
    invert,
    move_covariance,
    move_pose,
    rotation_vector,
    shift_covariance,
    to_rigid,
)
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.mapper_config import PoseConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode
from spann3r_ros.mapping.storage.saved_values import (
    keyframe_tree,
    pose_tree,
    read_keyframe,
    read_pose,
    read_rigid,
)

from .corner_tracks import MIN_TRACKS, Tracks, at_pixels, find_corners, follow, rays, to_gray
from .pnp import PoseError, PoseSolution, fit_pose

# Largest residual of a tracked corner that is an inlier, as a share of the image width.
MAX_TRACK_RESIDUAL = 0.01
# Corners on one object have nearly the same error: so many count as one measurement.
TRACKS_PER_MEASUREMENT = 10
# Below this mean gain a pointmap hardly changes the prior: a live pose is then the prior alone.
MIN_GAIN = 0.2


@dataclass(frozen=True)
class PoseMeasurement:
    """The pose of a pointmap's camera in the fragment; `shared_covariance` as `PoseSolution`."""

    pose: FragmentPose
    shared_covariance: np.ndarray


@dataclass(frozen=True)
class FilteredPose:
    """The pose of a keyframe in the fragment, None without prior and measurement.

    `pointmap_correction` [4, 4] moves the points of its pointmap in the fragment. `mean_gain` in
    [0, 1] is the mean of the gain's diagonal: how much the measurement changed the pose.
    """

    pose: FragmentPose | None
    pointmap_correction: np.ndarray
    mean_gain: float = 1.0


def measurement_in_fragment(stamp_ns: int, frame_id: str, fragment_id: int, solution: PoseSolution,
                            fragment_from_sequence: np.ndarray) -> PoseMeasurement:
    """Return a solution in the network's sequence as one in a fragment, by a similarity [4, 4]."""
    pose = FragmentPose(stamp_ns, frame_id, fragment_id,
                        move_pose(fragment_from_sequence, solution.fragment_from_camera),
                        move_covariance(fragment_from_sequence, solution.covariance))
    return PoseMeasurement(pose, move_covariance(fragment_from_sequence,
                                                 solution.shared_covariance))


class CameraTrack:
    """Estimates the poses of one camera in the current fragment, keyframe by keyframe."""

    def __init__(self, config: PoseConfig) -> None:
        self._config = config
        self._last: Keyframe | None = None
        self._pointmap_correction = np.eye(4)
        self._predicted: FragmentPose | None = None
        self._mean_gain = 1.0

    def prior_suffices(self, stamp_ns: int) -> bool:
        """Return whether a frame has a prior that a pointmap would hardly change."""
        return self.has_small_gain and self._prior(stamp_ns) is not None

    @property
    def has_small_gain(self) -> bool:
        """Return whether the measurement of the last keyframe hardly changed its pose."""
        return self._mean_gain < MIN_GAIN

    def update(self, stamp_ns: int, measured: PoseMeasurement | None) -> FilteredPose:
        """Return the pose of a keyframe; store its correction and gain for the next frames."""
        filtered = self.estimate(stamp_ns, measured)
        self._pointmap_correction = filtered.pointmap_correction
        self._mean_gain = filtered.mean_gain
        return filtered

    def estimate(self, stamp_ns: int, measured: PoseMeasurement | None) -> FilteredPose:
        """Return the pose of a frame from its prior and its measurement; change nothing.

        Without a measurement this is the prior, if the frame has one.
        """
        prior = self._prior(stamp_ns)
        if measured is None:
            return FilteredPose(prior, self._pointmap_correction)
        if not self._config.track_corners:
            return FilteredPose(measured.pose, self._pointmap_correction)
        pose, mean_gain = self._kalman_update(prior or self._prior_without_tracks(measured),
                                              measured)
        correction = pose.fragment_from_camera @ invert(measured.pose.fragment_from_camera)
        return FilteredPose(pose, correction, mean_gain)

    def follow_keyframe(self, keyframe: Keyframe) -> None:
        """Track corners from this keyframe on; from none if it has no pose."""
        self._last = keyframe if keyframe.pose is not None else None

    def begin_fragment(self, fragment_id: int, new_from_former: np.ndarray) -> None:
        """Go on in a new fragment; `new_from_former` [4, 4] is a similarity.

        The correction is reset: a new fragment is placed at the path, so its error is zero.
        """
        self._pointmap_correction, self._mean_gain = np.eye(4), 1.0
        self._predicted = None
        if self._last is not None:
            self._last = self._last.moved_to(fragment_id, new_from_former)

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {'last': None if self._last is None else keyframe_tree(self._last),
                'predicted': None if self._predicted is None else pose_tree(self._predicted),
                'pointmap_correction': self._pointmap_correction, 'mean_gain': self._mean_gain}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        self._last = read_keyframe(node.node('last')) if node.has('last') else None
        self._predicted = read_pose(node.node('predicted')) if node.has('predicted') else None
        self._pointmap_correction = read_rigid(node, 'pointmap_correction')
        self._mean_gain = node.number('mean_gain', 0.0, 1.0)

    def predict(self, stamp_ns: int, image: np.ndarray, intrinsics: Intrinsics) -> None:
        """Compute the prior of a frame from corners that are tracked from the last keyframe."""
        if self._last is None or not self._config.track_corners:
            return
        known = np.isfinite(self._last.depth)
        first, second = to_gray(self._last.image), to_gray(image)
        tracks = follow(first, second, find_corners(first, known))
        step = _step(self._last, tracks, intrinsics, self._config)
        if step is None:
            return
        last = self._last.pose
        fragment_from_camera = last.fragment_from_camera @ step.fragment_from_camera
        # A rotation error of the last pose becomes a position error at the end of the shift.
        shift = fragment_from_camera[:3, 3] - last.fragment_from_camera[:3, 3]
        rotation = to_rigid(last.fragment_from_camera[:3, :3], np.zeros(3))
        self._predicted = FragmentPose(
            stamp_ns, last.frame_id, last.fragment_id, fragment_from_camera,
            shift_covariance(last.covariance, shift) + move_covariance(rotation, step.covariance))

    def _prior(self, stamp_ns: int) -> FragmentPose | None:
        known = self._predicted is not None and self._predicted.stamp_ns == stamp_ns
        return self._predicted if known else None

    def _prior_without_tracks(self, measured: PoseMeasurement) -> FragmentPose:
        """Return the measured pose, moved by the last correction, as the prior.

        The motion is then the difference of two pointmap poses, and their covariances add up.
        """
        covariance = measured.pose.covariance
        if self._last is not None:
            covariance = covariance + self._last.pose.covariance
        return replace(measured.pose, covariance=covariance, fragment_from_camera=(
            self._pointmap_correction @ measured.pose.fragment_from_camera))

    def _kalman_update(self, prior: FragmentPose,
                       measured: PoseMeasurement) -> tuple[FragmentPose, float]:
        """Return the updated pose and the mean of the gain's diagonal."""
        predicted, observed = prior.fragment_from_camera, measured.pose.fragment_from_camera
        innovation = np.concatenate([
            observed[:3, 3] - predicted[:3, 3],
            rotation_vector(observed[:3, :3] @ predicted[:3, :3].T)])
        measurement_covariance = measured.shared_covariance / self._config.pointmap_weight
        gain = prior.covariance @ np.linalg.inv(prior.covariance + measurement_covariance)
        correction = gain @ innovation
        covariance = prior.covariance - gain @ prior.covariance
        rotation = to_rigid(correction[3:], np.zeros(3))[:3, :3] @ predicted[:3, :3]
        pose = replace(
            measured.pose,
            fragment_from_camera=to_rigid(rotation, predicted[:3, 3] + correction[:3]),
            covariance=0.5 * (covariance + covariance.T))  # rounding makes it slightly asymmetric
        return pose, float(np.trace(gain)) / 6.0


def _step(last: Keyframe, tracks: Tracks, intrinsics: Intrinsics,
          config: PoseConfig) -> PoseSolution | None:
    """Return the pose of the camera that sees the ends of the tracks, in the last one's frame.

    None when too few tracks have a usable depth, or when they admit no pose.
    """
    depth = at_pixels(last.depth, tracks.starts)
    confidence = at_pixels(last.confidence, tracks.starts)
    good = (depth > 0.0) & (confidence > config.min_confidence)  # False for a depth of NaN
    if good.sum() < MIN_TRACKS:
        return None
    tracks = tracks.select(good)
    # Points are put on the rays of their pixels. Otherwise an error of the pointmap across the ray
    # would be taken for motion.
    points = rays(tracks.starts, last.intrinsics) * depth[good, None]
    try:
        return fit_pose(points.T.copy(), tracks.ends.T.copy(), intrinsics, config,
                        MAX_TRACK_RESIDUAL, len(tracks) / TRACKS_PER_MEASUREMENT)
    except PoseError:
        return None
