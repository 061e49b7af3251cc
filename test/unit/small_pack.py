# SPDX-License-Identifier: Apache-2.0
"""A pack of a few drawn textures and simple meshes."""
from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from spann3r_ros.rooms.assets.asset_pack import AssetPack, PackedMesh
from spann3r_ros.rooms.places.surfaces import Look, SurfaceBuilder

PHOTOGRAPHS = 4
CATEGORIES = ('Living room', 'Office', 'Kitchen', 'Miscellaneous', 'Doors and windows')


@cache
def small_pack() -> AssetPack:
    """Return the pack; equal in every call."""
    rng = np.random.default_rng(7)
    textures = []
    for _ in range(PHOTOGRAPHS + 1):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        image = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
        textures.append(cv2.imencode('.jpg', image)[1].tobytes())
    meshes = [box_mesh(f'piece {index}', category, rng.uniform(0.3, 1.5, 3))
              for index, category in enumerate(CATEGORIES * 2)]
    meshes += [box_mesh(f'thing {index}', 'Miscellaneous', rng.uniform(0.05, 0.3, 3))
               for index in range(3)]
    return AssetPack(tuple(textures), PHOTOGRAPHS, tuple(meshes),
                     ({'name': 'drawn', 'path': '', 'licences': 'CC0-1.0'},))


def box_mesh(name: str, category: str, size: np.ndarray) -> PackedMesh:
    """Return a box of a size that stands on the floor, half of it with a texture."""
    builder = SurfaceBuilder()
    builder.box(np.array((0.0, 0.0, size[2] / 2)), size / 2, 0.0, Look(0))
    surfaces = builder.build()
    corners = surfaces.corners.numpy().reshape(-1, 3)
    faces = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    texture = np.where(np.arange(len(faces)) % 4 < 2, PHOTOGRAPHS, -1).astype(np.int32)
    return PackedMesh(name, category, float(size[2]), 0.0, corners,
                      surfaces.uv.numpy().reshape(-1, 2), faces, texture,
                      np.full((len(faces), 3), 0.6, np.float32))
