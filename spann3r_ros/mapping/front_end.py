# SPDX-License-Identifier: Apache-2.0
"""The front end: it takes one frame after another from an image to a keyframe in a fragment.

`FrontEnd.process` takes a frame through these stages:

1. fit its image to the network's input (`preprocess`), skip it if it shows nothing (`Sight`), and
   decide whether it is to become a keyframe (`KeyframeGate`); if not, give it the pose of its
   corners (`_passing_pose`), and that is all;
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
from dataclasses import replace

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.network import Estimate
from spann3r_ros.core.transforms import MAP_FROM_OPTICAL, invert_similarity
from spann3r_ros.core.types import (
    DeviceMemoryError,
    FragmentPose,
    Frame,
    FrameError,
    check_confident,
    clean,
)
from spann3r_ros.core.views import Preprocessed, preprocess

from .admitted import Admitted
from .fragments.overlap import NEWEST_ID
from .mapper_config import MapperConfig
from .mapping_state import MappingState, Phase
from .mapping_status import MapUpdate
from .memory_manager import MemoryManager
from .relocalisation.relocaliser import CONTRADICTED, CUTS, LOADED_ELSEWHERE
from .scale.scale_tracker import SCALE_CHANGED
from .selection.keyframe_gate import Verdict
from .tracking.known_poses import KnownPoses
from .tracking.solved_keyframes import SolvedPoses

ASKED_FOR = 'asked for'
MAP_LOADED = 'a map was loaded'
OUT_OF_MEMORY = 'out of memory'
TIME_JUMPED = 'the stamps jumped back'
FIRST_ODD = 'the first image was an odd one'
AS_LONG_AS_SET = 'the last fragment has as many keyframes as set'
CONFIDENCE_FELL = 'the confidence of the last keyframes is low'
LOST = 'the last keyframes have no pose'
NOT_JOINED = 'the fragment could not be joined'
UNUSABLE_START = 'the first frame gave no usable pointmap'

logger = logging.getLogger(__name__)


class FrontEnd:
    """Processes the frames of a map, whose `state` it changes; not thread-safe."""

    def __init__(self, config: MapperConfig, memory: MemoryManager, state: MappingState) -> None:
        self._config = config
        self._memory = memory
        self.state = state

    def configure(self, config: MapperConfig) -> None:
        """Use other settings from the next frame on."""
        self._config = config
        self.state.configure(config)

    def process(self, frame: Frame) -> MapUpdate:
        """Process one frame, as `Mapper.process` describes."""
        state = self.state
        state.check(frame)
        state.newest_ns = frame.stamp_ns
        if state.gate.is_early(frame.stamp_ns) and not (
                state.gate.compares or self._config.live_pose and state.poses is not None):
            state.gate.skip()
            return MapUpdate(skipped=True, revision=state.atlas.revision,
                             located=state.is_located)
        view = preprocess(frame, *self.fit(frame.rgb.shape[:2]))
        may_repeat = not state.keyframes or state.gate.may_repeat
        if state.sight.is_blind(view, frame.stamp_ns, may_repeat):
            return MapUpdate(skipped=True, revision=state.atlas.revision, blind=True,
                             located=state.is_located)
        cut = state.back_end.relocaliser.cut(frame, view)
        if cut and state.keyframes:
            self.lose(cut)
        verdict = self._judge(frame, view)
        if verdict is not Verdict.ADMITTED:
            pose = self._passing_pose(frame, view)
            # The network has to place what tracked corners do not.
            if (pose is not None or verdict is Verdict.REFUSED
                    or not (self._config.live_pose and state.keyframes)):
                state.skip(frame, view, verdict is Verdict.SIMILAR)
                state.back_end.scale.pass_by(frame, view, view.intrinsics or state.intrinsics)
                return replace(self.update(pose), skipped=True)
        admitted = state.admit(frame, view)
        state.restart_reason = state.restart_reason or self._end_of_fragment()
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
        return self.update(live_pose, inference_sec)

    def _judge(self, frame: Frame, view: Preprocessed) -> Verdict:
        """Return whether a frame becomes a keyframe."""
        state = self.state
        verdict = state.gate.judge(frame.stamp_ns, view, view.intrinsics or state.intrinsics,
                                   state.needs_second)
        if verdict is Verdict.SIMILAR and (state.restart_reason or state.phase is Phase.LOST):
            return Verdict.ADMITTED
        return verdict

    def _passing_pose(self, frame: Frame, view: Preprocessed) -> FragmentPose | None:
        """Return the pose of a frame that is no keyframe."""
        state = self.state
        if state.poses is None or not self._config.live_pose or state.restart_reason:
            return None
        return state.poses.passing_pose(frame, view, view.intrinsics or state.intrinsics,
                                        state.atlas.current)

    def update(self, live_pose: FragmentPose | None = None,
               inference_sec: float = 0.0) -> MapUpdate:
        """Return what has happened since the update before."""
        state = self.state
        atlas, moved = state.atlas, state.atlas.take_moved()
        keyframes, state.undelivered = tuple(state.undelivered), []
        failed, state.failed = tuple(state.failed), []
        named = {atlas.current.id, *moved, *(one.fragment_id for one in keyframes)}
        return MapUpdate(False, keyframes, live_pose, inference_sec, failed, atlas.revision, moved,
                         atlas.places(named), unlocated=frozenset(atlas.unlocated() & named),
                         located=state.is_located)

    def lose(self, reason: str) -> None:
        """Let the next frame begin a fragment whose place in the map is not known."""
        self.end_sequence(reason, closing=False)
        self.state.restart(reason)

    def end_sequence(self, event: str, closing: bool) -> None:
        """Use the last estimates of the network's sequence; frames without one have failed."""
        state = self.state
        reason: Exception = FrameError(f'{event} before the estimate of this frame')
        if state.restart_reason == ASKED_FOR:
            state.restart_reason = ''  # the sequence of the network is intact, and now it ends
        try:
            if state.replays or (state.pending and state.restart_reason):
                self._begin_fragment()
            if state.spare is not None and state.needs_second and not state.restart_reason:
                self._advance(state.admit_spare(), time.perf_counter())
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

    def fit(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], bool, bool]:
        """Return how images (height, width) are fitted, in the order of `preprocess`."""
        height, width = image_size
        return (self._memory.input_size(width / height),
                self._config.field_of_view == 'letterbox', self._config.resampling == 'exact')

    @property
    def _has_lost_memory(self) -> bool:
        """Return whether a failure, and no user, has ended the network's sequence."""
        return self.state.restart_reason not in ('', ASKED_FOR, MAP_LOADED, TIME_JUMPED,
                                                 AS_LONG_AS_SET, SCALE_CHANGED, LOADED_ELSEWHERE,
                                                 CONTRADICTED)

    def _end_of_fragment(self) -> str:
        """Return why the next frame begins a fragment; '' if it does not."""
        state, limits = self.state, self._config.fragments
        if not isinstance(state.poses, SolvedPoses) or not state.poses.overlap.keyframes:
            return ''
        if 0 < limits.max_lost <= state.poses.lost:
            return LOST
        if 0 < limits.max_keyframes <= state.atlas.current.received:
            return AS_LONG_AS_SET
        if state.poses.overlap.confidence_share < limits.min_confidence_share:
            return CONFIDENCE_FELL
        return ''

    def _begin_fragment(self) -> bool:
        """Reset the network's memory; show it the overlap, then process the pending frames.

        The overlap, the last keyframes before, joins the new fragment to the one before. Returns
        False if a further fragment is to begin, with the next frame. If memory runs out, the
        pending frames are processed with the next fragment.
        """
        state, reason = self.state, self.state.restart_reason
        # The load of a map was counted when it was loaded.
        self._memory.reset(reason, self._has_lost_memory,
                           counts=reason not in (MAP_LOADED, LOADED_ELSEWHERE))
        former = state.atlas.current.map_from_fragment
        is_lost, searches = self._is_lost(reason), state.back_end.relocaliser.is_enabled
        # Where places are searched for, the image after the gap has been compared already.
        fragment = state.atlas.begin(
            after_gap=reason in (TIME_JUMPED, MAP_LOADED) and not (searches and (
                reason == TIME_JUMPED
                or self._config.relocalisation.after_load != 'continue')))
        if is_lost and searches:
            state.back_end.relocaliser.begin(fragment, reason)
        if state.poses is not None:
            state.poses.begin_fragment(
                fragment, invert_similarity(fragment.map_from_fragment) @ former,
                seen_again=not is_lost)
        # A fragment that failed has replayed the oldest frames, but not all of them.
        state.replays, state.pending = {**state.pending, **state.replays}, {}
        state.restart_reason = ''
        try:
            self._show_overlap()
            while state.replays and not state.restart_reason:
                self._replay(state.replays.pop(next(iter(state.replays))))
        except Exception:
            state.restart(reason)
            raise
        return not state.restart_reason

    def _is_lost(self, reason: str) -> bool:
        """Return whether the next fragment shows nothing of the last keyframes that were kept.

        Those are elsewhere if a fragment without a place has none of its own.
        """
        current, poses = self.state.atlas.current, self.state.poses
        return (reason == LOST or reason in CUTS or current.unlocated
                and isinstance(poses, SolvedPoses) and poses.overlap.origin != current.id)

    def _show_overlap(self) -> None:
        """Begin the network's sequence with the images of the last keyframes before."""
        poses = self.state.poses
        if poses is None or not poses.joining:
            return
        for image_id, image in poses.overlap.images():
            try:
                self._settle(self._memory.step(image, image_id))
            except DeviceMemoryError:
                raise
            except FrameError as error:
                logger.warning('an image is not seen again by the new fragment: %s', error)

    def _replay(self, admitted: Admitted) -> None:
        """Process a frame again in a new fragment."""
        try:
            self._advance(admitted, time.perf_counter())
        except DeviceMemoryError:
            self.state.replays = {admitted.image_id: admitted, **self.state.replays}
            raise
        except FrameError as error:
            self.state.fail(admitted, error)
        except Exception as error:
            self.state.fail(admitted, error)
            raise

    def _advance(self, admitted: Admitted,
                 started: float) -> tuple[FragmentPose | None, float]:
        """Run the network on a frame; finish the frames that its estimates are of.

        Returns the live pose and the time of inference in seconds.
        """
        state, frame = self.state, admitted.frame
        if state.poses is None:
            given = frame.world_from_camera is not None
            state.poses = KnownPoses(self._config.pose) if given else SolvedPoses(self._config)
            state.back_end.levelled = given
        poses, fragment = state.poses, state.atlas.current
        if isinstance(poses, SolvedPoses) and not (poses.overlap.keyframes or state.pending):
            state.back_end.levelled = frame.first_pose is not None
            fragment.fragment_from_sequence = (frame.first_pose if state.back_end.levelled
                                               else MAP_FROM_OPTICAL)
        estimates = self._memory.step(admitted.network_input.image, admitted.image_id)
        inference_sec = time.perf_counter() - started
        state.take(admitted)
        own = [one for one in estimates if one.image_id == admitted.image_id]
        self._settle([one for one in estimates if one not in own])
        if isinstance(poses, KnownPoses):
            self._settle(own)
            return poses.live_pose(frame, fragment), inference_sec
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
        """Use final estimates: those of the overlap join the fragment, others finish a frame.

        If a fragment is to begin, the estimates left have no place; their frames stay pending.
        """
        state = self.state
        for estimate in estimates:
            if state.restart_reason:
                return
            if estimate.image_id <= NEWEST_ID:
                state.poses.see_again(replace(estimate, pointmap=clean(estimate.pointmap)))
            # An image of the overlap may have no estimate: that of a later one ends the wait.
            if estimate.image_id >= NEWEST_ID and state.poses.joining:
                state.atlas.connect(state.poses.overlap.join(state.atlas.current,
                                                             estimate.reference_id))
                current = state.atlas.current
                if (not current.connected and current.join is None
                        and state.back_end.relocaliser.is_enabled):
                    state.back_end.relocaliser.begin(current, NOT_JOINED)
            if estimate.image_id in state.pending:
                self._finish(state.pending.pop(estimate.image_id), estimate)

    def _finish(self, admitted: Admitted, estimate: Estimate) -> None:
        """Add the keyframe of a final estimate to the map, or record that the frame failed.

        If it is the map's first one, the next frame begins the map again.
        """
        state = self.state
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
            state.back_end.observe(admitted.frame, placed, state.atlas)
            reason = state.back_end.take_restart_reason()
            if reason:
                state.restart(reason)
        if state.poses is not None and state.poses.restart_reason:
            state.restart(state.poses.restart_reason)
            state.poses.restart_reason = ''

    def _add(self, keyframe: Keyframe) -> None:
        state = self.state
        left_out = keyframe.pose is None and not self._config.voxel_map.integrate_without_pose
        state.atlas.add(keyframe, None if left_out else keyframe.points)
        state.keyframes_left_out += left_out
        state.keyframes += 1
        state.confidence = float(keyframe.confidence.mean())
        state.undelivered.append(keyframe)
        if state.phase is not Phase.CLOSED:
            state.phase = Phase.LOST if keyframe.pose is None else Phase.TRACKING

    def _live_pose(self, admitted: Admitted, poses: SolvedPoses) -> FragmentPose | None:
        intrinsics = admitted.network_input.intrinsics or self.state.intrinsics
        if intrinsics is None:
            return None
        provisional = None
        if poses.needs_provisional(admitted, intrinsics):
            provisional = self._memory.provisional()
        if provisional is not None:
            provisional = _cleaned(provisional, admitted)
        return poses.live_pose(admitted, provisional, intrinsics, self.state.atlas.current)


def _cleaned(estimate: Estimate, admitted: Admitted) -> Estimate:
    return replace(estimate, pointmap=clean(estimate.pointmap, admitted.network_input.usable))
