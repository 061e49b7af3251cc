# SPDX-License-Identifier: Apache-2.0
"""The cells that a depth image shows to be free: those whose centre is in front of the surface.

Each cell of the view is projected into the image once. So no cell is missed between two rays, and
none is counted twice.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spann3r_ros.core.camera import Intrinsics
from spann3r_ros.mapping.layers.voxel_store import KEY_REACH

from .occupancy_store import CELLS, EDGE, pack

# How many blocks are projected at once: their values stay in the cache of a core.
CHUNK = 128
# A coarse image has the largest limit of POOL x POOL pixels; radii are in its pixels.
POOL = 8
RADII = (1, 2, 4, 8)
ROOT3 = float(np.sqrt(3.0))


@dataclass(frozen=True)
class DepthView:
    """How far a camera sees: `limit` float32 [h, w] is the depth up to which a pixel is free.

    It is 0 where nothing is known. `weight` uint8 [h, w] is how much a pixel counts.
    """

    fragment_from_camera: np.ndarray
    intrinsics: Intrinsics
    limit: np.ndarray
    weight: np.ndarray


def free_cells(view: DepthView, cell_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return keys int64 [n], ascending, and weights uint8 [n, 512] of the blocks with free cells.

    The weight of a cell is that of the pixel in which its centre is seen; 0 if it is not free.
    """
    blocks = _blocks_in_view(view, EDGE * cell_size)
    rows = _pixel_rows(view.intrinsics)
    rotation = rows @ view.fragment_from_camera[:3, :3].T
    # Relative to the camera: far from the origin of the fragment float32 would be too coarse.
    corners = blocks * (EDGE * cell_size) - view.fragment_from_camera[:3, 3]
    first = (rotation @ corners.T).astype(np.float32)  # [3, n]
    inside = (np.indices((EDGE, EDGE, EDGE)).reshape(3, CELLS) + 0.5) * cell_size
    offset = (rotation @ inside).astype(np.float32)  # [3, 512]
    padded = cv2.copyMakeBorder(view.limit, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0.0)
    weights = cv2.copyMakeBorder(view.weight, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    height, width = padded.shape
    found = np.empty((len(blocks), CELLS), np.uint8)
    for start in range(0, len(blocks), CHUNK):
        part = np.s_[start:start + CHUNK]
        depth = first[2, part, None] + offset[2]
        ahead = np.maximum(depth, np.float32(cell_size))
        column = (first[0, part, None] + offset[0]) / ahead
        row = (first[1, part, None] + offset[1]) / ahead
        # The border has the limit 0, so that what is outside of the image is not free.
        np.clip(column, 0.0, width - 1, out=column)
        np.clip(row, 0.0, height - 1, out=row)
        pixel = row.astype(np.int32)
        pixel *= width
        pixel += column.astype(np.int32)
        free = depth < padded.reshape(-1).take(pixel)
        free &= depth > cell_size
        np.multiply(weights.reshape(-1).take(pixel), free, out=found[part])
    some = np.flatnonzero(found.any(axis=1))
    keys = pack(blocks[some])
    order = np.argsort(keys)
    return keys[order], found[some[order]]


def _pixel_rows(intrinsics: Intrinsics) -> np.ndarray:
    """Return the matrix [3, 3] from camera coordinates to depth times padded pixel, and depth.

    The column is counted such that its whole part is the pixel in the image with its border.
    """
    return np.array([[intrinsics.fx, 0.0, intrinsics.cx + 1.5],
                     [0.0, intrinsics.fy, intrinsics.cy + 1.5], [0.0, 0.0, 1.0]])


def _blocks_in_view(view: DepthView, edge: float) -> np.ndarray:
    """Return the blocks int64 [n, 3] of an edge that may have free cells."""
    pose, farthest = view.fragment_from_camera, float(view.limit.max(initial=0.0))
    if farthest <= 0.0:
        return np.zeros((0, 3), np.int64)
    low, high = _bounds(view, farthest)
    low = np.maximum(np.floor(low / edge), 1 - KEY_REACH).astype(np.int64)
    high = np.minimum(np.floor(high / edge), KEY_REACH - 1).astype(np.int64)
    if (low > high).any():
        return np.zeros((0, 3), np.int64)
    blocks = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)),
                                  indexing='ij'), axis=-1).reshape(-1, 3)
    radius = 0.5 * ROOT3 * edge
    seen = ((blocks + 0.5) * edge - pose[:3, 3]) @ pose[:3, :3]  # [n, 3] in the camera
    x, y, z = seen.T
    within = (z > -radius) & (z - radius < farthest)
    camera = view.intrinsics
    for along, size, focal, centre in ((x, camera.width, camera.fx, camera.cx),
                                       (y, camera.height, camera.fy, camera.cy)):
        for border, sign in ((-0.5, 1.0), (size - 0.5, -1.0)):
            slope = (border - centre) / focal
            within &= sign * (along - slope * z) > -radius * np.hypot(1.0, slope)
    blocks, seen = blocks[within], seen[within]
    return blocks[_reach_into_view(view, seen, radius)]


def _bounds(view: DepthView, farthest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest coordinates [3] of what a view shows, in the fragment."""
    camera = view.intrinsics
    columns = np.array([-0.5, camera.width - 0.5, -0.5, camera.width - 0.5])
    rows = np.array([-0.5, -0.5, camera.height - 0.5, camera.height - 0.5])
    rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy,
                     np.ones(4)], axis=1)
    corners = farthest * rays @ view.fragment_from_camera[:3, :3].T
    centre = view.fragment_from_camera[:3, 3]
    return (centre + np.minimum(corners.min(axis=0), 0.0),
            centre + np.maximum(corners.max(axis=0), 0.0))


def _reach_into_view(view: DepthView, seen: np.ndarray, radius: float) -> np.ndarray:
    """Return which spheres about points [n, 3] in the camera begin in front of the surface."""
    camera = view.intrinsics
    x, y, z = seen.T
    nearest = z - radius
    open_ = nearest < radius  # too near to bound their pixels
    ahead = np.where(open_, 1.0, nearest)
    # Bounds the distance of a sphere's pixels from that of its centre, also off the axis.
    tilt = 1.0 + (np.abs(x) + np.abs(y)) / np.where(open_, 1.0, z)
    pixels = max(camera.fx, camera.fy) * radius / ahead * tilt / POOL
    coarse = _pooled(view.limit)
    depth = np.where(open_, 1.0, z)
    row = np.clip((camera.fy * y / depth + camera.cy) / POOL, 0, coarse.shape[0] - 1).astype(int)
    column = np.clip((camera.fx * x / depth + camera.cx) / POOL, 0,
                     coarse.shape[1] - 1).astype(int)
    visible = open_ | (pixels > RADII[-1])
    for radius_px in reversed(RADII):
        size = 2 * radius_px + 1
        level = cv2.dilate(coarse, np.ones((size, size), np.uint8))
        fits = ~open_ & (pixels <= radius_px)
        visible = np.where(fits, nearest < level[row, column], visible)
    return visible


def _pooled(limit: np.ndarray) -> np.ndarray:
    """Return the largest of POOL x POOL pixels each, float32."""
    height, width = (-(-length // POOL) * POOL for length in limit.shape)
    padded = np.zeros((height, width), np.float32)
    padded[:limit.shape[0], :limit.shape[1]] = limit
    return padded.reshape(height // POOL, POOL, width // POOL, POOL).max(axis=(1, 3))
