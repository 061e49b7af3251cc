# SPDX-License-Identifier: Apache-2.0
"""Furniture of several solids: seats with a back, tables on one leg."""

import torch
from torch import Tensor

from .draw import Draw
from .scenes import BOXES, CYLINDERS, Scenes

# Overlap of joined parts in metres; coincident surfaces would flicker.
_INSET = 0.01
_SEAT, _BACK, _TOP, _LEG = BOXES.start, BOXES.start + 1, BOXES.start + 2, CYLINDERS.start


def compose(scenes: Scenes, share: float, draw: Draw) -> None:
    """Replace some solids by a seat and a table, each in a share of the scenes, in place."""
    count = len(scenes.half)
    has_seat, has_table = draw.uniform(0, 1, 2, count) < share
    width, depth, seat, back, thick = _sizes(
        draw, count, (0.25, 0.9), (0.25, 0.5), (0.18, 0.3), (0.35, 0.6), (0.04, 0.1)
    )
    floor = scenes.centre[:, _SEAT].clone()
    _place(scenes, _SEAT, _SEAT, has_seat, (width, depth, seat), _raised(floor, seat))
    cos, sin = scenes.turn[:, _SEAT].unbind(-1)
    behind = (depth - thick - _INSET) * torch.stack((-sin, cos, torch.zeros_like(cos)))
    _place(scenes, _BACK, _SEAT, has_seat, (width - _INSET, thick, back),
           _raised(floor, back) + behind.t())  # fmt: skip

    width, depth, slab, height, leg = _sizes(
        draw, count, (0.3, 0.9), (0.3, 0.6), (0.015, 0.04), (0.5, 0.8), (0.04, 0.15)
    )
    floor = scenes.centre[:, _TOP].clone()
    _place(scenes, _TOP, _TOP, has_table, (width, depth, slab), _raised(floor, height - slab))
    reach = (height - slab) / 2  # to the middle of the top
    _place(scenes, _LEG, _LEG, has_table, (leg, leg, reach), _raised(floor, reach))


def _sizes(draw: Draw, count: int, *ranges: tuple[float, float]) -> list[Tensor]:
    return [draw.uniform(low, high, count) for low, high in ranges]


def _raised(floor: Tensor, height: Tensor) -> Tensor:
    return torch.cat((floor[:, :2], height[:, None]), 1)


def _place(
    scenes: Scenes, solid: int, like: int, chosen: Tensor, half: tuple[Tensor, ...], centre: Tensor
) -> None:
    """Set a solid's size and centre, and copy orientation and surface of `like`, where chosen."""
    pairs = [(scenes.half, torch.stack(half, 1)), (scenes.centre, centre)]
    pairs += [(values, values[:, like].clone()) for values in (
        scenes.turn, scenes.texture, scenes.tiling, scenes.tint)]  # fmt: skip
    for values, new in pairs:
        mask = chosen.view(-1, *[1] * (new.dim() - 1))
        values[:, solid] = torch.where(mask, new, values[:, solid])
