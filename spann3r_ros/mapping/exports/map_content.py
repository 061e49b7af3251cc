# SPDX-License-Identifier: Apache-2.0
"""The content of a saved map that other programs can use: cloud, path, and keyframes as views."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.transforms import is_similarity, similarity_scale
from spann3r_ros.core.types import StampedPose
from spann3r_ros.core.views import window_of
from spann3r_ros.mapping.fragments.constraint import read_constraint
from spann3r_ros.mapping.fragments.groups import unlocated
from spann3r_ros.mapping.fragments.keyframe_store import (
    CompactKeyframe,
    KeptKeyframe,
    compacted,
)
from spann3r_ros.mapping.fragments.saved_fragments import read_fragment
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.mapper_config import VoxelMapConfig
from spann3r_ros.mapping.scale.map_scale import Scale
from spann3r_ros.mapping.storage.map_directory import (
    CLOUD,
    TRAJECTORY,
    find_directory,
    read_map,
)
from spann3r_ros.mapping.storage.saved_tree import SavedNode
from spann3r_ros.mapping.storage.saved_values import read_intrinsics

from .ply_files import read_ply
from .trajectory_files import read_tum

MAP_FRAME = 'map'
# Returns the numbers of a range, and shows how far they have come; the text says of what.
Progress = Callable[[range, str], Iterable[int]]


def silent(numbers: range, _: str) -> Iterable[int]:
    """Return the numbers of a range, and show nothing."""
    return numbers


@dataclass(frozen=True)
class SavedView:
    """A kept keyframe as a view of the map.

    `map_from_camera` [4, 4] is rigid; the camera is the optical frame (x right, y down, z ahead).
    `intrinsics` are those of the whole, rectified camera image, those of `kept` belong to the part
    that the network saw. `depth_scale` is the unit of the kept depth in units of the map. `name`
    is that of the image's file, which has the stamp in nanoseconds unless another is given.
    """

    number: int
    kept: CompactKeyframe
    map_from_camera: np.ndarray
    intrinsics: Intrinsics
    depth_scale: float
    name: str

    @property
    def stamp_ns(self) -> int:
        """Return the stamp of the image."""
        return self.kept.stamp_ns

    def depth(self) -> np.ndarray:
        """Return the depth of the network's image in map units, float32 [h, w]; NaN: unknown."""
        return self.kept.depth.astype(np.float32) * np.float32(self.depth_scale)


@dataclass(frozen=True)
class MapContent:
    """A saved map: its cloud, its path and the keyframes that it keeps, oldest first.

    `image_size` is the height and width of the camera's images, `calibration` what was known of
    them, with the distortion; None: not calibrated. `letterbox`: the network saw whole images.
    `voxel_size` is in map units.
    """

    cloud: VoxelCloud
    path: Sequence[StampedPose]
    views: Sequence[SavedView]
    voxel_size: float
    scale: Scale
    image_size: tuple[int, int]
    calibration: Intrinsics | None
    letterbox: bool

    @property
    def facts(self) -> dict[str, Any]:
        """Return what files say about a map: frame, axes, whether it is metric, its unit."""
        return {'frame': MAP_FRAME, 'axes': 'right-handed, z up', 'metric': self.scale.metric,
                'metres_per_unit': self.scale.value if self.scale.metric else None,
                'scale_source': self.scale.source}

    @property
    def notes(self) -> list[str]:
        """Return the facts as lines of text."""
        return [f'{name}: {"unknown" if value is None else str(value).lower()}'
                for name, value in self.facts.items()]


def read_content(directory: Path) -> MapContent:
    """Return the content of a map's directory, or of the folder that has it as `map`.

    Raises ValueError with the file and its fault, and OSError when a file cannot be read.
    """
    directory = find_directory(directory)
    saved = read_map(directory)
    state = saved.node('state')
    size = state.node('camera').integer('height', 2), state.node('camera').integer('width', 2)
    calibration = _calibration(state)
    letterbox = saved.text('field_of_view') == 'letterbox'
    atlas, frame_id = state.node('atlas'), state.node('camera').text('frame_id')
    places = read_places(saved)
    views = []
    fragments = {one.id: one for one in (read_fragment(node, {}, frame_id)
                                         for node in atlas.nodes('fragments'))}
    hidden = unlocated(fragments, [read_constraint(one) for one in atlas.nodes('constraints')])
    located = [one for one in fragments.values() if one.id not in hidden]
    for fragment in located:
        place = places.get(fragment.id, fragment.map_from_fragment)
        for number, one in fragment.keyframes.items():
            kept = _compact(one)
            window = window_of(size, calibration, kept.depth.shape, letterbox)
            views.append(SavedView(
                number, kept, kept.pose.in_map(place).world_from_camera,
                window.undo(kept.intrinsics, size), similarity_scale(place), ''))
    unit = atlas.number('unit', 1e-12) if atlas.has('unit') else 1.0
    return MapContent(
        read_ply(directory / CLOUD), read_tum(directory / TRAJECTORY, frame_id), _named(views),
        saved.node('layers').node('voxels').number('voxel_size', 0.0) * unit,
        located[-1].scale, size, calibration, letterbox)


def _calibration(state: SavedNode) -> Intrinsics | None:
    """Return the intrinsics of the recorded images; None if they were not known."""
    if not state.has('calibration'):
        raise state.fault('calibration', 'that of the images, to undo their crop',
                          'a map of an earlier version; load it, map an image and save it')
    calibration = state.node('calibration')
    return (read_intrinsics(calibration.node('intrinsics')) if calibration.has('intrinsics')
            else None)


def _compact(kept: KeptKeyframe) -> CompactKeyframe:
    if isinstance(kept, CompactKeyframe):
        return kept
    return compacted(kept, VoxelMapConfig().min_confidence)


def _named(views: Sequence[SavedView]) -> list[SavedView]:
    """Return views with names of files; stamps that occur twice are followed by the number."""
    stamps = [view.stamp_ns for view in views]
    once = len(set(stamps)) == len(stamps)
    return [replace(view, name=f'{view.stamp_ns}.png' if once
                    else f'{view.stamp_ns}_{view.number}.png') for view in views]


def read_places(saved: SavedNode) -> dict[int, np.ndarray]:
    """Return `map_from_fragment` [4, 4] by the fragment; earlier versions did not write them."""
    if not saved.has('places'):
        return {}
    node = saved.node('places')
    numbers = node.array('fragments', np.int64, (None,)).tolist()
    places = node.array('map_from_fragment', np.float64, (len(numbers), 4, 4))
    if not all(map(is_similarity, places)):
        raise node.fault('map_from_fragment', 'similarities', places.tolist())
    return dict(zip(numbers, places, strict=True))
