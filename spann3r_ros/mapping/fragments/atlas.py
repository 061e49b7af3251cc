# SPDX-License-Identifier: Apache-2.0
"""The atlas: all fragments of a map, their places, and the constraints between them."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spann3r_ros.core.keyframe import Keyframe
from spann3r_ros.core.transforms import is_similarity, similarity_scale
from spann3r_ros.core.types import FragmentPose, StampedPose
from spann3r_ros.mapping.layers.layer import Layer
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.scale.map_scale import Scale
from spann3r_ros.mapping.storage.saved_tree import SavedNode, vars_of

from .constraint import Constraint, read_constraint, without_fragment
from .fragment import Fragment
from .groups import group_of, unlocated
from .keyframe_store import KeptKeyframe, KeptReport, KeyframeStore
from .overlap import Join
from .saved_fragments import fragment_tree, read_fragment


@dataclass(frozen=True)
class PathView:
    """The path in the map: `stamps_ns` int64 [n] and `map_from_camera` [n, 4, 4], rigid."""

    stamps_ns: np.ndarray
    map_from_camera: np.ndarray


class Atlas:
    """Owns the fragments of one map; path and cloud are views of it.

    `revision` grows whenever a fragment moves. `moved` are the ids of the fragments that moved
    since `take_moved`. `unit` is how long the unit of a new fragment is in the map: one, until the
    unit of the map changes.
    """

    def __init__(self, config: MapperConfig, layers: Sequence[Layer], first_id: int = 0) -> None:
        self._path_max_size = config.path_max_size
        self._layers = layers
        self._min_confidence = config.voxel_map.min_confidence
        self._keyframes = KeyframeStore(config.keyframes, self._min_confidence)
        self.fragments: dict[int, Fragment] = {}
        self.unit = 1.0
        self.current = self._new(first_id, Scale())
        self.constraints: list[Constraint] = []
        # Judged loops that are no constraints any more, by whether the pose graph believed them.
        self._forgotten = {True: 0, False: 0}
        self.revision = 0
        self._moved: set[int] = set()

    def configure(self, config: MapperConfig) -> None:
        """Use other bounds from the next keyframe on."""
        self._path_max_size = config.path_max_size
        self._min_confidence = config.voxel_map.min_confidence
        self._keyframes.configure(config.keyframes, self._min_confidence)

    def begin(self, scale: Scale | None = None, after_gap: bool = False) -> Fragment:
        """Begin a fragment, and return it; an empty one is replaced.

        Its frame is that of the map, in its `unit`. `after_gap`: the next image may show another
        place than the last one, so that the join has to be checked.
        """
        former = self.current
        if not former.received:
            del self.fragments[former.id]
            self.constraints = [one for one in self.constraints
                                if former.id not in (one.first, one.second)]
        self._drop_exhausted()
        self.current = self._new(former.id + (former.received > 0),
                                 former.scale if scale is None else scale)
        # The overlap of a fragment without a pose is still that of the one before.
        self.current.after_gap = after_gap or former.after_gap
        return self.current

    def connect(self, join: Join) -> None:
        """Record that keyframes of another fragment have placed the current one."""
        if join.alignment is None or join.first not in self.fragments:
            return
        constraint = Constraint('overlap', join.first, self.current.id, join.first_from_second,
                                join.alignment.covariance)
        if self.current.after_gap:
            self.current.join, self.current.connected = constraint, False
        else:
            self.constraints.append(constraint)

    def move(self, fragment_id: int, map_from_fragment: np.ndarray) -> None:
        """Place a fragment anew; all views of its keyframes, path and voxels follow.

        Raises ValueError for an unknown fragment and for a transform that is no similarity.
        """
        self.move_to({fragment_id: map_from_fragment})

    def move_to(self, places: Mapping[int, np.ndarray]) -> None:
        """Place fragments anew by their ids: all of them, or none if this raises as `move`."""
        checked = {}
        for fragment_id, map_from_fragment in places.items():
            if fragment_id not in self.fragments:
                raise ValueError(f'fragment: expected one of {list(self.fragments)}, '
                                 f'got {fragment_id}')
            checked[fragment_id] = np.array(map_from_fragment, float)
            if not is_similarity(checked[fragment_id]):
                raise ValueError('map_from_fragment: expected a finite similarity [4, 4], '
                                 f'got {map_from_fragment}')
        for fragment_id, place in checked.items():
            self.fragments[fragment_id].map_from_fragment = place
        self.revision += len(checked)
        self._moved |= set(checked)

    def move_all(self, new_map_from_map: np.ndarray) -> None:
        """Move all fragments by one similarity [4, 4], for example to level the map."""
        self.move_to({one.id: new_map_from_map @ one.map_from_fragment
                      for one in self.fragments.values()})

    def change_unit(self, new_map_from_map: np.ndarray) -> None:
        """Move all fragments by one similarity [4, 4] whose scale is the unit of the map.

        Fragments that begin later have the unit of those before, so that voxels have one size.
        """
        self.move_all(new_map_from_map)
        self.unit *= similarity_scale(new_map_from_map)

    def locate(self, new_map_from_map: np.ndarray, fragment_id: int) -> None:
        """Move the current fragment and its unlocated group to their place, by a similarity.

        The unit of the group is then that of another fragment, by its id.
        """
        for one in sorted(group_of({self.current.id}, self.constraints) & self.unlocated()):
            fragment = self.fragments[one]
            fragment.unlocated, fragment.connected = False, True
            fragment.scale = self.fragments[fragment_id].scale
            self.move(one, new_map_from_map @ fragment.map_from_fragment)

    def assume_places(self) -> None:
        """Take the places of unlocated fragments as assumed, with the unit of the map."""
        scale, hidden = self.located()[-1].scale, self.unlocated()
        for one in self.fragments.values():
            if one.unlocated:
                one.unlocated, one.scale = False, scale
        self.report_moved(hidden)

    def take_moved(self) -> tuple[int, ...]:
        """Return the ids of the fragments that moved since the last call."""
        moved, self._moved = tuple(sorted(self._moved & set(self.fragments))), set()
        return moved

    def report_moved(self, fragment_ids: Iterable[int]) -> None:
        """Report fragments as moved, because others have been given another place of them."""
        self._moved |= set(fragment_ids)

    def add(self, keyframe: Keyframe, points: np.ndarray | None) -> None:
        """Add a keyframe to its fragment.

        `points` [h, w, 3] in the fragment enter the layers; None: none of them do.
        """
        fragment = self.fragments[keyframe.fragment_id]
        for layer in self._layers if points is not None else ():
            layer.integrate(fragment.stores[layer.name], self._stores_around(fragment, layer.name),
                            keyframe, points, fragment.scale.metric)
        fragment.received += 1
        if keyframe.pose is None:
            return
        fragment.path.append(keyframe.pose)
        self._keyframes.add(keyframe, fragment.keyframes)
        self._bound_path()

    def loops(self, accepted: bool) -> int:
        """Return how many loops the pose graph accepts, or how many it rejects.

        Loops that were forgotten are counted too.
        """
        return self._forgotten[accepted] + sum(one.accepted is accepted
                                               for one in self.constraints)

    def forget(self, loops: Iterable[Constraint]) -> None:
        """Remove loops; they stay counted as what they were, those not judged as rejected."""
        gone = {id(one): one for one in loops}
        self.constraints = [one for one in self.constraints if id(one) not in gone]
        for one in gone.values():
            self._forgotten[one.accepted is True] += 1

    def unconnected(self) -> set[int]:
        """Return the fragments with keyframes that no measurement connects with the oldest one.

        A fragment whose place was assumed may be connected by a loop, or by another fragment.
        """
        return {one.id for one in self.fragments.values() if one.received} - self._reached()

    def unlocated(self) -> set[int]:
        """Return the fragments that are in no view of the map, because their place is unknown."""
        return unlocated(self.fragments, self.constraints)

    def located(self) -> list[Fragment]:
        """Return all other fragments, oldest first."""
        excluded = self.unlocated()
        return [one for one in self.fragments.values() if one.id not in excluded]

    def keyframes(self) -> dict[int, KeptKeyframe]:
        """Return all kept keyframes by their numbers, oldest first."""
        return {number: kept for fragment in self.fragments.values()
                for number, kept in fragment.keyframes.items()}

    def newest_number(self, fragment_id: int) -> int:
        """Return the number of the newest keyframe of a fragment that has one."""
        return next(reversed(self.fragments[fragment_id].keyframes))

    def _reached(self) -> set[int]:
        """Return the fragments that measurements connect with the oldest one.

        A loop counts once the pose graph has accepted it, and the fragments are placed by it.
        """
        if all(one.connected and not one.unlocated for one in self.fragments.values()):
            return set(self.fragments)
        believed = [one for one in self.constraints if one.kind == 'overlap' or one.accepted]
        joined = {one.second for one in believed if one.kind == 'overlap'}
        # Given poses, or fragments that were removed, have placed those that are not joined.
        reached = {one.id for one in self.fragments.values()
                   if one.connected and not one.unlocated and one.id not in joined}
        return group_of(reached | {min(self.fragments)}, believed)

    def places(self, fragment_ids: Iterable[int]) -> Mapping[int, np.ndarray]:
        """Return `map_from_fragment` [4, 4] of some fragments by their ids."""
        return {one: self.fragments[one].map_from_fragment for one in fragment_ids}

    def path(self) -> PathView:
        """Return the poses of all keyframes in the map, oldest first."""
        stamps = [fragment.path.stamps for fragment in self.located()]
        transforms = [_moved_poses(fragment) for fragment in self.located()]
        return PathView(np.concatenate(stamps), np.concatenate(transforms))

    def poses(self, frame_id: str) -> list[StampedPose]:
        """Return the path as poses of a camera, with their covariances."""
        found = []
        for fragment in self.located():
            path = fragment.path
            for stamp, transform, covariance in zip(path.stamps, path.transforms,
                                                    path.covariances, strict=True):
                pose = FragmentPose(int(stamp), frame_id, fragment.id, transform,
                                    None if np.isnan(covariance).any() else covariance)
                found.append(pose.in_map(fragment.map_from_fragment))
        return found

    def kept_keyframes(self) -> list[tuple[KeptKeyframe, StampedPose]]:
        """Return the keyframes that are kept, oldest first, each with its pose in the map."""
        return [(keyframe, keyframe.pose.in_map(fragment.map_from_fragment))
                for fragment in self.located()
                for keyframe in fragment.keyframes.values()]

    def stores(self, layer: str) -> list[Any]:
        """Return the stores of all fragments for a layer, by its name."""
        return [fragment.stores[layer] for fragment in self.fragments.values()]

    def located_stores(self, layer: str,
                       assumed_first: bool = False) -> list[tuple[Any, np.ndarray]]:
        """Return the stores of located fragments, each with its `map_from_fragment` [4, 4].

        `assumed_first`: those whose place is only assumed come before all others.
        """
        fragments = self.located()
        if assumed_first:
            assumed = self.unconnected()
            fragments.sort(key=lambda one: one.id not in assumed)
        return [(one.stores[layer], one.map_from_fragment) for one in fragments]

    def kept(self) -> KeptReport:
        """Return what is kept of the keyframes."""
        return self._keyframes.report()

    def tree(self) -> dict[str, Any]:
        """Return all fragments and constraints for a saved map."""
        return {
            'revision': self.revision, 'current': self.current.id, 'unit': self.unit,
            'keyframes': self._keyframes.tree(),
            'constraints': [vars_of(one) for one in self.constraints],
            'forgotten': {'accepted': self._forgotten[True], 'rejected': self._forgotten[False]},
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
        # Maps of earlier versions have no such entry.
        self.unit = node.number('unit', 1e-12) if node.has('unit') else 1.0
        self.constraints = [read_constraint(one) for one in node.nodes('constraints')]
        if node.has('forgotten'):
            forgotten = node.node('forgotten')
            self._forgotten = {True: forgotten.integer('accepted'),
                               False: forgotten.integer('rejected')}
        self._keyframes.restore(node.node('keyframes'), [one.keyframes for one in fragments])
        self._bound_path()

    def _stores_around(self, fragment: Fragment,
                       layer: str) -> list[tuple[Any, np.ndarray | None]]:
        """Return as `located_stores`; None instead of a place that is only assumed."""
        reached = self._reached()
        return [(one.stores[layer], one.map_from_fragment if one is fragment or (
            {one.id, fragment.id} <= reached) else None) for one in self.fragments.values()]

    def _drop_exhausted(self) -> None:
        """Remove older fragments of which nothing is left; others stay connected."""
        fragments = list(self.fragments.values())
        for fragment, after in zip(fragments[:-1], fragments[1:], strict=True):
            if not (len(fragment.path) or fragment.keyframes
                    or any(map(len, fragment.stores.values()))):
                for one in self.constraints if fragment.unlocated else ():
                    if one.kind == 'overlap' and one.first == fragment.id:
                        self.fragments[one.second].unlocated = True
                after.gap += (fragment.gap + fragment.path.length) * similarity_scale(
                    fragment.map_from_fragment) / similarity_scale(after.map_from_fragment)
                judged = {one: self.loops(one) for one in (True, False)}
                del self.fragments[fragment.id]
                self.constraints = without_fragment(self.constraints, fragment.id)
                for one, count in judged.items():
                    self._forgotten[one] += count - self.loops(one)

    def _new(self, fragment_id: int, scale: Scale) -> Fragment:
        stores = {layer.name: layer.new_store() for layer in self._layers}
        self.fragments[fragment_id] = Fragment(
            fragment_id, np.diag([self.unit, self.unit, self.unit, 1.0]), scale=scale,
            stores=stores)
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
