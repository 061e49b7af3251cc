# SPDX-License-Identifier: Apache-2.0
"""What a page shows of a map: cloud, path, loops and thumbnails of keyframes."""
from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.core.types import StampedPose
from spann3r_ros.mapping.exports.map_content import read_places
from spann3r_ros.mapping.exports.ply_files import read_ply
from spann3r_ros.mapping.exports.trajectory_files import read_tum
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.graph_view import ACCEPTED, GraphView, view_graph
from spann3r_ros.mapping.fragments.keyframe_store import KeptKeyframe
from spann3r_ros.mapping.layers.voxel_map import VoxelCloud
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.mapping.storage.map_directory import CLOUD, TRAJECTORY, read_map

from .point_buffer import buffer_points, spacing

MOST_POINTS = 200_000
MOST_POSES = 5000
MOST_THUMBNAILS = 60
THUMBNAIL_PX = 112
THUMBNAIL_QUALITY = 75
# Points above this many times the camera's height over the floor are not drawn.
CUT = 1.35
# Points so far beyond 98 % of them, as a share of their extent, are outliers.
MOST_REACH = 0.15
NANOSECONDS = 10**9


@dataclass(frozen=True)
class Thumbnail:
    """A keyframe to look at: its stamp, its pose, and its image as JPEG.

    `label` is what the page calls it; empty: by its time.
    """

    stamp_ns: int
    intrinsics: Intrinsics
    map_from_camera: np.ndarray
    jpeg: bytes
    label: str = ''


@dataclass(frozen=True)
class MapScene:
    """A map to look at.

    `positions` [n, 3] are those of the cameras in the map, oldest first, `fragment_ids` int [n]
    their fragments. `loops` [m, 2, 3] are the ends of accepted loops. `metres` is the length of a
    map unit; NaN if the map is not metric. Without `is_path` the positions are those of cameras in
    no order.
    """

    cloud: VoxelCloud
    positions: np.ndarray
    fragment_ids: np.ndarray
    loops: np.ndarray
    thumbnails: Sequence[Thumbnail]
    metres: float = math.nan
    is_path: bool = True

    def entry(self, most_points: int = MOST_POINTS) -> dict[str, Any]:
        """Return the scene for JSON; large clouds and long paths are thinned."""
        buffer = buffer_points(self.cloud, most_points)
        points = buffer.points()
        chosen = spread(len(self.positions), MOST_POSES)
        positions = self.positions[chosen]
        low, high = scene_bounds(points, positions)
        height = ceiling(points, self.positions)
        return {
            'points': buffer.entry(), 'low': low.tolist(), 'high': high.tolist(),
            'size': spacing(points),
            'ceiling': height if math.isfinite(height) else None,
            'path': np.round(positions, 5).tolist(), 'is_path': self.is_path,
            'fragments': self.fragment_ids[chosen].tolist(),
            'loops': np.round(self.loops, 5).tolist(),
            'metres': self.metres if math.isfinite(self.metres) else None,
            'keyframes': [_keyframe_entry(one, self.thumbnails[0].stamp_ns)
                          for one in self.thumbnails]}


def scene_of(mapper: Mapper, names: Mapping[int, str] | None = None,
             is_path: bool = True) -> MapScene:
    """Return what a mapper has, as it is now; `names` are those of images by their stamps."""
    poses = mapper.path().map_from_camera
    scale = mapper.map_scale
    scene = _scene(mapper.cloud(), poses[:, :3, 3], mapper.graph(), mapper.kept_keyframes(),
                   scale.value if scale.metric else math.nan)
    return replace(scene, is_path=is_path, thumbnails=[
        replace(one, label=(names or {}).get(one.stamp_ns, '')) for one in scene.thumbnails])


def saved_scene(folder: Path, metres: float = math.nan) -> MapScene:
    """Return the map that is saved in a folder; raises as `read_map`, `read_ply`, `read_tum`."""
    root = read_map(folder)
    saved = root.node('state')
    frame_id = saved.node('camera').text('frame_id')
    atlas = Atlas(MapperConfig(), ())
    atlas.restore(saved.node('atlas'), {}, frame_id)
    # The state may not have the corrections yet that cloud and path have.
    atlas.move_to({one: place for one, place in read_places(root).items()
                   if one in atlas.fragments})
    path = read_tum(folder / 'map' / TRAJECTORY, frame_id)
    positions = np.array([one.world_from_camera[:3, 3] for one in path]).reshape(-1, 3)
    # The path may have poses that the state does not have yet: those of frames in the network.
    graph = view_graph(atlas)
    known = graph.fragment_ids
    newest = known[-1] if len(known) else 0
    more = np.full(max(len(positions) - len(known), 0), newest)
    graph = replace(graph, fragment_ids=np.concatenate([known, more])[
        max(len(known) - len(positions), 0):])
    return _scene(read_ply(folder / 'map' / CLOUD), positions, graph, atlas.kept_keyframes(),
                  metres)


def small_jpeg(rgb: np.ndarray, longest_px: int = THUMBNAIL_PX) -> bytes:
    """Return an image uint8 [h, w, 3] as JPEG whose longer side has at most `longest_px`."""
    factor = longest_px / max(rgb.shape[:2])
    if factor < 1.0:
        rgb = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR),
                           [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])
    return jpeg.tobytes()


def data_url(jpeg: bytes) -> str:
    """Return a JPEG image as the address that a page shows it by."""
    return 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()


def spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` of the indices below `count`, evenly, the first and the last too."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(int))


def scene_bounds(points: np.ndarray, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest corner [3] of points [n, 3], without outliers, and a path."""
    parts = [path] if len(path) else []
    if len(points):
        low, high = np.quantile(points, [0.01, 0.99], axis=0)
        reach = MOST_REACH * (high - low).max()
        parts.append(np.stack([np.maximum(points.min(axis=0), low - reach),
                               np.minimum(points.max(axis=0), high + reach)]))
    if not parts:
        return np.zeros(3), np.ones(3)
    corners = np.concatenate(parts)
    return corners.min(axis=0), corners.max(axis=0)


def ceiling(points: np.ndarray, path: np.ndarray) -> float:
    """Return the height above which points [n, 3] are not drawn; infinity without a path."""
    if not (len(path) and len(points)):
        return math.inf
    floor, camera = np.quantile(points[:, 2], 0.02), np.median(path[:, 2])
    return float(floor + CUT * max(camera - floor, 0.0) + 1e-9)


def _scene(cloud: VoxelCloud, positions: np.ndarray, graph: GraphView,
           keyframes: Sequence[tuple[KeptKeyframe, StampedPose]], metres: float) -> MapScene:
    chosen = [keyframes[index] for index in spread(len(keyframes), MOST_THUMBNAILS)]
    thumbnails = [_thumbnail(*one) for one in chosen]
    return MapScene(cloud, positions, graph.fragment_ids, graph.edges[ACCEPTED], thumbnails,
                    metres)


def _thumbnail(keyframe: KeptKeyframe, pose: StampedPose) -> Thumbnail:
    return Thumbnail(keyframe.stamp_ns, keyframe.intrinsics, pose.world_from_camera,
                     small_jpeg(keyframe.rgb()))


def _keyframe_entry(one: Thumbnail, first_ns: int) -> dict[str, Any]:
    camera = one.intrinsics
    stamp = f'{one.stamp_ns // NANOSECONDS}.{one.stamp_ns % NANOSECONDS:09d}'
    return {'stamp': one.label or stamp,
            'after': one.label or f'{(one.stamp_ns - first_ns) / NANOSECONDS:.2f} s',
            'pose': np.round(one.map_from_camera[:3], 5).tolist(),
            'half': [camera.width / (2 * camera.fx), camera.height / (2 * camera.fy)],
            'image': data_url(one.jpeg)}
