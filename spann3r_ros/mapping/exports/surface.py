# SPDX-License-Identifier: Apache-2.0
"""A mesh of a cloud: Poisson reconstruction by Open3D, cut to where there are points."""
from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np
from scipy.spatial import cKDTree

from .map_content import MapContent

# Vertices farther from all points are cut off, in voxels: Poisson closes every surface.
REACH_VOXELS = 3.0
# Cells of the octree along one side are powers of two; deeper trees need gigabytes.
MIN_DEPTH, MAX_DEPTH = 4, 11


@dataclass(frozen=True)
class Surface:
    """A mesh: `points`, `normals` float64 [n, 3], `colors` uint8 [n, 3], `faces` int [m, 3]."""

    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    faces: np.ndarray


def find_surface(content: MapContent, normals: np.ndarray) -> Surface:
    """Return the mesh of a map's cloud with its normals [n, 3].

    Raises ValueError if Open3D is not installed, and if no part of the mesh is near the points.
    """
    open3d, cloud = load_open3d(), content.cloud
    utility = open3d.utility
    points = open3d.geometry.PointCloud(utility.Vector3dVector(cloud.points.astype(float)))
    points.normals = utility.Vector3dVector(normals.astype(float))
    points.colors = utility.Vector3dVector(cloud.colors / 255.0)
    extent = float(np.ptp(cloud.points, axis=0).max())
    # One thread: with several, the mesh of a cloud is another one each time.
    mesh, _ = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
        points, depth=_depth(extent, content.voxel_size), n_threads=1)
    vertices = np.asarray(mesh.vertices)
    distances, _ = cKDTree(cloud.points).query(vertices)
    mesh.remove_vertices_by_mask(distances > REACH_VOXELS * content.voxel_size)
    mesh.compute_vertex_normals()
    if not len(mesh.triangles):
        raise ValueError(f'mesh: expected triangles within {REACH_VOXELS:g} voxels of the points, '
                         f'got none for {len(cloud)} points')
    colors = np.rint(np.clip(np.asarray(mesh.vertex_colors), 0.0, 1.0) * 255.0)
    return Surface(np.asarray(mesh.vertices), np.asarray(mesh.vertex_normals),
                   colors.astype(np.uint8), np.asarray(mesh.triangles))


def load_open3d() -> ModuleType:
    """Return the module open3d; raise ValueError, with what to do, if it cannot be imported."""
    try:
        return import_module('open3d')
    # A system library that Open3D needs may be missing too.
    except ImportError as error:
        raise ValueError(f'mesh: expected the package open3d, cannot import it: {error}; run: '
                         'pip install open3d, or leave mesh out of --to') from error


def _depth(extent: float, voxel_size: float) -> int:
    """Return the depth of an octree whose cells are about as large as two voxels."""
    cells = extent / max(2.0 * voxel_size, 1e-12)
    return int(np.clip(np.ceil(np.log2(max(cells, 1.0))), MIN_DEPTH, MAX_DEPTH))
