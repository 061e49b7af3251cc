# SPDX-License-Identifier: Apache-2.0
"""Mapping with solved camera poses: from pointmaps and tracked corners."""
from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe, depth_of_points
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import invert, similarity_scale, transform_points
from spann3r_ros.core.types import FragmentPose, Frame
from spann3r_ros.core.views import Preprocessed
from spann3r_ros.mapping.admitted import Admitted
from spann3r_ros.mapping.fragments.fragment import Fragment
from spann3r_ros.mapping.fragments.overlap import Overlap
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.storage.saved_tree import SavedNode

from .corner_motion import CornerMotion, Motion
from .measured_pose import measure_pose
from .pnp import PoseError, PoseSolution
from .pose_filter import MAX_REJECTED, FilteredPose, PoseFilter, move_solution
from .pose_source import PoseSource

# After a larger change of log f the pose of a keyframe comes from its pointmap alone.
MAX_FOCAL_CHANGE = 0.03

logger = logging.getLogger(__name__)


class SolvedPoses(PoseSource):
    """Filters the poses of pointmaps with the motion of tracked corners.

    `overlap` has the keyframes by which the next fragment is joined to this one.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self._config = config.pose
        self._filter = PoseFilter(config.pose)
        self._corners = CornerMotion(config.pose)
        self._focal = 0.0  # of the last keyframe
        self.lost = 0  # keyframes without a pose in a row
        self.overlap = Overlap(config)

    def configure(self, config: MapperConfig) -> None:
        """Use other weights and thresholds from the next frame on."""
        self._config = config.pose
        self.overlap.configure(config)
        self._filter.configure(config.pose)
        self._corners.configure(config.pose)

    @property
    def joining(self) -> bool:
        """Return whether the fragment gets its place from images that are seen again."""
        return self.overlap.joining

    @property
    def keyframes(self) -> list[Keyframe]:
        """Return the keyframes that the next fragment sees again."""
        return self.overlap.keyframes

    def begin_fragment(self, fragment: Fragment, new_from_former: np.ndarray,
                       seen_again: bool = True) -> None:
        """Go on in a new fragment; `new_from_former` [4, 4] is a similarity."""
        self._filter.begin_fragment(new_from_former)
        self._corners.rescale(similarity_scale(new_from_former))
        if fragment.unlocated:
            # The camera has been elsewhere meanwhile.
            self._filter.forget()
            self._corners.stop()
        self.overlap.begin_fragment(fragment, new_from_former, seen_again)
        self.lost = 0

    def see_again(self, estimate: Estimate) -> None:
        """Take the estimate of an image that the new fragment has in common with the last one."""
        keyframe = self.overlap.keyframe(estimate.image_id)
        try:
            solution = measure_pose(estimate, keyframe.intrinsics, self._config)
        except PoseError as error:
            logger.debug('an image seen again has no pose: %s', error)
        else:
            self.overlap.see(estimate, solution.fragment_from_camera)

    def place(self, admitted: Admitted, estimate: Estimate, intrinsics: Intrinsics,
              fragment: Fragment) -> list[Keyframe]:
        """Return the keyframe of an estimate; its pose is None without corners and pointmap."""
        frame, pointmap = admitted.frame, estimate.pointmap
        self._check_focal(intrinsics)
        measured, reason = self._measure(estimate, intrinsics, fragment)
        filtered = self._filter.update(self._motion_to(admitted, intrinsics), measured)
        corrected = filtered.pointmap_correction @ fragment.fragment_from_sequence
        keyframe = Keyframe(frame.stamp_ns, frame.frame_id, fragment.id,
                            admitted.network_input.image, intrinsics,
                            np.full_like(pointmap.confidence, np.nan), pointmap.confidence,
                            _stamped(frame, fragment, filtered), descriptor=estimate.descriptor)
        self._count(filtered, reason)
        self.overlap.count(pointmap.confidence)
        self.lost = self.lost + 1 if keyframe.pose is None else 0
        if keyframe.pose is None:
            self._corners.stop()
            return [replace(keyframe, unposed_points=transform_points(corrected,
                                                                      pointmap.points))]
        depth = depth_of_points(invert(keyframe.pose.fragment_from_camera) @ corrected,
                                pointmap.points)
        keyframe = replace(keyframe, depth=depth, confidence=np.where(
            np.isfinite(depth), pointmap.confidence, np.float32(0.0)))
        if measured is None or filtered.gated:
            # The pointmap is doubtful: its depth gets the scale of the corners that reached it.
            scale = self._corners.carry(keyframe.stamp_ns, depth, keyframe.confidence)
            return [replace(keyframe, depth=depth * np.float32(scale))]
        self.overlap.add(keyframe)
        self._corners.follow(keyframe.image, depth, keyframe.confidence)
        return [keyframe]

    def needs_provisional(self, admitted: Admitted, intrinsics: Intrinsics) -> bool:
        """Return whether the provisional estimate may change a frame's live pose."""
        return not self._filter.prior_suffices(self._motion_to(admitted, intrinsics))

    def live_pose(self, admitted: Admitted, estimate: Estimate | None, intrinsics: Intrinsics,
                  fragment: Fragment) -> FragmentPose | None:
        """Return the pose of the newest frame from its corners and its provisional estimate."""
        measured = None
        if estimate is not None:
            measured, _ = self._measure(estimate, intrinsics, fragment)
        pose = _stamped(admitted.frame, fragment, self._filter.estimate(
            self._motion_to(admitted, intrinsics), measured))
        self.live_failed += pose is None
        return pose

    def passing_pose(self, frame: Frame, view: Preprocessed, intrinsics: Intrinsics | None,
                     fragment: Fragment) -> FragmentPose | None:
        """Return the prior of a frame that is no keyframe, from its corners."""
        if intrinsics is None:
            return None
        motion = self._corners.passing_motion(frame.stamp_ns, view.image, intrinsics)
        return _stamped(frame, fragment, self._filter.estimate(motion, None))

    def finish(self) -> None:
        """Do nothing: no keyframe waits."""

    def tree(self) -> dict[str, Any]:
        """Return the state for a saved map."""
        return {**super().tree(), 'filter': self._filter.tree(),
                'corners': self._corners.tree(), 'focal': self._focal, 'lost': self.lost,
                **self.overlap.tree()}

    def restore(self, node: SavedNode) -> None:
        """Take over a saved state; raise ValueError if it is wrong."""
        super().restore(node)
        self._filter.restore(node.node('filter'))
        self._corners.restore(node.node('corners'))
        self._focal = node.number('focal', 0.0)
        self.lost = node.integer('lost') if node.has('lost') else 0
        self.overlap.restore(node)

    def _check_focal(self, intrinsics: Intrinsics) -> None:
        """Forget what the filter measured with another focal length; the network's frame stays."""
        if self._focal and abs(math.log(intrinsics.fx / self._focal)) > MAX_FOCAL_CHANGE:
            self._filter.forget()
        self._focal = intrinsics.fx

    def _count(self, filtered: FilteredPose, reason: str) -> None:
        """Count and log what a keyframe's pose lacks; `reason`: why its pointmap gave none."""
        self.failed += bool(reason)
        self.gated += filtered.gated
        self.resets += filtered.reset
        if filtered.fragment_from_camera is None:
            logger.warning('a keyframe has no pose: %s', reason)
        if filtered.gated:
            logger.warning('a keyframe has the pose that tracked corners give: its pointmap is '
                           'elsewhere')
        if filtered.reset:
            logger.warning('a keyframe has the pose of its pointmap, which differs from that of '
                           'the tracked corners for the %d. time', MAX_REJECTED)

    def _motion_to(self, admitted: Admitted, intrinsics: Intrinsics) -> Motion | None:
        """Return the camera's motion from the last keyframe, by tracked corners."""
        return self._corners.motion_to(admitted.frame.stamp_ns, admitted.network_input.image,
                                       intrinsics, admitted.waypoints)

    def _measure(self, estimate: Estimate, intrinsics: Intrinsics,
                 fragment: Fragment) -> tuple[PoseSolution | None, str]:
        """Return the pose in the fragment that an estimate implies, or None and the reason."""
        try:
            solution = measure_pose(estimate, intrinsics, self._config)
        except PoseError as error:
            return None, str(error)
        logger.debug('pointmap: %.0f %% inliers, distance %.2f', 100 * solution.inlier_share,
                     solution.distance)
        return move_solution(fragment.fragment_from_sequence, solution), ''


def _stamped(frame: Frame, fragment: Fragment, filtered: FilteredPose) -> FragmentPose | None:
    pose = filtered.fragment_from_camera
    return None if pose is None else FragmentPose(frame.stamp_ns, frame.frame_id, fragment.id,
                                                  pose, filtered.covariance)
