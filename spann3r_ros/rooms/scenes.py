# SPDX-License-Identifier: Apache-2.0
"""Random furnished rooms as sets of analytic solids."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .draw import Draw

# The kind of a solid is given by its index.
ROOM = slice(0, 1)
BOXES = slice(1, 6)
SPHERES = slice(6, 8)
CYLINDERS = slice(8, 10)
ROUND = slice(6, 10)
FURNISHED = 10
# The parts of a wall that divides a room: left and right of its doorway, and above it.
WALLS = slice(10, 13)
SOLIDS = 13
# Low and high end of x, then of y, then of z. Round solids use the face pair of an axis alike.
FACES = 6


@dataclass(frozen=True)
class Scenes:
    """Rooms and their solids, one row per scene or per frame; metres, world z up.

    `centre`, `half` float [N, SOLIDS, 3]: middle and half extents (a radius is a half extent);
    negative half extents remove a solid. `turn` [N, SOLIDS, 2]: cosine and sine of the rotation
    about z. `texture` int32 [N, SOLIDS, FACES]; `tiling` [N, SOLIDS, FACES, 4]: tiles per metre
    for u and v, offset in tiles for u and v; `tint` [N, SOLIDS, FACES, 3]. `light` [N, 3]: unit
    vector towards the light; `ambient` [N]: share of ambient light.
    """

    centre: Tensor
    half: Tensor
    turn: Tensor
    texture: Tensor
    tiling: Tensor
    tint: Tensor
    light: Tensor
    ambient: Tensor

    def select(self, index: Tensor | slice) -> 'Scenes':
        """Choose rows by an index."""
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def without(self, removed: Tensor) -> 'Scenes':
        """Remove the solids marked in bool [N, SOLIDS]."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values['half'] = torch.where(removed[..., None], -1.0, self.half)
        return Scenes(**values)

    def to(self, device: str | torch.device) -> 'Scenes':
        """Move to another device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def distances(scenes: Scenes, points: Tensor) -> Tensor:
    """Return distances [N, SOLIDS] from points [N, 3] to each solid; for the room, to its walls.

    Negative inside a solid (outside the room); infinite for removed solids.
    """
    x, y, z = (points[:, None] - scenes.centre).unbind(-1)
    cos, sin = scenes.turn.unbind(-1)
    local = torch.stack((cos * x + sin * y, cos * y - sin * x, z), -1)
    excess = local.abs() - scenes.half
    distance = excess.clamp_min(0).norm(dim=-1) + excess.amax(-1).clamp_max(0)
    distance[:, ROOM] *= -1
    radius = scenes.half[..., 0]
    distance[:, SPHERES] = (local.norm(dim=-1) - radius)[:, SPHERES]
    side = torch.stack((local[..., :2].norm(dim=-1) - radius, excess[..., 2]), -1)
    drum = side.clamp_min(0).norm(dim=-1) + side.amax(-1).clamp_max(0)
    distance[:, CYLINDERS] = drum[:, CYLINDERS]
    return torch.where(radius < 0, torch.inf, distance)


def furnish(room_size: Tensor, textures: int, draw: Draw) -> Scenes:
    """Draw rooms of given sizes [N, 3]: solids near the walls, some of them pictures on a wall.

    `textures` is the number of textures in the bank. Rooms span 0 to their size and are not
    divided.
    """
    count = len(room_size)
    picture = torch.zeros(count, FURNISHED, dtype=torch.bool)
    picture[:, BOXES] = draw.uniform(0, 1, count, 5) < 0.25
    half = _half_extents(picture, draw)
    wall = draw.integers(4, count, FURNISHED)
    faces_x = (wall < 2) & picture
    half = torch.where(faces_x[..., None], half[..., [1, 0, 2]], half)

    turned = (draw.uniform(0, 1, count, FURNISHED) < 0.5) & ~picture
    turned[:, ROOM] = False
    angle = draw.uniform(0, math.pi, count, FURNISHED) * turned
    turn = torch.stack((angle.cos(), angle.sin()), -1)
    centre = _centres(room_size, half, turn, wall, picture, draw)
    centre[:, 0] = half[:, 0] = room_size / 2
    absent = draw.uniform(0, 1, count, FURNISHED) < 0.15
    absent[:, ROOM] = False
    texture, tiling, tint = _surfaces(half, picture, textures, draw)
    light = draw.normal(count, 3)
    light[:, 2] = light[:, 2].abs() + 0.3
    light /= light.norm(dim=-1, keepdim=True)
    ambient = draw.uniform(0.35, 0.8, count)
    half = torch.where(absent[..., None], -1.0, half)
    solids = (_append_absent_walls(x) for x in (centre, half, turn, texture, tiling, tint))
    return Scenes(*solids, light, ambient)


def _append_absent_walls(values: Tensor) -> Tensor:
    missing = values.new_full((len(values), SOLIDS - FURNISHED, *values.shape[2:]), -1)
    return torch.cat((values, missing), 1)


def _half_extents(picture: Tensor, draw: Draw) -> Tensor:
    shape = picture.shape
    box = torch.stack([draw.uniform(0.15, high, *shape) for high in (0.7, 0.7, 1.0)], -1)
    bounds = ((0.25, 0.8), (0.01, 0.04), (0.2, 0.6))
    flat = torch.stack([draw.uniform(low, high, *shape) for low, high in bounds], -1)
    half = torch.where(picture[..., None], flat, box)
    half[:, SPHERES] = draw.uniform(0.15, 0.5, len(half), 2, 1)
    half[:, CYLINDERS, :2] = draw.uniform(0.1, 0.4, len(half), 2, 1)
    return half


def _centres(
    room_size: Tensor, half: Tensor, turn: Tensor, wall: Tensor, picture: Tensor, draw: Draw
) -> Tensor:
    """Return the centres [N, FURNISHED, 3] of solids that are completely inside their room."""
    shape = picture.shape
    cos, sin = turn.abs().unbind(-1)
    extent = half.clone()
    extent[..., 0] = cos * half[..., 0] + sin * half[..., 1]
    extent[..., 1] = sin * half[..., 0] + cos * half[..., 1]
    extent[:, SPHERES.start :] = half[:, SPHERES.start :]
    away = 0.35 * draw.uniform(0, 1, *shape).square() * ~picture
    away = torch.where(wall % 2 == 0, away, 1 - away)
    along = draw.uniform(0, 1, *shape)
    lifted = draw.uniform(0, 1, *shape) < 0.25
    hung = draw.uniform(0.3, 0.7, *shape)
    height = torch.where(picture, hung, draw.uniform(0, 1, *shape) * lifted)
    on_x = wall < 2
    x, y = torch.where(on_x, away, along), torch.where(on_x, along, away)
    share = torch.stack((x, y, height), -1)
    return extent + share * (room_size[:, None] - 2 * extent).clamp_min(0)


def _surfaces(
    half: Tensor, picture: Tensor, textures: int, draw: Draw
) -> tuple[Tensor, Tensor, Tensor]:
    """Return texture, tiling and tint of every face; on half of the solids all faces are alike."""
    count = len(half)
    shape = (count, FURNISHED, FACES)
    texture = draw.integers(textures, *shape)
    tile = draw.uniform(math.log(0.5), math.log(3.5), *shape).exp()
    tile[:, 1:] *= 0.6
    squeeze = draw.uniform(-0.25, 0.25, *shape).exp()
    tint = draw.uniform(0.55, 1.25, *shape, 3)
    alike = draw.uniform(0, 1, count, FURNISHED, 1) < 0.5
    alike[:, ROOM] = False
    texture = torch.where(alike, texture[..., :1], texture)
    tint = torch.where(alike[..., None], tint[..., :1, :], tint)
    tile = torch.where(alike, tile[..., :1], tile)
    rate = torch.stack((1 / (tile * squeeze), squeeze / tile), -1)
    offset = draw.uniform(0, 1, *shape, 2)
    # One tile spans a picture exactly.
    across = torch.maximum(half[..., 0], half[..., 1])
    whole = 0.5 / torch.stack((across, half[..., 2]), -1)[:, :, None]
    hung = picture[..., None, None]
    rate, offset = torch.where(hung, whole, rate), torch.where(hung, 0.5, offset)
    return texture.int(), torch.cat((rate, offset), -1), tint
