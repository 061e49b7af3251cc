# SPDX-License-Identifier: Apache-2.0
"""The camera's path: tracked corners carry it on, pointmaps steer it.

A pointmap tells where its camera is in the whole map, with an error of its own in every frame.
Corners tracked from the last keyframe, at the depths that the network gave them there, tell the
step between two frames much better, but not where a long way has led. A Kalman filter weighs them.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

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
from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.mapper_config import PoseConfig

from .corner_tracks import MIN_TRACKS, Tracks, at_pixels, find_corners, follow, rays, to_gray
from .pnp import PoseError, PoseSolution, fit_pose

# Farthest a tracked corner may end from where the step takes it, as a share of the image width.
MAX_TRACK_MISS = 0.01
# Corners on one thing err together.
TRACKS_PER_MEASUREMENT = 10
# A pointmap that would pull the path by less than this share need not be asked before it is final.
LEAST_GAIN = 0.2


@dataclass(frozen=True)
class Solved:
    """What a pointmap tells of its camera's pose; `systematic` [6, 6] as in `PoseSolution`."""

    pose: StampedPose
    systematic: np.ndarray


@dataclass(frozen=True)
class Placed:
    """A keyframe's pose, None where nothing tells it; `correction` [4, 4] moves its points.

    `gain` in [0, 1] is how much its pointmap had to say.
    """

    pose: StampedPose | None
    correction: np.ndarray
    gain: float = 1.0


def solved_in_map(stamp_ns: int, frame_id: str, solution: PoseSolution,
                  map_from_fragment: np.ndarray) -> Solved:
    """Return a solution in a fragment as one in the map; `map_from_fragment` is a similarity."""
    pose = StampedPose(stamp_ns, frame_id,
                       move_pose(map_from_fragment, solution.fragment_from_camera),
                       move_covariance(map_from_fragment, solution.covariance))
    return Solved(pose, move_covariance(map_from_fragment, solution.systematic))


class CameraTrack:
    """Follows one camera through the map, keyframe by keyframe; poses are in the map."""

    def __init__(self, config: PoseConfig) -> None:
        self._config = config
        self._last: Keyframe | None = None
        self._correction = np.eye(4)
        self._predicted: StampedPose | None = None
        self._gain = 1.0

    def knows(self, stamp_ns: int) -> bool:
        """Return whether corners tell a frame's pose so well that a pointmap would hardly pull."""
        return self.leads and self._prediction(stamp_ns) is not None

    @property
    def leads(self) -> bool:
        """Say whether corners told the last pose so well that its pointmap hardly pulled."""
        return self._gain < LEAST_GAIN

    def place(self, stamp_ns: int, solved: Solved | None) -> Placed:
        """Return where a frame is, by what its pointmap tells, if it tells anything; go on so."""
        placed = self.look(stamp_ns, solved)
        self._correction, self._gain = placed.correction, placed.gain
        return placed

    def look(self, stamp_ns: int, solved: Solved | None) -> Placed:
        """Return what `place` would for the pointmap of a frame, changing nothing."""
        predicted = self._prediction(stamp_ns)
        if solved is None:
            return Placed(predicted, self._correction)
        if not self._config.track_corners:
            return Placed(solved.pose, self._correction)
        pose, gain = self._weighed(predicted or self._carried(solved), solved)
        return Placed(pose, pose.world_from_camera @ invert(solved.pose.world_from_camera), gain)

    def advance(self, keyframe: Keyframe) -> None:
        """Go on from a keyframe that was placed, with a pose or without."""
        self._last = keyframe if keyframe.pose is not None else None

    def begin_fragment(self) -> None:
        """Forget how far pointmaps are off: those of a new fragment lie where the path is."""
        self._correction, self._gain = np.eye(4), 1.0

    def predict(self, stamp_ns: int, image: np.ndarray, intrinsics: Intrinsics) -> None:
        """Take for the pose of a frame what corners tell, tracked from the last keyframe to it."""
        if self._last is None or not self._config.track_corners:
            return
        known = np.isfinite(self._last.pointmap.points[..., 2])
        first, second = to_gray(self._last.image), to_gray(image)
        tracks = follow(first, second, find_corners(first, known))
        step = _step(self._last, tracks, intrinsics, self._config)
        if step is None:
            return
        there = self._last.pose
        where = there.world_from_camera @ step.fragment_from_camera
        lever = where[:3, 3] - there.world_from_camera[:3, 3]
        turn = to_rigid(there.world_from_camera[:3, :3], np.zeros(3))
        self._predicted = StampedPose(
            stamp_ns, there.frame_id, where,
            shift_covariance(there.covariance, lever) + move_covariance(turn, step.covariance))

    def _prediction(self, stamp_ns: int) -> StampedPose | None:
        known = self._predicted is not None and self._predicted.stamp_ns == stamp_ns
        return self._predicted if known else None

    def _carried(self, solved: Solved) -> StampedPose:
        """Return the pose of a frame without tracks: the step is what two pointmaps tell."""
        covariance = solved.pose.covariance
        if self._last is not None:
            covariance = covariance + self._last.pose.covariance
        return replace(solved.pose, covariance=covariance, world_from_camera=(
            self._correction @ solved.pose.world_from_camera))

    def _weighed(self, predicted: StampedPose, solved: Solved) -> tuple[StampedPose, float]:
        """Return the predicted pose, pulled towards the solved one, and by which share."""
        one, other = predicted.world_from_camera, solved.pose.world_from_camera
        off = np.concatenate([other[:3, 3] - one[:3, 3],
                              rotation_vector(other[:3, :3] @ one[:3, :3].T)])
        spread = predicted.covariance
        gain = spread @ np.linalg.inv(spread + solved.systematic / self._config.pointmap_weight)
        pull = gain @ off
        covariance = spread - gain @ spread
        pose = replace(
            solved.pose,
            world_from_camera=to_rigid(to_rigid(pull[3:], np.zeros(3))[:3, :3] @ one[:3, :3],
                                       one[:3, 3] + pull[:3]),
            covariance=0.5 * (covariance + covariance.T))  # rounding leaves it not symmetric
        return pose, float(np.trace(gain)) / 6.0


def _step(last: Keyframe, tracks: Tracks, intrinsics: Intrinsics,
          config: PoseConfig) -> PoseSolution | None:
    """Return the pose of the camera that corners were tracked to, in the last one's frame."""
    camera_from_map = invert(last.pose.world_from_camera)
    points = at_pixels(last.pointmap.points, tracks.starts)
    depth = points @ camera_from_map[2, :3] + camera_from_map[2, 3]
    confidence = at_pixels(last.pointmap.confidence, tracks.starts)
    good = (depth > 0.0) & (confidence > config.min_confidence)  # NaN is no depth either
    if good.sum() < MIN_TRACKS:
        return None
    tracks = tracks.select(good)
    # On the ray of its pixel: the pointmap's own error across would pass for motion.
    seen = rays(tracks.starts, last.intrinsics) * depth[good, None]
    try:
        return fit_pose(seen.T.copy(), tracks.ends.T.copy(), intrinsics, config, MAX_TRACK_MISS,
                        len(tracks) / TRACKS_PER_MEASUREMENT)
    except PoseError:
        return None
