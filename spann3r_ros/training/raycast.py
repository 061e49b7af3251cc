# SPDX-License-Identifier: Apache-2.0
"""Analytic ray casting of box rooms with boxes, spheres and upright cylinders inside."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from spann3r_ros.training.textures import TextureBank

# Solids are kept in this order, so that the caster needs no test of their kind.
ROOM = slice(0, 1)
BOXES = slice(1, 6)
SPHERES = slice(6, 8)
CYLINDERS = slice(8, 10)
SOLIDS = 10
FACES = 6
_FAR = 1e9


@dataclass(frozen=True)
class Scenes:
    """Rooms and what stands in them, one row per scene or per frame; metres, world z up.

    `centre`, `half` float [N, SOLIDS, 3]: middle and half extents (a radius is a half extent);
    negative half extents remove a solid. `turn` [N, SOLIDS, 2]: cosine and sine of the rotation
    about z. `texture` int32 and `tiling` [N, SOLIDS, FACES, 4] (tiles per metre, offset in tiles,
    for u and v), `tint` [N, SOLIDS, FACES, 3]. `light` [N, 3]: unit vector towards the light;
    `ambient` [N]: share of light that comes from everywhere.
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
        """Rows chosen by an index."""
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def without(self, removed: Tensor) -> 'Scenes':
        """The same scenes with the solids marked in bool [N, SOLIDS] removed."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values['half'] = torch.where(removed[..., None], -1.0, self.half)
        return Scenes(**values)

    def to(self, device: str | torch.device) -> 'Scenes':
        """The same scenes on another device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


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
        """Frames chosen by a slice."""
        return Rays(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: str | torch.device) -> 'Rays':
        """The same rays on another device."""
        return Rays(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def dot(self, vector: Tensor) -> Tensor:
        """Products [N, H, W] of every ray with one camera-frame vector [N, 3] per frame."""
        across = self.columns * vector[:, 0:1] + vector[:, 2:3]
        down = self.rows * vector[:, 1:2]
        return across[:, None, :] + down[:, :, None]

    def square(self) -> Tensor:
        """Squared lengths [N, H, W]."""
        return 1 + self.columns.square()[:, None, :] + self.rows.square()[:, :, None]


def distances(scenes: Scenes, origin: Tensor) -> Tensor:
    """Distances [N, SOLIDS] from points [N, 3] to each solid; to the walls for the room.

    Negative inside a solid (outside the room); infinite for removed solids.
    """
    offset = origin[:, None] - scenes.centre
    cos, sin = scenes.turn.unbind(-1)
    x, y, z = offset.unbind(-1)
    local = torch.stack((cos * x + sin * y, cos * y - sin * x, z), -1)
    excess = local.abs() - scenes.half
    outside = excess.clamp_min(0).norm(dim=-1) + excess.amax(-1).clamp_max(0)
    outside[:, ROOM] *= -1
    radius = scenes.half[..., 0]
    outside[:, SPHERES] = (local.norm(dim=-1) - radius)[:, SPHERES]
    wall = local[..., :2].norm(dim=-1) - radius
    side = torch.stack((wall, excess[..., 2]), -1)
    drum = side.clamp_min(0).norm(dim=-1) + side.amax(-1).clamp_max(0)
    outside[:, CYLINDERS] = drum[:, CYLINDERS]
    return torch.where(radius < 0, torch.inf, outside)


def in_view(scenes: Scenes, rays: Rays) -> Tensor:
    """Solids that may be seen: bool [N, SOLIDS], judged by their bounding spheres."""
    offset = scenes.centre - rays.origin[:, None]
    x, y, z = (offset @ rays.rotation).unbind(-1)
    radius = scenes.half.norm(dim=-1)
    radius[:, SPHERES] = scenes.half[:, SPHERES, 0]
    seen = (z > -radius) & (scenes.half[..., 0] > 0)
    for across, edges in ((x, rays.columns), (y, rays.rows)):
        for edge, side in ((edges[:, :1], 1), (edges[:, -1:], -1)):
            seen &= side * (across - edge * z) > -radius * (1 + edge.square()).sqrt()
    return seen


@dataclass(frozen=True)
class View:
    """Solids as one camera per row sees them.

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
        """View of one scene per camera."""
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


class _Planes:
    """Inverse depth of the planes that bound each solid.

    Along a pixel grid the inverse depth of a plane is an affine function: one addition a pixel.
    A ray is inside a convex solid from its last entry through a plane that faces the camera to
    its first exit through one that does not: from the least to the largest inverse depth.
    """

    def __init__(self, view: View) -> None:
        sign = torch.where(view.start < 0, -1.0, 1.0)
        near = view.scenes.half - view.start.abs()
        near = torch.where(near.abs() < 1e-6, 1e-6, near)
        faces_camera = (near < 0)[..., None]
        plane = view.axes * (sign / near)[..., None]
        never = torch.tensor([0.0, 0.0, _FAR], device=plane.device)
        enter = torch.where(faces_camera, plane, never)
        removed = (view.scenes.half[..., :1] < 0)[..., None]
        enter = torch.where(removed, -never, enter)
        leave = torch.where(faces_camera, -never, plane)
        leave_far = view.axes * (-sign / (view.scenes.half + view.start.abs()))[..., None]
        planes = torch.stack((enter, leave, leave_far), 2).permute(1, 2, 3, 0, 4)
        across = planes[..., 0:1] * view.rays.columns + planes[..., 2:3]
        self._across = across[..., None, :]
        self._down = (planes[..., 1:2] * view.rays.rows)[..., None]
        # Faces come in pairs: low, high end of each axis. The one nearer the camera is entered.
        towards = torch.stack((sign > 0, sign > 0, sign < 0), 2).permute(1, 2, 3, 0)
        axis = torch.arange(3, device=plane.device)[:, None]
        solid = torch.arange(SOLIDS, device=plane.device)[:, None, None, None]
        self._surface = (FACES * solid + 2 * axis + towards).to(torch.uint8)[..., None, None]

    def enter(self, solid: int, axis: int) -> Tensor:
        """Inverse depth [N, H, W] at which rays enter the slab across an axis."""
        return self._across[solid, 0, axis] + self._down[solid, 0, axis]

    def entered(self, solid: int, axis: int) -> Tensor:
        """Surface index uint8 [N, 1, 1] of the face that `enter` belongs to."""
        return self._surface[solid, 0, axis]

    def leave(self, solid: int, axis: int) -> Tensor:
        """Inverse depth [N, H, W] at which rays leave the slab across an axis."""
        near = self._across[solid, 1, axis] + self._down[solid, 1, axis]
        return torch.maximum(near, self._across[solid, 2, axis] + self._down[solid, 2, axis])

    def walls(self, solid: int) -> tuple[Tensor, Tensor]:
        """Inverse depth and surface of the first wall, seen from inside."""
        nearness = surface = None
        for side in (1, 2):
            for axis in range(3):
                wall = self._across[solid, side, axis] + self._down[solid, side, axis]
                index = self._surface[solid, side, axis]
                if nearness is None:
                    nearness, surface = wall, index.expand(wall.shape)
                else:
                    surface = torch.where(wall > nearness, index, surface)
                    nearness = torch.maximum(nearness, wall)
        return nearness, surface


def cast(view: View, solids: list[int]) -> tuple[Tensor, Tensor]:
    """Inverse depth [N, H, W] of the nearest surface and its index (uint8) in SOLIDS x FACES.

    Only the room and the given solids are looked at.
    """
    planes = _Planes(view)
    nearness, surface = planes.walls(0)
    for solid in solids:
        if BOXES.start <= solid < BOXES.stop:
            enter, leave, face = _box(planes, solid)
        elif SPHERES.start <= solid < SPHERES.stop:
            enter, leave = _ball(view, solid, 3)
            face = _around(view, solid, enter, 3)
        elif CYLINDERS.start <= solid < CYLINDERS.stop:
            enter, leave, face = _drum(view, planes, solid)
        else:
            continue
        hit = enter > torch.maximum(leave, nearness)
        nearness = torch.where(hit, enter, nearness)
        surface = torch.where(hit, face, surface)
    return nearness, surface


def _box(planes: _Planes, solid: int) -> tuple[Tensor, Tensor, Tensor]:
    enter, face = planes.enter(solid, 0), planes.entered(solid, 0)
    leave = planes.leave(solid, 0)
    for axis in (1, 2):
        other = planes.enter(solid, axis)
        face = torch.where(other < enter, planes.entered(solid, axis), face)
        enter = torch.minimum(enter, other)
        leave = torch.maximum(leave, planes.leave(solid, axis))
    return enter, leave, face


def _drum(view: View, planes: _Planes, solid: int) -> tuple[Tensor, Tensor, Tensor]:
    enter, leave = _ball(view, solid, 2)
    face = _around(view, solid, enter, 2)
    cap = planes.enter(solid, 2)
    face = torch.where(cap < enter, planes.entered(solid, 2), face)
    return torch.minimum(enter, cap), torch.maximum(leave, planes.leave(solid, 2)), face


def _ball(view: View, solid: int, dimensions: int) -> tuple[Tensor, Tensor]:
    """Inverse depths at a sphere (3 dimensions) or endless upright cylinder (2).

    Equal for a ray that misses. The larger root of the quadratic in inverse depth is the entry.
    """
    start = view.start[:, solid, :dimensions]
    radius = view.scenes.half[:, solid, :1]
    power = start.square().sum(-1, keepdim=True) - radius.square()
    power = torch.where(power.abs() < 1e-6, 1e-6, power)
    axes = view.axes[:, solid, :dimensions]
    middle = view.rays.dot((axes * start[..., None]).sum(1) / -power)
    square = view.rays.square()
    if dimensions == 2:
        square = square - view.rays.dot(view.axes[:, solid, 2]).square_()
    root = middle.square().sub_(square.div_(power[..., None])).clamp_min_(0).sqrt_()
    # From inside, that is above or below a drum, both roots trade places with infinity.
    inside = (power < 0)[..., None]
    enter = (middle + root).add_(inside * _FAR)
    enter = enter.masked_fill_((radius < 0)[..., None], -_FAR)
    return enter, torch.where(inside, middle + root, middle - root)


def _around(view: View, solid: int, nearness: Tensor, dimensions: int) -> Tensor:
    """Surface index uint8 of the cube face around a round solid that a point is closest to."""
    at = [
        view.rays.dot(view.axes[:, solid, i]).addcmul_(
            nearness, view.start[:, solid, i, None, None]
        )
        for i in range(dimensions)
    ]
    length = at[0].abs()
    face = (FACES * solid + (at[0] > 0)).to(torch.uint8)
    for axis in range(1, dimensions):
        other = at[axis].abs()
        index = (FACES * solid + 2 * axis + (at[axis] > 0)).to(torch.uint8)
        face = torch.where(other > length, index, face)
        length = torch.maximum(length, other)
    return face


def _surface_tables(view: View, size: int) -> Tensor:
    """What shading needs of each surface, [16, N * SOLIDS * FACES].

    Texture u, v and brightness are affine in the camera-frame point, four numbers each; then tint
    (3) and the part of the mip level that is the same all over the surface.
    """
    scenes = view.scenes
    count, device = len(view.start), view.start.device
    axes, start, light = view.axes, view.start[..., None], view.light
    local = torch.cat((axes, start), -1)
    across = local[:, :, (1, 1, 0, 0, 0, 0)] * scenes.tiling[..., 0:1]
    upward = local[:, :, (2, 2, 2, 2, 1, 1)] * scenes.tiling[..., 1:2]
    across[..., 3] += scenes.tiling[..., 2]
    upward[..., 3] += scenes.tiling[..., 3]

    sign = torch.tensor([-1.0, 1.0], device=device).repeat(3)
    lit = torch.zeros(count, SOLIDS, FACES, 4, device=device)
    lit[..., 3] = sign * light.repeat_interleave(2, -1)
    lit[:, ROOM] *= -1
    radius = scenes.half[..., :1, None]
    for part, faces, dimensions in ((SPHERES, 6, 3), (CYLINDERS, 4, 2)):
        normal = local[:, part, :dimensions] / radius[:, part]
        shade = (light[:, part, :dimensions, None] * normal).sum(2, keepdim=True)
        lit[:, part, :faces] = shade.expand(-1, -1, faces, -1)
    ambient = scenes.ambient[:, None, None, None]
    lit *= 0.5 * (1 - ambient)
    lit[..., 3:] += ambient + 0.5 * (1 - ambient)

    half = scenes.half.repeat_interleave(2, -1)
    distance = (half - sign * view.start.repeat_interleave(2, -1)).abs()
    distance[:, SPHERES.start :] = 0.7 * view.start[:, SPHERES.start :].norm(dim=-1, keepdim=True)
    rate = scenes.tiling[..., :2].amax(-1) * size
    level = rate.log2() - 0.5 * distance.clamp_min(0.05).log2()
    table = torch.cat((across, upward, lit, scenes.tint, level[..., None]), -1)
    return table.flatten(0, 2).t().contiguous()


def shade(view: View, bank: TextureBank, depth: Tensor, surface: Tensor) -> Tensor:
    """Colours [3, N, H, W] in 0..1 of the surfaces seen: texture, tint and directional light."""
    rays = view.rays
    row = torch.arange(len(depth), dtype=torch.int32, device=depth.device)[:, None, None]
    index = (surface + row * (SOLIDS * FACES)).view(-1)
    table = _surface_tables(view, bank.size).index_select(1, index).view(-1, *depth.shape)
    x, y = depth * rays.columns[:, None, :], depth * rays.rows[:, :, None]
    u, v, lit = (
        torch.addcmul(table[i + 3], table[i], x)
        .addcmul_(table[i + 1], y)
        .addcmul_(table[i + 2], depth)
        for i in (0, 4, 8)
    )
    # Footprint of a pixel: depth over focal length, stretched along a slanted surface. The
    # square root of the stretch compromises between the two directions.
    pixel = (rays.columns[:, 1] - rays.columns[:, 0]).log2()[:, None, None]
    level = rays.square().log2_().mul_(0.25).add_(pixel).add_(table[15])
    level.add_(depth.log2(), alpha=1.5)
    texture = view.scenes.texture.reshape(-1).index_select(0, index)
    color = bank.sample(texture, u.view(-1), v.view(-1), level.view(-1))
    return color.t().reshape(3, *depth.shape) * table[12:15] * lit
