# SPDX-License-Identifier: Apache-2.0
"""A map as binary glTF: its points, the camera's path, and the pyramids of the keyframes' views.

It is written here because the format of these three is simple. trimesh, which also writes it,
would be one more dependency, and it writes sRGB colours where glTF has linear ones.
"""
from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from spann3r_ros.core.transforms import transform_points

from .map_content import MapContent, SavedView

MAGIC, VERSION, JSON_CHUNK, BINARY_CHUNK = b'glTF', 2, b'JSON', b'BIN\0'
FLOAT32, ARRAY_BUFFER = 5126, 34962
POINTS, LINES = 0, 1
# A turn by -90 degrees about x: z up becomes y up, as glTF has it.
Y_UP_FROM_Z_UP = [-float(np.sqrt(0.5)), 0.0, 0.0, float(np.sqrt(0.5))]
PATH_COLOR, VIEW_COLOR = (255, 176, 0), (56, 224, 192)
# Height of a view's pyramid as a share of the median depth.
PYRAMID = 0.06


def encode_glb(content: MapContent) -> bytes:
    """Return a map as a GLB file.

    The vertices are in the axes of the map; the root node turns them into those of glTF (y up).
    Colours are linear, as glTF defines them.
    """
    meshes = [('points', POINTS, content.cloud.points, content.cloud.colors)]
    path = np.array([pose.world_from_camera[:3, 3] for pose in content.path]).reshape(-1, 3)
    # trimesh drops strips of lines, so every line has both ends.
    steps = np.stack([path[:-1], path[1:]], axis=1).reshape(-1, 3)
    meshes.append(('path', LINES, steps, _filled(PATH_COLOR, len(steps))))
    if content.views:
        ends = view_pyramids(content.views)
        meshes.append(('views', LINES, ends, _filled(VIEW_COLOR, len(ends))))
    meshes = [one for one in meshes if len(one[2])]
    buffer, header = _Buffer(), _header(content, [name for name, *_ in meshes])
    for name, mode, points, colors in meshes:
        attributes = {'POSITION': buffer.add(points, bounded=True),
                      'COLOR_0': buffer.add(_linear(colors))}
        header['meshes'].append({'name': name, 'primitives': [
            {'attributes': attributes, 'mode': mode, 'material': 0}]})
    data = b''.join(buffer.parts)
    header |= {'accessors': buffer.accessors, 'bufferViews': buffer.views,
               'buffers': [{'byteLength': len(data)}]}
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(data)
    return b''.join([struct.pack('<4sII', MAGIC, VERSION, size),
                     struct.pack('<I4s', len(text), JSON_CHUNK), text,
                     struct.pack('<I4s', len(data), BINARY_CHUNK), data])


def view_pyramids(views: Sequence[SavedView]) -> np.ndarray:
    """Return the ends [n, 3] of lines, in pairs: from each camera to the corners of its image.

    The corners are the outer ones of the image, at a share of the median depth. Four more lines
    join them.
    """
    found = []
    depths = [float(np.nanmedian(depth)) for depth in (view.depth() for view in views)
              if np.isfinite(depth).any()]
    length = PYRAMID * float(np.median(depths)) if depths else 1.0
    for view in views:
        camera = view.intrinsics
        right, low = camera.width - 0.5, camera.height - 0.5
        corners = np.array([[-0.5, -0.5], [right, -0.5], [right, low], [-0.5, low]])
        rays = np.ones((4, 3))
        rays[:, :2] = (corners - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
        ends = transform_points(view.map_from_camera, length * rays)
        centre = np.broadcast_to(view.map_from_camera[:3, 3], (4, 3))
        found += [np.stack([centre, ends], axis=1), np.stack([ends, np.roll(ends, -1, 0)], axis=1)]
    return np.concatenate(found).reshape(-1, 3)


class _Buffer:
    """The arrays of a file, one view and one accessor each."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self._length = 0

    def add(self, vectors: np.ndarray, bounded: bool = False) -> int:
        """Add vectors [n, 3], with their bounds if asked for; return their accessor."""
        vectors = vectors.astype('<f4')
        data = vectors.tobytes()
        self.views.append({'buffer': 0, 'byteOffset': self._length, 'byteLength': len(data),
                           'target': ARRAY_BUFFER})
        self.accessors.append({'bufferView': len(self.views) - 1, 'componentType': FLOAT32,
                               'count': len(vectors), 'type': 'VEC3'})
        if bounded:
            self.accessors[-1] |= {'min': vectors.min(axis=0).tolist(),
                                   'max': vectors.max(axis=0).tolist()}
        self.parts.append(data)
        self._length += len(data)
        return len(self.accessors) - 1


def _header(content: MapContent, names: Sequence[str]) -> dict[str, Any]:
    children = [{'name': name, 'mesh': index} for index, name in enumerate(names)]
    root = {'name': 'map', 'rotation': Y_UP_FROM_Z_UP,
            'children': list(range(1, len(children) + 1))}
    return {'asset': {'version': '2.0', 'generator': 'spann3r_ros', 'extras': content.facts},
            'extensionsUsed': ['KHR_materials_unlit'], 'scene': 0,
            'scenes': [{'nodes': [0]}], 'nodes': [root, *children], 'meshes': [],
            'materials': [{'name': 'unlit', 'extensions': {'KHR_materials_unlit': {}},
                           'pbrMetallicRoughness': {'metallicFactor': 0.0}}]}


def _linear(colors: np.ndarray) -> np.ndarray:
    """Return sRGB colours uint8 [n, 3] as linear ones from 0 to 1.

    They are floats: 8 bits have too few steps for dark linear colours, and trimesh 5 takes the
    lower byte of 16 bits.
    """
    table = np.arange(256) / 255.0
    return np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)[colors]


def _filled(color: tuple[int, int, int], count: int) -> np.ndarray:
    return np.full((count, 3), color, np.uint8)
