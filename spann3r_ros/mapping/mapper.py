# SPDX-License-Identifier: Apache-2.0
"""The mapper: one map after another, with its saving, loading and views.

`FrontEnd` has the mapping algorithm.
"""
from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.network import Network
from spann3r_ros.core.types import Frame, StampedPose
from spann3r_ros.core.views import camera_model

from .back_end import BackEnd
from .fragments.atlas import Atlas, PathView
from .fragments.graph_view import GraphView, view_graph
from .fragments.keyframe_store import KeptKeyframe
from .front_end import ASKED_FOR, MAP_LOADED, FrontEnd
from .layers.voxel_map import VoxelCloud, VoxelMap, VoxelSnapshot
from .mapper_config import MapperConfig
from .mapping_state import Calibration, MappingState, Phase
from .mapping_status import MappingStatus, MapUpdate
from .memory_manager import MemoryManager
from .occupancy.evidence_layer import Occupancy, OccupancySnapshot
from .relocalisation.hint import Hint
from .saved_state import map_tree, read_map_tree
from .scale.map_scale import Scale
from .selection.keyframe_gate import KeyframeGate
from .selection.sight import Sight
from .storage.saved_tree import SavedNode
from .storage.saved_values import Tree
from .tracking.solved_keyframes import SolvedPoses

MEMORY_LOST = 'the network did not go back to its sequence after a save'


class Mapper:
    """Turns a stream of frames into keyframes, poses and a voxel map; not thread-safe."""

    def __init__(self, network: Network, config: MapperConfig | None = None) -> None:
        self._config = config or MapperConfig()
        self._memory = MemoryManager(network)
        self.voxel_map = VoxelMap(self._config.voxel_map, self._config.carving)
        self.occupancy = Occupancy(self._config.grid, self._config.voxel_map.min_confidence)
        self._layers = ((self.voxel_map, self.occupancy) if self._config.grid.enabled
                        else (self.voxel_map,))
        self._front_end = FrontEnd(self._config, self._memory, self._new_state(fragment_id=0))

    @property
    def network_name(self) -> str:
        """Return the name of the network."""
        return self._memory.name

    @property
    def network_identity(self) -> str:
        """Return a text that differs between weights of the network."""
        return self._memory.identity

    @property
    def config(self) -> MapperConfig:
        """Return the settings."""
        return self._config

    @property
    def camera(self) -> tuple[str, tuple[int, int]] | None:
        """Return frame, height and width of the map's images; None before the first one."""
        return self._state.camera

    @property
    def fragment_ids(self) -> list[int]:
        """Return the ids of the fragments that have keyframes."""
        return [one.id for one in self._state.atlas.fragments.values() if one.received]

    @property
    def newest_ns(self) -> int | None:
        """Return the stamp of the last frame that came; None before the first one."""
        return self._state.newest_ns

    @property
    def input_size(self) -> tuple[int, int]:
        """Return height and width of what the network sees of the map's images."""
        height, width = self._state.camera[1]
        return self._memory.input_size(width / height)

    def process(self, frame: Frame) -> MapUpdate:
        """Process one frame; return the keyframes that it completed and the live pose.

        A frame that shows little that is new is not given to the network; it has a live pose only.

        With known poses, keyframes wait until the camera has moved far enough to measure their
        scale. Raises FrameError, and changes nothing, for a frame that the map does not accept.
        Whatever happens later is in `MapUpdate.failed`, with the frame that it happened to. After
        a DeviceMemoryError the next frame begins a new fragment.
        """
        return self._front_end.process(frame)

    def configure(self, config: MapperConfig) -> None:
        """Use other settings from the next frame on; what is in the map stays.

        Only settings that apply while running may differ.
        """
        self._config = config
        self.voxel_map.configure(config.voxel_map, config.carving)
        self.occupancy.configure(config.grid, config.voxel_map.min_confidence)
        self._front_end.configure(config)

    def check_camera(self, image_size: tuple[int, int], intrinsics: Intrinsics) -> None:
        """Raise FrameError for a calibration that cannot be used for images (height, width).

        It changes nothing and may be called on any thread.
        """
        camera_model(image_size, intrinsics, *self._front_end.fit(image_size))

    @property
    def calibration(self) -> Calibration | None:
        """Return what all images of the map have in common; None before the first one."""
        return self._state.calibration

    @property
    def scale_source(self) -> str:
        """Return where the scale of a map comes from whose poses are solved (`scale.source`)."""
        return self._config.scale.source

    @property
    def map_scale(self) -> Scale:
        """Return the scale of the newest fragment that has a place in the map."""
        return self._state.atlas.located()[-1].scale

    @property
    def voxel_size(self) -> float:
        """Return the edge of a voxel in map units; 0 before an automatic size is known."""
        return self.voxel_map.voxel_size * self._state.atlas.unit

    def new_fragment(self, reason: str = ASKED_FOR) -> None:
        """Let the next frame begin a fragment: the network's memory is reset, the map is kept."""
        self._state.restart(reason)

    def move_fragment(self, fragment_id: int, map_from_fragment: np.ndarray) -> MapUpdate:
        """Place a fragment anew by a similarity [4, 4]; path, cloud and later poses follow.

        Raises ValueError, and changes nothing, for an unknown fragment or another transform.
        """
        self._state.atlas.move(fragment_id, map_from_fragment)
        return self._front_end.update()

    def flush(self) -> MapUpdate:
        """Close the map and return the keyframes still to come; none if under two images came.

        `process` rejects further frames until `reset`.
        """
        started = time.perf_counter()
        self._front_end.end_sequence('the recording ended', closing=True)
        if self._state.poses is not None:
            self._state.poses.finish()
        self._state.back_end.finish(self._state.atlas)
        return self._front_end.update(inference_sec=time.perf_counter() - started)

    def end_sequence(self, reason: str) -> MapUpdate:
        """Return the keyframes still to come, as `flush` does; the next frame begins a fragment.

        A frame that is the only one since the map or the last fragment began has failed then.
        """
        started = time.perf_counter()
        self._front_end.end_sequence(reason, closing=False)
        if self._state.image_ids:
            self._state.restart(reason)
        return self._front_end.update(inference_sec=time.perf_counter() - started)

    def tree(self) -> Tree:
        """Return all that `load` needs; ValueError for a map that has not begun.

        Arrays may be shared with the mapper, which does not change them.
        """
        return map_tree(self._state, self._memory, self._layers, self._config)

    def load(self, saved: SavedNode) -> str:
        """Continue a saved map; return how.

        With the saved state of the network, the next frame continues its sequence. Without it, the
        next frame begins a fragment that is placed by the last keyframe. With relocalisation the
        next frame may begin one whose place is searched for. Raises ValueError, and
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
        self._front_end.state = state
        if state.phase is Phase.CLOSED:
            state.phase = Phase.TRACKING
        if isinstance(state.poses, SolvedPoses):
            kept = state.poses.keyframes
            state.back_end.relocaliser.begin_loaded(kept[-1].image if kept else None,
                                                      continued)
        if state.back_end.relocaliser.awaits_image:
            return 'the next image is searched for in the map, unless it shows where it ended'
        return ('the sequence of the network goes on' if continued
                else 'the next image begins a fragment at the last keyframe')

    def take_hint(self, hint: Hint) -> str:
        """Use a user's hint where the camera is about; return what comes of it.

        Raises HintError, and changes nothing, without relocalisation and without a map.
        """
        state = self._state
        message, reason = state.back_end.relocaliser.take_hint(hint, state.atlas)
        if reason:
            self._front_end.lose(reason)
        return message

    @property
    def is_located(self) -> bool:
        """Return whether the place of the camera in the map is known."""
        return self._state.is_located

    @contextmanager
    def ended(self) -> Iterator[MapUpdate]:
        """Let the map be, within a `with` statement, as if the recording ended here.

        The value is the update that completes the map. Afterwards the mapper is as before.
        """
        state, layers = self._state, [(layer, layer.counters()) for layer in self._layers]
        frames = [*state.pending.values(), *state.replays.values()]
        if not frames and not state.back_end.is_pending:
            yield MapUpdate(revision=state.atlas.revision)
            return
        memory = self._memory.snapshot()
        shared = {id(one): one for one in (self._memory, *self._layers, *frames, state.spare)}
        self._front_end.state = deepcopy(state, shared)
        moved: tuple[int, ...] = ()
        try:
            update = self.flush()
            moved = update.moved
            yield update
        finally:
            self._front_end.state = state
            state.atlas.report_moved(moved)  # back to where they were
            for layer, counters in layers:
                layer.restore(counters)
            if not self._memory.go_back(memory):
                state.restart(MEMORY_LOST)

    @contextmanager
    def corrected(self) -> Iterator[None]:
        """Let the map be, within a `with` statement, as if the corrections due were applied."""
        state = self._state
        if state.back_end.is_pending:
            frames = [*state.pending.values(), *state.replays.values()]
            self._front_end.state = deepcopy(state, {
                id(one): one for one in (self._memory, *self._layers, *frames, state.spare)})
            self._state.back_end.finish(self._state.atlas)
        try:
            yield
        finally:
            self._front_end.state = state

    def reset(self, reason: str = ASKED_FOR) -> None:
        """Start a new, empty map with the next frame."""
        self._memory.reset(reason)
        for layer in self._layers:
            layer.clear()
        self._front_end.state = self._new_state(self._state.atlas.current.id + 1)

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

    def places(self) -> Mapping[int, np.ndarray]:
        """Return `map_from_fragment` [4, 4] of all fragments by their ids."""
        atlas = self._state.atlas
        return atlas.places(atlas.fragments)

    def graph(self) -> GraphView:
        """Return keyframes, fragments and constraints in the map."""
        state = self._state
        return view_graph(state.atlas, state.back_end.loops.refused_pairs())

    def kept_keyframes(self) -> list[tuple[KeptKeyframe, StampedPose]]:
        """Return the keyframes that are kept, oldest first, each with its pose in the map."""
        return self._state.atlas.kept_keyframes()

    def cloud(self) -> VoxelCloud:
        """Return the voxels of all fragments as points in the map."""
        return self.snapshot().cloud()

    def snapshot(self) -> VoxelSnapshot:
        """Return the voxels of all fragments; another thread may compute their cloud."""
        atlas = self._state.atlas
        return self.voxel_map.snapshot(atlas.located_stores(self.voxel_map.name), atlas.unit)

    @property
    def grid_reason(self) -> str:
        """Return why the map has no occupancy grid, or an empty text."""
        return self._state.grid_reason(self._config.grid)

    def grid_snapshot(self) -> OccupancySnapshot:
        """Return the evidence of the map; another thread may compute its grid (`GridView`)."""
        return self.occupancy.snapshot(self._state.atlas.located_stores(
            self.occupancy.name, assumed_first=True))

    def status(self) -> MappingStatus:
        """Return the counters."""
        return self._state.status(self.voxel_map, self._memory.report(), self._config.grid)

    @property
    def _state(self) -> MappingState:
        return self._front_end.state

    def _new_state(self, fragment_id: int) -> MappingState:
        return MappingState(KeyframeGate(self._config.keyframes), Sight(self._config.sight),
                            Atlas(self._config, self._layers, fragment_id),
                            BackEnd(self._config, self._memory))
