# SPDX-License-Identifier: Apache-2.0
"""The formats to which a map can be exported, and their files."""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .colmap_files import Model, build_model, encode_binary, encode_text
from .glb_files import encode_glb
from .image_tracks import Tracks, find_tracks
from .map_content import MapContent, Progress, silent
from .nerfstudio_files import encode_transforms
from .normals import find_normals
from .pcd_files import encode_pcd
from .ply_files import encode_mesh, encode_ply
from .surface import find_surface, load_open3d
from .trajectory_files import encode_kitti, encode_times, encode_tum

POINTS, IMAGES, MODEL, ABOUT = 'points.ply', 'images', 'sparse/0', 'export.json'
Files = dict[str, bytes]


@dataclass(frozen=True)
class _Export:
    """A map and what several formats need of it, each computed once."""

    content: MapContent
    progress: Progress

    @cached_property
    def normals(self) -> np.ndarray:
        return find_normals(self.content, self.progress)

    @cached_property
    def tracks(self) -> Tracks:
        return find_tracks(self.content.views, self.progress)

    @cached_property
    def model(self) -> Model:
        return build_model(self.content.views, self.tracks)

    def ply(self) -> Files:
        return {POINTS: encode_ply(self.content.cloud, self.normals, self.content.notes)}

    def pcd(self) -> Files:
        return {'points.pcd': encode_pcd(self.content.cloud, self.normals, self.content.notes)}

    def mesh(self) -> Files:
        surface = find_surface(self.content, self.normals)
        return {'mesh.ply': encode_mesh(surface.points, surface.normals, surface.colors,
                                        surface.faces, self.content.notes)}

    def glb(self) -> Files:
        return {'map.glb': encode_glb(self.content)}

    def tum(self) -> Files:
        return {'trajectory.tum': encode_tum(self.content.path, self.content.notes)}

    def kitti(self) -> Files:
        return {'trajectory.kitti': encode_kitti(self.content.path),
                'trajectory.kitti.times': encode_times(self.content.path)}

    def nerfstudio(self) -> Files:
        return {'transforms.json': encode_transforms(self.content, IMAGES, POINTS), **self.ply()}

    def colmap(self) -> Files:
        return _inside(MODEL, encode_binary(self.model))

    def colmap_text(self) -> Files:
        return _inside(MODEL, encode_text(self.model, self.content.notes))


FORMATS: dict[str, Callable[[_Export], Files]] = {
    'ply': _Export.ply, 'pcd': _Export.pcd, 'mesh': _Export.mesh, 'glb': _Export.glb,
    'tum': _Export.tum, 'kitti': _Export.kitti, 'nerfstudio': _Export.nerfstudio,
    'colmap': _Export.colmap, 'colmap-text': _Export.colmap_text}
NEED_POINTS = ('ply', 'pcd', 'mesh', 'glb', 'nerfstudio')
NEED_POSES = ('tum', 'kitti')
NEED_VIEWS = ('nerfstudio', 'colmap', 'colmap-text')


def read_formats(text: str) -> list[str]:
    """Return the names of formats, separated by commas; raise ValueError for others."""
    names = [name.strip() for name in text.split(',') if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise ValueError(f'to: expected some of {", ".join(FORMATS)}, separated by commas, '
                         f'got {unknown[0] if unknown else text!r}')
    return list(dict.fromkeys(names))


def check_formats(content: MapContent, formats: Sequence[str]) -> None:
    """Raise ValueError for a format that needs what a map or this computer does not have."""
    if 'mesh' in formats:
        load_open3d()
    needs = (('points', NEED_POINTS, len(content.cloud)),
             ('poses', NEED_POSES, len(content.path)),
             ('keyframes that are kept, with image and depth', NEED_VIEWS, len(content.views)))
    for what, names, count in needs:
        lacking = [name for name in formats if name in names and not count]
        if lacking:
            raise ValueError(f'to: expected a map with {what} for {", ".join(lacking)}, '
                             'this one has none')


def export(content: MapContent, formats: Sequence[str], progress: Progress = silent) -> Files:
    """Return the files of formats, by their path in the output folder; `export.json` is one.

    Raises ValueError for a map that lacks what a format needs, and for a mesh without Open3D.
    """
    check_formats(content, formats)
    whole, files = _Export(content, progress), {}
    for name in formats:
        files |= FORMATS[name](whole)
    return {**files, ABOUT: (json.dumps(_about(whole, formats), indent=1) + '\n').encode()}


def _about(whole: _Export, formats: Sequence[str]) -> dict[str, Any]:
    """Return what `export.json` has: the facts of the map, the camera, counts, and errors."""
    content = whole.content
    about = {**content.facts, 'formats': list(formats), 'points': len(content.cloud),
             'voxel_size': content.voxel_size, 'poses': len(content.path),
             'keyframes': len(content.views)}
    if content.views:
        first = content.views[0].intrinsics
        distorted = content.calibration is not None and content.calibration.distortion is not None
        about['camera'] = {
            'images': 'rectified' if distorted else 'as recorded', 'model': 'PINHOLE',
            'calibrated': content.calibration is not None, 'width': first.width,
            'height': first.height, 'cameras': len({one.intrinsics for one in content.views})}
    if any(name.startswith('colmap') for name in formats):
        tracks = whole.tracks
        about['tracks'] = {
            'points': len(tracks.points), 'observations': len(tracks.pixels),
            'mean_reprojection_px': _number(tracks.mean_error), 'found': tracks.found,
            'mean_reprojection_of_found_px': _number(tracks.mean_found)}
    return about


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _inside(folder: str, files: Files) -> Files:
    return {f'{folder}/{name}': content for name, content in files.items()}
