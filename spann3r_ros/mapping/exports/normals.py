# SPDX-License-Identifier: Apache-2.0
"""Normals of a cloud by local principal components, towards the cameras that saw its points."""
from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from spann3r_ros.core.transforms import invert, transform_points

from .map_content import MapContent, Progress, SavedView, silent

NEIGHBOURS = 16
# Points whose neighbours are looked for at once.
CHUNK = 50_000
# A view saw a point if its depth there differs by this share at most.
SAME_DEPTH = 0.05
# Edge of the blocks by which views are compared with points, in voxels.
BLOCK_VOXELS = 32


def find_normals(content: MapContent, progress: Progress = silent) -> np.ndarray:
    """Return the unit normals of the cloud, float32 [n, 3].

    A normal is the direction in which the nearest points vary least. It points to the oldest of
    the views in which the point is seen at its depth, else to the nearest camera of the path; for
    a map without a path its sign is arbitrary.
    """
    cloud = content.cloud.points.astype(float)
    if not len(cloud):
        return np.zeros((0, 3), np.float32)
    # Neighbours in the array are neighbours in space then, which makes the search faster.
    blocks, order, starts = _blocks(cloud, BLOCK_VOXELS * content.voxel_size)
    points = cloud[order]
    normals = _least_directions(points, progress)
    towards = _towards_cameras(points, blocks, starts, content)
    normals[np.einsum('ij,ij->i', normals, towards) < 0.0] *= -1.0
    placed = np.empty((len(cloud), 3), np.float32)
    placed[order] = normals
    return placed


def _blocks(points: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the spheres [m, 4] about the points of each block, the order, and the starts."""
    extent = float(np.ptp(points, axis=0).max())
    cells = np.floor((points - points.min(axis=0)) / max(edge, extent / 1000, 1e-12))
    keys = (cells[:, 0] * 1024 + cells[:, 1]) * 1024 + cells[:, 2]
    order = np.argsort(keys, kind='stable')
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1.0))
    ordered = points[order]
    low, high = (reduce.reduceat(ordered, starts, axis=0) for reduce in (np.minimum, np.maximum))
    spheres = np.concatenate([0.5 * (low + high),
                              0.5 * np.linalg.norm(high - low, axis=1)[:, None]], axis=1)
    return spheres, order, starts


def _least_directions(points: np.ndarray, progress: Progress) -> np.ndarray:
    """Return the direction of the least variance about each point, float64 [n, 3]."""
    count = min(NEIGHBOURS, len(points))
    tree, normals = cKDTree(points), np.empty((len(points), 3))
    for start in progress(range(0, len(points), CHUNK), 'normals'):
        part = slice(start, start + CHUNK)
        _, nearest = tree.query(points[part], k=count)
        nearby = points[nearest.reshape(-1, count)] - points[part, None]
        nearby -= nearby.mean(axis=1, keepdims=True)
        # einsum takes ten times as long as this product.
        normals[part] = np.linalg.eigh(nearby.transpose(0, 2, 1) @ nearby)[1][:, :, 0]
    return normals


def _towards_cameras(points: np.ndarray, blocks: np.ndarray, starts: np.ndarray,
                     content: MapContent) -> np.ndarray:
    """Return for each point the direction [n, 3] to a camera that saw it."""
    towards, unseen = np.zeros((len(points), 3)), np.ones(len(points), bool)
    block_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(points))))
    for view in content.views:
        near = _blocks_in_view(view, blocks)
        rows = np.flatnonzero(near[block_of] & unseen)
        rows = rows[_sees(view, points[rows], content.voxel_size)]
        towards[rows] = view.map_from_camera[:3, 3] - points[rows]
        unseen[rows] = False
    centres = np.array([pose.world_from_camera[:3, 3] for pose in content.path]).reshape(-1, 3)
    if len(centres) and unseen.any():
        _, nearest = cKDTree(centres).query(points[unseen])
        towards[unseen] = centres[nearest] - points[unseen]
    return towards


def _blocks_in_view(view: SavedView, spheres: np.ndarray) -> np.ndarray:
    """Return which spheres [m, 4] may reach into the cone about a view, bool [m]."""
    camera = view.kept.intrinsics
    reach = max(np.hypot((x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy)
                for x in (0, camera.width) for y in (0, camera.height))
    seen = transform_points(invert(view.map_from_camera), spheres[:, :3])
    distance = np.linalg.norm(seen, axis=1)
    with np.errstate(invalid='ignore', divide='ignore'):
        angle = np.arccos(np.clip(seen[:, 2] / distance, -1.0, 1.0))
        radius = np.arcsin(np.clip(spheres[:, 3] / distance, 0.0, 1.0))
    return (distance <= spheres[:, 3]) | (angle <= np.arctan(reach) + radius)


def _sees(view: SavedView, points: np.ndarray, voxel_size: float) -> np.ndarray:
    """Return which points [n, 3] a view shows at their depth, bool [n]."""
    camera = view.kept.intrinsics
    seen = transform_points(invert(view.map_from_camera), points)
    z = np.where(seen[:, 2] > 1e-9, seen[:, 2], np.nan)
    with np.errstate(invalid='ignore'):
        x = np.rint(seen[:, 0] / z * camera.fx + camera.cx)
        y = np.rint(seen[:, 1] / z * camera.fy + camera.cy)
        inside = (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    depth = np.full(len(points), np.nan)
    depth[inside] = view.depth()[y[inside].astype(int), x[inside].astype(int)]
    with np.errstate(invalid='ignore'):
        return np.abs(depth - z) <= SAME_DEPTH * z + voxel_size
