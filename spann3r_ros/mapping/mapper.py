# SPDX-License-Identifier: Apache-2.0
"""The mapping algorithm: one frame after another, from images to keyframes and a voxel map.

`process` takes a frame through these stages:

1. fit the image to the network's input (`preprocess`) and decide whether it becomes a keyframe;
2. run the network, which returns final estimates: of this frame, or of an earlier one if the
   network has a lag (`_advance`);
3. clean an estimate and solve the pose of its camera in the fragment (`_finish`, `_solve_pose`);
4. filter the pose in the map with the motion of tracked corners (`PoseFilter`), or take the given
   pose (`KnownPoses`);
5. move the points into the map and merge them into the voxels (`_add`);
6. estimate the pose of the newest frame from its corners and its provisional pointmap
   (`_solve_live_pose`).
"""
from __future__ import annotations

import logging
import math
import time
from collections import deque
from dataclasses import replace

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe, on_rays
from spann3r_ros.core.network import Estimate, Network
from spann3r_ros.core.transforms import map_axes, similarity_scale, transform_points
from spann3r_ros.core.types import (
    DeviceMemoryError,
    Frame,
    FrameError,
    Pointmap,
    StampedPose,
    check_confident,
    clean,
)
from spann3r_ros.core.views import preprocess

from .fragments.fragment import AlignmentError, Fragment, can_place, place_after, place_with_scale
from .layers.voxel_map import VoxelMap
from .mapper_config import MapperConfig
from .mapping_state import MAP_LOADED, Admitted, MappingState
from .mapping_status import MappingStatus, MapUpdate
from .memory_manager import MemoryManager
from .storage.saved_map import SavedMap
from .tracking.corner_motion import CornerMotion, Motion
from .tracking.focal_length import FocalRefinement
from .tracking.keyframe_gate import KeyframeGate
from .tracking.known_poses import KnownPoses
from .tracking.measured_pose import measure_pose
from .tracking.pnp import PoseError, PoseSolution
from .tracking.pose_filter import MAX_REJECTED, FilteredPose, PoseFilter, move_solution

# The image id of the last placed keyframe, which is also the first image of a new fragment.
ANCHOR_ID = 0
ASKED_FOR = 'asked for'
# After so many fragments without a place, the next one gets the scale of the last one placed.
MAX_FAILED_PLACEMENTS = 3

# After a larger change of log f the pose of a keyframe comes from its pointmap alone.
MAX_FOCAL_CHANGE = 0.03

logger = logging.getLogger(__name__)


class Mapper:
    """Turns a stream of frames into keyframes, poses and a voxel map; not thread-safe."""

    def __init__(self, network: Network, config: MapperConfig | None = None) -> None:
        self._config = config or MapperConfig()
        self._memory = MemoryManager(network)
        self.voxel_map = VoxelMap(self._config.voxel_map)
        self._state = self._start(fragment_id=0)

    @property
    def trajectory(self) -> list[StampedPose]:
        """Return the refined poses in frame order, the newest `path_max_size` of them."""
        return list(self._state.trajectory)

    def process(self, frame: Frame) -> MapUpdate:
        """Process one frame; return the keyframes that it completed and the live pose.

        With known poses, keyframes wait until the camera has moved far enough to measure their
        scale. Raises FrameError for a frame that cannot be used; the map is unchanged by it, and
        the next frame may follow. The keyframes that the step completed nevertheless come with the
        next update, or by `take_keyframes`. If an earlier frame turns out to be unusable, this
        frame is not concerned, and the update contains the earlier one as refused. After
        DeviceMemoryError the next frame begins a new fragment.
        """
        state = self._state
        state.check_open(frame)
        network_input = preprocess(frame, self._input_size(frame),
                                   self._config.field_of_view == 'letterbox',
                                   self._config.resampling == 'exact')
        if not state.gate.admits(frame.stamp_ns):
            return MapUpdate(skipped=True)
        started = time.perf_counter()
        try:
            if state.restart_reason:
                self._begin_fragment()
            live_pose, inference_sec = self._advance(state.admit(frame, network_input), started)
        except FrameError as error:
            if isinstance(error, DeviceMemoryError):
                state.restart_reason = 'out of memory'
            state.refused = [one for one in state.refused if one[0] is not frame]
            raise
        own = [error for refused, error in state.refused if refused is frame]
        state.refused = [one for one in state.refused if one[0] is not frame]
        if own:
            raise own[0]
        return MapUpdate(False, state.take_keyframes(), live_pose, inference_sec,
                         state.take_refused())

    def new_fragment(self, reason: str = ASKED_FOR) -> None:
        """Let the next frame begin a fragment: the network's memory is reset, the map is kept."""
        self._state.restart_reason = reason

    def flush(self) -> MapUpdate:
        """Close the map and return the keyframes still to come; none if under two images came.

        `process` rejects further frames until `reset`.
        """
        state, started = self._state, time.perf_counter()
        state.closed = True
        estimates = self._memory.flush()
        inference_sec = time.perf_counter() - started
        self._settle([one for one in estimates if one.image_id in state.pending])
        state.pending.clear()
        if state.known_poses is not None:
            state.known_poses.drop_waiting()
        return MapUpdate(keyframes=state.take_keyframes(), inference_sec=inference_sec,
                         refused=state.take_refused())

    def take_keyframes(self) -> tuple[Keyframe, ...]:
        """Return the keyframes that are in no update, because `process` raised."""
        return self._state.take_keyframes()

    def reset(self) -> None:
        """Start a new, empty map with the next frame."""
        self._memory.reset(ASKED_FOR)
        self.voxel_map.clear()
        self._state = self._start(self._state.fragment.id + 1)

    def close(self) -> None:
        """Free the network's memory; the mapper cannot be used afterwards."""
        self._memory.release()

    def saved(self) -> SavedMap | None:
        """Return what `load` needs; None while no new fragment could be joined to the map."""
        return self._state.saved(self.voxel_map.rows())

    def load(self, saved: SavedMap) -> None:
        """Continue a saved map: the next frame begins a fragment, placed by the last keyframe.

        Raises ValueError for a map that does not fit the network or the configuration; the current
        map is then unchanged.
        """
        height, width = saved.camera[1]
        size = self._memory.input_size(width / height)
        if saved.anchor is not None and saved.anchor.image.shape[:2] != size:
            raise ValueError(f'map: expected keyframes of height and width {size}, as the network '
                             f'takes, got {saved.anchor.image.shape[:2]}')
        self.voxel_map.restore(saved.voxels)
        self._memory.reset(MAP_LOADED)
        self._state = self._start(saved.fragment_id)
        self._state.resume(saved)

    def status(self) -> MappingStatus:
        """Return the counters."""
        state = self._state
        return MappingStatus(
            fragment_id=state.fragment.id,
            scale=state.fragment.scale,
            keyframes=state.keyframes,
            skipped=state.gate.skipped,
            poses_failed=state.poses_failed,
            poses_gated=state.poses_gated,
            pose_resets=state.pose_resets,
            keyframes_left_out=state.keyframes_left_out,
            live_poses_failed=state.live_poses_failed,
            coverage=state.coverage,
            voxels=len(self.voxel_map),
            voxel_size=self.voxel_map.voxel_size,
            voxels_evicted=self.voxel_map.evicted,
            memory=self._memory.report(),
        )

    def _start(self, fragment_id: int) -> MappingState:
        pose = self._config.pose
        return MappingState(KeyframeGate(self._config.keyframes), CornerMotion(pose),
                            PoseFilter(pose), deque(maxlen=self._config.path_max_size),
                            Fragment(fragment_id))

    def _input_size(self, frame: Frame) -> tuple[int, int]:
        height, width = frame.rgb.shape[:2]
        return self._memory.input_size(width / height)

    def _begin_fragment(self) -> None:
        """Reset the network's memory; process the last placed keyframe and the pending frames.

        The last placed keyframe becomes the first image of the new fragment and places it in the
        map. If memory runs out, the pending frames are processed with the next fragment.
        """
        state = self._state
        self._memory.reset(state.restart_reason,
                           recovery=state.restart_reason not in (ASKED_FOR, MAP_LOADED))
        state.fragment = Fragment(state.fragment.id + 1, state.fragment.scale)
        last = state.pose_filter.last
        if last is None:
            state.pose_filter.begin_fragment()
        else:
            state.pose_filter.begin_fragment(last.fragment_from_camera, last.covariance)
        if state.known_poses is not None:
            state.known_poses.drop_waiting()
            state.known_poses = KnownPoses()
        # A fragment that failed has replayed the oldest frames, but not all of them.
        state.replays, state.pending = {**state.pending, **state.replays}, {}
        if state.anchor is not None:
            self._settle(self._memory.step(state.anchor.image, ANCHOR_ID))
        while state.replays:
            admitted = state.replays.pop(next(iter(state.replays)))
            try:
                self._advance(admitted, time.perf_counter())
            except DeviceMemoryError:
                state.replays = {admitted.image_id: admitted, **state.replays}
                raise
            except AlignmentError:
                raise
            except FrameError as error:
                state.refused.append((admitted.frame, error))
        state.restart_reason = ''

    def _advance(self, admitted: Admitted,
                 started: float) -> tuple[StampedPose | None, float]:
        """Run the network on a frame; finish the frames that its estimates are of.

        Returns the live pose and the time of inference in seconds.
        """
        state, frame = self._state, admitted.frame
        if not state.pending and not state.founded:
            state.fragment = replace(state.fragment, map_from_fragment=map_axes(frame.up))
        estimates = self._memory.step(admitted.network_input.image, admitted.image_id)
        inference_sec = time.perf_counter() - started
        state.take(admitted)
        own = [one for one in estimates if one.image_id == admitted.image_id]
        self._settle([one for one in estimates if one not in own])
        if frame.world_from_camera is not None:
            self._settle(own)
            return (StampedPose(frame.stamp_ns, frame.frame_id, frame.world_from_camera),
                    inference_sec)
        self._settle(own)
        live_pose = None
        if self._config.live_pose and estimates and admitted.image_id in state.pending:
            live_pose = self._solve_live_pose(admitted)
        return live_pose, inference_sec

    def _settle(self, estimates: list[Estimate]) -> None:
        """Use final estimates: that of the anchor places the fragment, others finish a frame.

        A frame whose estimate cannot be used is refused. An error that ends the sequence is
        raised, because the estimates after it have no place.
        """
        state = self._state
        for estimate in estimates:
            if estimate.image_id == ANCHOR_ID:
                self._place_fragment(estimate.pointmap)
                continue
            admitted = state.pending.pop(estimate.image_id)
            try:
                self._finish(admitted, estimate)
            except FrameError as error:
                state.refused.append((admitted.frame, error))
                if not state.founded and not state.closed:
                    self._start_again(error)
                    raise

    def _place_fragment(self, pointmap: Pointmap) -> None:
        """Place the fragment in the map; if that fails, the next frame begins another one.

        The anchor is the same each time. After `MAX_FAILED_PLACEMENTS` the scale is not measured.
        """
        state = self._state
        try:
            similarity = place_after(state.anchor, pointmap, self._config.voxel_map.min_confidence)
        except AlignmentError as error:
            if state.placements_failed < MAX_FAILED_PLACEMENTS:
                state.placements_failed += 1
                state.restart_reason = 'the last fragment could not be placed in the map'
                raise
            logger.warning('fragment %d has the scale of the last one placed: %s',
                           state.fragment.id, error)
            similarity = place_with_scale(state.anchor, state.placed_scale)
        state.placements_failed, state.placed_scale = 0, similarity_scale(similarity)
        state.fragment = replace(state.fragment, map_from_fragment=similarity)

    def _start_again(self, error: FrameError) -> None:
        """Refuse the pending frames of a map without a keyframe; the next one begins it."""
        state = self._state
        self._memory.reset('the first frame gave no usable pointmap', recovery=True)
        state.refused += [(one.frame, error) for one in
                          [*state.pending.values(), *state.replays.values()]]
        state.pending.clear()
        state.replays.clear()
        state.camera = state.known_poses = state.intrinsics = None
        state.focal = FocalRefinement()

    def _finish(self, admitted: Admitted, estimate: Estimate) -> None:
        """Merge a frame's final estimate."""
        estimate = _cleaned(estimate, admitted)
        # The first keyframe of a map needs points that enter the map. Later a blank wall may have
        # none of them, and its pose is solved from points of lower confidence.
        check_confident(estimate.pointmap, 0.0 if self._state.founded
                        else self._config.voxel_map.min_confidence)
        self._merge(admitted, estimate)

    def _merge(self, admitted: Admitted, estimate: Estimate) -> None:
        """Add to the map the keyframes that can be placed now."""
        state = self._state
        state.intrinsics = (admitted.network_input.intrinsics
                            or self._refined_intrinsics(estimate))
        if state.known_poses is None:
            keyframes = (self._place_by_solved_pose(admitted, estimate),)
        else:
            keyframes = self._place_by_known_pose(admitted, estimate)
        for keyframe in [one if one.pose is None else on_rays(one) for one in keyframes]:
            self._add(keyframe)

    def _refined_intrinsics(self, estimate: Estimate) -> Intrinsics:
        """Return the estimated intrinsics for a keyframe without calibration."""
        state, before = self._state, self._state.intrinsics
        intrinsics = state.focal.update(estimate, before, self._config.pose)
        if before is not None and abs(math.log(intrinsics.fx / before.fx)) > MAX_FOCAL_CHANGE:
            # What the filter knows was measured with a wrong camera. The network's frame was not.
            state.pose_filter.begin_fragment()
        return intrinsics

    def _place_by_solved_pose(self, admitted: Admitted, estimate: Estimate) -> Keyframe:
        state, frame, pointmap = self._state, admitted.frame, estimate.pointmap
        measured, reason = self._solve_pose(estimate, state.intrinsics)
        filtered = state.pose_filter.update(self._motion_to(admitted), measured)
        points = transform_points(
            filtered.pointmap_correction @ state.fragment.map_from_fragment, pointmap.points)
        keyframe = Keyframe(frame.stamp_ns, frame.frame_id, _stamped(frame, filtered),
                            admitted.network_input.image, state.intrinsics,
                            Pointmap(points, pointmap.confidence), state.fragment.id)
        self._count(filtered, reason)
        if measured is None or filtered.gated:
            return state.carry_corners(keyframe)
        if state.anchor is None or can_place(keyframe, self._config.voxel_map.min_confidence):
            state.anchor = keyframe
        state.follow_corners(keyframe)
        return keyframe

    def _count(self, filtered: FilteredPose, reason: str) -> None:
        """Count and log what a keyframe's pose lacks; `reason`: why its pointmap gave none."""
        state, number = self._state, self._state.keyframes + 1
        state.poses_failed += bool(reason)
        state.poses_gated += filtered.gated
        state.pose_resets += filtered.reset
        if filtered.fragment_from_camera is None:
            logger.warning('keyframe %d has no pose: %s', number, reason)
        if filtered.gated:
            logger.warning('keyframe %d has the pose that tracked corners give: its pointmap is '
                           'elsewhere', number)
        if filtered.reset:
            logger.warning('keyframe %d has the pose of its pointmap, which differs from that of '
                           'the tracked corners for the %d. time', number, MAX_REJECTED)

    def _place_by_known_pose(self, admitted: Admitted,
                             estimate: Estimate) -> tuple[Keyframe, ...]:
        state, frame = self._state, admitted.frame
        try:
            # The pose in the fragment is needed to move the points into the camera's frame.
            solution = measure_pose(estimate, state.intrinsics, self._config.pose)
        except PoseError:
            state.poses_failed += 1
            if state.known_poses.count_failure():
                # A new fragment costs nothing here: its keyframes are placed by given poses.
                self.new_fragment('the network lost the camera')
            raise
        pose = StampedPose(frame.stamp_ns, frame.frame_id, frame.world_from_camera)
        keyframe = Keyframe(frame.stamp_ns, frame.frame_id, pose, admitted.network_input.image,
                            state.intrinsics, estimate.pointmap, state.fragment.id)
        placed = state.known_poses.place(keyframe, solution.fragment_from_camera)
        if state.known_poses.scale.metric:
            state.fragment = replace(state.fragment, scale=state.known_poses.scale)
        return tuple(placed)

    def _add(self, keyframe: Keyframe) -> None:
        pose, pointmap = keyframe.pose, keyframe.pointmap
        if pose is None and not self._config.voxel_map.integrate_without_pose:
            self._state.keyframes_left_out += 1
        else:
            self.voxel_map.integrate(
                pointmap.points.reshape(-1, 3), keyframe.image.reshape(-1, 3),
                pointmap.confidence.reshape(-1), None if pose is None else pose.world_from_camera)
        self._state.keyframes += 1
        self._state.undelivered.append(keyframe)
        if pose is not None:
            self._state.trajectory.append(pose)

    def _solve_live_pose(self, admitted: Admitted) -> StampedPose | None:
        intrinsics = admitted.network_input.intrinsics or self._state.intrinsics
        if intrinsics is None:
            return None
        pose_filter, motion = self._state.pose_filter, self._motion_to(admitted)
        measured = None
        if not pose_filter.prior_suffices(motion):
            provisional = self._memory.provisional()
            if provisional is not None:
                measured, _ = self._solve_pose(_cleaned(provisional, admitted), intrinsics)
        pose = _stamped(admitted.frame, pose_filter.estimate(motion, measured))
        self._state.live_poses_failed += pose is None
        return pose

    def _motion_to(self, admitted: Admitted) -> Motion | None:
        """Return the camera's motion from the last keyframe, by tracked corners."""
        intrinsics = admitted.network_input.intrinsics or self._state.intrinsics
        return self._state.corners.motion_to(admitted.frame.stamp_ns,
                                             admitted.network_input.image, intrinsics)

    def _solve_pose(self, estimate: Estimate,
                    intrinsics: Intrinsics) -> tuple[PoseSolution | None, str]:
        """Return the pose in the map that an estimate implies, or None and the reason."""
        try:
            solution = measure_pose(estimate, intrinsics, self._config.pose)
        except PoseError as error:
            return None, str(error)
        return move_solution(self._state.fragment.map_from_fragment, solution), ''


def _stamped(frame: Frame, filtered: FilteredPose) -> StampedPose | None:
    pose = filtered.fragment_from_camera
    return None if pose is None else StampedPose(frame.stamp_ns, frame.frame_id, pose,
                                                 filtered.covariance)


def _cleaned(estimate: Estimate, admitted: Admitted) -> Estimate:
    return replace(estimate, pointmap=clean(estimate.pointmap, admitted.network_input.usable))
