# SPDX-License-Identifier: Apache-2.0
"""A whole map, with the mapper's state, as a saved tree."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spann3r_ros.core.types import Frame
from spann3r_ros.core.views import Preprocessed, fit_depth

from .admitted import Admitted
from .layers.layer import Layer
from .mapper_config import MapperConfig
from .mapping_state import Calibration, MappingState, Phase
from .memory_manager import MemoryManager
from .storage.saved_tree import SavedNode
from .storage.saved_values import (
    MAX_STAMP_NS,
    Tree,
    intrinsics_tree,
    read_intrinsics,
    read_rigid,
    read_stamp,
)
from .tracking.known_poses import KnownPoses
from .tracking.solved_keyframes import SolvedPoses

POSE_SOURCES = {'solved': SolvedPoses, 'given': KnownPoses}


def map_tree(state: MappingState, memory: MemoryManager, layers: Sequence[Layer],
             config: MapperConfig) -> Tree:
    """Return a whole map; ValueError for one that has not begun."""
    if state.camera is None:
        raise ValueError('the map has not begun')
    return {'field_of_view': config.field_of_view, 'network': memory.tree(),
            'layers': {layer.name: layer.tree() for layer in layers},
            'state': _state_tree(state, config)}


def read_map_tree(saved: SavedNode, state: MappingState, memory: MemoryManager,
                  layers: Sequence[Layer], config: MapperConfig) -> dict[str, Any]:
    """Fill a new state from a whole map; return the counters of the layers, by name.

    Raises ValueError for values that are wrong, and for a map of another network, another field of
    view, or keyframes of another size; the state cannot be used then.
    """
    if saved.has('network'):
        memory.check(saved.node('network'))
        saved.text('field_of_view', [config.field_of_view])
    saved_layers = saved.node('layers')
    counters = {layer.name: None if layer.optional and not saved_layers.has(layer.name)
                else layer.read(saved_layers.node(layer.name)) for layer in layers}
    _read_state(saved.node('state'), state, config, counters)
    _check_consistent(saved.node('state'), state)
    height, width = state.camera[1]
    size = memory.input_size(width / height)
    images = [one.network_input.image for one in [*state.pending.values(),
                                                  *state.replays.values()]]
    images += [] if state.spare is None else [state.spare[1].image]
    if isinstance(state.poses, SolvedPoses):
        images += [one.image for one in state.poses.overlap.keyframes]
    for image in images:
        if image.shape[:2] != size:
            raise ValueError(f'map: expected keyframes of height and width {size}, as the network '
                             f'takes, got {image.shape[:2]}')
    return counters


def _state_tree(state: MappingState, config: MapperConfig) -> Tree:
    relocalisation = state.back_end.relocaliser.tree()
    frame_id, size = state.camera
    names = [name for name, kind in POSE_SOURCES.items() if isinstance(state.poses, kind)]
    return {
        'camera': {'frame_id': frame_id, 'height': size[0], 'width': size[1]},
        'phase': state.phase.value, 'levelled': state.back_end.levelled,
        'correction': state.back_end.correction.tree(),
        'loops': state.back_end.loops.tree(state.atlas),
        'scale': state.back_end.scale.tree(),
        **({} if relocalisation is None else {'relocalisation': relocalisation}),
        'back_end': state.back_end.tree(),
        'image_ids': state.image_ids, 'newest_ns': state.newest_ns,
        'intrinsics': None if state.intrinsics is None else intrinsics_tree(state.intrinsics),
        'calibration': None if state.calibration is None else _calibration_tree(state.calibration),
        'coverage': None if math.isnan(state.coverage) else state.coverage,
        'confidence': None if math.isnan(state.confidence) else state.confidence,
        'keyframes': state.keyframes,
        'keyframes_left_out': state.keyframes_left_out, 'focal': state.focal.tree(),
        'restart_reason': state.restart_reason, 'gate': state.gate.tree(),
        'sight': state.sight.tree(),
        'pose_source': names[0], 'poses': state.poses.tree(), 'atlas': state.atlas.tree(),
        'pending': [_admitted_tree(one, config) for one in state.pending.values()],
        'replays': [_admitted_tree(one, config) for one in state.replays.values()],
        'spare': None if state.spare is None else _frame_tree(*state.spare, config)}


def _read_state(node: SavedNode, state: MappingState, config: MapperConfig,
                counters: Mapping[str, Any]) -> None:
    camera = node.node('camera')
    frame_id = camera.text('frame_id')
    state.camera = frame_id, (camera.integer('height', 2), camera.integer('width', 2))
    state.phase = Phase(node.text('phase', [phase.value for phase in Phase]))
    state.back_end.levelled = node.flag('levelled')
    if node.has('scale'):
        state.back_end.scale.restore(node.node('scale'))
    state.image_ids = node.integer('image_ids')
    # Maps of earlier versions have no such entry.
    if node.has('newest_ns'):
        state.newest_ns = node.integer('newest_ns', 0, MAX_STAMP_NS)
    if node.has('intrinsics'):
        state.intrinsics = read_intrinsics(node.node('intrinsics'))
    if node.has('calibration'):
        calibration = node.node('calibration')
        state.calibration = Calibration(state.camera[1], read_intrinsics(
            calibration.node('intrinsics')) if calibration.has('intrinsics') else None)
    if node.has('coverage'):
        state.coverage = node.number('coverage', 0.0, 1.0)
    # Maps of earlier versions have no such entry.
    if node.has('confidence'):
        state.confidence = node.number('confidence', 0.0, 1.0)
    state.keyframes = node.integer('keyframes')
    state.keyframes_left_out = node.integer('keyframes_left_out')
    state.focal.restore(node.node('focal'))
    state.restart_reason = node.text('restart_reason')
    state.gate.restore(node.node('gate'))
    # Maps of earlier versions have no such entries.
    if node.has('sight'):
        state.sight.restore(node.node('sight'))
    if node.has('back_end'):
        state.back_end.restore(node.node('back_end'))
    if node.has('correction'):
        state.back_end.correction.restore(node.node('correction'))
    if node.text('pose_source', list(POSE_SOURCES)) == 'solved':
        state.poses = SolvedPoses(config)
    else:
        state.poses = KnownPoses(config.pose)
    state.poses.restore(node.node('poses'))
    state.atlas.restore(node.node('atlas'), counters, frame_id)
    # Maps of earlier versions have no such entry.
    if node.has('loops'):
        state.back_end.loops.restore(node.node('loops'), state.atlas)
    if node.has('relocalisation'):
        state.back_end.relocaliser.restore(node.node('relocalisation'))
    calibration = state.calibration or Calibration(state.camera[1], None)
    frames = [_read_admitted(node.nodes(name), frame_id, calibration)
              for name in ('pending', 'replays')]
    state.pending, state.replays = frames
    # Maps of earlier versions have no such entry.
    if node.has('spare'):
        state.spare = _read_frame(node.node('spare'), frame_id, calibration)


def _check_consistent(node: SavedNode, state: MappingState) -> None:
    """Raise ValueError unless the frames on their way into the map belong to it."""
    frames = [*state.pending.values(), *state.replays.values()]
    spare = [] if state.spare is None else [state.spare]
    if len({one.image_id for one in frames}) < len(frames) or any(
            one.image_id > state.image_ids for one in frames):
        raise node.fault('pending', f'image ids up to {state.image_ids}, each once',
                         [one.image_id for one in frames])
    given = isinstance(state.poses, KnownPoses)
    for frame, view in [*((one.frame, one.network_input) for one in frames), *spare]:
        size = view.image.shape[:2]
        if view.intrinsics is not None and (view.intrinsics.height,
                                            view.intrinsics.width) != size:
            raise node.fault('pending', f'intrinsics of {size} pixels', view.intrinsics)
        if (frame.world_from_camera is not None) != given:
            raise node.fault('pending', 'a given pose with every frame, or with none', 'others')
    current, frame_id = state.atlas.current.id, state.camera[0]
    for keyframe in state.poses.keyframes:
        if (keyframe.fragment_id, keyframe.frame_id) != (current, frame_id):
            raise node.fault('poses', f'keyframes of {frame_id!r} in fragment {current}',
                             f'{keyframe.frame_id!r} in fragment {keyframe.fragment_id}')


def _calibration_tree(calibration: Calibration) -> Tree:
    intrinsics = calibration.intrinsics
    return {'intrinsics': None if intrinsics is None else intrinsics_tree(intrinsics)}


def _admitted_tree(admitted: Admitted, config: MapperConfig) -> Tree:
    view = admitted.network_input
    return {
        **_frame_tree(admitted.frame, view, config), 'image_id': admitted.image_id,
        'waypoints': np.array(admitted.waypoints, np.uint8).reshape(-1, *view.image.shape[:2])}


def _frame_tree(frame: Frame, view: Preprocessed, config: MapperConfig) -> Tree:
    return {
        'stamp_ns': frame.stamp_ns, 'image': view.image,
        'first_pose': frame.first_pose,
        'world_from_camera': frame.world_from_camera, 'usable': view.usable,
        'odometry': frame.odometry,
        'depth': None if frame.depth is None else fit_depth(
            frame, view.image.shape[:2], config.field_of_view == 'letterbox',
            config.resampling == 'exact'),
        'intrinsics': None if view.intrinsics is None else intrinsics_tree(view.intrinsics),
        'coverage': view.coverage}


def _read_admitted(nodes: list[SavedNode], frame_id: str,
                   calibration: Calibration) -> dict[int, Admitted]:
    """Return frames by their image ids; the frames have no camera image."""
    found = {}
    for node in nodes:
        frame, view = _read_frame(node, frame_id, calibration)
        identifier = node.integer('image_id', 1)
        # Maps of earlier versions have no such entry.
        waypoints = (node.array('waypoints', np.uint8, (None, *view.image.shape[:2]))
                     if node.has('waypoints') else ())
        found[identifier] = Admitted(frame, view, identifier, calibration.size,
                                     calibration.intrinsics, is_counted=False,
                                     waypoints=tuple(waypoints))
    return found


def _read_frame(node: SavedNode, frame_id: str,
                calibration: Calibration) -> tuple[Frame, Preprocessed]:
    """Return a frame, whose image is that of the network's input, and this input."""
    image = node.array('image', np.uint8, (None, None, 3))
    usable = None
    if node.has('usable'):
        usable = node.array('usable', bool, image.shape[:2])
    view = Preprocessed(
        image, read_intrinsics(node.node('intrinsics')) if node.has('intrinsics') else None,
        usable, node.number('coverage', 0.0, 1.0))
    frame = Frame(
        read_stamp(node), frame_id, image, None, None,
        read_rigid(node, 'first_pose') if node.has('first_pose') else None,
        read_rigid(node, 'world_from_camera') if node.has('world_from_camera') else None,
        read_rigid(node, 'odometry') if node.has('odometry') else None,
        node.array('depth', np.float32, image.shape[:2], finite=False)
        if node.has('depth') else None)
    return frame, view
