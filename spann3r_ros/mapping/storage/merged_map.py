# SPDX-License-Identifier: Apache-2.0
"""Two saved maps as one: the fragments of the second one come after those of the first one.

Ids of fragments, numbers of keyframes and ticks of the layers of the second map go on where those
of the first map end. The merged map ends where the second one ends. It has no state of the
network: a mapper that continues it begins a fragment at the last keyframe.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spann3r_ros.core.network import Estimate, NetworkStatus
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import KeyframeConfig, MapperConfig, VoxelMapConfig
from spann3r_ros.mapping.occupancy.evidence_layer import Occupancy
from spann3r_ros.mapping.occupancy.grid_config import GridConfig

from .map_directory import MapSnapshot, snapshot_map
from .saved_tree import SavedNode, decode_tree, encode_tree

Tree = dict[str, Any]
# No bound of the settings removes anything.
MOST_BYTES, MOST_VOXELS, MOST_CELLS, MOST_POSES = 2**40, 50_000_000, 2_000_000_000, 10_000_000


class SavedNetwork:
    """Stands for the network that made a map, which is not needed to merge it."""

    measures_pose = False

    def __init__(self, name: str, identity: str, input_size: tuple[int, int]) -> None:
        self.name, self.identity, self._size = name, identity, input_size

    def input_size(self, aspect: float) -> tuple[int, int]:
        """Return height and width of the map's keyframes."""
        return self._size

    def step(self, image: np.ndarray, image_id: int) -> list[Estimate]:
        """Raise: there are no weights."""
        raise NotImplementedError

    pair = step

    def provisional(self) -> Estimate | None:
        """Return None."""
        return None

    def flush(self) -> list[Estimate]:
        """Return nothing."""
        return []

    def reset(self) -> None:
        """Do nothing."""

    def state(self) -> dict[str, np.ndarray]:
        """Return nothing: a map that is continued begins a new sequence."""
        return {}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Do nothing."""

    def status(self) -> NetworkStatus:
        """Return no counters."""
        return NetworkStatus()


def merge_maps(first: SavedNode, second: SavedNode, same_frame: bool) -> MapSnapshot:
    """Return two saved maps as one.

    If they have the `same_frame`, the second map stays where it is and is connected. Otherwise
    each of its fragments that has no measured place in another one counts as not connected, until
    a loop connects it.

    Raises ValueError for maps of different networks, cameras, views or voxels, for maps of which
    only one is in metres if they have the same frame, and for maps that are not consistent.
    """
    one, other = _ended(first), _ended(second)
    trees = one.tree(), other.tree()
    for name, values in _comparable(*trees).items():
        if values[0] != values[1]:
            raise ValueError(f'maps: expected the same {name}, got {values[0]} and {values[1]}')
    metric = [mapper.map_scale.metric for mapper in (one, other)]
    if same_frame and metric[0] != metric[1]:
        raise ValueError('same-frame: expected two maps in metres, or none, got one in metres')
    merged = decode_tree(*encode_tree(_merged(*trees, same_frame)))
    return snapshot_map(_ended(merged))


def _ended(saved: SavedNode) -> Mapper:
    """Return a mapper with a saved map, closed: a frame without an estimate is left out."""
    mapper = _mapper_for(saved)
    mapper.load(saved)
    mapper.flush()
    return mapper


def _mapper_for(saved: SavedNode) -> Mapper:
    """Return a mapper with the settings that a saved map needs."""
    network = saved.node('network')
    depths = [one.node('keyframes').array('depths', np.float16, (None, None, None), finite=False)
              for one in saved.node('state').node('atlas').nodes('fragments')]
    size = next((one.shape[1:] for one in depths if len(one)), (1, 1))
    return Mapper(SavedNetwork(network.text('name'), network.text('identity'), size), MapperConfig(
        keyframes=KeyframeConfig(max_full_bytes=MOST_BYTES, max_bytes=MOST_BYTES),
        voxel_map=VoxelMapConfig(max_voxels=MOST_VOXELS), path_max_size=MOST_POSES,
        grid=GridConfig(enabled=saved.node('layers').has('occupancy'), max_cells=MOST_CELLS),
        field_of_view=saved.text('field_of_view')))


def _comparable(one: Tree, other: Tree) -> dict[str, tuple[Any, Any]]:
    """Return what has to be equal in both maps, by its name."""
    pairs = {
        'network': [tree['network']['name'] for tree in (one, other)],
        'weights': [tree['network']['identity'] for tree in (one, other)],
        'field_of_view': [tree['field_of_view'] for tree in (one, other)],
        'camera': [tuple(tree['state']['camera'].values()) for tree in (one, other)],
        'voxel size': [tree['layers']['voxels']['voxel_size'] for tree in (one, other)]}
    return {name: (first, second) for name, (first, second) in pairs.items()}


def _merged(one: Tree, other: Tree, same_frame: bool) -> Tree:
    """Return the tree of both; the state of the mapper is that of the second map."""
    first, second = one['state'], other['state']
    fragments = [item for item in first['atlas']['fragments'] if item['received']]
    shift = 1 + max((item['id'] for item in fragments), default=-1) - min(
        item['id'] for item in second['atlas']['fragments'])
    numbers = first['atlas']['keyframes']['added']
    left = {item['id'] for item in fragments}
    names = {*one['layers'], *other['layers']}
    ticks = {name: one['layers'].get(name, {}).get('tick', 0) for name in names}
    joined = {item['second'] for item in second['atlas']['constraints']
              if item['kind'] == 'overlap'}
    for item in second['atlas']['fragments']:
        connected = item['connected'] and (same_frame or item['id'] in joined)
        fragments.append(_fragment(item, shift, numbers, ticks) | {'connected': connected})
    kept = ('added', 'compacted', 'evicted')
    counted = [tree['atlas']['keyframes'] for tree in (first, second)]
    atlas = {
        **second['atlas'], 'current': second['atlas']['current'] + shift,
        'revision': first['atlas']['revision'] + second['atlas']['revision'],
        'keyframes': {'stride': 1, **{name: sum(item[name] for item in counted)
                                      for name in kept}},
        'constraints': [*(item for item in first['atlas']['constraints']
                          if {item['first'], item['second']} <= left),
                        *(item | {'first': item['first'] + shift, 'second': item['second'] + shift}
                          for item in second['atlas']['constraints'])],
        'forgotten': {name: sum(tree['atlas']['forgotten'][name] for tree in (first, second))
                      for name in ('accepted', 'rejected')},
        'fragments': _with_all_stores(fragments, one, other)}
    state = {
        **second, 'atlas': atlas, 'levelled': first['levelled'] and second['levelled'],
        'keyframes': first['keyframes'] + second['keyframes'],
        'keyframes_left_out': first['keyframes_left_out'] + second['keyframes_left_out'],
        'poses': _poses(second['poses'], shift), 'loops': _loops(first, second, shift, numbers),
        'relocalisation': None, 'scale': _scale(first, second, shift)}
    return {**other, 'layers': _counters(one['layers'], other['layers'], ticks), 'state': state}


def _fragment(item: Tree, shift: int, numbers: int, ticks: Mapping[str, int]) -> Tree:
    keyframes = dict(item['keyframes'])
    keyframes['numbers'] = keyframes['numbers'] + numbers
    if keyframes['full'] is not None:
        keyframes['full'] = {**keyframes['full'],
                             'numbers': keyframes['full']['numbers'] + numbers}
    stores = {name: {**store, 'observed_at': store['observed_at'] + np.int32(ticks[name])}
              for name, store in item['stores'].items()}
    # A join that nothing has confirmed yet is given up.
    return {**item, 'id': item['id'] + shift, 'keyframes': keyframes, 'stores': stores,
            'after_gap': False, 'join': None}


def _with_all_stores(fragments: list[Tree], one: Tree, other: Tree) -> list[Tree]:
    """Return fragments with an empty store for a layer that only the other map has."""
    layers = (Occupancy(GridConfig(), 0.0), VoxelMap(VoxelMapConfig()))
    empty = {layer.name: layer.store_tree(layer.new_store()) for layer in layers
             if layer.name in {*one['layers'], *other['layers']}}
    return [{**item, 'stores': {**empty, **item['stores']}} for item in fragments]


def _counters(first: Tree, second: Tree, ticks: Mapping[str, int]) -> Tree:
    merged = {}
    for name in {**first, **second}:
        one, other = first.get(name), second.get(name)
        if one is None or other is None:
            merged[name] = one or other
            continue
        merged[name] = {**other, 'tick': one['tick'] + other['tick'],
                        **{key: one[key] + other[key] for key in ('evicted', 'out_of_reach')
                           if key in one}}
        if 'carving' in one:
            times = other['carving']['times'] + np.array([ticks[name], 0])
            merged[name]['carving'] = {
                'carved': one['carving']['carved'] + other['carving']['carved'], 'times': times}
    return merged


def _poses(poses: Tree, shift: int) -> Tree:
    """Return the state of the poses, whose keyframes are of the last fragment."""
    def moved(keyframe: Tree) -> Tree:
        pose = keyframe['pose']
        return {**keyframe, 'fragment_id': keyframe['fragment_id'] + shift,
                'pose': pose and {**pose, 'fragment_id': pose['fragment_id'] + shift}}
    changed = {name: [moved(one) for one in poses[name]] for name in ('shared', 'waiting')
               if name in poses}
    if 'anchor_origin' in poses:
        changed['anchor_origin'] = poses['anchor_origin'] + shift
    return {**poses, **changed}


def _loops(first: Tree, second: Tree, shift: int, numbers: int) -> Tree:
    def moved(record: Tree) -> Tree:
        poses = {name: {**record[name], 'fragment_id': record[name]['fragment_id'] + shift}
                 for name in ('first_pose', 'second_pose')}
        return {**record, **poses, 'first': record['first'] + numbers,
                'second': record['second'] + numbers}
    one, other = first['loops'], second['loops']
    return {**other, 'places': None, 'before': [],
            'records': [*one['records'], *map(moved, other['records'])],
            **{name: one[name] + other[name] for name in ('accepted', 'rejected')}}


def _scale(first: Tree, second: Tree, shift: int) -> Tree:
    other, moved = second['scale'], second['scale']['fragment_id']
    measured = [*first['scale']['measured'],
                *({**one, 'id': one['id'] + shift} for one in other['measured'])]
    return {**other, 'measured': measured, 'fragment_id': None if moved is None else moved + shift}


