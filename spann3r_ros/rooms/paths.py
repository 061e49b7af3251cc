# SPDX-License-Identifier: Apache-2.0
"""Random camera paths through a room."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .draw import Draw


@dataclass(frozen=True)
class PathConfig:
    """Bounds of the camera's path at full motion; metres, degrees, radians along the ellipse.

    `radius` is the ellipse's half axes in shares of the room's sides; the steps are per frame.
    """

    height: tuple[float, float] = (1.1, 1.7)
    radius: tuple[float, float] = (0.12, 0.3)
    yaw_step_deg: float = 34.0
    path_step: float = 0.35
    pitch_deg: float = 12.0
    roll_deg: float = 5.0


@dataclass(frozen=True)
class Walk:
    """Motion without a room, each [B, F]: radians, and `height` from -1 (lowest) to 1."""

    place: Tensor
    height: Tensor
    yaw: Tensor
    pitch: Tensor
    roll: Tensor


def wander(count: int, frames: int, motion: float, config: PathConfig, draw: Draw) -> Walk:
    """Draw smooth random walks, steps and tilts scaled by `motion`."""
    steps = []
    for largest in (config.path_step, math.radians(config.yaw_step_deg)):
        mean = draw.uniform(-0.75, 0.75, count, 1)
        spread = 1 - mean.abs()
        step = motion * largest * (mean + spread * _smooth(count, frames, draw))
        steps.append(draw.uniform(0, 2 * math.pi, count, 1) + step.cumsum(1))
    tilt = min(1.0, motion)

    def around(limit: float) -> Tensor:
        base = draw.uniform(-0.5, 0.5, count, 1)
        return limit * (base + 0.5 * tilt * _smooth(count, frames, draw))

    height, pitch, roll = (
        around(limit)
        for limit in (1.0, math.radians(config.pitch_deg), math.radians(config.roll_deg))
    )
    return Walk(steps[0], height, steps[1], pitch, roll)


def turn(count: int, frames: int, degrees: float, path_step: float, draw: Draw) -> Walk:
    """Draw steady level turns of `degrees` and `path_step` radians a frame."""
    time = torch.arange(frames, dtype=torch.float32)
    place = draw.uniform(0, 2 * math.pi, count, 1) + path_step * time
    yaw = draw.uniform(0, 2 * math.pi, count, 1) + math.radians(degrees) * time
    height = draw.uniform(-1, 1, count, 1).expand(count, frames)
    level = torch.zeros(count, frames)
    return Walk(place, height, yaw, level, level)


def positions(walk: Walk, room_size: Tensor, config: PathConfig, draw: Draw) -> Tensor:
    """Return camera centres [B, F, 3] in the world, on an ellipse in each room of size [B, 3]."""
    count = len(room_size)
    radius = room_size[:, :2] * draw.uniform(*config.radius, count, 2)
    centre = room_size[:, :2] * draw.uniform(0.43, 0.57, count, 2)
    circle = torch.stack((walk.place.cos(), walk.place.sin()), -1)
    low, high = config.height
    height = (low + high) / 2 + (high - low) / 2 * walk.height
    return torch.cat((centre[:, None] + radius[:, None] * circle, height[..., None]), -1)


def world_from_camera(walk: Walk) -> Tensor:
    """Return rotations [B, F, 3, 3] from an optical camera to the world with z up.

    Yaw is to the left from world x, pitch upwards, roll about the optical axis.
    """
    cos_yaw, sin_yaw = walk.yaw.cos(), walk.yaw.sin()
    cos_pitch, sin_pitch = walk.pitch.cos(), walk.pitch.sin()
    forward = torch.stack((cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch), -1)
    right = torch.stack((sin_yaw, -cos_yaw, torch.zeros_like(cos_yaw)), -1)
    down = torch.linalg.cross(forward, right)
    cos_roll, sin_roll = walk.roll.cos()[..., None], walk.roll.sin()[..., None]
    axes = (cos_roll * right + sin_roll * down, cos_roll * down - sin_roll * right, forward)
    return torch.stack(axes, -1)


def placements(count: int, share: float, draw: Draw) -> Tensor:
    """Draw poses [count, 4, 4] of an optical camera in the frame of another one in the same room.

    A `share` of them has any heading, some tilt and an offset of up to 2 m; the rest is identity.
    """
    heading = draw.uniform(-math.pi, math.pi, count)
    pitch, roll = (draw.uniform(-limit, limit, count) for limit in (0.2, 0.1))
    offset = torch.stack([draw.uniform(-limit, limit, count) for limit in (2.0, 0.5, 2.0)], -1)
    moved = (draw.uniform(0, 1, count) < share)[:, None, None]
    result = torch.eye(4).repeat(count, 1, 1)
    result[:, :3, :3] = _about(1, heading) @ _about(0, pitch) @ _about(2, roll)
    result[:, :3, 3] = offset
    return torch.where(moved, result, torch.eye(4))


def drifts(count: int, frames: int, level: float, draw: Draw) -> Tensor:
    """Draw similarities [count, frames, 4, 4]: the pose errors of the frames of a drifting map.

    Their standard deviation grows with the square root of time from 0 to at most `level` times 5
    degrees of heading, 2 of tilt, 5 % of scale and 0.1 m; the final value is drawn per sequence.
    """
    time = torch.linspace(0, 1, frames).sqrt()
    spread = level * draw.uniform(0, 1, count, 1) * time
    angles = torch.deg2rad(torch.tensor([2.0, 5.0, 2.0])) * draw.normal(count, frames, 3)
    pitch, heading, roll = (spread[..., None] * angles).flatten(0, 1).unbind(-1)
    scale = (0.05 * spread * draw.normal(count, frames)).exp().flatten()[:, None, None]
    result = torch.eye(4).repeat(count * frames, 1, 1)
    result[:, :3, :3] = scale * (_about(1, heading) @ _about(0, pitch) @ _about(2, roll))
    result[:, :3, 3] = (0.1 * spread[..., None] * draw.normal(count, frames, 3)).flatten(0, 1)
    return result.unflatten(0, (count, frames))


def _about(axis: int, angle: Tensor) -> Tensor:
    """Return rotations [N, 3, 3] by angles [N] about a coordinate axis."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotation = torch.eye(3).repeat(len(angle), 1, 1)
    rotation[:, first, first] = rotation[:, second, second] = angle.cos()
    rotation[:, second, first] = angle.sin()
    rotation[:, first, second] = -angle.sin()
    return rotation


def _smooth(count: int, frames: int, draw: Draw) -> Tensor:
    """Return smooth random signals [count, frames] in [-1, 1]."""
    time = torch.arange(frames, dtype=torch.float32)
    rate, phase = draw.uniform(0.1, 0.9, count, 2, 1), draw.uniform(0, 7, count, 2, 1)
    return torch.sin(rate * time + phase).mean(1)
