# SPDX-License-Identifier: Apache-2.0
"""The atlas: all fragments of a map, their places, and the constraints between them."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import invert_similarity, is_similarity
from spann3r_ros.core.types import FragmentPose, StampedPose
from spann3r_ros.mapping.layers.layer import Layer
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.scale.map_scale import Scale
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of
from spann3r_ros.mapping.storage.saved_values import read_similarity

from .fragment import Fragment
from .keyframe_store import KeptReport, KeyframeStore
from .saved_fragments import fragment_tree, read_fragment


@dataclass(frozen=True)
class Constraint:
    """A measured similarity `first_from_second` [4, 4] between two fragments, by their ids.

    `kind` is its source: overlap (a keyframe that both fragments have).
    """

    kind: str
    first: int
    second: int
    first_from_second: np.ndarray


@dataclass(frozen=True)
class PathView:
    """The path in the map: `stamps_ns` int64 [n] and `map_from_camera` [n, 4, 4], rigid."""

    stamps_ns: np.ndarray
    map_from_camera: np.ndarray


class Atlas:
    """Owns the fragments of one map; path and cloud are views of it.

    `revision` grows whenever a fragment moves. `moved` are the ids of the fragments that moved
    since `take_moved`.
    """

    def __init__(self, config: MapperConfig, layers: Sequence[Layer], first_id: int = 0) -> None:
        self._path_max_size = config.path_max_size
        self._layers = layers
        self._min_confidence = config.voxel_map.min_confidence
        self._keyframes = KeyframeStore(config.keyframes, self._min_confidence)
        self.fragments: dict[int, Fragment] = {}
        self.current = self._new(first_id, Scale())
        self.constraints: list[Constraint] = []
        self.revision = 0
        self._moved: set[int] = set()

    def configure(self, config: MapperConfig) -> None:
        """Use other bounds from the next keyframe on."""
        self._path_max_size = config.path_max_size
        self._min_confidence = config.voxel_map.min_confidence
        self._keyframes.configure(config.keyframes, self._min_confidence)

    def begin(self, scale: Scale | None = None) -> Fragment:
        """Begin a fragment in the frame of the map, and return it; an empty one is replaced."""
        former = self.current
        if not former.received:
            del self.fragments[former.id]
        self._drop_exhausted()
        self.current = self._new(former.id + (former.received > 0),
                                 former.scale if scale is None else scale)
        return self.current

    def connect(self, fragment_id: int) -> None:
        """Record that a keyframe of another fragment placed the current one."""
        other = self.fragments.get(fragment_id)
        if other is not None and other is not self.current:
            self.constraints.append(Constraint(
                'overlap', other.id, self.current.id,
                invert_similarity(other.map_from_fragment) @ self.current.map_from_fragment))

    def move(self, fragment_id: int, map_from_fragment: np.ndarray) -> None:
        """Place a fragment anew; all views of its keyframes, path and voxels follow.

        Raises ValueError for an unknown fragment and for a transform that is no similarity.
        """
        if fragment_id not in self.fragments:
            raise ValueError(f'fragment: expected one of {list(self.fragments)}, '
                             f'got {fragment_id}')
        place = np.array(map_from_fragment, float)
        if not is_similarity(place):
            raise ValueError('map_from_fragment: expected a finite similarity [4, 4], '
                             f'got {map_from_fragment}')
        self.fragments[fragment_id].map_from_fragment = place
        self.revision += 1
        self._moved.add(fragment_id)

    def move_all(self, new_map_from_map: np.ndarray) -> None:
        """Move all fragments by one similarity [4, 4], for example to level the map."""
        for fragment in self.fragments.values():
            self.move(fragment.id, new_map_from_map @ fragment.map_from_fragment)

    def take_moved(self) -> tuple[int, ...]:
        """Return the ids of the fragments that moved since the last call."""
        moved, self._moved = tuple(sorted(self._moved & set(self.fragments))), set()
        return moved

    def add(self, keyframe: Keyframe, points: np.ndarray | None) -> None:
        """Add a keyframe to its fragment.

        `points` [h, w, 3] in the fragment enter the layers; None: none of them do.
        """
        fragment = self.fragments[keyframe.fragment_id]
        for layer in self._layers if points is not None else ():
            layer.integrate(fragment.stores[layer.name], self.located_stores(layer.name),
                            keyframe, points, fragment.scale.metric)
        fragment.received += 1
        if keyframe.pose is None:
            return
        fragment.path.append(keyframe.pose)
        self._keyframes.add(keyframe, fragment.keyframes)
        self._bound_path()

    def places(self, fragment_ids: Iterable[int]) -> Mapping[int, np.ndarray]:
        """Return `map_from_fragment` [4, 4] of some fragments by their ids."""
        return {one: self.fragments[one].map_from_fragment for one in fragment_ids}

    def path(self) -> PathView:
        """Return the poses of all keyframes in the map, oldest first."""
        stamps = [fragment.path.stamps for fragment in self.fragments.values()]
        transforms = [_moved_poses(fragment) for fragment in self.fragments.values()]
        return PathView(np.concatenate(stamps), np.concatenate(transforms))

    def poses(self, frame_id: str) -> list[StampedPose]:
        """Return the path as poses of a camera, with their covariances."""
        found = []
        for fragment in self.fragments.values():
            path = fragment.path
            for stamp, transform, covariance in zip(path.stamps, path.transforms,
                                                    path.covariances, strict=True):
                pose = FragmentPose(int(stamp), frame_id, fragment.id, transform,
                                    None if np.isnan(covariance).any() else covariance)
                found.append(pose.in_map(fragment.map_from_fragment))
        return found

    def stores(self, layer: str) -> list[Any]:
        """Return the stores of all fragments for a layer, by its name."""
        return [fragment.stores[layer] for fragment in self.fragments.values()]

    def located_stores(self, layer: str) -> list[tuple[Any, np.ndarray]]:
        """Return as `stores`, each with its fragment's `map_from_fragment` [4, 4]."""
        return [(fragment.stores[layer], fragment.map_from_fragment)
                for fragment in self.fragments.values()]

    def kept(self) -> KeptReport:
        """Return what is kept of the keyframes."""
        return self._keyframes.report()

    def tree(self) -> dict[str, Any]:
        """Return all fragments and constraints for a saved map."""
        return {
            'revision': self.revision, 'current': self.current.id,
            'keyframes': self._keyframes.tree(),
            'constraints': [vars_of(one) for one in self.constraints],
            'fragments': [fragment_tree(one, self._layers, self._min_confidence)
                          for one in self.fragments.values()]}

    def restore(self, node: SavedNode, counters: Mapping[str, Any], frame_id: str) -> None:
        """Take over a saved map; `counters` are those of the layers, by name.

        Raises ValueError if it does not fit; the atlas cannot be used then.
        """
        layers = {layer.name: (layer, counters[layer.name]) for layer in self._layers}
        fragments = [read_fragment(one, layers, frame_id) for one in node.nodes('fragments')]
        self.fragments = {one.id: one for one in fragments}
        if list(self.fragments) != sorted(one.id for one in fragments):
            raise node.fault('fragments', 'ascending ids', [one.id for one in fragments])
        current = node.integer('current')
        if current != max(self.fragments, default=None):
            raise node.fault('current', f'the newest of {list(self.fragments)}', current)
        numbers = [number for one in fragments for number in one.keyframes]
        if numbers != sorted(set(numbers)):
            raise node.fault('fragments', 'ascending numbers of keyframes', numbers)
        for layer in self._layers:
            layer.check_stores([one.stores[layer.name] for one in fragments])
        self.current = self.fragments[current]
        self.revision = node.integer('revision')
        self.constraints = [
            Constraint(one.text('kind'), one.integer('first'), one.integer('second'),
                       read_similarity(one, 'first_from_second'))
            for one in node.nodes('constraints')]
        self._keyframes.restore(node.node('keyframes'), [one.keyframes for one in fragments])
        self._bound_path()

    def _drop_exhausted(self) -> None:
        """Remove older fragments of which nothing is left, and their constraints."""
        for fragment in list(self.fragments.values())[:-1]:
            if not (len(fragment.path) or fragment.keyframes
                    or any(map(len, fragment.stores.values()))):
                del self.fragments[fragment.id]
        self.constraints = [one for one in self.constraints
                            if {one.first, one.second} <= set(self.fragments)]

    def _new(self, fragment_id: int, scale: Scale) -> Fragment:
        stores = {layer.name: layer.new_store() for layer in self._layers}
        self.fragments[fragment_id] = Fragment(fragment_id, scale=scale, stores=stores)
        return self.fragments[fragment_id]

    def _bound_path(self) -> None:
        surplus = sum(len(one.path) for one in self.fragments.values()) - self._path_max_size
        for fragment in self.fragments.values():
            if surplus <= 0:
                return
            surplus -= fragment.path.drop_oldest(surplus)


def _moved_poses(fragment: Fragment) -> np.ndarray:
    """Return `map_from_camera` [n, 4, 4] of a fragment's poses; they stay rigid."""
    place = fragment.map_from_fragment
    moved = place @ fragment.path.transforms
    moved[:, :3, :3] /= np.linalg.norm(place[:3, 0])
    return moved
