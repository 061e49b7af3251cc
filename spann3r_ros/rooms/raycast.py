# SPDX-License-Identifier: Apache-2.0
"""Analytic ray casting of box rooms with boxes, spheres and upright cylinders inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .scenes import BOXES, CYLINDERS, FACES, SOLIDS, SPHERES, WALLS, Scenes

_FAR = 1e9
_TAG_VALUES = 128  # a power of two that holds SOLIDS * FACES surfaces


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 without rounding to TF32, also where a training run allows it.

    The rounding would move surfaces by a millimetre, and points off the rays of their pixels.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Rays:
    """Pinhole rays of unit depth, so that the ray parameter is the depth; metres, world frame.

    `origin` [N, 3]; `rotation` [N, 3, 3] from optical camera to world; `columns` [N, W] and
    `rows` [N, H] are the ray's x and y at depth one.
    """

    origin: Tensor
    rotation: Tensor
    columns: Tensor
    rows: Tensor

    def select(self, index: slice) -> 'Rays':
        """Choose frames by a slice."""
        return Rays(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: str | torch.device) -> 'Rays':
        """Move to another device."""
        return Rays(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def dot(self, vector: Tensor) -> Tensor:
        """Return the dot products [N, H, W] of every ray with one vector [N, 3] per camera."""
        across = self.columns * vector[:, 0:1] + vector[:, 2:3]
        down = self.rows * vector[:, 1:2]
        return across[:, None, :] + down[:, :, None]

    def square(self) -> Tensor:
        """Return the squared lengths [N, H, W]."""
        return (1 + self.columns.square())[:, None, :] + self.rows.square()[:, :, None]


def poses_in_first(origin: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Return poses [B, F, 4, 4] in the first camera's frame, and its pose [B, 4, 4] in the world.

    The arguments are centres [B, F, 3] and rotations [B, F, 3, 3] in the world.
    """
    count, frames = origin.shape[:2]
    first_from_world = rotation[:, :1].transpose(-1, -2)
    poses = torch.eye(4, device=origin.device).repeat(count, frames, 1, 1)
    poses[..., :3, :3] = first_from_world @ rotation
    poses[..., :3, 3] = (first_from_world @ (origin - origin[:, :1])[..., None])[..., 0]
    world_from_first = torch.eye(4, device=origin.device).repeat(count, 1, 1)
    world_from_first[:, :3, :3], world_from_first[:, :3, 3] = rotation[:, 0], origin[:, 0]
    return poses, world_from_first


def unproject(rays: Rays, poses: Tensor, depth: Tensor, points: Tensor) -> None:
    """Write points [N, H, W, 3] of depths [N, H, W], in the target frame of poses [N, 4, 4]."""
    for i in range(3):
        row = poses[:, i]
        points[..., i] = rays.dot(row[:, :3]).mul_(depth).add_(row[:, 3, None, None])


def in_view(scenes: Scenes, rays: Rays) -> Tensor:
    """Return which solids may be visible, bool [N, SOLIDS], by their bounding spheres."""
    x, y, z = ((scenes.centre - rays.origin[:, None]) @ rays.rotation).unbind(-1)
    radius = scenes.half.norm(dim=-1)
    seen = (z > -radius) & (scenes.half[..., 0] > 0)
    for across, edges in ((x, rays.columns), (y, rays.rows)):
        for edge, side in ((edges[:, :1], 1), (edges[:, -1:], -1)):
            seen &= side * (across - edge * z) > -radius * (1 + edge.square()).sqrt()
    return seen


@dataclass(frozen=True)
class View:
    """Solids in the frame of one camera per row.

    `axes` [N, SOLIDS, 3, 3]: axes of the solids in the camera frame, one per row; `start`
    [N, SOLIDS, 3]: the camera in the frame of each solid; `light` [N, SOLIDS, 3] likewise.
    """

    scenes: Scenes
    rays: Rays
    axes: Tensor
    start: Tensor
    light: Tensor

    @classmethod
    def of(cls, scenes: Scenes, rays: Rays) -> 'View':
        """Return the view of one scene per camera."""
        cos, sin = scenes.turn.unbind(-1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rows = (cos, sin, zero, -sin, cos, zero, zero, zero, one)
        local_from_world = torch.stack(rows, -1).unflatten(-1, (3, 3))
        offset = rays.origin[:, None] - scenes.centre
        return cls(
            scenes,
            rays,
            local_from_world @ rays.rotation[:, None],
            (local_from_world @ offset[..., None])[..., 0],
            (local_from_world @ scenes.light[:, None, :, None])[..., 0],
        )


def cast(view: View, solids: list[int]) -> tuple[Tensor, Tensor]:
    """Return inverse depth [N, H, W] and index (int32, SOLIDS x FACES) of the nearest surface.

    Only the room and the given solids are intersected. The inverse depth has a relative error of
    up to 2e-5: its lowest bits hold the index of the surface during the search, because a maximum
    of tagged numbers is much faster than a selection by masks.
    """
    planes = _Planes(view)
    nearest = planes.room()
    for solid in solids:
        if BOXES.start <= solid < BOXES.stop or WALLS.start <= solid < WALLS.stop:
            enter, leave = planes.box(solid)
        elif SPHERES.start <= solid < SPHERES.stop:
            enter, leave = _ball(view, solid, 3)
        elif CYLINDERS.start <= solid < CYLINDERS.stop:
            enter, leave = _ball(view, solid, 2)
            enter = torch.minimum(enter, planes.enter(solid, 2))
            leave = torch.maximum(leave, planes.leave(solid, 2))
        else:
            continue
        # A ray that leaves before it enters misses: its value falls below all that are hit.
        miss = torch.sub(enter, leave, out=leave).clamp_max_(0)
        nearest = torch.maximum(nearest, enter.add_(miss, alpha=_FAR))
    return nearest, nearest.view(torch.int32) & (_TAG_VALUES - 1)


def _tag(nearness: Tensor, surface: Tensor | int) -> Tensor:
    """Write the index of a surface into the lowest bits, in place."""
    nearness.view(torch.int32).bitwise_and_(-_TAG_VALUES).bitwise_or_(surface)
    return nearness


class _Planes:
    """Inverse depth of the planes that bound each solid.

    The inverse depth of a plane is an affine function of the pixel: one addition per pixel. A ray
    is inside a convex solid from its last entry, through a plane that faces the camera, to its
    first exit, through a plane that does not: from the least to the largest inverse depth.
    """

    def __init__(self, view: View) -> None:
        half, start = view.scenes.half, view.start
        sign = torch.where(start < 0, -1.0, 1.0)
        near = half - start.abs()
        near = torch.where(near.abs() < 1e-6, 1e-6, near)
        faces_camera = (near < 0)[..., None]
        plane = view.axes * (sign / near)[..., None]
        never = torch.tensor([0.0, 0.0, _FAR], device=plane.device)
        enter = torch.where(faces_camera, plane, never)
        enter = torch.where((half[..., :1] < 0)[..., None], -never, enter)
        leave = torch.where(faces_camera, -never, plane)
        leave_far = view.axes * (-sign / (half + start.abs()))[..., None]
        planes = torch.stack((enter, leave, leave_far)).permute(2, 0, 3, 1, 4)
        self._across = (planes[..., 0:1] * view.rays.columns + planes[..., 2:3])[..., None, :]
        self._down = (planes[..., 1:2] * view.rays.rows)[..., None]
        # The face towards the camera is the one at the end of the axis where the camera is.
        high = torch.stack((sign > 0, sign > 0, sign < 0)).permute(2, 0, 3, 1)
        axis = torch.arange(3, device=plane.device)[:, None]
        solid = torch.arange(SOLIDS, device=plane.device)[:, None, None, None]
        self._surface = (FACES * solid + 2 * axis + high).int()[..., None, None]

    def _plane(self, solid: int, kind: int, axis: int) -> Tensor:
        return self._across[solid, kind, axis] + self._down[solid, kind, axis]

    def enter(self, solid: int, axis: int) -> Tensor:
        """Tagged inverse depth [N, H, W] at which rays enter the slab across an axis."""
        return _tag(self._plane(solid, 0, axis), self._surface[solid, 0, axis])

    def leave(self, solid: int, axis: int) -> Tensor:
        """Inverse depth [N, H, W] at which rays leave the slab across an axis."""
        near = self._plane(solid, 1, axis)
        return torch.maximum(near, self._plane(solid, 2, axis), out=near)

    def box(self, solid: int) -> tuple[Tensor, Tensor]:
        """Tagged inverse depths at which rays enter, and those at which they leave a box."""
        enter, leave = self.enter(solid, 0), self.leave(solid, 0)
        for axis in (1, 2):
            torch.minimum(enter, self.enter(solid, axis), out=enter)
            torch.maximum(leave, self.leave(solid, axis), out=leave)
        return enter, leave

    def room(self) -> Tensor:
        """Tagged inverse depth [N, H, W] of the first wall, seen from inside."""
        nearest = None
        for kind in (1, 2):
            for axis in range(3):
                wall = _tag(self._plane(0, kind, axis), self._surface[0, kind, axis])
                nearest = wall if nearest is None else torch.maximum(nearest, wall, out=nearest)
        return nearest


def _ball(view: View, solid: int, dimensions: int) -> tuple[Tensor, Tensor]:
    """Tagged inverse depths of entering and leaving a sphere (3 dimensions) or drum side (2).

    They are the roots of a quadratic in inverse depth; without any, a ray leaves before it enters.
    """
    start = view.start[:, solid, :dimensions]
    axes = view.axes[:, solid, :dimensions]
    radius = view.scenes.half[:, solid, :1]
    power = start.square().sum(-1, keepdim=True) - radius.square()
    power = torch.where(power.abs() < 1e-6, 1e-6, power)
    middle = view.rays.dot((axes * start[..., None]).sum(1) / -power)
    square = view.rays.square()
    if dimensions == 2:
        square.sub_(view.rays.dot(view.axes[:, solid, 2]).square_())
    square = middle.square().sub_(square.div_(power[..., None]))
    root = square.clamp_min(0).sqrt_()
    enter, leave = middle + root, middle.sub_(root)
    leave.sub_(square.clamp_max_(0), alpha=_FAR)
    # Inside an endless cylinder, above or below the drum, a ray has entered and will leave.
    inside = (power < 0).float()[..., None]
    leave.addcmul_(inside, root, value=2)
    shift = _FAR * (inside - 2 * (radius < 0)[..., None])
    side = _around(view, solid, enter, dimensions)
    enter.add_(shift).view(torch.int32).bitwise_and_(-_TAG_VALUES).bitwise_or_(side)
    return enter, leave


def _around(view: View, solid: int, nearness: Tensor, dimensions: int) -> Tensor:
    """Surface index int32 of the pair of cube faces that a point on a round solid is nearest."""
    longest = None
    for axis in range(dimensions):
        at = view.rays.dot(view.axes[:, solid, axis])
        at = at.addcmul_(nearness, view.start[:, solid, axis, None, None]).abs_()
        at = _tag(at, FACES * solid + 2 * axis)
        longest = at if longest is None else torch.maximum(longest, at)
    return longest.view(torch.int32).bitwise_and_(_TAG_VALUES - 1)
