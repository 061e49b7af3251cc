# SPDX-License-Identifier: Apache-2.0
"""Colours of what the pixels of a place see: textures, lamps with soft shadows, gloss."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spann3r_ros.rooms.raycast import Rays
from spann3r_ros.rooms.textures import TextureBank

from .place import Place
from .surfaces import Surfaces
from .visibility import Caster, view_directions

# Pixels a side of each face of a lamp's shadow map.
SHADOW_SIZE = 96
SHADOW_BIAS = (0.03, 0.02)  # metres, and share of the distance
# Forward, right and down of the six faces of a cube: +x, -x, +y, -y, +z, -z.
_FACES = (((1, 0, 0), (0, -1, 0), (0, 0, -1)), ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
          ((0, 1, 0), (1, 0, 0), (0, 0, -1)), ((0, -1, 0), (-1, 0, 0), (0, 0, -1)),
          ((0, 0, 1), (1, 0, 0), (0, 1, 0)), ((0, 0, -1), (1, 0, 0), (0, -1, 0)))
# How much corners of a room darken, and how far from a wall, metres.
_CORNER_LOSS, _CORNER_REACH = 0.35, 0.25
_GLOSS_POWER = 24


@dataclass(frozen=True)
class PlaceTable:
    """What shading needs of each triangle, [T, columns]: floats, and int32 textures [T].

    Columns: unit normal (3) and offset of the plane; u and v as functions of the world's x, y, z
    and 1 (8); tint (3), gloss, glow; log2 of the tiles per metre.
    """

    columns: Tensor
    texture: Tensor

    @classmethod
    def of(cls, surfaces: Surfaces) -> PlaceTable:
        """Return the table of triangles."""
        corners = surfaces.corners.double()
        first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        normal = torch.linalg.cross(first, second)
        area = normal.norm(dim=1, keepdim=True).clamp_min(1e-12)
        across = torch.linalg.cross(second, normal) / area.square()
        upward = torch.linalg.cross(normal, first) / area.square()
        uv = surfaces.uv.double()
        edges = uv[:, 1:] - uv[:, :1]  # [T, 2 edges, 2]
        slope = edges[:, 0, :, None] * across[:, None] + edges[:, 1, :, None] * upward[:, None]
        start = uv[:, 0] - (slope * corners[:, None, 0]).sum(2)
        normal = normal / area
        offset = (normal * corners[:, 0]).sum(1, keepdim=True)
        tiles = torch.linalg.cross(
            torch.nn.functional.pad(edges[:, 0], (0, 1)),
            torch.nn.functional.pad(edges[:, 1], (0, 1))).norm(dim=1, keepdim=True)
        density = 0.5 * (tiles / area).clamp_min(1e-6).log2()
        columns = torch.cat((
            normal, offset, torch.cat((slope, start[..., None]), 2).flatten(1),
            surfaces.tint.double(), surfaces.gloss.double()[:, None],
            surfaces.glow.double()[:, None], density), 1)
        return cls(columns.float(), surfaces.texture)


class ShadowCube:
    """The distances from a lamp to what it shines on first, in all directions."""

    def __init__(self, position: Tensor, caster: Caster, table: PlaceTable) -> None:
        self.position = position
        device = position.device
        axes = torch.tensor(_FACES, dtype=torch.float32, device=device)
        # Columns right, down, forward: from the face's camera to the world.
        turned = torch.stack((axes[:, 1], axes[:, 2], axes[:, 0]), 2)
        grid = ((torch.arange(SHADOW_SIZE, device=device) + 0.5) * 2 / SHADOW_SIZE - 1).expand(
            6, -1)
        rays = Rays(position.expand(6, 3), turned, grid, grid)
        hits = caster.first_hits(rays)
        samples = Samples.of(rays, hits)
        depth = sample_depth(table, samples)
        far = depth * samples.direction.norm(dim=1)
        self._distance = far.masked_fill(samples.triangle < 0, torch.inf)
        self._turned = turned

    def lit(self, points: Tensor, cosine: Tensor) -> Tensor:
        """Return the share [P] of the lamp that points [P, 3] see.

        `cosine` [P] is that of the angle between the lamp and the surface's normal.
        """
        towards = points - self.position
        # Within a cell of the map, distances to a surface differ by its slope.
        slope = (1 - cosine.square()).clamp_min(0).sqrt() / cosine.clamp_min(0.05)
        nearer = (SHADOW_BIAS[1] + 1.5 / SHADOW_SIZE * slope).clamp_max(0.5)
        limit = towards.norm(dim=1) * (1 - nearer) - SHADOW_BIAS[0]
        size = towards.abs()
        reach, axis = size.max(1)
        face = 2 * axis + (towards.gather(1, axis[:, None])[:, 0] < 0)
        scale = SHADOW_SIZE / 2 / reach.clamp_min(1e-9)
        plane = self._turned[face, :, :2]
        place = torch.einsum('pi,pij->jp', towards, plane) * scale + SHADOW_SIZE / 2
        column, row = (item.clamp(0, SHADOW_SIZE - 1e-3) for item in place)
        seen = torch.zeros_like(limit)
        columns, rows = _neighbours(column), _neighbours(row)
        start = face * SHADOW_SIZE
        for down, share in rows:
            base = (start + down) * SHADOW_SIZE
            for across, part in columns:
                lit = self._distance.index_select(0, base + across) > limit
                seen += share * part * lit
        return seen


def _neighbours(place: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the two cells next to a place along one axis, with weights whose sum is 1."""
    cell = (place - 0.5).floor()
    after = place - 0.5 - cell
    first = cell.long().clamp_min(0)
    return [(first, 1 - after), ((cell.long() + 1).clamp_max(SHADOW_SIZE - 1), after)]


@dataclass(frozen=True)
class Samples:
    """P rays and the triangles that they hit.

    `origin` and `direction` float32 [P, 3] in the world, the latter of unit depth; `triangle`
    int64 [P], -1: none; `spacing` [P] is the width of a pixel at unit depth.
    """

    origin: Tensor
    direction: Tensor
    triangle: Tensor
    spacing: Tensor

    @classmethod
    def of(cls, rays: Rays, hits: Tensor) -> Samples:
        """Return a sample for each pixel of hits [N, H, W], frame by frame, row by row."""
        directions = view_directions(rays) @ rays.rotation.mT[:, None]
        spacing = rays.columns[:, 1] - rays.columns[:, 0]
        return cls(rays.origin[:, None, None].expand(directions.shape).reshape(-1, 3),
                   directions.flatten(0, 2), hits.flatten(),
                   spacing[:, None, None].expand(hits.shape).reshape(-1))

    def select(self, chosen: Tensor) -> Samples:
        """Choose samples by bool [P]."""
        return Samples(self.origin[chosen], self.direction[chosen], self.triangle[chosen],
                       self.spacing[chosen])


@dataclass(frozen=True)
class Lighting:
    """The light of a place: size [3], ambient light, and each lamp's shadows and colour [3]."""

    size: Tensor
    ambient: float
    cubes: tuple[ShadowCube, ...]
    colors: tuple[Tensor, ...]

    @classmethod
    def of(cls, place: Place, caster: Caster, table: PlaceTable) -> Lighting:
        """Find the shadows of a place's lamps."""
        def tensor(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=table.columns.device)
        return cls(tensor(place.size), place.ambient,
                   tuple(ShadowCube(tensor(lamp.position), caster, table)
                         for lamp in place.lamps),
                   tuple(tensor(lamp.color) for lamp in place.lamps))


def plane_depth(plane: Tensor, origin: Tensor, directions: Tensor) -> Tensor:
    """Return the depth [...] of planes [..., 4] along rays [..., 3]."""
    gap = plane[..., 3] - (plane[..., :3] * origin).sum(-1)
    slope = (plane[..., :3] * directions).sum(-1)
    return gap / torch.where(slope.abs() < 1e-9, torch.full_like(slope, 1e-9), slope)


def sample_depth(table: PlaceTable, samples: Samples) -> Tensor:
    """Return the depth [P] of what samples hit; 0 where nothing is hit."""
    plane = table.columns[samples.triangle.clamp_min(0), :4]
    depth = plane_depth(plane, samples.origin, samples.direction)
    return depth * (samples.triangle >= 0)


def shade(table: PlaceTable, bank: TextureBank, samples: Samples, lighting: Lighting) -> Tensor:
    """Return the linear colours [P, 3] of what samples hit; 0 where nothing is hit."""
    row = table.columns[samples.triangle.clamp_min(0)]
    depth = plane_depth(row[:, :4], samples.origin, samples.direction)
    points = samples.origin + depth[:, None] * samples.direction
    normal = row[:, :3]
    facing = (normal * samples.direction).sum(-1, keepdim=True)
    normal = torch.where(facing > 0, -normal, normal)
    texture = table.texture[samples.triangle.clamp_min(0)]
    albedo = _albedo(bank, texture, row, points, depth * samples.spacing)
    light, shine = _light(points, normal, samples.direction, row[:, 15], lighting)
    return (albedo * (light + row[:, 16:17]) + shine) * (samples.triangle >= 0)[:, None]


def _albedo(bank: TextureBank, texture: Tensor, row: Tensor, points: Tensor,
            pixel: Tensor) -> Tensor:
    """Return linear colours [P, 3] of surfaces, for pixels of a width [P] in metres."""
    u, v = ((row[:, start:start + 3] * points).sum(-1) + row[:, start + 3] for start in (4, 8))
    level = row[:, 17] + (pixel * bank.size).clamp_min(1e-9).log2()
    color = torch.stack(bank.sample(texture, u.remainder(1.0), v.remainder(1.0), level), -1)
    return (color * row[:, 12:15]).square()


def _light(points: Tensor, normal: Tensor, directions: Tensor, gloss: Tensor,
           lighting: Lighting) -> tuple[Tensor, Tensor]:
    """Return diffuse light and reflected lamps [P, 3] at points with normals [P, 3]."""
    near = torch.cat((points, lighting.size - points), 1).clamp_min(0)
    open_share = (1 - _CORNER_LOSS * (-near / _CORNER_REACH).exp()).prod(1, keepdim=True)
    # Floors and walls scatter light upwards, ceilings are lit the least.
    above = 0.85 + 0.15 * normal[:, 2:3]
    light = (lighting.ambient * open_share * above).expand(-1, 3).clone()
    shine = torch.zeros_like(light)
    view = directions / directions.norm(dim=1, keepdim=True)
    mirrored = view - 2 * (view * normal).sum(1, keepdim=True) * normal
    for cube, color in zip(lighting.cubes, lighting.colors, strict=True):
        towards = cube.position - points
        distance = towards.norm(dim=1, keepdim=True).clamp_min(1e-3)
        towards = towards / distance
        cosine = (towards * normal).sum(1, keepdim=True).clamp_min(0)
        seen = cube.lit(points, cosine[:, 0])[:, None]
        light += color * seen * cosine / (distance.square() + 0.5)
        glint = (towards * mirrored).sum(1, keepdim=True).clamp_min(0) ** _GLOSS_POWER
        shine += color * seen * gloss[:, None] * glint
    return light, shine
