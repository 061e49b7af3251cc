# SPDX-License-Identifier: Apache-2.0
"""Walls with a doorway, which divide a room into two."""

import torch
from torch import Tensor

from .draw import Draw
from .scenes import FACES, WALLS, Scenes

# Margin of a doorway on both sides of the camera's path, metres.
_SIDESTEP = 0.45


def extend(room_size: Tensor, share: float, draw: Draw) -> tuple[Tensor, Tensor]:
    """Add a second room, beyond the high end in x or y, to a share of rooms of sizes [N, 3].

    Returns the sizes of both together [N, 3] and the position of the wall between them [N, 2]:
    its x or its y in metres, infinite without a wall.
    """
    count = len(room_size)
    across = torch.eye(2, dtype=torch.bool)[draw.integers(2, count)]
    across &= draw.uniform(0, 1, count, 1) < share
    neighbour = draw.uniform(1.5, 3.5, count, 1)
    wall = room_size[:, :2] * draw.uniform(0.65, 1.0, count, 1)
    outer = room_size.clone()
    outer[:, :2] += neighbour * across
    return outer, torch.where(across, wall, torch.inf)


def divide(
    scenes: Scenes, wall: Tensor, room_size: Tensor, origin: Tensor, textures: int, draw: Draw
) -> None:
    """Add the walls of `extend` to scenes, in place; rooms span 0 to their size [N, 3].

    The doorway of a wall that cameras at `origin` [N, F, 3] pass is wide enough for their path.
    """
    across = wall.isfinite()
    order = torch.where(across[:, :1], torch.tensor([0, 1]), torch.tensor([1, 0]))
    width, ceiling = room_size.gather(1, order[:, 1:]), room_size[:, 2:]
    place = wall.where(across, 0.0).sum(1, keepdim=True)
    path = origin[..., :2].gather(2, order[:, None].expand(-1, origin.shape[1], -1))
    low, high = path.amin(1) - _SIDESTEP, path.amax(1) + _SIDESTEP
    passed = ((low < place[:, None, 0]) & (place[:, None, 0] < high))[:, :1]
    count = len(scenes.half)
    middle = width * draw.uniform(0.1, 0.9, count, 1)
    opening = draw.uniform(0.35, 0.7, count, 1)
    left = torch.where(passed, low[:, 1:], middle - opening).clamp_min(0)
    right = torch.where(passed, high[:, 1:], middle + opening).minimum(width)
    lintel = draw.uniform(2.05, 2.25, count, 1)
    nothing = torch.zeros_like(width)
    thick = draw.uniform(0.04, 0.1, count, 1)
    bounds = (
        (nothing, left, nothing, ceiling),
        (right, width, nothing, ceiling),
        (left, right, lintel, ceiling),
    )
    for index, (start, stop, bottom, top) in enumerate(bounds, WALLS.start):
        along, up = (stop - start) / 2, (top - bottom) / 2
        half = torch.cat((thick, along, up), 1)
        centre = torch.cat((place, start + along, bottom + up), 1)
        turned = torch.cat((order, torch.full_like(order[:, :1], 2)), 1)
        scenes.centre[:, index] = centre.gather(1, turned)
        present = across.any(1, keepdim=True) & (along > 0.01)
        scenes.half[:, index] = half.gather(1, turned).where(present, -1.0)
    scenes.turn[:, WALLS] = torch.tensor([1.0, 0.0])
    _cover(scenes, textures, draw)


def _cover(scenes: Scenes, textures: int, draw: Draw) -> None:
    """Set one texture per face of a wall, continuous above and beside the doorway."""
    shape = (len(scenes.half), 1, FACES)
    scenes.texture[:, WALLS] = draw.integers(textures, *shape).int()
    scenes.tint[:, WALLS] = draw.uniform(0.55, 1.25, *shape, 3)
    rate = draw.uniform(-1.25, 0.7, *shape, 1).exp() * draw.uniform(-0.25, 0.25, *shape, 2).exp()
    middle = scenes.centre[:, WALLS]
    shift = torch.stack((middle[..., (1, 1, 0, 0, 0, 0)], middle[..., (2, 2, 2, 2, 1, 1)]), -1)
    offset = draw.uniform(0, 1, *shape, 2) + shift * rate
    scenes.tiling[:, WALLS] = torch.cat((rate.expand_as(offset), offset), -1)
