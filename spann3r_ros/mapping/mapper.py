# SPDX-License-Identifier: Apache-2.0
"""The mapping algorithm: one frame after another, from images to keyframes in fragments.

`process` takes a frame through these stages:

1. decide whether the frame is to become a keyframe (`KeyframeGate`), fit its image to the
   network's input (`preprocess`), and skip it if it shows nothing (`Sight`);
2. run the network, which returns final estimates: of this frame, or of an earlier one if the
   network has a lag (`_advance`);
3. clean an estimate (`_finish`), and give its camera a pose in the fragment (`PoseSource.place`):
   solved and filtered with the motion of tracked corners, or given;
4. add the keyframe to the atlas, whose layers integrate its points (`_add`);
5. estimate the pose of the newest frame from its corners and its provisional pointmap
   (`_live_pose`).
"""
from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.network import Estimate, Network
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert, invert_similarity, map_axes
from spann3r_ros.core.types import (
    DeviceMemoryError,
    FragmentPose,
    Frame,
    FrameError,
    StampedPose,
    check_confident,
    clean,
)
from spann3r_ros.core.views import camera_model, preprocess

from .admitted import Admitted
from .fragments.atlas import Atlas, PathView
from .layers.voxel_map import VoxelCloud, VoxelMap, VoxelSnapshot
from .mapper_config import MapperConfig
from .mapping_state import Calibration, MappingState, Phase
from .mapping_status import MappingStatus, MapUpdate
from .memory_manager import MemoryManager
from .saved_state import map_tree, read_map_tree
from .storage.saved_tree import SavedNode
from .storage.saved_values import Tree
from .tracking.keyframe_gate import KeyframeGate
from .tracking.known_poses import KnownPoses
from .tracking.sight import Sight
from .tracking.solved_keyframes import MAX_FAILED_PLACEMENTS, Placement, SolvedPoses

# The image id of the last placed keyframe, which is also the first image of a new fragment.
ANCHOR_ID = 0
ASKED_FOR = 'asked for'
MAP_LOADED = 'a map was loaded'
OUT_OF_MEMORY = 'out of memory'
TIME_JUMPED = 'the stamps jumped back'
NOT_PLACED = 'the last fragment could not be placed in the map'
MEMORY_LOST = 'the network did not go back to its sequence after a save'
UNUSABLE_START = 'the first frame gave no usable pointmap'

logger = logging.getLogger(__name__)


class Mapper:
    """Turns a stream of frames into keyframes, poses and a voxel map; not thread-safe."""

    def __init__(self, network: Network, config: MapperConfig | None = None) -> None:
        self._config = config or MapperConfig()
        self._memory = MemoryManager(network)
        self.voxel_map = VoxelMap(self._config.voxel_map)
        self._layers = (self.voxel_map,)
        self._state = self._new_state(fragment_id=0)

    @property
    def network_name(self) -> str:
        """Return the name of the network."""
        return self._memory.name

    def process(self, frame: Frame) -> MapUpdate:
        """Process one frame; return the keyframes that it completed and the live pose.

        With known poses, keyframes wait until the camera has moved far enough to measure their
        scale. Raises FrameError, and changes nothing, for a frame that the map does not accept.
        Whatever happens later is in `MapUpdate.failed`, with the frame that it happened to. After
        a DeviceMemoryError the next frame begins a new fragment.
        """
        state = self._state
        state.check(frame)
        if state.gate.skips(frame.stamp_ns):
            return MapUpdate(skipped=True, revision=state.atlas.revision)
        view = preprocess(frame, *self._fit(frame.rgb.shape[:2]))
        if state.sight.is_blind(view, frame.stamp_ns, may_repeat=not state.keyframes):
            return MapUpdate(skipped=True, revision=state.atlas.revision)
        admitted = state.admit(frame, view)
        started, live_pose, inference_sec = time.perf_counter(), None, 0.0
        try:
            if not state.restart_reason or self._begin_fragment():
                live_pose, inference_sec = self._advance(admitted, started)
            else:
                state.replays[admitted.image_id] = admitted
        # Whatever the network raises, this frame has failed and the next one may work.
        except Exception as error:
            if isinstance(error, DeviceMemoryError):
                state.restart(OUT_OF_MEMORY)
            state.fail(admitted, error)
        return self._update(live_pose, inference_sec)

    def configure(self, config: MapperConfig) -> None:
        """Use other settings from the next frame on; what is in the map stays.

        Only settings that apply while running may differ.
        """
        self._config = config
        self.voxel_map.configure(config.voxel_map)
        self._state.configure(config)

    def check_camera(self, image_size: tuple[int, int], intrinsics: Intrinsics) -> None:
        """Raise FrameError for a calibration that cannot be used for images (height, width).

        It changes nothing and may be called on any thread.
        """
        camera_model(image_size, intrinsics, *self._fit(image_size))

    @property
    def calibration(self) -> Calibration | None:
        """Return what all images of the map have in common; None before the first one."""
        return self._state.calibration

    def new_fragment(self, reason: str = ASKED_FOR) -> None:
        """Let the next frame begin a fragment: the network's memory is reset, the map is kept."""
        self._state.restart(reason)

    def move_fragment(self, fragment_id: int, map_from_fragment: np.ndarray) -> MapUpdate:
        """Place a fragment anew by a similarity [4, 4]; path, cloud and later poses follow.

        Raises ValueError, and changes nothing, for an unknown fragment or another transform.
        """
        self._state.atlas.move(fragment_id, map_from_fragment)
        return self._update()

    def flush(self) -> MapUpdate:
        """Close the map and return the keyframes still to come; none if under two images came.

        `process` rejects further frames until `reset`.
        """
        started = time.perf_counter()
        self._end_sequence('the recording ended', closing=True)
        if self._state.poses is not None:
            self._state.poses.finish()
        return self._update(inference_sec=time.perf_counter() - started)

    def end_sequence(self, reason: str) -> MapUpdate:
        """Return the keyframes still to come, as `flush` does; the next frame begins a fragment.

        A frame that is the only one since the map or the last fragment began has failed then.
        """
        started = time.perf_counter()
        self._end_sequence(reason, closing=False)
        if self._state.image_ids:
            self._state.restart(reason)
        return self._update(inference_sec=time.perf_counter() - started)

    def tree(self) -> Tree:
        """Return all that `load` needs; ValueError for a map that has not begun.

        Arrays may be shared with the mapper, which does not change them.
        """
        return map_tree(self._state, self._memory, self._layers, self._config)

    def load(self, saved: SavedNode) -> str:
        """Continue a saved map; return how.

        With the saved state of the network, the next frame continues its sequence. Without it, the
        next frame begins a fragment that is placed by the last keyframe. Raises ValueError, and
        changes nothing, for a map that is not consistent or does not fit network and settings.
        """
        state = self._new_state(0)
        counters = read_map_tree(saved, state, self._memory, self._layers, self._config)
        continued = state.phase is not Phase.CLOSED and self._memory.restore(saved)
        if continued:
            self._memory.count_reset(MAP_LOADED)
        else:
            self._memory.reset(MAP_LOADED)
            state.restart(MAP_LOADED)
        for layer in self._layers:
            layer.restore(counters[layer.name])
        self._state = state
        if state.phase is Phase.CLOSED:
            state.phase = Phase.TRACKING
        return ('the sequence of the network goes on' if continued
                else 'the next image begins a fragment at the last keyframe')

    @contextmanager
    def ended(self) -> Iterator[MapUpdate]:
        """Let the map be, within a `with` statement, as if the recording ended here.

        The value is the update that completes the map. Afterwards the mapper is as before.
        """
        state, layers = self._state, [(layer, layer.counters()) for layer in self._layers]
        frames = [*state.pending.values(), *state.replays.values()]
        if not frames:
            yield MapUpdate(revision=state.atlas.revision)
            return
        memory = self._memory.snapshot()
        shared = {id(one): one for one in (*self._layers, *frames)}
        self._state = deepcopy(state, shared)
        try:
            yield self.flush()
        finally:
            self._state = state
            for layer, counters in layers:
                layer.restore(counters)
            if not self._memory.go_back(memory):
                state.restart(MEMORY_LOST)

    def reset(self) -> None:
        """Start a new, empty map with the next frame."""
        self._memory.reset(ASKED_FOR)
        for layer in self._layers:
            layer.clear()
        self._state = self._new_state(self._state.atlas.current.id + 1)

    def close(self) -> None:
        """Free the network's memory; the mapper cannot be used afterwards."""
        self._memory.release()

    @property
    def trajectory(self) -> list[StampedPose]:
        """Return the poses of the keyframes in the map, the newest `path_max_size` of them."""
        state = self._state
        return [] if state.camera is None else state.atlas.poses(state.camera[0])

    def path(self) -> PathView:
        """Return the same poses as arrays."""
        return self._state.atlas.path()

    def cloud(self) -> VoxelCloud:
        """Return the voxels of all fragments as points in the map."""
        return self.snapshot().cloud()

    def snapshot(self) -> VoxelSnapshot:
        """Return the voxels of all fragments; another thread may compute their cloud."""
        return self.voxel_map.snapshot(self._state.atlas.located_stores(self.voxel_map.name))

    def status(self) -> MappingStatus:
        """Return the counters."""
        return self._state.status(self.voxel_map, self._memory.report())

    def _new_state(self, fragment_id: int) -> MappingState:
        return MappingState(KeyframeGate(self._config.keyframes), Sight(self._config.sight),
                            Atlas(self._config, self._layers, fragment_id))

    @property
    def _has_lost_memory(self) -> bool:
        """Return whether a failure, and no user, has ended the network's sequence."""
        return self._state.restart_reason not in ('', ASKED_FOR, MAP_LOADED, TIME_JUMPED)

    def _fit(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], bool, bool]:
        """Return how images (height, width) are fitted, in the order of `preprocess`."""
        height, width = image_size
        return (self._memory.input_size(width / height),
                self._config.field_of_view == 'letterbox', self._config.resampling == 'exact')

    def _update(self, live_pose: FragmentPose | None = None,
                inference_sec: float = 0.0) -> MapUpdate:
        """Return what has happened since the update before."""
        state = self._state
        atlas, moved = state.atlas, state.atlas.take_moved()
        keyframes, state.undelivered = tuple(state.undelivered), []
        failed, state.failed = tuple(state.failed), []
        named = {atlas.current.id, *moved, *(one.fragment_id for one in keyframes)}
        return MapUpdate(False, keyframes, live_pose, inference_sec, failed, atlas.revision, moved,
                         atlas.places(named))

    def _begin_fragment(self) -> bool:
        """Reset the network's memory; process the last placed keyframe and the pending frames.

        The last placed keyframe becomes the first image of the new fragment and places it. Returns
        False if that failed: the next frame then begins another fragment. If memory runs out, the
        pending frames are processed with the next fragment.
        """
        state, reason = self._state, self._state.restart_reason
        # The load of a map was counted when it was loaded.
        self._memory.reset(reason, self._has_lost_memory, counts=reason != MAP_LOADED)
        former = state.atlas.current.map_from_fragment
        fragment = state.atlas.begin()
        if state.poses is not None:
            state.poses.begin_fragment(
                fragment, invert_similarity(fragment.map_from_fragment) @ former)
        # A fragment that failed has replayed the oldest frames, but not all of them.
        state.replays, state.pending = {**state.pending, **state.replays}, {}
        state.restart_reason = ''
        try:
            if isinstance(state.poses, SolvedPoses) and state.poses.anchor is not None:
                self._settle(self._memory.step(state.poses.anchor.image, ANCHOR_ID))
            while state.replays and not state.restart_reason:
                self._replay(state.replays.pop(next(iter(state.replays))))
        except Exception:
            state.restart(reason)
            raise
        return not state.restart_reason

    def _end_sequence(self, event: str, closing: bool) -> None:
        """Use the last estimates of the network's sequence; frames without one have failed."""
        state = self._state
        reason: Exception = FrameError(f'{event} before the estimate of this frame')
        if state.restart_reason == ASKED_FOR:
            state.restart_reason = ''  # the sequence of the network is intact, and now it ends
        try:
            self._begin_last_fragment()
            if closing:
                state.phase = Phase.CLOSED
            self._settle(self._memory.flush())
        # Whatever the network raises, the frames that wait have failed.
        except Exception as error:
            reason = error
        if closing:
            state.phase = Phase.CLOSED
        for admitted in [*state.pending.values(), *state.replays.values()]:
            state.fail(admitted, reason)
        state.pending, state.replays = {}, {}

    def _begin_last_fragment(self) -> None:
        """Begin a fragment until it has a place, if frames wait for one: no frame will follow."""
        state = self._state
        for _ in range(MAX_FAILED_PLACEMENTS + 1):
            if not (state.replays or (state.pending and state.restart_reason)):
                return
            if self._begin_fragment():
                return

    def _replay(self, admitted: Admitted) -> None:
        """Process a frame again in a new fragment."""
        try:
            self._advance(admitted, time.perf_counter())
        except DeviceMemoryError:
            self._state.replays = {admitted.image_id: admitted, **self._state.replays}
            raise
        except FrameError as error:
            self._state.fail(admitted, error)
        except Exception as error:
            self._state.fail(admitted, error)
            raise

    def _advance(self, admitted: Admitted,
                 started: float) -> tuple[FragmentPose | None, float]:
        """Run the network on a frame; finish the frames that its estimates are of.

        Returns the live pose and the time of inference in seconds.
        """
        state, frame = self._state, admitted.frame
        if state.poses is None:
            state.poses = (SolvedPoses(self._config) if frame.world_from_camera is None
                           else KnownPoses(self._config.pose))
        poses, fragment = state.poses, state.atlas.current
        if isinstance(poses, SolvedPoses) and poses.anchor is None and not state.pending:
            state.levelled = frame.first_pose is not None
            fragment.fragment_from_sequence = (frame.first_pose if state.levelled
                                               else MAP_FROM_OPTICAL)
        estimates = self._memory.step(admitted.network_input.image, admitted.image_id)
        inference_sec = time.perf_counter() - started
        state.take(admitted)
        own = [one for one in estimates if one.image_id == admitted.image_id]
        self._settle([one for one in estimates if one not in own])
        if isinstance(poses, KnownPoses):
            self._settle(own)
            return poses.live_pose(admitted, fragment), inference_sec
        if state.restart_reason:
            return None, inference_sec
        self._settle(own)
        if not self._config.live_pose or not estimates or admitted.image_id not in state.pending:
            return None, inference_sec
        try:
            return self._live_pose(admitted, poses), inference_sec
        # The final estimate of the frame is still to come: it has not failed.
        except Exception:
            logger.exception('a frame has no live pose')
            poses.live_failed += 1
            return None, inference_sec

    def _settle(self, estimates: list[Estimate]) -> None:
        """Use final estimates: that of the anchor places the fragment, others finish a frame.

        If a fragment is to begin, the estimates left have no place; their frames stay pending.
        """
        state = self._state
        for estimate in estimates:
            if state.restart_reason:
                return
            if estimate.image_id == ANCHOR_ID:
                self._place_fragment(estimate)
            elif estimate.image_id in state.pending:
                self._finish(state.pending.pop(estimate.image_id), estimate)

    def _place_fragment(self, estimate: Estimate) -> None:
        """Place the fragment by its anchor; if that fails, the next frame begins another one."""
        state = self._state
        placement = state.poses.place_fragment(estimate.pointmap, state.atlas.current)
        if placement is Placement.MEASURED:
            state.atlas.connect(state.poses.anchor_origin)
        if placement is not Placement.FAILED:
            return
        state.restart(NOT_PLACED)
        state.phase = Phase.LOST
        if state.pending:
            # The anchor was estimated together with this frame. With another one it may fit.
            oldest = state.pending.pop(next(iter(state.pending)))
            state.fail(oldest, FrameError(NOT_PLACED))

    def _finish(self, admitted: Admitted, estimate: Estimate) -> None:
        """Add the keyframe of a final estimate to the map, or record that the frame failed.

        If it is the map's first one, the next frame begins the map again.
        """
        state = self._state
        empty = state.keyframes == 0 and (state.poses is None or not state.poses.waiting)
        try:
            estimate = _cleaned(estimate, admitted)
            # The first keyframe of a map needs points that enter the map. Later a blank wall may
            # have none of them, and its pose is solved from points of lower confidence.
            check_confident(estimate.pointmap,
                            self._config.voxel_map.min_confidence if empty else 0.0)
            intrinsics = state.intrinsics = (
                admitted.network_input.intrinsics
                or state.focal.update(estimate, state.intrinsics, self._config.pose))
            placed = state.poses.place(admitted, estimate, intrinsics, state.atlas.current)
            for keyframe in placed:
                self._add(keyframe)
        # Whatever happens to this estimate, the ones after it are used.
        except Exception as error:
            state.fail(admitted, error)
            if empty and state.phase is not Phase.CLOSED:
                state.restart(UNUSABLE_START)
                state.forget_calibration()
        else:
            self._level(admitted, placed)
        if state.poses is not None and state.poses.restart_reason:
            state.restart(state.poses.restart_reason)
            state.poses.restart_reason = ''

    def _add(self, keyframe: Keyframe) -> None:
        state = self._state
        left_out = keyframe.pose is None and not self._config.voxel_map.integrate_without_pose
        state.atlas.add(keyframe, None if left_out else keyframe.points)
        state.keyframes_left_out += left_out
        state.keyframes += 1
        state.undelivered.append(keyframe)
        if state.phase is not Phase.CLOSED:
            state.phase = Phase.LOST if keyframe.pose is None else Phase.TRACKING

    def _level(self, admitted: Admitted, placed: list[Keyframe]) -> None:
        """Level the map by the first frame whose direction against gravity is known.

        The map is then as if that direction, and no more, had been known at its first frame: its
        origin and the direction of its x axis stay those of the first camera.
        """
        state, first_pose = self._state, admitted.frame.first_pose
        if state.levelled or first_pose is None or isinstance(state.poses, KnownPoses):
            return
        pose = next((one.pose for one in placed if one.stamp_ns == admitted.frame.stamp_ns), None)
        if pose is None:
            return
        state.levelled = True
        in_map = pose.in_map(state.atlas.current.map_from_fragment).world_from_camera
        # The map was begun by a camera that was thought to be level.
        up_of_first = MAP_FROM_OPTICAL[:3, :3].T @ in_map[:3, :3] @ first_pose[2, :3]
        logger.info('the map is levelled: gravity was not known at its first image')
        state.atlas.move_all(map_axes(up_of_first) @ invert(MAP_FROM_OPTICAL))

    def _live_pose(self, admitted: Admitted, poses: SolvedPoses) -> FragmentPose | None:
        intrinsics = admitted.network_input.intrinsics or self._state.intrinsics
        if intrinsics is None:
            return None
        provisional = None
        if poses.needs_provisional(admitted, intrinsics):
            provisional = self._memory.provisional()
        if provisional is not None:
            provisional = _cleaned(provisional, admitted)
        return poses.live_pose(admitted, provisional, intrinsics, self._state.atlas.current)


def _cleaned(estimate: Estimate, admitted: Admitted) -> Estimate:
    return replace(estimate, pointmap=clean(estimate.pointmap, admitted.network_input.usable))
