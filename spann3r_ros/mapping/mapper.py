# SPDX-License-Identifier: Apache-2.0
"""From frames to a map: the algorithm on one page."""
from __future__ import annotations

import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field, replace

from .config import MapperConfig
from .fragments import AlignmentError, Anchor, Fragment, place_after
from .geometry import (
    bound_focal,
    centred_intrinsics,
    estimate_focal,
    invert,
    map_axes,
    move_covariance,
    move_pose,
    transform_points,
)
from .keyframes import KeyframeGate
from .memory_manager import MemoryManager
from .pose import PoseError, solve_pose
from .preprocess import Preprocessed, preprocess
from .status import MappingStatus
from .types import (
    DeviceMemoryError,
    Frame,
    FrameError,
    Intrinsics,
    Keyframe,
    MapUpdate,
    Pointmap,
    Reconstructor,
    StampedPose,
    clean,
)
from .voxel_map import VoxelMap

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Admitted:
    """A frame the reconstructor holds and whose refined pointmap is still to come."""

    frame: Frame
    network_input: Preprocessed


@dataclass
class _State:
    """All that lives between frames, but for the map and the reconstructor's memory."""

    gate: KeyframeGate
    trajectory: deque[StampedPose]
    fragment: Fragment = field(default_factory=Fragment)
    newest: _Admitted | None = None
    anchor: Anchor | None = None
    aligning: bool = False  # the next refined pointmap is the anchor's, in the new fragment
    restart_reason: str = ''  # not empty: the next frame begins a fragment
    image_size: tuple[int, int] | None = None
    coverage: float = math.nan
    intrinsics: Intrinsics | None = None  # estimated, at the network's input size
    closed: bool = False
    keyframes: int = 0
    poses_failed: int = 0
    live_poses_failed: int = 0


class Mapper:
    """Turns a stream of frames into keyframes, poses and a voxel map; not thread-safe."""

    def __init__(self, reconstructor: Reconstructor, config: MapperConfig | None = None) -> None:
        self._config = config or MapperConfig()
        self._reconstructor = reconstructor
        self._memory = MemoryManager(reconstructor)
        self.voxel_map = VoxelMap(self._config.voxel_map)
        self._state = self._start(fragment_id=0)
        self._reconstructor.reset()

    @property
    def trajectory(self) -> list[StampedPose]:
        """Return the refined poses in frame order, the newest `path_max_size` of them."""
        return list(self._state.trajectory)

    def process(self, frame: Frame) -> MapUpdate:
        """Take one frame; what comes back is the previous keyframe, refined, and the live pose.

        Raises FrameError for a frame that cannot be used, or whose step gave the previous frame
        no usable point: the map is untouched and the next frame may follow. After
        DeviceMemoryError the next frame begins a new fragment.
        """
        state = self._state
        self._check_open(frame)
        network_input = preprocess(frame, self._reconstructor.input_size,
                                   self._config.field_of_view == 'letterbox')
        if not state.gate.admits(frame.stamp_ns):
            return MapUpdate(skipped=True)
        started = time.perf_counter()
        try:
            if state.restart_reason:
                self._begin_fragment()
            return self._advance(_Admitted(frame, network_input), started)
        except DeviceMemoryError:
            state.restart_reason = 'out of memory'
            raise

    def new_fragment(self, reason: str = 'asked for') -> None:
        """Let the next frame begin a fragment: the memory starts anew, the map goes on."""
        self._state.restart_reason = reason

    def flush(self) -> MapUpdate:
        """Close the fragment: the last frame's keyframe, or nothing if under two frames came.

        Until `reset`, `process` refuses further frames. Raises FrameError as `process` does.
        """
        newest, self._state.newest = self._state.newest, None
        self._state.closed = True
        started = time.perf_counter()
        pointmap = self._reconstructor.flush()
        inference_sec = time.perf_counter() - started
        if newest is None or pointmap is None:
            return MapUpdate(inference_sec=inference_sec)
        return MapUpdate(keyframe=self._finish(newest, pointmap), inference_sec=inference_sec)

    def reset(self) -> None:
        """Start a new, empty map: the next frame founds it."""
        self._memory.reset('asked for')
        self.voxel_map.clear()
        self._state = self._start(self._state.fragment.id + 1)

    def status(self) -> MappingStatus:
        """Return the counters."""
        state = self._state
        return MappingStatus(
            fragment_id=state.fragment.id,
            scale=state.fragment.scale,
            keyframes=state.keyframes,
            skipped=state.gate.skipped,
            poses_failed=state.poses_failed,
            live_poses_failed=state.live_poses_failed,
            coverage=state.coverage,
            voxels=len(self.voxel_map),
            voxel_size=self.voxel_map.voxel_size,
            voxels_evicted=self.voxel_map.evicted,
            memory=self._memory.report(),
        )

    def _start(self, fragment_id: int) -> _State:
        return _State(KeyframeGate(self._config.keyframes),
                      deque(maxlen=self._config.path_max_size), Fragment(fragment_id))

    def _check_open(self, frame: Frame) -> None:
        state = self._state
        if state.closed:
            raise FrameError('the map is closed by a flush: reset before further frames')
        if state.image_size is not None and frame.rgb.shape[:2] != state.image_size:
            # One fragment is one camera: the memory and an estimated focal length assume so.
            raise FrameError(f'rgb: expected height and width {state.image_size} as before, got '
                             f'{frame.rgb.shape[:2]}; reset to change the image size')

    def _begin_fragment(self) -> None:
        """Forget, and look again at the last placed keyframe and at the frame still to refine."""
        state = self._state
        self._memory.reset(state.restart_reason)
        state.fragment = Fragment(state.fragment.id + 1, state.fragment.scale)
        state.aligning = state.anchor is not None
        if state.anchor is not None:
            self._reconstructor.step(state.anchor.image, False)
        newest, state.newest = state.newest, None
        if newest is not None:
            self._advance(newest, time.perf_counter())
        state.restart_reason = ''

    def _advance(self, admitted: _Admitted, started: float) -> MapUpdate:
        state = self._state
        if state.newest is None and state.keyframes == 0:
            state.fragment = replace(state.fragment, map_from_fragment=map_axes(admitted.frame.up))
        result = self._reconstructor.step(admitted.network_input.image, self._config.live_pose)
        inference_sec = time.perf_counter() - started
        previous, state.newest = state.newest, admitted
        state.image_size = admitted.frame.rgb.shape[:2]
        state.coverage = admitted.network_input.coverage
        keyframe, live_pose = None, None
        if state.aligning:
            self._place_fragment(result.refined)
        elif previous is not None and result.refined is not None:
            keyframe = self._finish(previous, result.refined)
        if result.provisional is not None:
            live_pose = self._solve_live_pose(
                admitted, clean(result.provisional, admitted.network_input.usable))
        return MapUpdate(False, keyframe, live_pose, inference_sec)

    def _place_fragment(self, pointmap: Pointmap) -> None:
        """Join the fragment to the map; when that fails, the next frame begins another one."""
        state = self._state
        try:
            similarity = place_after(state.anchor, pointmap, self._config.voxel_map.min_confidence)
        except AlignmentError:
            state.newest, state.restart_reason = None, 'the last fragment found no place'
            raise
        state.aligning = False
        state.fragment = replace(state.fragment, map_from_fragment=similarity)

    def _finish(self, admitted: _Admitted, pointmap: Pointmap) -> Keyframe:
        """Merge a frame's refined pointmap; a fragment whose first one is no good starts over."""
        try:
            pointmap = clean(pointmap, admitted.network_input.usable)
            self._check_confident(pointmap)
            return self._merge(admitted, pointmap)
        except FrameError:
            if self._state.keyframes == 0 and not self._state.closed:
                self._memory.reset('the first frame gave no usable pointmap')
                self._state.newest = None
                self._state.image_size = None
            raise

    def _merge(self, admitted: _Admitted, pointmap: Pointmap) -> Keyframe:
        state, frame, image = self._state, admitted.frame, admitted.network_input.image
        state.intrinsics = (
            admitted.network_input.intrinsics or state.intrinsics
            or self._estimate_intrinsics(pointmap))
        intrinsics = state.intrinsics
        pose, reason = self._solve_pose(frame, pointmap, intrinsics)

        points = transform_points(state.fragment.map_from_fragment, pointmap.points)
        self.voxel_map.integrate(
            points.reshape(-1, 3), image.reshape(-1, 3), pointmap.confidence.reshape(-1))
        state.keyframes += 1
        if pose is None:
            state.poses_failed += 1
            logger.warning('keyframe %d has no pose: %s', state.keyframes, reason)
        else:
            state.trajectory.append(pose)
            camera_points = transform_points(invert(pose.world_from_camera), points)
            state.anchor = Anchor(image, camera_points[..., 2], pointmap.confidence,
                                  pose.world_from_camera)
        return Keyframe(frame.stamp_ns, frame.frame_id, pose, image, intrinsics,
                        Pointmap(points, pointmap.confidence), state.fragment.id)

    def _check_confident(self, pointmap: Pointmap) -> None:
        # A map needs points to begin with; later, a blank wall need not cost its camera's pose.
        founds = self._state.keyframes == 0
        least = self._config.voxel_map.min_confidence if founds else 0.0
        best = pointmap.confidence.max(initial=0.0)
        if best < least or best == 0.0:
            wanted = f'{least} or more' if least else 'above 0'
            raise FrameError(f'pointmap: expected finite points of confidence {wanted}, '
                             f'the best has {best:.3g}')

    def _estimate_intrinsics(self, pointmap: Pointmap) -> Intrinsics:
        """Estimate by the fragment's first pointmap, the only one in its own camera's frame."""
        height, width = pointmap.confidence.shape
        focal = estimate_focal(pointmap)
        bounded = bound_focal(focal, height, width)
        if bounded != focal:
            logger.warning('estimated focal length %.1f px is not credible for %dx%d images: '
                           'using %.1f px; give camera_info', focal, width, height, bounded)
        return centred_intrinsics(bounded, height, width)

    def _solve_live_pose(self, admitted: _Admitted, pointmap: Pointmap) -> StampedPose | None:
        intrinsics = admitted.network_input.intrinsics or self._state.intrinsics
        if intrinsics is None:
            return None
        pose, reason = self._solve_pose(admitted.frame, pointmap, intrinsics)
        if pose is None:
            self._state.live_poses_failed += 1
            logger.debug('no live pose: %s', reason)
        return pose

    def _solve_pose(
        self, frame: Frame, pointmap: Pointmap, intrinsics: Intrinsics
    ) -> tuple[StampedPose | None, str]:
        """Return the camera's pose in the map, or None and why there is none."""
        try:
            solution = solve_pose(pointmap, intrinsics, self._config.pose)
        except PoseError as error:
            return None, str(error)
        similarity = self._state.fragment.map_from_fragment
        return StampedPose(frame.stamp_ns, frame.frame_id,
                           move_pose(similarity, solution.fragment_from_camera),
                           move_covariance(similarity, solution.covariance)), ''
