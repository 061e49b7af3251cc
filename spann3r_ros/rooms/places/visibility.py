# SPDX-License-Identifier: Apache-2.0
"""Which triangle each pixel sees: by Embree on a CPU, by products of matrices on a GPU."""
from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.rooms.raycast import Rays

from .surfaces import Surfaces

# Pixels a side of the tiles into which the rasteriser sorts triangles, triangles of one item of
# work, and items that are computed at once.
TILE, BUNDLE, ITEMS = 16, 64, 2048
# A pixel belongs to a triangle up to this far outside its edges, in barycentric coordinates.
EDGE = 1e-4
NEAR_METRES = 0.02


class Caster(Protocol):
    """The triangles of a place, ready for views."""

    def first_hits(self, rays: Rays) -> Tensor:
        """Return the triangle that each pixel sees, int64 [N, H, W]; -1: none."""


def open_caster(surfaces: Surfaces) -> Caster:
    """Return Embree for triangles on a CPU, else the rasteriser."""
    return (EmbreeCaster if surfaces.corners.device.type == 'cpu' else Rasteriser)(surfaces)


class EmbreeCaster:
    """Embree's tree over the triangles."""

    def __init__(self, surfaces: Surfaces) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, surfaces.corners.numpy())

    def first_hits(self, rays: Rays) -> Tensor:
        """Return the triangle that each pixel sees, int64 [N, H, W]; -1: none."""
        directions = view_directions(rays) @ rays.rotation.mT[:, None]
        shape = directions.shape[:-1]
        origins = rays.origin[:, None, None].expand(directions.shape)
        hits = self._scene.run(
            np.ascontiguousarray(origins.reshape(-1, 3).numpy(), np.float32),
            np.ascontiguousarray(directions.reshape(-1, 3).numpy(), np.float32))
        return torch.from_numpy(np.asarray(hits, np.int64)).view(shape)


class Rasteriser:
    """A rasteriser without clipping, in the homogeneous coordinates of Olano and Greer (1997).

    With the corners of a triangle as the columns of a matrix M, in the camera's frame, a ray r
    hits it where M^-1 r has no negative component; their sum is the inverse depth.
    """

    def __init__(self, surfaces: Surfaces) -> None:
        self._corners = surfaces.corners

    def first_hits(self, rays: Rays) -> Tensor:
        """Return the triangle that each pixel sees, int64 [N, H, W]; -1: none."""
        return torch.stack([self._view(rays.select(slice(index, index + 1)))
                            for index in range(len(rays.origin))])

    def _view(self, rays: Rays) -> Tensor:
        height, width = rays.rows.shape[1], rays.columns.shape[1]
        local = (self._corners - rays.origin) @ rays.rotation[0]
        low, high, visible = _bounds(local, rays)
        index = visible.nonzero().flatten()
        inverse, regular = _inverse(local[index])
        index, inverse = index[regular], inverse[regular]
        triangle, tile = _sort(low[index], high[index], height, width)
        directions = _tiled(view_directions(rays)[0])
        nearest = torch.zeros(directions.shape[:2], device=local.device)
        winner = torch.full(directions.shape[:2], -1, device=local.device)
        items, owner = _bundles(tile, len(directions))
        for start in range(0, len(owner), ITEMS):
            part, owns = items[start:start + ITEMS], owner[start:start + ITEMS]
            chosen = triangle[part.clamp_min(0)]
            # [items, bundle, 3, pixels]
            weight = inverse[chosen] @ directions[owns].mT[:, None]
            depth = weight.sum(2)
            outside = (weight < -EDGE * depth.abs()[:, :, None]).any(2) | (part < 0)[..., None]
            near, place = depth.masked_fill(outside, 0.0).max(1)
            found = index[chosen.gather(1, place)]
            _keep_nearest(nearest, winner, owns, near, found)
        winner[nearest <= 0.0] = -1
        return _untiled(winner, height, width)


def view_directions(rays: Rays) -> Tensor:
    """Return the directions of unit depth in the camera's frame, [N, H, W, 3]."""
    count, (height, width) = len(rays.origin), (rays.rows.shape[1], rays.columns.shape[1])
    directions = torch.ones(count, height, width, 3, device=rays.origin.device)
    directions[..., 0] = rays.columns[:, None, :]
    directions[..., 1] = rays.rows[:, :, None]
    return directions


def _bounds(local: Tensor, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first and last pixel [T, 2] (x, y) of triangles, and whether they may be seen.

    A triangle that reaches behind the camera may cover the whole image.
    """
    depth = local[..., 2]
    ahead = depth.amin(1) > NEAR_METRES
    flat = local[..., :2] / depth.clamp_min(NEAR_METRES)[..., None]
    origin = torch.stack((rays.columns[0, 0], rays.rows[0, 0]))
    step = torch.stack((rays.columns[0, 1] - rays.columns[0, 0],
                        rays.rows[0, 1] - rays.rows[0, 0]))
    pixel = ((flat - origin) / step).clamp(-1e6, 1e6)
    last = torch.tensor((rays.columns.shape[1] - 1, rays.rows.shape[1] - 1), device=local.device)
    low = torch.where(ahead[:, None], (pixel.amin(1) - 0.5).floor().long(), 0)
    high = torch.where(ahead[:, None], (pixel.amax(1) + 0.5).ceil().long(), last)
    visible = (depth.amax(1) > NEAR_METRES) & (low <= last).all(1) & (high >= 0).all(1)
    return low.clamp_min(0), high.minimum(last), visible


def _inverse(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverses [T, 3, 3] of matrices of corners, and which of them exist."""
    inverse, info = torch.linalg.inv_ex(corners.double().mT)
    inverse = inverse.float()
    return inverse, (info == 0) & inverse.isfinite().all(2).all(1)


def _sort(low: Tensor, high: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return pairs of triangle and tile that overlap by their bounds, in the order of tiles."""
    columns = -(-width // TILE)
    first, last = low // TILE, high // TILE
    span = last - first + 1
    count = span[:, 0] * span[:, 1]
    triangle = torch.arange(len(low), device=low.device).repeat_interleave(count)
    rank = torch.arange(len(triangle), device=low.device) - (
        count.cumsum(0) - count)[triangle]
    across = span[triangle, 0]
    tile = (first[triangle, 1] + rank // across) * columns + first[triangle, 0] + rank % across
    tile, order = tile.sort(stable=True)
    return triangle[order], tile


def _bundles(tile: Tensor, tiles: int) -> tuple[Tensor, Tensor]:
    """Return items of work: places in the sorted pairs [items, BUNDLE], -1: none, and tiles."""
    count = torch.bincount(tile, minlength=tiles)
    start = count.cumsum(0) - count
    bundles = -(-count // BUNDLE)
    owner = torch.arange(tiles, device=tile.device).repeat_interleave(bundles)
    rank = torch.arange(len(owner), device=tile.device) - (bundles.cumsum(0) - bundles)[owner]
    offset = rank[:, None] * BUNDLE + torch.arange(BUNDLE, device=tile.device)
    place = start[owner][:, None] + offset
    return place.masked_fill(offset >= count[owner][:, None], -1), owner


def _keep_nearest(nearest: Tensor, winner: Tensor, owner: Tensor, near: Tensor,
                  found: Tensor) -> None:
    """Replace inverse depths and triangles [tiles, pixels] by nearer ones of items, in place."""
    best = nearest.scatter_reduce(0, owner[:, None].expand_as(near), near, 'amax')
    wins = (near == best[owner]) & (near > nearest[owner])
    rows, pixels = wins.nonzero().unbind(1)
    winner[owner[rows], pixels] = found[rows, pixels]
    nearest.copy_(best)


def _tiled(image: Tensor) -> Tensor:
    """Return the pixels [tiles, TILE * TILE, 3] of an image [H, W, 3], its edges repeated."""
    height, width = image.shape[:2]
    rows, columns = -(-height // TILE), -(-width // TILE)
    place = [torch.arange(count * TILE, device=image.device).clamp_max(size - 1)
             for count, size in ((rows, height), (columns, width))]
    padded = image[place[0]][:, place[1]]
    return padded.view(rows, TILE, columns, TILE, 3).transpose(1, 2).reshape(
        rows * columns, TILE * TILE, 3)


def _untiled(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return the image [H, W] of pixels [tiles, TILE * TILE]."""
    rows, columns = -(-height // TILE), -(-width // TILE)
    image = pixels.view(rows, columns, TILE, TILE).transpose(1, 2)
    return image.reshape(rows * TILE, columns * TILE)[:height, :width]
