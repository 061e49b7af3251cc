# SPDX-License-Identifier: Apache-2.0
"""Which triangle each pixel sees: by Embree on a CPU, by products of matrices on a GPU."""
from __future__ import annotations

from importlib.util import find_spec
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


def check_embree() -> None:
    """Raise ValueError if the package is missing that casts rays on a CPU."""
    if find_spec('embreex') is None:
        raise ValueError("embreex: expected this package, which casts rays on a CPU; install the "
                         "extra `places`: pip install 'spann3r_ros[places]'")


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
        height, width = rays.rows.shape[1], rays.columns.shape[1]
        local = (self._corners - rays.origin[:, None, None]) @ rays.rotation[:, None]
        low, high, visible = _bounds(local, rays)
        view, index = visible.nonzero().unbind(1)
        inverse, regular = _inverse(local[view, index])
        view, index, inverse = view[regular], index[regular], inverse[regular]
        pair, tile = _sort(view, low[view, index], high[view, index], height, width)
        directions = _tiled(view_directions(rays))
        nearest = torch.zeros(directions.shape[:2], device=local.device)
        winner = torch.full(directions.shape[:2], -1, device=local.device)
        items, owner = _bundles(tile, len(directions))
        for start in range(0, len(owner), ITEMS):
            part, owns = items[start:start + ITEMS], owner[start:start + ITEMS]
            chosen = pair[part.clamp_min(0)]
            # [items, bundle, 3, pixels]
            weight = inverse[chosen] @ directions[owns].mT[:, None]
            depth = weight.sum(2)
            outside = (weight < -EDGE * depth.abs()[:, :, None]).any(2) | (part < 0)[..., None]
            near, place = depth.masked_fill(outside, 0.0).max(1)
            _keep_nearest(nearest, winner, owns, near, index[chosen.gather(1, place)])
        winner[nearest <= 0.0] = -1
        return _untiled(winner, len(rays.origin), height, width)


def view_directions(rays: Rays) -> Tensor:
    """Return the directions of unit depth in the camera's frame, [N, H, W, 3]."""
    count, (height, width) = len(rays.origin), (rays.rows.shape[1], rays.columns.shape[1])
    directions = torch.ones(count, height, width, 3, device=rays.origin.device)
    directions[..., 0] = rays.columns[:, None, :]
    directions[..., 1] = rays.rows[:, :, None]
    return directions


def _bounds(local: Tensor, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
    """Return first and last pixel [N, T, 2] (x, y) of triangles, and whether they may be seen.

    A triangle that reaches behind the camera may cover the whole image.
    """
    depth = local[..., 2]
    ahead = depth.amin(2) > NEAR_METRES
    flat = local[..., :2] / depth.clamp_min(NEAR_METRES)[..., None]
    origin = torch.stack((rays.columns[:, 0], rays.rows[:, 0]), 1)
    step = torch.stack((rays.columns[:, 1], rays.rows[:, 1]), 1) - origin
    pixel = ((flat - origin[:, None, None]) / step[:, None, None]).clamp(-1e6, 1e6)
    last = torch.tensor((rays.columns.shape[1] - 1, rays.rows.shape[1] - 1), device=local.device)
    low = torch.where(ahead[..., None], (pixel.amin(2) - 0.5).floor().long(), 0)
    high = torch.where(ahead[..., None], (pixel.amax(2) + 0.5).ceil().long(), last)
    visible = (depth.amax(2) > NEAR_METRES) & (low <= last).all(2) & (high >= 0).all(2)
    return low.clamp_min(0), high.minimum(last), visible


def _inverse(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverses [P, 3, 3] of matrices whose columns are corners, and which exist."""
    first, second, third = corners.double().unbind(1)
    rows = torch.stack((torch.linalg.cross(second, third), torch.linalg.cross(third, first),
                        torch.linalg.cross(first, second)), 1)
    determinant = (first * rows[:, 0]).sum(1)
    inverse = (rows / determinant[:, None, None]).float()
    return inverse, inverse.isfinite().flatten(1).all(1)


def _sort(view: Tensor, low: Tensor, high: Tensor, height: int,
          width: int) -> tuple[Tensor, Tensor]:
    """Return what overlaps by its bounds: places in `view` and tiles, in the order of tiles.

    The tiles are counted view by view, row by row.
    """
    rows, columns = -(-height // TILE), -(-width // TILE)
    first, last = low // TILE, high // TILE
    span = last - first + 1
    count = span[:, 0] * span[:, 1]
    pair = torch.arange(len(low), device=low.device).repeat_interleave(count)
    rank = torch.arange(len(pair), device=low.device) - (count.cumsum(0) - count)[pair]
    across = span[pair, 0]
    row = first[pair, 1] + rank // across
    tile = (view[pair] * rows + row) * columns + first[pair, 0] + rank % across
    tile, order = tile.sort(stable=True)
    return pair[order], tile


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
    place = owner[:, None].expand_as(near)
    best = nearest.scatter_reduce(0, place, near, 'amax')
    wins = (near == best[owner]) & (near > nearest[owner])
    # Of triangles at one place the first wins, whatever the order of the items.
    last = torch.iinfo(found.dtype).max
    first = torch.full_like(winner, last).scatter_reduce(
        0, place, found.masked_fill(~wins, last), 'amin')
    winner.copy_(torch.where(first < last, first, winner))
    nearest.copy_(best)


def _tiled(images: Tensor) -> Tensor:
    """Return the pixels [tiles, TILE * TILE, 3] of images [N, H, W, 3], their edges repeated."""
    height, width = images.shape[1:3]
    rows, columns = -(-height // TILE), -(-width // TILE)
    place = [torch.arange(count * TILE, device=images.device).clamp_max(size - 1)
             for count, size in ((rows, height), (columns, width))]
    padded = images[:, place[0]][:, :, place[1]]
    return padded.view(-1, rows, TILE, columns, TILE, 3).transpose(2, 3).reshape(
        -1, TILE * TILE, 3)


def _untiled(pixels: Tensor, count: int, height: int, width: int) -> Tensor:
    """Return the images [N, H, W] of pixels [tiles, TILE * TILE]."""
    rows, columns = -(-height // TILE), -(-width // TILE)
    images = pixels.view(count, rows, columns, TILE, TILE).transpose(2, 3)
    return images.reshape(count, rows * TILE, columns * TILE)[:, :height, :width]
