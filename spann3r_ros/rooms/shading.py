# SPDX-License-Identifier: Apache-2.0
"""Shading of visible surfaces: texture, tint and light."""

import torch
from torch import Tensor

from .raycast import View
from .scenes import CYLINDERS, FACES, ROOM, ROUND, SOLIDS, SPHERES
from .textures import TextureBank


def shade(view: View, bank: TextureBank, depth: Tensor, surface: Tensor) -> Tensor:
    """Return the colours [3, N, H, W] in 0..1 of surfaces: texture, tint and directional light.

    `depth` [N, H, W] and `surface` int32 [N, H, W] come from the ray caster.
    """
    rays = view.rays
    row = torch.arange(len(depth), dtype=torch.int32, device=depth.device)[:, None, None]
    index = (surface + row * (SOLIDS * FACES)).view(-1)
    texture = view.scenes.texture.reshape(-1).index_select(0, index).view(depth.shape)
    table = [column.index_select(0, index).view(depth.shape)
             for column in _surface_table(view, bank.size)]  # fmt: skip
    x, y = depth * rays.columns[:, None, :], depth * rays.rows[:, :, None]
    u, v, lit = (
        table[i + 3].addcmul_(table[i], x).addcmul_(table[i + 1], y).addcmul_(table[i + 2], depth)
        for i in (0, 4, 8)
    )
    # Footprint of a pixel: depth over focal length, stretched along a slanted surface. The
    # square root of the stretch compromises between the two directions.
    pixel = (rays.columns[:, 1] - rays.columns[:, 0]).log2()[:, None, None]
    level = rays.square().log2_().mul_(0.25).add_(pixel).add_(table[15])
    level.add_(depth.log2(), alpha=1.5)
    channels = bank.sample(texture, u, v, level)
    return torch.stack([
        channel.mul_(tint).mul_(lit) for channel, tint in zip(channels, table[12:15], strict=True)
    ])


def _surface_table(view: View, size: int) -> Tensor:
    """Return the shading parameters of each surface, [16, N * SOLIDS * FACES].

    Texture u, v and brightness are affine in the camera-frame point, four numbers each; then tint
    (3) and the part of the mip level that is constant on the surface.
    """
    scenes = view.scenes
    local = torch.cat((view.axes, view.start[..., None]), -1)
    across = local[:, :, (1, 1, 0, 0, 0, 0)] * scenes.tiling[..., 0:1]
    upward = local[:, :, (2, 2, 2, 2, 1, 1)] * scenes.tiling[..., 1:2]
    across[..., 3] += scenes.tiling[..., 2]
    upward[..., 3] += scenes.tiling[..., 3]

    sign = torch.tensor([-1.0, 1.0], device=local.device).repeat(3)
    half, start = (x.repeat_interleave(2, -1) for x in (scenes.half, view.start))
    distance = (half - sign * start).abs()
    # The distance to the surface of a round solid varies: use that of a typical slant.
    distance[:, ROUND] = 0.7 * view.start[:, ROUND].norm(dim=-1, keepdim=True)
    rate = scenes.tiling[..., :2].amax(-1) * size
    level = rate.log2() - 0.5 * distance.clamp_min(0.05).log2()
    table = torch.cat((across, upward, _light(view, local), scenes.tint, level[..., None]), -1)
    return table.flatten(0, 2).t().contiguous()


def _light(view: View, local: Tensor) -> Tensor:
    """Return the brightness [N, SOLIDS, FACES, 4], affine in the camera-frame point."""
    light = view.light
    sign = torch.tensor([-1.0, 1.0], device=light.device).repeat(3)
    facing = torch.zeros(*light.shape[:2], FACES, 4, device=light.device)
    facing[..., 3] = sign * light.repeat_interleave(2, -1)
    facing[:, ROOM] *= -1
    for part, faces, dimensions in ((SPHERES, FACES, 3), (CYLINDERS, 4, 2)):
        normal = local[:, part, :dimensions] / view.scenes.half[:, part, :1, None]
        towards = (light[:, part, :dimensions, None] * normal).sum(2, keepdim=True)
        facing[:, part, :faces] = towards.expand(-1, -1, faces, -1)
    ambient = view.scenes.ambient[:, None, None, None]
    lit = 0.5 * (1 - ambient) * facing
    lit[..., 3:] += ambient + 0.5 * (1 - ambient)
    return lit
